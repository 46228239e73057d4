"""What people want to know of a feature view: what it holds, where its columns come from, and who uses it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
import polars as pl

from mlops_assets.compute.features.column_lineage import trace_columns
from mlops_assets.compute.features.statistics import compute_statistics
from mlops_assets.compute.tables.own_columns import TRAINING_SET_COLUMNS, table_name
from mlops_assets.orchestrate.core.metadata import to_markdown
from mlops_assets.orchestrate.core.project import Project, input_table_names
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.serving.formats.packaging import read_manifest
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.values.dataset import Dataset, ExternalDataset
from mlops_assets.values.feature_sources import Sql
from mlops_assets.values.features import FeatureView, feature_views, stored_views
from mlops_assets.values.model import Model
from mlops_assets.values.serving import Service
from mlops_assets.values.training import TrainingSet

Lineage = Mapping[str, Sequence[tuple[str, str]]]


@dataclass(frozen=True)
class FeatureUsage:
    """Who uses a feature view.

    Parameters
    ----------
    training_sets, models, services
        Names.
    versions
        Registered versions that were trained with it, as ``model@version``.
    """

    training_sets: tuple[str, ...]
    models: tuple[str, ...]
    services: tuple[str, ...]
    versions: tuple[str, ...]


def find_usage(project: Project, stores: Stores, view: FeatureView) -> FeatureUsage:
    """Return who uses a feature view."""
    sets = [t for t in project.select(TrainingSet) if view.key in {v.key for v in stored_views(t.features)}]
    models = [m for m in project.select(Model) if m.training_set in sets]
    services = [s.name for s in project.select(Service) if s.model in models]
    known = [version for model in models for version in stores.registry.versions(model.name)]
    versions = [f"{v.model}@{v.version}" for v in known if _looks_up(stores, v.artifact, view.name)]
    return FeatureUsage(tuple(t.name for t in sets), tuple(m.name for m in models), tuple(services), tuple(versions))


def _looks_up(stores: Stores, artifact: str, view: str) -> bool:
    return any(step.get("view") == view for step in read_manifest(stores.artifacts, artifact).get("steps", ()))


def describe_view(view: FeatureView, rows: pl.DataFrame, lineage: Lineage) -> dict[str, Any]:
    """Return what a materialisation of a feature view shows: figures and histograms, and where its columns come from."""
    shown = [{name: _display_value(value) for name, value in row.items()} for row in compute_statistics(rows, view.feature_names)]
    found: dict[str, Any] = {"statistics": to_markdown(shown)}
    if lineage:
        deps = {c: [dg.TableColumnDep(asset_key(table), column) for table, column in made] for c, made in lineage.items()}
        found["dagster/column_lineage"] = dg.TableColumnLineage(deps)
        found["column lineage"] = to_markdown(
            [{"column": c, "made from": ", ".join(f"{table}.{column}" for table, column in made)} for c, made in lineage.items()]
        )
    return found


def _display_value(value: object) -> object:
    return "" if value is None else value


def source_lineage(project: Project, stores: Stores, view: FeatureView) -> Lineage:
    """Return where the columns of a feature view come from, when it is taken from a dataset or a query; dbt's own step knows dbt's."""
    source = view.source
    if isinstance(source, (Dataset, ExternalDataset)):
        return {name: [(source.key, name)] for name in (*view.entity.join_keys, *view.feature_names)}
    if isinstance(source, Sql):
        refs = {name: project.tables[name].key for name in input_table_names(source)}
        found = trace_columns(source.query, _list_columns(view), {name: tuple(stores.lake.schema(key)) for name, key in refs.items()})
        return {column: [(refs[table], name) for table, name in made if table in refs] for column, made in found.items()}
    return {}


def lookup_lineage(declared: TrainingSet[..., Any]) -> dict[str, Any]:
    """Return, as metadata, which column of a feature view each looked-up column of a training set is made from."""
    deps = {
        table_name(name, TRAINING_SET_COLUMNS): [dg.TableColumnDep(asset_key(view.key), stored)]
        for view in feature_views(declared.features)
        for name, stored in zip(view.renamed_features, view.feature_names, strict=True)
    }
    return {"dagster/column_lineage": dg.TableColumnLineage(deps)} if deps else {}


def dbt_lineage(view: FeatureView, compiled: str, stores: Stores, parents: Sequence[str]) -> Lineage:
    """Return where the columns of a dbt model come from, by its compiled text."""
    tables = {key.rpartition("/")[2]: tuple(stores.lake.schema(key)) for key in parents}
    found = trace_columns(compiled, _list_columns(view), tables)
    return {column: kept for column, made in found.items() if (kept := [(t, c) for t, c in made if t in parents])}


def _list_columns(view: FeatureView) -> list[str]:
    return [*view.entity.join_keys, view.event_timestamp, *view.feature_names]
