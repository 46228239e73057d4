"""The loop: from window reports to a decision, and from a decision to one training run."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from mlops_assets.compute.monitoring.decide import LoopFacts, decide, list_closings, next_action
from mlops_assets.compute.training.lifecycle import REJECTED as REFUSED
from mlops_assets.orchestrate.core.liveness import bury_dead_runs
from mlops_assets.orchestrate.core.monitor_windows import predicted_partitions
from mlops_assets.orchestrate.core.partitions import sort_keys
from mlops_assets.orchestrate.core.project import Project, TableRef
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.stores.platform.stores import Stores, open_stores
from mlops_assets.stores.registry import decisions as records
from mlops_assets.stores.registry.decisions import TrainingRecord
from mlops_assets.values.decisions import (
    CRASHED,
    DECISION_TAG,
    PERFORMANCE,
    PROMOTED,
    REJECTED,
    RUNNING,
    WAITING,
    Decision,
    Hold,
    Launch,
    Training,
)
from mlops_assets.values.model import Model
from mlops_assets.values.monitoring import BREACH, GOOD, Monitor, Retrain
from mlops_assets.values.platform import Platform
from mlops_assets.values.training import TrainingSet
from mlops_assets.values.window import window_of

NO_RETRAINING = "the monitor has no on_failure=ml.Retrain(...), so it retrains nothing"
MAX_RUNS = 200  # of a job


def job_name(model: str) -> str:
    """Return the name of a model's one job."""
    return f"retrain_{model}"


def find_data_end(stores: Stores, project: Project, model: Model[..., Any]) -> datetime:
    """Return the end of the newest data for a model: the loop counts in the time of the data, not of the clock.

    A partitioned table ends with its newest partition that has rows. One without partitions ends with its newest event time, as declared by the
    table or by the training set, rounded up to the end of the partition of predictions that holds it. Only where no table has a time does the clock count.
    """
    declared = model.training_set
    windows = next((predicted_partitions(project, m) for m in project.every(Monitor) if m.model.key == model.key), None)
    tables = list_source_tables(project, declared)
    ends = [end for ref in tables if (end := _find_table_end(stores, ref, declared.event_timestamp, windows)) is not None]
    if not ends:
        ends = [record.recorded_at.astimezone(UTC) for ref in tables for record in stores.lake.records(ref.key).values()]
    return max(ends, default=datetime.min.replace(tzinfo=UTC))


def _find_table_end(stores: Stores, ref: TableRef, time: str | None, windows: dg.PartitionsDefinition | None) -> datetime | None:
    """Return the end of a table's newest data in event time; None where it has none."""
    if ref.partitions is not None:
        found = stores.lake.records(ref.key)
        newest = sort_keys(ref.partitions, (key for key, record in found.items() if record.rows))[-1:]
        span = window_of(ref.partitions, newest[0]) if newest else None
        return None if span is None else span.end
    column = next((name for name in (ref.event_timestamp, time) if name and name in stores.lake.schema(ref.key)), None)
    latest = None if column is None else stores.lake.read(ref.key, columns=[column])[column].max()
    return _find_window_end(windows, latest) if isinstance(latest, datetime) else None


def _find_window_end(windows: dg.PartitionsDefinition | None, time: datetime) -> datetime:
    """Return the end of the window that holds a time; the time itself without windows."""
    moment = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    if windows is None:
        return moment
    before = windows.get_prev_partition_window(moment, respect_bounds=False)  # type: ignore[attr-defined]  # a time window
    return windows.get_next_partition_window(before.end, respect_bounds=False).end.astimezone(UTC)  # type: ignore[attr-defined, no-any-return]


def list_source_tables(project: Project, declared: TrainingSet[..., object]) -> list[TableRef]:
    """Return the tables that the rows of a training set come from."""
    return [ref for p in declared.function.tables if (ref := project.tables[p.name]).plain is None]


def collect_facts(stores: Stores, project: Project, monitor: Monitor, instance: dg.DagsterInstance) -> LoopFacts:
    """Collect the facts that decide whether a monitored model is retrained."""
    model = monitor.model
    champion = stores.registry.champion(model.name)
    reports = stores.decisions.reports(monitor.name)
    ends = [*(report.end for report in reports), find_data_end(stores, project, model)]
    return LoopFacts(
        model=model.name,
        serving=champion.version if champion else None,
        policy=monitor.on_failure or Retrain(),
        now=max(ends),
        reports=reports,
        decisions=stores.decisions.decisions(model.name),
        trainings=list_trainings(stores, model, instance),
    )


def list_trainings(stores: Stores, model: Model[..., object], instance: dg.DagsterInstance) -> tuple[Training, ...]:
    """Return every training of a model with its state, including requested runs that have not reached the model step."""
    known = {record.run_id: record for record in stores.decisions.trainings(model.name)}
    asked = instance.get_run_records(filters=dg.RunsFilter(job_name=job_name(model.name)), limit=MAX_RUNS)
    runs = {record.dagster_run.run_id: record for record in asked}
    runs |= {run_id: record for run_id in known if run_id not in runs and (record := instance.get_run_record_by_id(run_id)) is not None}
    opened = {decision.id: decision.opened for decision in stores.decisions.decisions(model.name)}
    begun = (_describe_started_run(stores, model, record, runs.get(run_id)) for run_id, record in known.items())
    return (
        *begun,
        *(found for run_id, run in runs.items() if run_id not in known and (found := _describe_queued_run(run, opened)) is not None),
    )


def _describe_queued_run(record: dg.RunRecord, opened: Mapping[str, datetime]) -> Training | None:
    """Return the pending or crashed training run of a decision; None for a finished run without a decision."""
    run = record.dagster_run
    decision = run.tags.get(DECISION_TAG)
    if run.is_finished and decision is None:
        return None
    as_of = opened.get(decision or "", datetime.min.replace(tzinfo=UTC))
    return Training(run.run_id, as_of, CRASHED if run.is_finished else RUNNING, decision, _find_end_time(record))


def _find_end_time(record: dg.RunRecord | None) -> datetime | None:
    return datetime.fromtimestamp(record.end_time, UTC) if record is not None and record.end_time else None


def _describe_started_run(stores: Stores, model: Model[..., object], record: TrainingRecord, run: dg.RunRecord | None) -> Training:
    running = run is not None and not run.dagster_run.is_finished
    return Training(
        record.run_id, record.as_of, _derive_state(stores, model, record, running=running), record.decision, _find_end_time(run)
    )


def _derive_state(stores: Stores, model: Model[..., object], record: TrainingRecord, *, running: bool) -> str:
    outcomes = {records.PROMOTED: PROMOTED, records.REJECTED: REJECTED}
    if record.outcome in outcomes:
        return outcomes[record.outcome]
    if running or record.outcome == records.STARTED:
        return RUNNING if running else CRASHED
    version = next((v for v in stores.registry.versions(model.name) if v.version == record.version), None)
    if version is not None and version.was_champion:
        return PROMOTED  # by another run, after its approval
    # An approved version still waits for its promotion, which is another step.
    return WAITING if model.approval and (version is None or version.approval != REFUSED) else REJECTED


def record_decision(stores: Stores, project: Project, monitor: Monitor, instance: dg.DagsterInstance) -> Decision | Hold:
    """Record which decisions the facts close and open; return the new decision, or why there is none."""
    if monitor.on_failure is None:
        return Hold(NO_RETRAINING)
    return _record(stores, monitor, collect_facts(stores, project, monitor, instance))


def _record(stores: Stores, monitor: Monitor, facts: LoopFacts) -> Decision | Hold:
    for decision, why in list_closings(facts):
        stores.decisions.close(decision, why)
    found = decide(facts)
    if isinstance(found, Decision):
        stores.decisions.open(monitor.name, found)
    return found


def describe_next_action(facts: LoopFacts, monitor: Monitor, turned_off: str = "") -> str:
    """Return what happens next, in the words of the sensor.

    Parameters
    ----------
    facts, monitor
        The recorded facts of a monitor, and the monitor.
    turned_off
        The reason why no sensor acts, from :func:`~mlops_assets.orchestrate.core.sensor_state.explain_off`; empty when the sensors run.
    """
    if monitor.on_failure is None:
        return NO_RETRAINING + _describe_newest_breach(facts)
    found = decide(facts)
    if isinstance(found, Decision):
        return f"opens a decision about {found.partition}: {found.reason}{turned_off}"
    start = next_action(facts, datetime.now(UTC))
    if isinstance(start, Hold):
        return start.reason + (turned_off if facts.open_decisions else "")
    return f"retrains {facts.model}, attempt {start.attempt} of decision {start.decision.id}: {start.decision.reason}{turned_off}"


def _describe_newest_breach(facts: LoopFacts) -> str:
    """Return a note when the newest judged window is a breach; empty otherwise."""
    judged = [r for r in facts.latest_reports if r.kind == PERFORMANCE and r.state in (GOOD, BREACH)]
    return f"; the breach of {judged[-1].partition} opens nothing" if judged and judged[-1].state == BREACH else ""


def advance_loop(stores: Stores, project: Project, monitor: Monitor, instance: dg.DagsterInstance) -> Launch | Hold:
    """Record which decisions the facts close and open, and return the training to start now, or why there is none.

    The sensor and `mlops monitor step` both call this; nothing else starts a training of a decision.
    """
    facts = collect_facts(stores, project, monitor, instance)
    if monitor.on_failure is not None:
        _record(stores, monitor, facts)
    # Only the decisions have changed: reports, trainings and the newest data are those of this tick.
    return next_action(replace(facts, decisions=stores.decisions.decisions(facts.model)), datetime.now(UTC))


def sensor_name(monitor: Monitor) -> str:
    """Return the name of the sensor that carries out a monitor's decisions."""
    return f"{monitor.name}_retrains"


def build_retrain_sensor(project: Project, monitor: Monitor, platform: Platform, *, running: bool, interval: int) -> dg.SensorDefinition:
    """Return the sensor that carries out a monitor's decisions; it has no state of its own."""
    name = job_name(monitor.model.name)
    status = dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED

    @dg.sensor(
        name=sensor_name(monitor),
        job_name=name,
        minimum_interval_seconds=interval,
        default_status=status,
        description=f"Retrains {monitor.model.name} after a decision of {monitor.name}.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        bury_dead_runs(context.instance)
        stores = open_stores(platform)
        found = advance_loop(stores, project, monitor, context.instance)
        if isinstance(found, Hold):
            return dg.SkipReason(found.reason)
        return dg.RunRequest(run_key=found.run_key, job_name=name, tags=found.tags)

    return sensor


def build_training_record(step: StepContext, model: Model[..., Any], outcome: str, version: int | None = None) -> TrainingRecord:
    """Return the record of the training in this run."""
    run, as_of = step.context.run, find_data_end(step.stores, step.project, model)
    return TrainingRecord(model.name, run.run_id, run.tags.get(DECISION_TAG), as_of, version, outcome)
