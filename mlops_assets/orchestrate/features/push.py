"""Load pushed rows from their log into the lake, and find the pushed rows that the lake lacks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta
from functools import partial
from typing import Any

import dagster as dg
import polars as pl

from mlops_assets.orchestrate.core.graph import Node, compute_fingerprints
from mlops_assets.orchestrate.core.partitions import day_span, list_days, list_partition_keys
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.tables.quality import CheckedTable, check_table
from mlops_assets.orchestrate.tables.stored_rows import LOG_READABLE, add_stored_rows, build_log_metadata, build_log_outcome
from mlops_assets.orchestrate.tables.tables import build_check_specs, build_table_check_specs, publish_table
from mlops_assets.serving.push.spec import PushSpec, find_push_log_folder
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.values.features import FeatureView
from mlops_assets.values.platform import Platform
from mlops_assets.values.push import PushSource, views_of
from mlops_assets.values.window import TimeWindow, join_windows, window_of


def build_push_node(source: PushSource, platform: Platform) -> Node:
    """Return the node of a push source's table; the push log is its input."""
    partitions = source.table.partitions
    return Node(source.key, partitions, external_inputs=lambda keys: _hash_log(source, platform, partitions, keys))


def _hash_log(source: PushSource, platform: Platform, partitions: dg.PartitionsDefinition | None, keys: Sequence[str]) -> Mapping[str, str]:
    """Return partition → hash of its log files, for partitions with pushed rows."""
    folder = find_push_log_folder(platform.home, source.name)
    if not folder.is_dir():
        return {}
    from mlops_assets.serving.logs.day_log import list_log_days
    from mlops_assets.serving.logs.push_log import hash_push_files

    days = set(list_log_days(folder))
    spans = {key: day_span(window_of(partitions, key), days) for key in keys}
    return {key: hash_push_files(folder, *span) for key, span in spans.items() if span and days & set(list_days(*span))}


def publish_pushed_rows(step: StepContext, source: PushSource) -> Iterator[object]:
    """Check and commit the pushed rows of the step's partitions: those of the log, and those that only the lake still has."""
    yield from publish_table(step, source.table, partial(_make_pushed_rows, step, source))


def _make_pushed_rows(step: StepContext, source: PushSource) -> CheckedTable:
    from mlops_assets.serving.logs.day_log import list_log_days

    days = set(list_log_days(find_push_log_folder(step.stores.platform.home, source.name)))
    windows = [window for _, window in step.windows]
    spans = [span for span in (day_span(window, days) for window in windows) if span]
    first, last = (min(s[0] for s in spans), max(s[1] for s in spans)) if spans else (date.min, date.min)
    corrupt: list[str] = []
    rows = load_pushed_rows(step.stores, source, first, last, corrupt)
    if windows[0] is not None:
        time = source.table.event_timestamp or ""
        in_window = [pl.col(time).is_between(w.start, w.end, closed="left") for w in join_windows(w for w in windows if w is not None)]
        rows = rows.filter(pl.any_horizontal(in_window))
    rows, lake_only = add_stored_rows(step, rows, source.table)
    checked = check_table(step, rows, source.table, quality_key=source.quality_key, quarantine_key=source.quarantine_key)
    return replace(
        checked,
        outcomes=[*checked.outcomes, build_log_outcome(corrupt)],
        metadata={**checked.metadata, **build_log_metadata(lake_only, corrupt)},
    )


def list_push_checks(source: PushSource) -> list[dg.AssetCheckSpec]:
    """Return the check specs of a push source: those of a dataset, and one for unreadable lines of the log."""
    return [*build_table_check_specs(source.key, source.table), *build_check_specs(source.key, (LOG_READABLE,), warnings=(LOG_READABLE,))]


def load_pushed_rows(stores: Stores, source: PushSource, first: date, last: date, corrupt: list[str] | None = None) -> pl.DataFrame:
    """Return the pushed rows of a range of days; of rows with the same key of the source's table, only the row pushed last.

    Parameters
    ----------
    stores, source
        Where the log is, and the source of the rows.
    first, last
        Days of event time in UTC, both included.
    corrupt
        A list that receives the unreadable lines of the log; these lines are skipped.
    """
    from mlops_assets.serving.logs.push_log import LOGGED_AT, read_pushed_rows

    types = dict(PushSpec.from_source(source, views_of(source)).types)
    rows = read_pushed_rows(find_push_log_folder(stores.platform.home, source.name), first, last, types, [] if corrupt is None else corrupt)
    return rows.drop(LOGGED_AT).unique(source.table.key, keep="last", maintain_order=True)


def load_pending_rows(step: StepContext, view: FeatureView) -> pl.DataFrame | None:
    """Return the pushed rows of each day whose rows may be missing from the view's table; None without a push source.

    They have the columns of the view. Rows of such a day that the table already has are included. Rows with a null in a key or a time are
    left out.

    Parameters
    ----------
    step, view
        The step, whose snapshot of the lake is compared, and the view.
    """
    source = view.source
    if not isinstance(source, PushSource):
        return None
    from mlops_assets.compute.features.feature_schema import cast_features
    from mlops_assets.serving.logs.day_log import list_log_days

    folder = find_push_log_folder(step.stores.platform.home, source.name)
    settled_windows = _find_settled_windows(step, source, view)
    open_days = [day for day in list_log_days(folder) if not _is_covered(day, settled_windows)]
    frames = [load_pushed_rows(step.stores, source, day, day) for day in open_days]
    rows = pl.concat(frames) if frames else load_pushed_rows(step.stores, source, date.max, date.min)  # no days: only the columns
    times = (source.table.event_timestamp or "", source.table.created_timestamp or "")
    columns = list(dict.fromkeys((*view.entity.join_keys, *times, *view.feature_names)))
    return cast_features(rows.select(columns).drop_nulls([*view.entity.join_keys, *times]), view.features, view.key)


def _find_settled_windows(step: StepContext, source: PushSource, view: FeatureView) -> list[TimeWindow] | None:
    """Return the windows of event time whose pushed rows are all in the view's table.

    None means that every pushed row is in the table.
    """
    lake, snapshot = step.stores.lake, step.snapshot
    keys = list(list_partition_keys(source.table.partitions))
    fresh = set(keys)
    for node in (build_push_node(source, step.stores.platform), step.project.node(view)):
        records = lake.records(node.key, snapshot=snapshot)
        current = compute_fingerprints(node, keys, lake, snapshot=snapshot)
        fresh &= {key for key in keys if key in records and records[key].inputs == current.get(key)} | {
            k for k in keys if k not in current and k not in records
        }
    if source.table.partitions is None:
        return None if fresh else []
    return join_windows(span for key in keys if key in fresh and (span := window_of(source.table.partitions, key)))


def _is_covered(day: date, settled_windows: list[TimeWindow] | None) -> bool:
    if settled_windows is None:
        return True
    from datetime import UTC, datetime

    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return any(span.start <= start and start + timedelta(days=1) <= span.end for span in settled_windows)


def merge_pending(rows: pl.DataFrame, pending: pl.DataFrame | None, view: FeatureView) -> pl.DataFrame:
    """Return the rows of a view's table and the pending rows; a pending row replaces a row with the same key and times."""
    if pending is None or pending.is_empty():
        return rows
    times: Any = (view.event_timestamp, view.created_timestamp or view.event_timestamp)
    merged = pl.concat([rows.select(pending.columns), pending])
    return merged.unique([*view.entity.join_keys, *times], keep="last", maintain_order=True)
