"""The retraining loop of a monitor: its window reports lead to a decision, and a decision to a training run."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

import dagster as dg

from mlops_assets.compute.monitoring.decide import LoopFacts, decide, list_closings, next_action
from mlops_assets.compute.training import lifecycle
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.training.train_windows import find_serving_window
from mlops_assets.orchestrate.training.training_record import find_data_end, find_data_start
from mlops_assets.stores.platform.stores import Stores
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
    Retrain,
    Training,
)
from mlops_assets.values.model import Model
from mlops_assets.values.monitoring import BREACH, GOOD, Monitor

NO_RETRAINING = "the monitor has no on_failure=ml.Retrain(...), so it retrains nothing"
MAX_RUNS = 200  # the newest runs of a retraining job that are read


def job_name(model: str) -> str:
    """Return the name of a model's retraining job."""
    return f"retrain_{model}"


def collect_facts(stores: Stores, project: Project, monitor: Monitor, instance: dg.DagsterInstance) -> LoopFacts:
    """Collect the facts that decide whether a monitored model is retrained; their ``now`` is the end of the newest data or window."""
    model = monitor.model
    champion, policy = stores.registry.champion(model.name), monitor.on_failure or Retrain()
    reports = stores.decisions.reports(monitor.name)
    ends = [*(report.end for report in reports), find_data_end(stores, project, model)]
    return LoopFacts(
        model=model.name,
        serving=champion.version if champion else None,
        policy=policy,
        now=max(ends),
        reports=reports,
        decisions=stores.decisions.decisions(model.name),
        trainings=list_trainings(stores, model, instance),
        data_start=find_data_start(stores, project, model) if policy.max_every else None,
        rolling=policy.max_every is not None and find_serving_window(stores, champion) is not None,
    )


def list_trainings(stores: Stores, model: Model[..., object], instance: dg.DagsterInstance) -> tuple[Training, ...]:
    """Return the trainings of a model with their states: the recorded ones, then runs that have not reached the model step.

    Only the newest 200 runs of the retraining job are read, and finished runs without a decision are left out.
    """
    recorded = {record.run_id: record for record in stores.decisions.trainings(model.name)}
    job_runs = instance.get_run_records(filters=dg.RunsFilter(job_name=job_name(model.name)), limit=MAX_RUNS)
    runs = {record.dagster_run.run_id: record for record in job_runs}
    runs |= {run_id: record for run_id in recorded if run_id not in runs and (record := instance.get_run_record_by_id(run_id)) is not None}
    opened = {decision.id: decision.opened for decision in stores.decisions.decisions(model.name)}
    started = (_build_started_training(stores, model, record, runs.get(run_id)) for run_id, record in recorded.items())
    return (
        *started,
        *(
            training
            for run_id, run in runs.items()
            if run_id not in recorded and (training := _build_queued_training(run, opened)) is not None
        ),
    )


def _build_queued_training(record: dg.RunRecord, opened: Mapping[str, datetime]) -> Training | None:
    """Return a run that has not reached the model step as a running or crashed training; None if it is finished without a decision."""
    run = record.dagster_run
    decision = run.tags.get(DECISION_TAG)
    if run.is_finished and decision is None:
        return None
    as_of = opened.get(decision or "", datetime.min.replace(tzinfo=UTC))
    return Training(run.run_id, as_of, CRASHED if run.is_finished else RUNNING, decision, _find_end_time(record))


def _find_end_time(record: dg.RunRecord | None) -> datetime | None:
    return datetime.fromtimestamp(record.end_time, UTC) if record is not None and record.end_time else None


def _build_started_training(stores: Stores, model: Model[..., object], record: TrainingRecord, run: dg.RunRecord | None) -> Training:
    running = run is not None and not run.dagster_run.is_finished
    return Training(
        record.run_id, record.as_of, _derive_state(stores, model, record, running=running), record.decision, _find_end_time(run)
    )


def _derive_state(stores: Stores, model: Model[..., object], record: TrainingRecord, *, running: bool) -> str:
    """Return the state of a recorded training.

    A training whose run has ended after the gates passed was promoted by a later run, waits for an approval, or counts as rejected.
    """
    outcomes = {records.PROMOTED: PROMOTED, records.REJECTED: REJECTED}
    if record.outcome in outcomes:
        return outcomes[record.outcome]
    if running or record.outcome == records.STARTED:
        return RUNNING if running else CRASHED
    version = next((v for v in stores.registry.versions(model.name) if v.version == record.version), None)
    if version is not None and version.was_champion:
        return PROMOTED  # by another run, after its approval
    # An approved version still waits for its promotion, which is another step.
    return WAITING if model.approval and (version is None or version.approval != lifecycle.REJECTED) else REJECTED


def record_decision(stores: Stores, project: Project, monitor: Monitor, instance: dg.DagsterInstance) -> Decision | Hold:
    """Close decisions and open one, as the facts require; return the new decision, or why there is none."""
    if monitor.on_failure is None:
        return Hold(NO_RETRAINING)
    return _update_decisions(stores, monitor, collect_facts(stores, project, monitor, instance))


def _update_decisions(stores: Stores, monitor: Monitor, facts: LoopFacts) -> Decision | Hold:
    for decision, why in list_closings(facts):
        stores.decisions.close(decision, why)
    outcome = decide(facts)
    if isinstance(outcome, Decision):
        stores.decisions.open(monitor.name, outcome)
    return outcome


def describe_next_action(facts: LoopFacts, monitor: Monitor, sensors_off: str = "") -> str:
    """Return a clause about what the sensor of a monitor does next, or why it does nothing; nothing is recorded.

    Parameters
    ----------
    facts, monitor
        The recorded facts of a monitor, and the monitor.
    sensors_off
        The clause about idle sensors, from :func:`~mlops_assets.orchestrate.core.sensor_state.explain_sensors_off`; empty if they run.
    """
    if monitor.on_failure is None:
        return NO_RETRAINING + _describe_newest_breach(facts)
    outcome = decide(facts)
    if isinstance(outcome, Decision):
        return f"opens a decision about {outcome.partition}: {outcome.reason}{sensors_off}"
    action = next_action(facts, datetime.now(UTC))
    if isinstance(action, Hold):
        return action.reason + (sensors_off if facts.open_decisions else "")
    return f"retrains {facts.model}, attempt {action.attempt} of decision {action.decision.id}: {action.decision.reason}{sensors_off}"


def _describe_newest_breach(facts: LoopFacts) -> str:
    """Return a note if the newest window with an evaluated performance is a breach; empty otherwise."""
    evaluated = [r for r in facts.latest_reports if r.kind == PERFORMANCE and r.state in (GOOD, BREACH)]
    return f"; the breach of {evaluated[-1].partition} opens no decision" if evaluated and evaluated[-1].state == BREACH else ""


def advance_loop(stores: Stores, project: Project, monitor: Monitor, instance: dg.DagsterInstance) -> Launch | Hold:
    """Close decisions and open one, as the facts require; return the training to start now, or why there is none.

    The sensor and `mlops monitor step` call this and start the training; no other code starts the training of a decision.
    """
    facts = collect_facts(stores, project, monitor, instance)
    if monitor.on_failure is not None:
        _update_decisions(stores, monitor, facts)
    # Only the decisions have changed: reports, trainings and the newest data are those of this tick.
    return next_action(replace(facts, decisions=stores.decisions.decisions(facts.model)), datetime.now(UTC))


def sensor_name(monitor: Monitor) -> str:
    """Return the name of the sensor that carries out a monitor's decisions."""
    return f"{monitor.name}_retrains"
