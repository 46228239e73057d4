"""The step of a feature view: make its rows from a dataset, a query or a function."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import dagster as dg
import polars as pl

from mlops_assets.compute.features.feature_schema import cast_features
from mlops_assets.compute.tables.sql import run_query
from mlops_assets.compute.user_code.view_source import build_view_source
from mlops_assets.errors import DataError
from mlops_assets.orchestrate.core.metadata import draw_safely
from mlops_assets.orchestrate.core.project import build_view_rules, input_table_names
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.features.discovery import describe_view, source_lineage
from mlops_assets.orchestrate.tables.backfill import ChunkPlan, publish_in_chunks
from mlops_assets.orchestrate.tables.partition_calls import ProducedRows, call_function
from mlops_assets.orchestrate.tables.quality import CheckedTable, check_table
from mlops_assets.orchestrate.tables.unrecorded import warn_of_unrecorded
from mlops_assets.values.dataset import Dataset, ExternalDataset
from mlops_assets.values.feature_sources import Computed, Sql
from mlops_assets.values.features import FeatureView
from mlops_assets.values.function import Injection


def publish_feature_view(step: StepContext, view: FeatureView) -> Iterator[object]:
    """Record the view's version, then make, check and commit the step's partitions; many partitions are committed in chunks."""
    step.stores.view_versions.declare(view, view.version(build_view_source(view)), step.stores.lake.snapshot())
    chunks = ChunkPlan(
        build_view_rules(view),
        make=partial(_make_view, view=view),
        read=partial(_read_view, view=view),
        describe=partial(_describe_view, view=view),
        is_divisible=_is_divisible(step, view),
        is_repeatable=not _reads_configuration(view),
    )
    yield from publish_in_chunks(step, chunks)


def _make_view(step: StepContext, view: FeatureView) -> CheckedTable:
    checked = _check_view(step, _load_source_rows(step, view), view)
    return replace(checked, metadata={"source": _source_name(view), **checked.metadata, **warn_of_unrecorded(step, view)})


def _read_view(step: StepContext, view: FeatureView) -> CheckedTable:
    """Read and check partitions that the lake already holds."""
    rows = step.stores.lake.read(
        view.key, window=step.window, event_timestamp=view.event_timestamp, snapshot=step.snapshot, columns=_list_columns(view)
    )
    return _check_view(step, rows, view)


def _check_view(step: StepContext, rows: ProducedRows | pl.DataFrame, view: FeatureView) -> CheckedTable:
    checked = check_table(step, rows, build_view_rules(view), quality_key=view.quality_key)
    return replace(checked, metadata={"version": view.version(build_view_source(view))})


def _describe_view(step: StepContext, frame: pl.DataFrame, view: FeatureView) -> Mapping[str, Any]:
    return draw_safely(
        "statistics", lambda: describe_view(view, frame, source_lineage(step.project, step.stores, view)), step.context.log.warning
    )


def _list_columns(view: FeatureView) -> tuple[str, ...]:
    key = build_view_rules(view).key
    return (*key, *(name for name in view.feature_names if name not in key))


def _select_columns(view: FeatureView, rows: pl.DataFrame) -> pl.DataFrame:
    """Return the columns of a view, cast to its declared feature types; rows with a null in the key are dropped."""
    columns = _list_columns(view)
    if missing := [name for name in columns if name not in rows.columns]:
        raise DataError(
            f"'{view.key}' needs the column '{missing[0]}', which {_source_name(view)} lacks", hint=f"it has {', '.join(rows.columns)}"
        )
    return cast_features(rows.select(columns).drop_nulls(build_view_rules(view).key), view.features, view.key)


def _source_name(view: FeatureView) -> str:
    """Return the source of a feature view's rows, for messages."""
    match view.source:
        case Computed():
            return "its function"
        case Sql():
            return "its query"
        case Dataset() | ExternalDataset():
            return f"'{view.source.key}'"
    raise TypeError(view.source)  # a dbt model is made by dbt


def _load_source_rows(step: StepContext, view: FeatureView) -> ProducedRows | pl.DataFrame:
    """Return the rows of a feature view from its source, with the columns of the view."""
    shape = partial(_select_columns, view)
    match view.source:
        case Computed():
            return call_function(step, view.source.function, view.source.call_per, view.event_timestamp, shape)
        case Sql():
            return shape(pl.concat(_run_queries(step, view, view.source), how="vertical_relaxed"))
        case Dataset() | ExternalDataset():
            return shape(step.read(step.project.by_key[view.source.key]))
    raise TypeError(view.source)


def _run_queries(step: StepContext, view: FeatureView, source: Sql) -> Iterator[pl.DataFrame]:
    """Run a query once for each partition, so that the query's window is always one partition."""
    refs = {name: step.project.tables[name] for name in input_table_names(source)}
    rows_of = {name: step.read(ref) for name, ref in refs.items()}
    for key, window in step.windows:
        tables = {name: step.filter_for_partition(refs[name], rows, key) for name, rows in rows_of.items()}
        yield run_query(source.query, tables, window, f"'{view.key}'")


def _is_divisible(step: StepContext, view: FeatureView) -> bool:
    """Return whether a run may be split into chunks.

    A function that is called once for a range can be split only if its arguments depend on the partitions.
    """
    if not isinstance(view.source, Computed) or view.source.call_per == "partition":
        return True
    function = view.source.function
    if step.plain_inputs or function.parameters_for(Injection.CONTEXT):
        return False
    bounded = any(e.partitions is not None and not isinstance(e.mapping, dg.AllPartitionMapping) for e in step.node.edges)
    return bool(function.parameters_for(Injection.WINDOW)) or bounded


def _reads_configuration(view: FeatureView) -> bool:
    """Return whether the function of the view reads the run configuration, which is not recorded."""
    return isinstance(view.source, Computed) and bool(view.source.function.parameters_for(Injection.CONFIG))
