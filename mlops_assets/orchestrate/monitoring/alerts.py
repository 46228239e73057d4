"""The sensor that sends alerts about failed checks and runs."""

from collections.abc import Sequence
from datetime import UTC, datetime

import dagster as dg

from mlops_assets.compute.monitoring.episodes import newest_events
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.monitoring.alert_channels import send_alerts
from mlops_assets.orchestrate.monitoring.alert_facts import AlertSources, read_facts
from mlops_assets.stores.platform.stores import Stores, open_stores
from mlops_assets.values.alerts.alerts import Alerts
from mlops_assets.values.alerts.channels import Channel, Webhook
from mlops_assets.values.platform import Platform

SENSOR = "mlops_alerts"


def declare_alerts(alerts: Alerts | None, platform: Platform) -> Alerts | None:
    """Return the declared alerts, with the platform's webhook as one more channel; None without any channel."""
    if not platform.webhook:
        return alerts
    webhook = Webhook(platform.webhook)
    if alerts is None:
        return Alerts([webhook])
    if webhook.name in [channel.name for channel in alerts.channels]:
        return alerts
    return Alerts((*alerts.channels, webhook), severity=dict(alerts.severity), silence=alerts.silence, remind_after=alerts.remind_after)


def build_alert_sensor(
    project: Project, alerts: Alerts | None, platform: Platform, *, running: bool, interval: int
) -> list[dg.SensorDefinition]:
    """Return the sensor that sends alerts every ``interval`` seconds; none without a channel."""
    if alerts is None:
        return []
    status = dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED

    @dg.sensor(
        name=SENSOR, default_status=status, minimum_interval_seconds=interval, description="Sends alerts about failed checks and runs."
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        if context.repository_def is None:
            return dg.SkipReason("the code location is not loaded")
        sources = find_sources(context.instance, context.repository_def, project, alerts)
        return dg.SkipReason(run_alerts(open_stores(platform), sources, datetime.now(UTC)))

    return [sensor]


def find_sources(instance: dg.DagsterInstance, repository: dg.RepositoryDefinition, project: Project, alerts: Alerts) -> AlertSources:
    """Return where the facts of a code location are read."""
    return AlertSources(instance, repository.asset_graph, frozenset(repository.job_names), project, alerts)


def run_alerts(stores: Stores, sources: AlertSources, now: datetime) -> str:
    """Record what has failed and passed, send the messages that are due, and return a summary.

    Messages are recorded before they are sent. A process that is killed in between leaves them to the next call.

    Parameters
    ----------
    stores
        The stores of the platform.
    sources
        Where facts are read.
    now
        The current time (aware).
    """
    readings = read_facts(sources, stores.alerts.positions(sources.instance_id), now)
    events = stores.alerts.advance(sources.instance_id, readings, sources.alerts, sources.subjects, now)
    stores.alerts.move_deliveries(sources.alerts.channels, sources.subjects, now.timestamp())
    kinds = [event.kind for event in events]
    counts = [f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)]
    return "; ".join([", ".join(counts) or "no new alert", *deliver(stores, sources.alerts.channels, now)])


def deliver(stores: Stores, channels: Sequence[Channel], now: datetime) -> list[str]:
    """Send the pending messages of each channel as one message, and return what happened; a failing channel does not stop the others.

    Parameters
    ----------
    stores
        The stores of the platform.
    channels
        The declared channels.
    now
        The current time (aware).
    """
    results = []
    for channel in channels:
        claimed = stores.alerts.claim(channel.name, now.timestamp())
        if not claimed:
            continue
        result = send_alerts(channel, newest_events(claimed), stores.platform.environment)
        stores.alerts.record_delivery(channel.name, claimed, now.timestamp(), result.problem, sent=result.sent)
        if result.sent:
            results.append(f"sent to {channel.name}" + (f", {result.problem}" if result.problem else ""))
        else:
            results.append(f"{channel.name} failed: {result.problem}; it is tried again")
    return results
