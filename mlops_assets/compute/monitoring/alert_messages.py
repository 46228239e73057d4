"""The text of alerts, as JSON, as blocks of a chat and as an e-mail."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mlops_assets.values.alerts.episodes import OPENED, RESOLVED, TEST, AlertEvent, Episode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_LISTED = 20  # alerts in the text of one message; a chat takes 50 blocks
MAX_ALERTS = 200  # alerts in JSON
_MAX_TEXT = 1_500  # characters of a reason; a chat takes 3,000 in one block
_MAX_AFFECTED = 10
_VERBS = {OPENED: "failed", RESOLVED: "is resolved", TEST: "is a test"}


def title_alerts(events: Sequence[AlertEvent], environment: str) -> str:
    """Return the first line of a message: the alert, or the number of alerts of each kind."""
    if len(events) == 1:
        episode, verb = events[0].episode, _VERBS.get(events[0].kind, "still fails")
        return f"[{environment}] {episode.severity}: {episode.subject} {verb}"
    kinds = [event.kind for event in events]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    return f"[{environment}] {len(events)} alerts: {counts}"


def write_lines(events: Sequence[AlertEvent]) -> list[str]:
    """Return the text of each alert, and last the number of omitted alerts."""
    lines = [_write_alert(event) for event in events[:MAX_LISTED]]
    omitted = len(events) - MAX_LISTED
    return [*lines, f"and {omitted} more: `mlops alerts list --open`"] if omitted > 0 else lines


def write_text(events: Sequence[AlertEvent], environment: str) -> str:
    """Return a whole message as text."""
    return "\n\n".join([title_alerts(events, environment), *write_lines(events)])


def build_payload(events: Sequence[AlertEvent], environment: str, delivery: str) -> dict[str, Any]:
    """Return a message as JSON-like values.

    Parameters
    ----------
    events, environment
        The alerts, and the environment of the platform.
    delivery
        The id of the message; a message that is sent again after a crash has the same id.
    """
    return {
        "text": write_text(events, environment),
        "delivery": delivery,
        "environment": environment,
        "count": len(events),
        "alerts": [describe_alert(event) for event in events[:MAX_ALERTS]],
    }


def build_blocks(events: Sequence[AlertEvent], environment: str) -> dict[str, Any]:
    """Return a message in the format of Slack's incoming webhooks."""
    title = title_alerts(events, environment)
    sections = [{"type": "section", "text": {"type": "mrkdwn", "text": _escape(text)}} for text in write_lines(events)]
    header = {"type": "header", "text": {"type": "plain_text", "text": title[:150]}}
    return {"text": _escape(title), "blocks": [header, *sections]}


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")[:2_900]


def describe_alert(event: AlertEvent) -> dict[str, Any]:
    """Return an alert as JSON-like values: subject, time, windows, value and bound, affected assets, and the next command."""
    episode, latest = event.episode, event.episode.latest
    return {
        "id": f"{episode.number}-{episode.events}",
        "kind": event.kind,
        "subject": episode.subject,
        "severity": episode.severity,
        "partitions": describe_windows(episode),
        "failures": episode.failures,
        "since": format_time(episode.opened),
        "resolved": None if episode.resolved is None else format_time(episode.resolved),
        "text": latest.text,
        "value": latest.value,
        "bound": latest.bound,
        "affected": list(latest.affected),
        "command": latest.command,
        "run": latest.run_id,
    }


def describe_windows(episode: Episode) -> str:
    """Return the failing windows, or the window that failed last, as text; empty for a whole asset."""
    labels = [label for window, _ in episode.failing if (label := window.label)] or [episode.latest.window.label]
    return labels[0] if len(labels) == 1 else f"{labels[0]} to {labels[-1]} ({len(labels)} windows)"


def _write_alert(event: AlertEvent) -> str:
    episode, latest = event.episode, event.episode.latest
    windows = f" in {where}" if (where := describe_windows(episode)) else ""
    verb = _VERBS.get(event.kind, "still fails")
    lines = [f"{episode.severity}: {episode.subject} {verb}{windows}, since {format_time(episode.opened)}"]
    if episode.resolved is not None:
        lines[0] = (
            f"{episode.severity}: {episode.subject} {verb}; it failed{windows} from {format_time(episode.opened)} to {format_time(episode.resolved)}"
        )
    if latest.text:
        lines.append(latest.text[:_MAX_TEXT])
    if latest.value is not None or latest.bound is not None:
        lines.append(_describe_values({"value": latest.value, "bound": latest.bound}))
    if episode.failures > 1:
        lines.append(f"failures: {episode.failures}")
    if latest.affected:
        more = len(latest.affected) - _MAX_AFFECTED
        lines.append(f"affected: {', '.join(latest.affected[:_MAX_AFFECTED])}" + (f" and {more} more" if more > 0 else ""))
    if latest.command and event.kind != RESOLVED:
        lines.append(f"next: `{latest.command}`")
    return "\n".join(lines)


def _describe_values(values: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name}: {value:.6g}" for name, value in values.items() if value is not None)


def format_time(seconds: float) -> str:
    """Return a time, in seconds since 1970, as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
