"""Alerts to a webhook: runs that failed and checks that did not pass."""

import json
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

FAILURES, CHECKS = "mlops_run_failure_alerts", "mlops_check_alerts"
_MAX_EVALUATIONS = 50  # the newest of one check in one tick; earlier ones are skipped


def build_alert_sensors(url: str, *, running: bool, interval: int) -> list[dg.SensorDefinition]:
    """Return the sensors that post failed runs and checks to a webhook, every ``interval`` seconds; none without a URL."""
    if not url:
        return []
    status = dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED
    return [_build_run_failure_sensor(url, status, interval), _build_check_failure_sensor(url, status, interval)]


def post_alert(url: str, event: Mapping[str, Any]) -> None:
    """Post one alert as JSON; chat webhooks show its field ``text``. An unreachable webhook raises OSError after at most 10 s."""
    body = json.dumps(event, default=str).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json"})  # noqa: S310  (the operator's own URL)
    urllib.request.urlopen(request, timeout=10).close()  # noqa: S310


def _build_run_failure_sensor(url: str, status: dg.DefaultSensorStatus, interval: int) -> dg.SensorDefinition:
    @dg.run_failure_sensor(
        name=FAILURES, default_status=status, minimum_interval_seconds=interval, description="Posts failed runs to the webhook."
    )
    def sensor(context: dg.RunFailureSensorContext) -> None:
        run, reason = context.dagster_run, context.failure_event.message or "unknown reason"
        post_alert(
            url,
            {
                "kind": "run_failure",
                "run": run.run_id,
                "job": run.job_name,
                "text": f"run {run.run_id[:8]} of {run.job_name} failed: {reason}",
            },
        )

    return sensor


def _build_check_failure_sensor(url: str, status: dg.DefaultSensorStatus, interval: int) -> dg.SensorDefinition:
    @dg.sensor(name=CHECKS, default_status=status, minimum_interval_seconds=interval, description="Posts failed checks to the webhook.")
    def sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        last_ids: dict[str, int] = json.loads(context.cursor or "{}")
        keys = sorted(context.repository_def.asset_graph.asset_check_keys) if context.repository_def else []
        posted, problem = 0, ""
        try:
            for _ in _post_failed_checks(url, context.instance, keys, last_ids):
                posted += 1
        except OSError as error:
            if not posted:
                raise
            problem = f"; then the webhook failed ({error}), the rest follows at the next tick"  # a failed tick would post the others again
        context.update_cursor(json.dumps(last_ids))
        return dg.SkipReason(f"posted {posted} checks{problem}")

    return sensor


def _post_failed_checks(
    url: str, instance: dg.DagsterInstance, keys: Sequence[dg.AssetCheckKey], last_ids: dict[str, int]
) -> Iterator[str]:
    """Post the checks that failed since the last tick of the sensor, and yield their names.

    ``last_ids`` maps the name of a check to its last handled evaluation, and is updated after each post.
    """
    for key in keys:
        name = key.to_user_string()
        # The first tick posts nothing, so that a new webhook gets no old failures.
        for storage_id, evaluation in _read_new_evaluations(instance, key, last_ids.get(name)):
            failed = not evaluation.passed and name in last_ids
            if failed:
                post_alert(url, _build_event(evaluation))
            last_ids[name] = storage_id
            if failed:
                yield name
        last_ids.setdefault(name, 0)


def _build_event(evaluation: dg.AssetCheckEvaluation) -> dict[str, Any]:
    key = evaluation.asset_key.to_user_string()
    return {
        "kind": "check_failure",
        "asset": key,
        "check": evaluation.check_name,
        "severity": evaluation.severity.value,
        "partition": evaluation.partition,
        "text": f"{key}: {evaluation.check_name} did not pass: {evaluation.description or ''}",
    }


def _read_new_evaluations(
    instance: dg.DagsterInstance, key: dg.AssetCheckKey, after: int | None
) -> list[tuple[int, dg.AssetCheckEvaluation]]:
    """Return the storage id and evaluation of a check's evaluations after the id ``after``, oldest first; at most the newest 50."""
    records = instance.event_log_storage.get_asset_check_execution_history(key, limit=_MAX_EVALUATIONS)
    events = [
        (record.id, record.event.dagster_event) for record in reversed(records) if record.event is not None and record.id > (after or 0)
    ]
    return [
        (number, event.asset_check_evaluation_data)
        for number, event in events
        if event is not None and event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION
    ]
