"""Tests of the rubric about the monitoring of a model that serves."""

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from itertools import islice

from dagster._utils.schedules import reverse_cron_string_iterator

from mlops_assets.compute.monitoring.due import explain_due
from mlops_assets.orchestrate.monitoring.alerts import SENSOR
from mlops_assets.orchestrate.online.skew import NO_SKEW
from mlops_assets.orchestrate.retraining.decisions import collect_facts, job_name
from mlops_assets.orchestrate.score.data_tests import examine_schemas
from mlops_assets.orchestrate.score.score_facts import RubricResult, ScoreFacts, format_day
from mlops_assets.values.decisions import DRIFT, PERFORMANCE
from mlops_assets.values.expectations.objectives import Latency
from mlops_assets.values.gates.cost_gates import LatencyGate
from mlops_assets.values.monitoring import GOOD, Monitor
from mlops_assets.values.score.rubric import FULL


def examine_dependencies(facts: ScoreFacts) -> RubricResult:
    """Look for alerts that report tables which no longer fit their schemas."""
    if facts.alerts is None:
        return RubricResult(0, "the project declares no alerts", "build_definitions(alerts=ml.monitoring.Alerts([…])), or MLOPS_WEBHOOK")
    channels = ", ".join(channel.name for channel in facts.alerts.channels)
    if not facts.is_on(SENSOR):
        return RubricResult(0, f"alerts to {channels} are not sent: {SENSOR} is off", f"switch {SENSOR} on in the UI (Automation)")
    schemas = examine_schemas(facts)
    if schemas.points < FULL:
        return RubricResult(0, f"alerts to {channels}, but a changed table is not noticed: {schemas.evidence}", schemas.advice)
    return RubricResult(FULL, f"a table that breaks its schema is reported to {channels}; {schemas.evidence}")


def examine_drift(facts: ScoreFacts) -> RubricResult:
    """Look for the newest drift report on the champion."""
    return _examine_report(facts, [m for m in facts.monitors if m.drift], DRIFT, "ml.Drift()")


def examine_performance(facts: ScoreFacts) -> RubricResult:
    """Look for the newest performance report on the champion."""
    declaration = f'ml.Performance("{facts.model.metrics[0]}", at_least=…)'
    return _examine_report(facts, [m for m in facts.monitors if m.label_expectations], PERFORMANCE, declaration)


def _examine_report(facts: ScoreFacts, monitors: list[Monitor], kind: str, declaration: str) -> RubricResult:
    if not monitors:
        return RubricResult(0, f"no monitor of {facts.model.name} evaluates {kind}", f"ml.Monitor(…, expectations=({declaration},))")
    good = []
    for monitor in monitors:
        report = facts.find_report(monitor, kind)
        if report is None:
            return RubricResult(0, f"{monitor.name} has evaluated no window of the champion", f"mlops monitor step {monitor.name}")
        if report.state != GOOD:
            text = f"{monitor.name}, {report.partition}: {report.state}, {report.reason}"
            return RubricResult(0, text, f"mlops monitor show {monitor.name}")
        good.append(f"{monitor.name}: {report.partition} is good for version {report.version}")
    return RubricResult(FULL, ", ".join(good))


def examine_skew(facts: ScoreFacts) -> RubricResult:
    """Look for the latest comparison of served features with those of the lake."""
    looked_up = [service for service in facts.services if facts.views]
    if not looked_up:
        return RubricResult(
            0, "no service looks features up, so none are compared", "ml.FeatureView(online=True) and ml.Service, or declare skew"
        )
    compared = []
    for service in looked_up:
        check = facts.read_check(service.predictions_key, NO_SKEW)
        if check is None or not check.metadata.get("values compared"):
            return RubricResult(0, f"no served value of {service.name} was compared", f"mlops serve start {service.name}, then mlops run")
        if not check.passed:
            return RubricResult(0, f"{service.name}: {check.text}", "mlops run, and look at the check no_skew of its predictions")
        compared.append(f"{service.name}: {check.metadata['values compared']} values compared on {format_day(check.at)}, none differs")
    return RubricResult(FULL, "; ".join(compared))


def examine_age(facts: ScoreFacts) -> RubricResult:
    """Compare the age of the champion with the declared cadence or maximum age."""
    if facts.champion is None:
        return facts.missing_champion
    for monitor in facts.monitors:
        if monitor.on_failure is not None and (monitor.on_failure.every or monitor.on_failure.max_age):
            loop = collect_facts(facts.stores, facts.project, monitor, facts.instance)
            if due := explain_due(loop):
                return RubricResult(0, f"{monitor.name}: a training is due, {due}", f"mlops monitor step {monitor.name}")
            policy = ", ".join(f"{name}={span}" for name in ("every", "max_age") if (span := getattr(monitor.on_failure, name)))
            return RubricResult(FULL, f"{facts.describe_champion()}; no training is due by Retrain({policy}) of {monitor.name}")
    if facts.model.cron_schedule:
        return _examine_schedule(facts, facts.model.cron_schedule, facts.champion.created_at)
    return RubricResult(0, "nothing bounds the age of the champion", "ml.Retrain(max_age=timedelta(days=…)), or @ml.model(cron_schedule=…)")


def _examine_schedule(facts: ScoreFacts, cron: str, trained: datetime) -> RubricResult:
    """Compare the registration of the champion with the second-to-last tick of its schedule."""
    schedule = f"{job_name(facts.model.name)}_schedule"
    if not facts.is_on(schedule):
        return RubricResult(0, f"{schedule} ({cron}) is off", f"switch {schedule} on in the UI (Automation)")
    ticks = list(islice(reverse_cron_string_iterator(time.time(), cron, facts.model.cron_timezone), 2))
    if trained < ticks[-1].astimezone(UTC):
        text = f"{facts.describe_champion()}, before the last two ticks of {schedule} ({cron})"
        return RubricResult(0, text, f"mlops models history {facts.model.name}")
    return RubricResult(FULL, f"{facts.describe_champion()}; {schedule} ({cron}) is on")


def examine_stability(facts: ScoreFacts) -> RubricResult:
    """Give the point to a model that serves, because trainings and predictions refuse values that are not finite."""
    if facts.champion is None:
        return facts.missing_champion
    serving = [*(service.name for service in facts.services), *(batch.name for batch in facts.batches)]
    if not serving:
        return RubricResult(0, "no service or batch prediction refuses predictions that are not finite", "ml.Service or ml.BatchPrediction")
    text = f"predictions of the holdout are finite ({facts.describe_champion()})"
    return RubricResult(FULL, f"{text}; rows whose prediction is not are refused by {', '.join(serving)}")


def examine_latency(facts: ScoreFacts) -> RubricResult:
    """Look for an objective of latency that holds, else for a gate on latency that the champion passed."""
    good = []
    for monitor, objective in ((m, each) for m in facts.monitors for each in m.objectives if isinstance(each, Latency)):
        check = facts.read_check(monitor.system_key, objective.name)
        if check is None or check.metadata.get("state") != GOOD:
            state = "no window is evaluated" if check is None else str(check.text or check.metadata.get("state"))
            return RubricResult(0, f"{monitor.name}, {objective.name}: {state}", f"mlops monitor show {monitor.name}")
        good.append(f"{monitor.name}: {objective.name} holds, checked {format_day(check.at)}")
    return RubricResult(FULL, "; ".join(good)) if good else _examine_latency_gates(facts)


def _examine_latency_gates(facts: ScoreFacts) -> RubricResult:
    gates = [gate for gate in facts.gates if isinstance(gate, LatencyGate)]
    if not gates:
        return RubricResult(
            0, "neither an objective nor a gate bounds the latency", "ml.monitoring.Latency(…) in a monitor, or ml.Gate.latency(p95_ms=…)"
        )
    found = facts.evidence.get(gates[0].name)
    if found is None or not found.passed or found.definition != gates[0].definition:
        return RubricResult(0, f"{gates[0].name} has no passed result for the champion", "mlops run")
    return RubricResult(FULL, f"{found.reason} ({facts.describe_champion()})")


MONITORING_TESTS: Mapping[str, Callable[[ScoreFacts], RubricResult]] = {
    "dependency_changes": examine_dependencies,
    "data_invariants": examine_drift,
    "skew": examine_skew,
    "model_age": examine_age,
    "numerical_stability": examine_stability,
    "computing_performance": examine_latency,
    "prediction_quality": examine_performance,
}
