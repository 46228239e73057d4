"""The table of alerts: open episodes, and recently resolved ones."""

from mlops_assets.compute.monitoring.alert_messages import describe_windows
from mlops_assets.compute.monitoring.alert_messages import format_time as format_seconds
from mlops_assets.compute.pages.console_page import ConsoleCell, ConsoleTable
from mlops_assets.orchestrate.console.site import ConsoleSite
from mlops_assets.values.alerts.episodes import ERROR

_MAX_EPISODES = 20


def list_alerts(site: ConsoleSite) -> ConsoleTable:
    """Return the newest alerts: what failed, since when, in which partitions, and who is affected downstream."""
    rows = tuple(
        (
            episode.subject,
            ConsoleCell("open", kind="bad" if episode.severity == ERROR else "warn")
            if episode.resolved is None
            else ConsoleCell(f"resolved {format_seconds(episode.resolved)}", kind="good"),
            episode.severity,
            format_seconds(episode.opened),
            describe_windows(episode),
            episode.latest.text,
            ", ".join(episode.latest.affected) or "none",
        )
        for episode in site.stores.alerts.episodes(limit=_MAX_EPISODES)
    )
    head = ("alert", "state", "severity", "since", "partitions", "reason", "affected downstream")
    empty = "No alert was recorded. The sensor mlops_alerts records them, once it is on."
    return ConsoleTable("Alerts, newest first", head, rows, empty)
