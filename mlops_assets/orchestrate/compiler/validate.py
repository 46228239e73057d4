"""Check a whole project before it is compiled; every error names the declaration, what it refers to, and a remedy."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import dagster as dg

from mlops_assets.errors import DefinitionError, suggest_name
from mlops_assets.orchestrate.compiler.column_names import check_declared_columns
from mlops_assets.orchestrate.compiler.prompt_rules import check_prompts, list_prompt_references
from mlops_assets.orchestrate.compiler.services import check_prompt_services, check_service
from mlops_assets.orchestrate.core.monitor_windows import check_monitor_windows
from mlops_assets.orchestrate.core.project import Project, input_table_names, row_key
from mlops_assets.orchestrate.features.on_demand_rules import check_on_demand
from mlops_assets.orchestrate.training.train_windows import check_retraining
from mlops_assets.values.dataset import Dataset, ExternalDataset
from mlops_assets.values.feature_sources import Computed, DbtModel, DbtProject, Sql
from mlops_assets.values.features import FeatureView, OnDemandFeatures, select_feature_views, select_on_demand
from mlops_assets.values.gates.gate import Gate
from mlops_assets.values.model import GateFunction, Model
from mlops_assets.values.monitoring import Monitor
from mlops_assets.values.push import PushSource
from mlops_assets.values.score.score import MLTestScore
from mlops_assets.values.serving import BatchPrediction, Service
from mlops_assets.values.training import TrainingSet

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from mlops_assets.orchestrate.core.project import TableRef
    from mlops_assets.values.function import UserFunction

_PLAIN = (dg.AssetsDefinition, dg.AssetSpec, dg.AssetChecksDefinition)
_Source = Dataset[..., Any] | ExternalDataset


def check_project(project: Project) -> None:
    """Check that the declarations of a project fit together.

    Raises
    ------
    DefinitionError
        The declarations do not fit together; the message names the first problem.
    """
    _check_items(project)
    _check_duplicates(project)
    _check_references(project)
    check_declared_columns(project)
    for key, function in _list_functions(project):
        _check_upstream(project, key, function)
    for dataset in project.select(Dataset):
        names = tuple(parameter.name for parameter in dataset.function.tables)
        _check_partitions(project, dataset.key, dataset.table.partitions, names, dict(dataset.partition_mappings))
    for view in project.select(FeatureView):
        _check_view(project, view)
        if isinstance(view.source, PushSource):
            view.source.check_view(view)
    for training_set in project.select(TrainingSet):
        _check_training_set(project, training_set)
    for model in project.select(Model):
        _check_slices(model)
    for batch in project.select(BatchPrediction):
        _check_batch(batch)
    for service in project.select(Service):
        check_service(project, service)
    check_prompt_services(project)
    for monitor in project.select(Monitor):
        _check_monitor(project, monitor)
    check_retraining(project)
    check_prompts(project)


def _check_items(project: Project) -> None:
    for item in project.plain:
        if not isinstance(item, _PLAIN):
            raise DefinitionError(
                f"build_definitions was given {getattr(item, '__name__', item)!r}, a {type(item).__name__}",
                hint="give declarations of mlops_assets and Dagster assets; a function needs its decorator, a resource goes into resources=",
            )


def _list_keys(project: Project) -> Iterator[str]:
    for declaration in project.declarations:
        if isinstance(declaration, DbtProject):
            yield f"dbt project {declaration.path}"
        elif isinstance(declaration, (OnDemandFeatures, GateFunction)):
            yield f"{'gate' if isinstance(declaration, GateFunction) else 'on_demand'}/{declaration.name}"
        elif isinstance(declaration, Monitor):
            yield from (declaration.drift_key, declaration.performance_key, declaration.estimate_key, declaration.system_key)
        else:
            yield from (declaration.key, *((declaration.predictions_key,) if isinstance(declaration, Service) else ()))
    for item in project.plain:
        if isinstance(item, dg.AssetsDefinition):
            yield from ("/".join(key.path) for key in item.keys)
        elif isinstance(item, dg.AssetSpec):
            yield "/".join(item.key.path)


def _check_duplicates(project: Project) -> None:
    duplicates = [key for key, count in Counter(_list_keys(project)).items() if count > 1]
    if duplicates:
        raise DefinitionError(f"two items of the project have the key '{duplicates[0]}'", hint="list each item once, or rename one of them")
    for gate in project.select(GateFunction):
        if gate.name in {g.name for g in gate.model.gates}:
            raise DefinitionError(f"gate '{gate.name}' has the name of a gate of '{gate.model.key}'", hint="rename the function")


def _check_references(project: Project) -> None:
    """Refuse a reference to a declaration outside of the project, because it would never be materialised."""
    known = set(_list_keys(project))
    for owner, role, key in _list_references(project):
        if key not in known:
            raise DefinitionError(
                f"{owner} refers to {role} '{key}', which is not in the project",
                hint=f"add '{key}' to the list given to build_definitions",
            )


def _list_references(project: Project) -> Iterator[tuple[str, str, str]]:
    """Yield (referring declaration, role of the target, key of the target) for each reference between declarations."""
    for gate in project.select(GateFunction):
        yield f"gate '{gate.name}'", "the model", gate.model.key
    for model in project.select(Model):
        yield f"'{model.key}'", "the training set", model.training_set.key
    for training_set in project.select(TrainingSet):
        yield from ((f"'{training_set.key}'", "the feature view", view.key) for view in select_feature_views(training_set.features))
    yield from _list_sources(project)
    for batch in project.select(BatchPrediction):
        yield f"'{batch.key}'", "the model", batch.model.key
    for service in project.select(Service):
        yield f"'{service.key}'", "the model", service.model.key
    yield from ((f"'{score.key}'", "the model", score.model.key) for score in project.select(MLTestScore))
    yield from list_prompt_references(project)
    for monitor in project.select(Monitor):
        yield f"monitor '{monitor.name}'", "the predictions", monitor.predictions_key


def _list_sources(project: Project) -> Iterator[tuple[str, str, str]]:
    """Yield each reference to a dataset or a dbt project, as :func:`_list_references` does."""
    for view in project.select(FeatureView):
        if isinstance(view.source, DbtModel):
            yield f"'{view.key}'", "the", f"dbt project {view.source.project.path}"
        elif isinstance(view.source, (Dataset, ExternalDataset)):
            yield f"'{view.key}'", "the dataset", view.source.key
    yield from ((f"'{batch.key}'", "the dataset", batch.dataset.key) for batch in project.select(BatchPrediction))


def _list_functions(project: Project) -> Iterator[tuple[str, UserFunction[..., Any]]]:
    for declaration in project.declarations:
        if isinstance(declaration, (Dataset, TrainingSet)):
            yield declaration.key, declaration.function
        elif isinstance(declaration, FeatureView) and isinstance(declaration.source, Computed):
            yield declaration.key, declaration.source.function


def _check_upstream(project: Project, key: str, function: UserFunction[..., Any]) -> None:
    models = {model.name: model.key for model in project.select(Model)}
    for parameter in function.tables:
        ref = project.tables.get(parameter.name)
        if ref is None and parameter.name in models:
            raise DefinitionError(
                f"'{key}' asks for '{parameter.name}' as a {parameter.frame}, but '{models[parameter.name]}' is not a table",
                hint="ask for its predictions or its training set",
            )
        if ref is None:
            known = sorted(project.tables)
            raise DefinitionError(
                f"'{key}' asks for the table '{parameter.name}', which no item of the project makes",
                hint=suggest_name(parameter.name, known) + f"there are {', '.join(known) or 'none'}",
            )
        if ref.key == key:
            raise DefinitionError(f"'{key}' asks for itself as '{parameter.name}'", hint="name the parameter after another table")
        _check_returns_frame(key, parameter.name, ref)


def _check_returns_frame(key: str, name: str, ref: TableRef) -> None:
    """Refuse a plain asset whose return annotation is not a frame."""
    if ref.plain is None:
        return
    op = getattr(ref.plain, "node_def", None)
    types = [o.dagster_type.typing_type for o in op.output_defs] if op else []
    for kind in types:
        if (
            isinstance(kind, type)
            and kind is not object
            and kind.__name__ not in {"DataFrame", "LazyFrame", "DuckDBPyRelation", "Any", "NoneType", "MaterializeResult"}
        ):
            raise DefinitionError(
                f"'{key}' asks for '{name}' as a frame, but the asset '{ref.key}' returns {kind.__name__}",
                hint="return a polars, pandas or DuckDB frame, or drop the parameter",
            )


def _check_partitions(
    project: Project,
    key: str,
    partitions: dg.PartitionsDefinition | None,
    names: tuple[str, ...],
    mappings: Mapping[str, dg.PartitionMapping],
) -> None:
    """Check that the partitions of a table can be mapped to those of its inputs, and that each declared mapping is for an input."""
    if unknown := set(mappings) - set(names):
        raise DefinitionError(
            f"'{key}' maps the partitions of '{min(unknown)}', which it does not read",
            hint=suggest_name(min(unknown), names) + f"it reads {', '.join(sorted(names)) or 'nothing'}",
        )
    for name in sorted(names):
        ref = project.tables[name]
        if partitions is None or ref.partitions is None or ref.plain is not None:
            continue
        _check_mapping(key, partitions, ref, mappings.get(name))


def _check_mapping(key: str, child: dg.PartitionsDefinition, ref: TableRef, mapping: dg.PartitionMapping | None) -> None:
    parent = ref.partitions
    relation = f"'{key}' ({child}) reads '{ref.key}' ({parent})"
    if mapping is None and getattr(child, "timezone", None) != getattr(parent, "timezone", None):
        raise DefinitionError(
            f"{relation}: their days begin at different times",
            hint="give both the same timezone=, or declare partition_mappings=",
        )
    if mapping is None and _is_hourly(child) and not _is_hourly(parent):
        raise DefinitionError(
            f"{relation}: a partition would read data from after its own end",
            hint="give partition_mappings={...} that reaches back, or read a finer table",
        )
    if mapping is not None and not isinstance(
        mapping, (dg.TimeWindowPartitionMapping, dg.AllPartitionMapping, dg.IdentityPartitionMapping)
    ):
        raise DefinitionError(
            f"{relation} by a {type(mapping).__name__}",
            hint="use dg.TimeWindowPartitionMapping, dg.IdentityPartitionMapping or dg.AllPartitionMapping",
        )


def _is_hourly(definition: Any) -> bool:  # noqa: ANN401
    return "Hourly" in type(definition).__name__


def _check_view(project: Project, view: FeatureView) -> None:
    if view.is_renamed:
        raise DefinitionError(
            f"build_definitions was given a renamed view of '{view.key}'",
            hint="pass the view itself; only features= of a training set takes renamed views",
        )
    if isinstance(view.source, (Computed, Sql)):
        _check_computed_view(project, view, view.source)
        return
    if isinstance(view.source, DbtModel):
        if view.quality is not None:
            raise DefinitionError(
                f"'{view.key}' declares quality=, but dbt makes and tests it",
                hint="write the rule as a dbt test in schema.yml: it is shown as an asset check",
            )
        if view.name != view.source.name:
            raise DefinitionError(
                f"'{view.key}' has another name than its dbt model '{view.source.name}'",
                hint="omit name=: a view over a dbt model has the name of the model",
            )
        return
    table, source = view.source.table, view.source.key
    required = (
        *view.entity.join_keys,
        view.event_timestamp,
        *((view.created_timestamp,) if view.created_timestamp else ()),
        *view.feature_names,
    )
    _check_columns(f"'{view.key}'", source, required, table.schema_columns)
    if table.partitions is not None and view.event_timestamp != table.event_timestamp:
        raise DefinitionError(
            f"'{view.key}' has the event timestamp '{view.event_timestamp}', its partitioned source '{source}' has '{table.event_timestamp}'",
            hint="make a dataset in between whose event_timestamp is the one that features are looked up by",
        )
    for name in view.feature_names:
        if name in table.known_later and dict(table.known_at)[name] != view.created_timestamp:
            raise DefinitionError(
                f"feature '{name}' of '{view.key}' is known later than its row in '{source}' (known_at '{dict(table.known_at)[name]}')",
                hint=f"set created_timestamp='{dict(table.known_at)[name]}', so that the row is used only from then on",
            )


def _check_computed_view(project: Project, view: FeatureView, source: Computed[..., Any] | Sql) -> None:
    names = input_table_names(source)
    for name in names if isinstance(source, Sql) else ():
        ref = project.tables.get(name)
        if ref is None or ref.plain is not None:
            known = sorted(name for name, ref in project.tables.items() if ref.plain is None)
            raise DefinitionError(
                f"the query of '{view.key}' reads the table '{name}', which no item of the project makes",
                hint=suggest_name(name, known) + f"there are {', '.join(known) or 'none'}",
            )
        if ref.key == view.key:
            raise DefinitionError(f"the query of '{view.key}' reads itself", hint="give the view another name than the table that it reads")
    _check_partitions(project, view.key, source.partitions, names, dict(source.partition_mappings))


def _check_columns(owner: str, source: str, required: Iterable[str], columns: Sequence[str]) -> None:
    """Refuse a source that lacks a required column; a source without declared columns is not checked."""
    for name in required:
        if columns and name not in columns:
            raise DefinitionError(
                f"{owner} needs the column '{name}', which '{source}' lacks",
                hint=suggest_name(name, columns) + f"it has {', '.join(columns)}",
            )


def _check_training_set(project: Project, training_set: TrainingSet[..., Any]) -> None:
    _check_label(training_set)
    _check_unique_inputs(training_set)
    for function in select_on_demand(training_set.features):
        check_on_demand(project, training_set, function)
    for dataset in project.datasets_of(training_set):
        _check_known_in_time(training_set, dataset)


def _check_label(training_set: TrainingSet[..., Any]) -> None:
    if training_set.label in training_set.columns:
        raise DefinitionError(
            f"'{training_set.key}' uses its label '{training_set.label}' as an input column",
            hint=f"drop '{training_set.label}' from columns=: it is what is predicted",
        )
    for view in select_feature_views(training_set.features):
        if training_set.label in view.renamed_features:
            raise DefinitionError(
                f"the label '{training_set.label}' of '{training_set.key}' is also a feature of '{view.key}'",
                hint="drop the feature if it is the label; if it is something else, rename one of them",
            )
    for function in select_on_demand(training_set.features):
        if training_set.label in function.parameters:
            raise DefinitionError(
                f"on-demand features '{function.name}' read the label '{training_set.label}' of '{training_set.key}'",
                hint="compute features from what is known at prediction time",
            )


def _check_unique_inputs(training_set: TrainingSet[..., Any]) -> None:
    names = [*training_set.columns, *(n for view in select_feature_views(training_set.features) for n in view.renamed_features)]
    duplicates = [name for name, count in Counter(names).items() if count > 1]
    if duplicates:
        raise DefinitionError(
            f"'{training_set.key}' has two inputs named '{duplicates[0]}'",
            hint="rename one of the features, or look the view up as view.renamed('prefix_')",
        )
    if not names and not select_on_demand(training_set.features):
        raise DefinitionError(f"'{training_set.key}' declares no input", hint="name columns=, features=, or both: X is made of them")


def _check_known_in_time(training_set: TrainingSet[..., Any], dataset: _Source) -> None:
    known = dict(dataset.table.known_at)
    reads = [(name, "columns=") for name in training_set.columns] + [
        (p, f"on-demand features '{f.name}'") for f in select_on_demand(training_set.features) for p in f.parameters
    ]
    for name, where in reads:
        if name in known:
            raise DefinitionError(
                f"'{training_set.key}' uses '{name}' in {where}, but '{dataset.key}' declares that it is known only at '{known[name]}'",
                hint=f"drop '{name}': at prediction time it does not exist",
            )
    if training_set.label in known and training_set.label_known_at is None:
        raise DefinitionError(
            f"the label '{training_set.label}' of '{training_set.key}' is known only at '{known[training_set.label]}' of '{dataset.key}'",
            hint=f"set label_known_at='{known[training_set.label]}', so that no split uses a label before it is known",
        )


def _check_slices(model: Model[..., Any]) -> None:
    for gate in model.gates:
        if isinstance(gate, Gate) and gate.slice_column and gate.slice_column not in model.slices:
            raise DefinitionError(
                f"gate '{gate.name}' of '{model.key}' judges slices of '{gate.slice_column}', which are not evaluated",
                hint=f"add '{gate.slice_column}' to slices= of the model",
            )


def _check_batch(batch: BatchPrediction) -> None:
    training_set, table = batch.model.training_set, batch.dataset.table
    views = select_feature_views(training_set.features)
    keys = [key for view in views for key in view.renamed_keys]
    required = (*training_set.columns, *keys, *((training_set.event_timestamp,) if views and training_set.event_timestamp else ()))
    _check_columns(f"'{batch.key}'", batch.dataset.key, required, table.schema_columns)
    for name in training_set.columns:
        if name in table.known_later:
            raise DefinitionError(
                f"'{batch.key}' needs '{name}' when it predicts, but '{batch.dataset.key}' knows it only at '{dict(table.known_at)[name]}'",
                hint=f"drop '{name}' from columns= of '{training_set.key}'",
            )


def _check_monitor(project: Project, monitor: Monitor) -> None:
    if monitor.drift or monitor.label_expectations or monitor.estimates:
        check_monitor_windows(project, monitor)
    if monitor.label_expectations and not row_key(project, monitor.model):
        raise DefinitionError(
            f"monitor '{monitor.name}' joins labels to '{monitor.predictions_key}', but no dataset of '{monitor.model.training_set.key}' has a key",
            hint="set key= of the dataset that has the labels",
        )
