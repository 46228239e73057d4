"""Describe a feature view: its statistics, the lineage of its columns, and its users."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
import polars as pl

from mlops_assets.compute.features.column_lineage import trace_columns
from mlops_assets.compute.features.statistics import compute_statistics
from mlops_assets.compute.tables.own_columns import TRAINING_SET_COLUMNS, lake_column
from mlops_assets.orchestrate.core.metadata import to_markdown
from mlops_assets.orchestrate.core.project import Project, input_table_names
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.serving.formats.packaging import read_manifest
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.values.dataset import Dataset, ExternalDataset
from mlops_assets.values.feature_sources import Sql
from mlops_assets.values.features import FeatureView, select_feature_views, select_stored_views
from mlops_assets.values.model import Model
from mlops_assets.values.serving import Service
from mlops_assets.values.training import TrainingSet

Lineage = Mapping[str, Sequence[tuple[str, str]]]  # column → its source columns, each as (table key, column)


@dataclass(frozen=True)
class FeatureUsage:
    """The users of a feature view.

    Parameters
    ----------
    training_sets, models, services
        Names of the training sets, models and services.
    versions
        Registered versions of these models that look the view up, as ``model@version``.
    """

    training_sets: tuple[str, ...]
    models: tuple[str, ...]
    services: tuple[str, ...]
    versions: tuple[str, ...]


def find_usage(project: Project, stores: Stores, view: FeatureView) -> FeatureUsage:
    """Return the training sets, models, services and versions that use a feature view."""
    sets = [t for t in project.select(TrainingSet) if view.key in {v.key for v in select_stored_views(t.features)}]
    models = [m for m in project.select(Model) if m.training_set in sets]
    services = [s.name for s in project.select(Service) if s.model in models]
    registered = [version for model in models for version in stores.registry.versions(model.name)]
    versions = [f"{v.model}@{v.version}" for v in registered if _looks_up(stores, v.artifact, view.name)]
    return FeatureUsage(tuple(t.name for t in sets), tuple(m.name for m in models), tuple(services), tuple(versions))


def _looks_up(stores: Stores, artifact: str, view: str) -> bool:
    return any(step.get("view") == view for step in read_manifest(stores.artifacts, artifact).get("steps", ()))


def describe_view(view: FeatureView, rows: pl.DataFrame, lineage: Lineage) -> dict[str, Any]:
    """Return the metadata of a materialised feature view: statistics with histograms, and column lineage if there is any."""
    shown = [{name: _display_value(value) for name, value in row.items()} for row in compute_statistics(rows, view.feature_names)]
    metadata: dict[str, Any] = {"statistics": to_markdown(shown)}
    if lineage:
        deps = {c: [dg.TableColumnDep(asset_key(table), column) for table, column in sources] for c, sources in lineage.items()}
        metadata["dagster/column_lineage"] = dg.TableColumnLineage(deps)
        metadata["column lineage"] = to_markdown(
            [{"column": c, "made from": ", ".join(f"{table}.{column}" for table, column in sources)} for c, sources in lineage.items()]
        )
    return metadata


def _display_value(value: object) -> object:
    return "" if value is None else value


def source_lineage(project: Project, stores: Stores, view: FeatureView) -> Lineage:
    """Return the lineage of a feature view over a dataset or a query; empty for a function.

    For dbt models, use :func:`dbt_lineage`.
    """
    source = view.source
    if isinstance(source, (Dataset, ExternalDataset)):
        return {name: [(source.key, name)] for name in (*view.entity.join_keys, *view.feature_names)}
    if isinstance(source, Sql):
        refs = {name: project.tables[name].key for name in input_table_names(source)}
        traced = trace_columns(source.query, _list_columns(view), {name: tuple(stores.lake.schema(key)) for name, key in refs.items()})
        return {column: [(refs[table], name) for table, name in sources if table in refs] for column, sources in traced.items()}
    return {}


def lookup_lineage(training_set: TrainingSet[..., Any]) -> dict[str, Any]:
    """Return as metadata the lineage of a training set's looked-up columns; empty when it looks up no feature view."""
    deps = {
        lake_column(name, TRAINING_SET_COLUMNS): [dg.TableColumnDep(asset_key(view.key), stored)]
        for view in select_feature_views(training_set.features)
        for name, stored in zip(view.renamed_features, view.feature_names, strict=True)
    }
    return {"dagster/column_lineage": dg.TableColumnLineage(deps)} if deps else {}


def dbt_lineage(view: FeatureView, compiled: str, stores: Stores, parents: Sequence[str]) -> Lineage:
    """Return the lineage of a dbt model, derived from its compiled SQL; columns without a source in ``parents`` are left out."""
    tables = {key.rpartition("/")[2]: tuple(stores.lake.schema(key)) for key in parents}
    traced = trace_columns(compiled, _list_columns(view), tables)
    return {column: known for column, sources in traced.items() if (known := [(t, c) for t, c in sources if t in parents])}


def _list_columns(view: FeatureView) -> list[str]:
    return [*view.entity.join_keys, view.event_timestamp, *view.feature_names]
