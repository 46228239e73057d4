"""The declarations of one project, indexed by name and by key."""

from __future__ import annotations

import typing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import dagster as dg

from mlops_assets.compute.llm_traces.trace_rows import TRACE_TIME
from mlops_assets.compute.prompts.version import hash_judge
from mlops_assets.compute.tables.own_columns import PREDICTED_AT, PREDICTION_COLUMNS, lake_column
from mlops_assets.compute.tables.sql import find_table_names
from mlops_assets.compute.user_code.called_names import mentions_name
from mlops_assets.compute.user_code.view_source import build_view_source
from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.core.evaluation_hash import hash_calibration, hash_evaluation
from mlops_assets.orchestrate.core.graph import Edge, Node
from mlops_assets.orchestrate.core.partitions import build_lookback_mapping, days_until_today
from mlops_assets.values.dataset import Dataset, ExternalDataset, Table
from mlops_assets.values.feature_sources import Computed, DbtModel, DbtProject, Sql
from mlops_assets.values.features import FeatureView, OnDemandFeatures, select_stored_views
from mlops_assets.values.llm.calibration import Calibration
from mlops_assets.values.llm.prompt import Prompt
from mlops_assets.values.llm.prompt_evaluation import PromptEvaluation
from mlops_assets.values.llm.prompt_service import PromptService
from mlops_assets.values.llm.quality_monitor import QualityMonitor
from mlops_assets.values.llm.trace_source import TraceSource
from mlops_assets.values.model import GateFunction, Model
from mlops_assets.values.monitoring import Monitor
from mlops_assets.values.push import register_views
from mlops_assets.values.score.score import MLTestScore
from mlops_assets.values.serving import BatchPrediction, Service
from mlops_assets.values.training import TrainingSet

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlops_assets.values.function import Parameter
    from mlops_assets.values.llm.judge import Judge
    from mlops_assets.values.llm.pairwise_judge import PairwiseJudge

Declaration = (
    Dataset[..., Any]
    | ExternalDataset
    | FeatureView
    | OnDemandFeatures[..., Any]
    | DbtProject
    | TrainingSet[..., Any]
    | Model[..., Any]
    | GateFunction[..., Any]
    | BatchPrediction
    | Service
    | Monitor
    | Prompt[..., Any]
    | PromptEvaluation
    | PromptService
    | TraceSource
    | Calibration
    | QualityMonitor
    | MLTestScore
)
N = TypeVar("N")


@dataclass(frozen=True)
class TableRef:
    """A table that a function can ask for by name.

    Parameters
    ----------
    key
        ``<kind>/<name>`` of a declaration; the asset key of a plain asset, joined by slashes.
    partitions, event_timestamp
        The table's partitions, and its column with the event time.
    plain
        The Dagster asset, when the table is not declared with this package.
    """

    key: str
    partitions: dg.PartitionsDefinition | None = None
    event_timestamp: str | None = None
    plain: dg.AssetsDefinition | None = None


@dataclass(frozen=True)
class Project:
    """The items of ``build_definitions``: declarations, plain Dagster items, and indexes of their tables.

    Parameters
    ----------
    declarations, plain
        The declarations of this package, and all other items, in the order in which they were given.
    tables, by_key
        Name → table and key → table; filled by :meth:`from_items`.
    """

    declarations: tuple[Declaration, ...]
    plain: tuple[object, ...]
    tables: dict[str, TableRef] = field(default_factory=dict)
    by_key: dict[str, TableRef] = field(default_factory=dict)

    @classmethod
    def from_items(cls, items: Sequence[object]) -> Project:
        """Separate declarations from plain items, index the tables by name and key, and register the feature views with push sources."""
        kinds = tuple(typing.get_origin(kind) or kind for kind in typing.get_args(Declaration))
        declarations = tuple(item for item in items if isinstance(item, kinds))
        project = cls(declarations, tuple(item for item in items if not isinstance(item, kinds)))
        for name, ref in project._list_tables():
            project.tables.setdefault(name, ref)
            project.by_key[ref.key] = ref
        register_views(project.select(FeatureView))
        return project

    def select(self, kind: type[N]) -> tuple[N, ...]:
        """Return the declarations of one kind."""
        return tuple(declaration for declaration in self.declarations if isinstance(declaration, kind))

    @property
    def datasets(self) -> tuple[Dataset[..., Any] | ExternalDataset, ...]:
        """All datasets, external datasets included."""
        return tuple(declaration for declaration in self.declarations if isinstance(declaration, (Dataset, ExternalDataset)))

    def dataset(self, name: str) -> Dataset[..., Any] | ExternalDataset | None:
        """Return the dataset or external dataset with a name; None if there is none."""
        return next((d for d in self.datasets if d.name == name), None)

    @property
    def trace_sources(self) -> tuple[TraceSource, ...]:
        """The sources of traces, declared or of a service."""
        declared = self.select(TraceSource)
        names = {source.name for source in declared}
        return (*declared, *(TraceSource(service.name) for service in self.select(PromptService) if service.name not in names))

    def datasets_of(self, training_set: TrainingSet[..., Any]) -> Iterator[Dataset[..., Any] | ExternalDataset]:
        """Yield the datasets that the function of a training set reads, in the order of its parameters."""
        yield from (dataset for parameter in training_set.function.tables if (dataset := self.dataset(parameter.name)) is not None)

    def _list_tables(self) -> Iterator[tuple[str, TableRef]]:
        """Yield (name, table) pairs; when tables of two kinds share a name, functions get the first one."""
        for dataset in self.datasets:
            yield dataset.name, TableRef(dataset.key, dataset.table.partitions, dataset.table.event_timestamp)
        for asset in self.plain:
            if isinstance(asset, dg.AssetsDefinition):
                for key in asset.keys:
                    yield key.path[-1], TableRef("/".join(key.path), asset.specs_by_key[key].partitions_def, plain=asset)
        for view in self.select(FeatureView):
            yield view.name, TableRef(view.key, view.partitions, view.event_timestamp)
        for batch in self.select(BatchPrediction):
            time = batch.dataset.table.event_timestamp
            yield batch.name, TableRef(batch.key, batch.dataset.table.partitions, time and lake_column(time, PREDICTION_COLUMNS))
        for service in self.select(Service):
            partitions = served_partitions(self, service)
            yield service.name, TableRef(service.predictions_key, partitions, lake_column(served_time(service), PREDICTION_COLUMNS))
        for training_set in self.select(TrainingSet):
            yield training_set.name, TableRef(training_set.key)
        yield from self._list_llm_tables()

    def _list_llm_tables(self) -> Iterator[tuple[str, TableRef]]:
        for evaluation in self.select(PromptEvaluation):
            yield evaluation.name, TableRef(evaluation.key)
        for calibration in self.select(Calibration):
            yield calibration.name, TableRef(calibration.key)
        for source in self.trace_sources:
            yield source.name, TableRef(source.key, days_until_today(source.start), TRACE_TIME)

    def calibrations_of(self, judge: Judge | PairwiseJudge) -> tuple[Calibration, ...]:
        """Return the calibrations of this version of a judge."""
        version = hash_judge(judge)
        return tuple(calibration for calibration in self.select(Calibration) if hash_judge(calibration.judge) == version)

    def edge(self, parameter: Parameter, mapping: dg.PartitionMapping | None = None) -> Edge | None:
        """Return the edge to the table that a parameter names; None for a plain asset."""
        ref = self.tables[parameter.name]
        return None if ref.plain is not None else Edge(ref.key, ref.partitions, mapping)

    def node(self, declaration: Declaration) -> Node:
        """Return the node of a declared table, with edges to its declared inputs; raise DefinitionError for a declaration of another kind.

        Plain assets and dbt models have no edge: Dagster follows them itself.
        """
        match declaration:
            case Dataset():
                mappings = dict(declaration.partition_mappings)
                edges = (self.edge(p, mappings.get(p.name)) for p in declaration.function.tables)
                labels = [Edge(declaration.labels_key, None, optional=True)] if reads_labels(declaration) else []
                return Node(declaration.key, declaration.table.partitions, (*(e for e in edges if e), *labels))
            case FeatureView():
                return Node(
                    declaration.key,
                    declaration.partitions,
                    self._list_view_edges(declaration),
                    definition=declaration.hash_definition(build_view_source(declaration)),
                )
            case TrainingSet():
                tables = (self.edge(p, dg.AllPartitionMapping()) for p in declaration.function.tables)
                views = (Edge(v.key, v.partitions, dg.AllPartitionMapping()) for v in select_stored_views(declaration.features))
                return Node(declaration.key, None, (*(e for e in tables if e), *views))
            case BatchPrediction():
                views = (_lookup_edge(view) for view in select_stored_views(declaration.model.training_set.features))
                return Node(
                    declaration.key,
                    declaration.dataset.table.partitions,
                    (Edge(declaration.dataset.key, declaration.dataset.table.partitions), *views),
                )
            case PromptEvaluation():
                return Node(declaration.key, None, self._evaluation_edges(declaration), definition=hash_evaluation(declaration))
            case Calibration():
                return Node(declaration.key, None, (_link_all(declaration.cases),), definition=hash_calibration(declaration))
        raise DefinitionError(
            f"{type(declaration).__name__} is not a table",
            hint="pass a dataset, a feature view, a training set, a batch prediction, an evaluation or a calibration",
        )

    def _evaluation_edges(self, evaluation: PromptEvaluation) -> tuple[Edge, ...]:
        calibrations = (calibration for judge in evaluation.judges for calibration in self.calibrations_of(judge))
        datasets = (evaluation.cases, *([evaluation.prices] if evaluation.prices else []))
        return tuple(dict.fromkeys((*map(_link_all, datasets), *(Edge(calibration.key, None) for calibration in calibrations))))

    def _list_view_edges(self, view: FeatureView) -> tuple[Edge, ...]:
        source = view.source
        match source:
            case DbtModel():
                return ()  # dbt's own assets
            case Computed() | Sql():
                mappings = dict(source.partition_mappings)
                refs = [(name, self.tables[name]) for name in input_table_names(source)]
                return tuple(Edge(ref.key, ref.partitions, mappings.get(name)) for name, ref in refs if ref.plain is None)
        return (Edge(source.key, view.partitions),)


def reads_labels(dataset: Dataset[..., Any] | ExternalDataset) -> bool:
    """Return whether the function of a dataset calls ``ml.llm.read_labels``."""
    return isinstance(dataset, Dataset) and mentions_name(dataset.function.function, "read_labels")


def input_table_names(source: Computed[..., Any] | Sql) -> tuple[str, ...]:
    """Return the names of the tables that a feature view is computed from: the function's table parameters, or the query's tables."""
    return tuple(p.name for p in source.function.tables) if isinstance(source, Computed) else find_table_names(source.query)


def _link_all(dataset: Dataset[..., Any] | ExternalDataset) -> Edge:
    """Return the edge of an unpartitioned table to all partitions of a dataset."""
    return Edge(dataset.key, dataset.table.partitions, dg.AllPartitionMapping())


def _lookup_edge(view: FeatureView) -> Edge:
    """Return the edge to a feature view that predictions look up; a prediction reads the rows of the last ttl before its event time."""
    return Edge(view.key, view.partitions, build_lookback_mapping(view.partitions, view.ttl.total_seconds() if view.ttl else None))


def build_view_rules(view: FeatureView) -> Table:
    """Return the rules for rows of a feature view: join keys and times together are unique, and partitions may be empty."""
    times = tuple(dict.fromkeys(t for t in (view.event_timestamp, view.created_timestamp) if t))
    return Table(
        partitions=view.partitions,
        key=(*view.entity.join_keys, *times),
        event_timestamp=view.event_timestamp,
        allow_empty=True,
        quality=view.quality,
    )


def row_key(project: Project, model: Model[..., Any]) -> tuple[str, ...]:
    """Return the columns that identify a row to predict; empty if no key is declared.

    They are the ``row_key`` of a service of the model. Without one, they are the first key that a dataset of its training set declares.
    """
    declared_key = next((service.row_key for service in project.select(Service) if service.model.key == model.key and service.row_key), ())
    if declared_key:
        return declared_key
    return next((dataset.table.key for dataset in project.datasets_of(model.training_set) if dataset.table.key), ())


def served_partitions(project: Project, service: Service) -> dg.PartitionsDefinition | None:
    """Return the partitions of a service's predictions: those of the first partitioned dataset that its model is trained on, or None."""
    datasets = project.datasets_of(service.model.training_set)
    return next((dataset.table.partitions for dataset in datasets if dataset.table.partitions is not None), None)


def served_time(service: Service) -> str:
    """Return the name of a prediction's event time column in memory; :func:`lake_column` returns its name in the lake."""
    return service.model.training_set.event_timestamp or PREDICTED_AT
