"""Build the record of a training run, with the end of the data that it was trained on."""

from datetime import UTC, datetime
from typing import Any

import dagster as dg

from mlops_assets.orchestrate.core.monitor_windows import predicted_partitions
from mlops_assets.orchestrate.core.partitions import sort_keys
from mlops_assets.orchestrate.core.project import Project, TableRef
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.stores.registry.decisions import TrainingRecord
from mlops_assets.values.decisions import DECISION_TAG
from mlops_assets.values.model import Model
from mlops_assets.values.monitoring import Monitor
from mlops_assets.values.training import TrainingSet
from mlops_assets.values.window import window_of


def find_data_end(stores: Stores, project: Project, model: Model[..., Any]) -> datetime:
    """Return the end of a model's newest data in event time, UTC; retraining intervals are measured in event time, not wall-clock time.

    A partitioned table ends with its newest partition that has rows. An unpartitioned table ends with its newest event time, rounded up to
    the end of a partition of the monitored predictions. The table or the training set declares the event time. If no table has an event
    time, the time at which the newest record was written is used; without records, the minimum datetime.
    """
    training_set = model.training_set
    windows = next((predicted_partitions(project, m) for m in project.select(Monitor) if m.model.key == model.key), None)
    tables = list_source_tables(project, training_set)
    ends = [end for ref in tables if (end := _find_table_end(stores, ref, training_set.event_timestamp, windows)) is not None]
    if not ends:
        ends = [record.recorded_at.astimezone(UTC) for ref in tables for record in stores.lake.records(ref.key).values()]
    return max(ends, default=datetime.min.replace(tzinfo=UTC))


def find_data_start(stores: Stores, project: Project, model: Model[..., Any]) -> datetime | None:
    """Return the start of a model's oldest data in event time, UTC: of the oldest partition that has rows, or the oldest event time.

    None without partitions and event times.
    """
    tables = list_source_tables(project, model.training_set)
    starts = (_find_table_start(stores, ref, model.training_set.event_timestamp) for ref in tables)
    return min((start for start in starts if start is not None), default=None)


def _find_table_start(stores: Stores, ref: TableRef, time: str | None) -> datetime | None:
    if ref.partitions is not None:
        oldest = sort_keys(ref.partitions, (key for key, record in stores.lake.records(ref.key).items() if record.rows))[:1]
        span = window_of(ref.partitions, oldest[0]) if oldest else None
        return None if span is None else span.start
    column = next((name for name in (ref.event_timestamp, time) if name and name in stores.lake.schema(ref.key)), None)
    first = None if column is None else stores.lake.read(ref.key, columns=[column])[column].min()
    if not isinstance(first, datetime):
        return None
    return first.replace(tzinfo=UTC) if first.tzinfo is None else first.astimezone(UTC)


def _find_table_end(stores: Stores, ref: TableRef, time: str | None, windows: dg.PartitionsDefinition | None) -> datetime | None:
    """Return the end of a table's newest data in event time; None if the table has no rows or no event time."""
    if ref.partitions is not None:
        records = stores.lake.records(ref.key)
        newest = sort_keys(ref.partitions, (key for key, record in records.items() if record.rows))[-1:]
        span = window_of(ref.partitions, newest[0]) if newest else None
        return None if span is None else span.end
    column = next((name for name in (ref.event_timestamp, time) if name and name in stores.lake.schema(ref.key)), None)
    latest = None if column is None else stores.lake.read(ref.key, columns=[column])[column].max()
    return _find_window_end(windows, latest) if isinstance(latest, datetime) else None


def _find_window_end(windows: dg.PartitionsDefinition | None, time: datetime) -> datetime:
    """Return the end of the window that holds a time, in UTC; the time itself without windows. A naive time counts as UTC."""
    moment = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    if windows is None:
        return moment
    before = windows.get_prev_partition_window(moment, respect_bounds=False)  # type: ignore[attr-defined]  # a time window
    return windows.get_next_partition_window(before.end, respect_bounds=False).end.astimezone(UTC)  # type: ignore[attr-defined, no-any-return]


def list_source_tables(project: Project, training_set: TrainingSet[..., object]) -> list[TableRef]:
    """Return the tables that the function of a training set reads, without plain Dagster assets."""
    return [ref for p in training_set.function.tables if (ref := project.tables[p.name]).plain is None]


def build_training_record(step: StepContext, model: Model[..., Any], outcome: str, version: int | None = None) -> TrainingRecord:
    """Return the record of the current Dagster run as a training of the model; nothing is stored."""
    run, as_of = step.context.run, find_data_end(step.stores, step.project, model)
    return TrainingRecord(model.name, run.run_id, run.tags.get(DECISION_TAG), as_of, version, outcome)
