"""The step of a feature view: its keys, times and features, from whatever it is computed from."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import dagster as dg
import polars as pl

from mlops_assets.compute.features.feature_schema import conform
from mlops_assets.compute.tables.sql import run_query
from mlops_assets.compute.user_code.view_source import view_source_text
from mlops_assets.errors import DataError
from mlops_assets.orchestrate.core.metadata import show
from mlops_assets.orchestrate.core.project import computed_from, rules_of
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.features.discovery import source_lineage, view_metadata
from mlops_assets.orchestrate.tables.backfill import Chunks, publish_in_chunks
from mlops_assets.orchestrate.tables.partition_calls import Produced, call_function
from mlops_assets.orchestrate.tables.quality import Checked, checked
from mlops_assets.orchestrate.tables.unrecorded import warn_of_unrecorded
from mlops_assets.values.dataset import Dataset, ExternalDataset
from mlops_assets.values.feature_sources import Computed, Sql
from mlops_assets.values.features import FeatureView
from mlops_assets.values.function import Injection


def feature_view_body(view: FeatureView) -> Callable[[StepContext], Iterator[object]]:
    """Return the body of the step of a feature view."""
    rules = rules_of(view)
    columns = (*rules.key, *(name for name in view.feature_names if name not in rules.key))

    def found(step: StepContext, rows: Produced | pl.DataFrame) -> Checked:
        return replace(checked(step, rows, rules, quality_key=view.quality_key), metadata={"version": view.version(view_source_text(view))})

    def made(step: StepContext) -> Checked:
        source = _source_name(view)

        def shaped(rows: pl.DataFrame) -> pl.DataFrame:
            if missing := [name for name in columns if name not in rows.columns]:
                raise DataError(
                    f"'{view.key}' needs the column '{missing[0]}', which {source} lacks", hint=f"it has {', '.join(rows.columns)}"
                )
            return conform(rows.select(columns).drop_nulls(rules.key), view.features, view.key)

        result = found(step, _source_rows(step, view, shaped))
        return replace(result, metadata={"source": source, **result.metadata, **warn_of_unrecorded(step, view)})

    def kept(step: StepContext) -> Checked:
        read = step.stores.lake.read(
            view.key, window=step.window, event_timestamp=view.event_timestamp, snapshot=step.snapshot, columns=columns
        )
        return found(step, read)

    def shown(step: StepContext, frame: pl.DataFrame) -> Mapping[str, Any]:
        return show(
            "statistics", lambda: view_metadata(view, frame, source_lineage(step.project, step.stores, view)), step.context.log.warning
        )

    chunks = Chunks(rules, made, kept, shown, divisible=_divisible(view), repeatable=not _configured(view))

    def body(step: StepContext) -> Iterator[object]:
        step.stores.view_versions.declare(view, view.version(view_source_text(view)), step.stores.lake.snapshot())
        yield from publish_in_chunks(step, chunks)

    return body


def _source_name(view: FeatureView) -> str:
    """Return where the rows of a feature view come from, for messages."""
    match view.source:
        case Computed():
            return "its function"
        case Sql():
            return "its query"
        case Dataset() | ExternalDataset():
            return f"'{view.source.key}'"
    raise TypeError(view.source)  # dbt's models are dbt's own assets


def _source_rows(step: StepContext, view: FeatureView, shaped: Callable[[pl.DataFrame], pl.DataFrame]) -> Produced | pl.DataFrame:
    """Return what a feature view is taken from."""
    match view.source:
        case Computed():
            return call_function(step, view.source.function, view.source.call_per, view.event_timestamp, shaped)
        case Sql():
            return shaped(pl.concat(_answers(step, view, view.source), how="vertical_relaxed"))
        case Dataset() | ExternalDataset():
            return shaped(step.read(step.project.by_key[view.source.key]))
    raise TypeError(view.source)


def _answers(step: StepContext, view: FeatureView, source: Sql) -> Iterator[pl.DataFrame]:
    """Ask a query once for each partition: what it says of its window is then the same in a run over many."""
    refs = {name: step.project.tables[name] for name in computed_from(source)}
    whole = {name: step.read(ref) for name, ref in refs.items()}
    for key, window in step.windows:
        tables = {name: step.part(refs[name], rows, key) for name, rows in whole.items()}
        yield run_query(source.query, tables, window, f"'{view.key}'")


def _divisible(view: FeatureView) -> Callable[[StepContext], bool]:
    """Whether the run may be divided into chunks. One call for a range is divided only where its arguments say which partitions are meant."""

    def asked(step: StepContext) -> bool:
        if not isinstance(view.source, Computed) or view.source.call_per == "partition":
            return True
        function = view.source.function
        if step.loaded or function.receiving(Injection.CONTEXT):
            return False
        bounded = any(e.partitions is not None and not isinstance(e.mapping, dg.AllPartitionMapping) for e in step.node.edges)
        return bool(function.receiving(Injection.WINDOW)) or bounded

    return asked


def _configured(view: FeatureView) -> bool:
    """Whether a run's configuration, which no record remembers, decides what comes out."""
    return isinstance(view.source, Computed) and bool(view.source.function.receiving(Injection.CONFIG))
