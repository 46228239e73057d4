"""Pages about monitors: the timeline of one monitor, and one window."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl

from mlops_assets.compute.monitoring.decide import LoopFacts, explain_settlement
from mlops_assets.compute.pages.charts import Point, TimelineMark, draw_history
from mlops_assets.compute.pages.console_page import (
    ConsoleBlock,
    ConsoleCell,
    ConsoleCharts,
    ConsoleFacts,
    ConsolePage,
    ConsoleTable,
)
from mlops_assets.compute.text import UNKNOWN, format_number
from mlops_assets.errors import LakeError
from mlops_assets.orchestrate.console.alert_tables import list_alerts
from mlops_assets.orchestrate.console.model_pages import version_path
from mlops_assets.orchestrate.console.prompt_tables import list_quality
from mlops_assets.orchestrate.console.site import (
    ConsoleRequest,
    ConsoleSite,
    MissingPageError,
    encode,
)
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.monitoring.reports import WINDOW_START
from mlops_assets.orchestrate.retraining.decisions import collect_facts, describe_next_action
from mlops_assets.values.decisions import DRIFT, ESTIMATED, PERFORMANCE, Decision, WindowReport
from mlops_assets.values.monitoring import BREACH, GOOD, Monitor
from mlops_assets.values.window import TimeWindow, window_of

SECTION = "/monitors"
WINDOWS = 60  # windows of one page
_MAX_REPORTS = 12 * WINDOWS  # rows that hold them: three kinds, some versions, repeated reports
KINDS = {BREACH: "bad", GOOD: "good"}
_COLUMNS = (PERFORMANCE, ESTIMATED, DRIFT)  # of the windows of a monitor


@dataclass(frozen=True)
class _Windows:
    """The newest windows of a monitor, oldest first, with the latest report of each version and kind."""

    reports: tuple[WindowReport, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """Partition keys, oldest first."""
        return tuple(dict.fromkeys(report.partition for report in self.reports))[-WINDOWS:]

    def select_reports(self, partition: str) -> list[WindowReport]:
        """Return the reports of a window."""
        return [report for report in self.reports if report.partition == partition]


def monitor_path(name: str, partition: str = "") -> str:
    """Return the path of a monitor's page, or of one of its windows."""
    return f"{SECTION}/{encode(name)}" + (f"/windows/{encode(partition)}" if partition else "")


def read_windows(site: ConsoleSite, monitor: Monitor, before: datetime | None = None) -> _Windows:
    """Return the newest windows that were reported, or those that end before a time."""
    latest: dict[tuple[str, int, str], WindowReport] = {}
    for report in sorted(site.stores.decisions.recent_reports(monitor.name, _MAX_REPORTS, before=before), key=lambda r: r.recorded):
        latest[report.partition, report.version, report.kind] = report
    return _Windows(tuple(sorted(latest.values(), key=lambda r: (r.end, r.partition, r.version))))


def find_newest(windows: _Windows, kind: str) -> WindowReport | None:
    """Return the newest report of a kind; a breach if one version of that window has one."""
    newest = next((r for r in reversed(windows.reports) if r.kind == kind), None)
    same = [r for r in windows.reports if newest is not None and r.kind == kind and r.partition == newest.partition]
    return next((r for r in same if r.state == BREACH), newest)


def list_monitors(site: ConsoleSite, _request: ConsoleRequest) -> ConsolePage:
    """Return the page with every monitor and its newest reports."""
    rows = []
    for _, monitor in site.select(Monitor):
        windows = read_windows(site, monitor)
        reports = [find_newest(windows, kind) if wanted else None for kind, wanted in _list_kinds(monitor)]
        newest = windows.keys[-1] if windows.keys else "none"
        model = ConsoleCell(monitor.model.name, f"/models/{encode(monitor.model.name)}")
        states = [_build_state_cell(monitor, report) for report in reports]
        rows.append(
            (ConsoleCell(monitor.name, monitor_path(monitor.name)), monitor.of.name, model, newest, *states, _describe_policy(monitor))
        )
    head = ("monitor", "watches", "model", "newest window", "performance", "drift", "on failure")
    table = ConsoleTable("", head, tuple(rows), "The project declares no monitor. Declare one with ml.Monitor(name, of=SERVICE).")
    commands = [
        ("State of the project", site.build_command("status")),
        ("Make the reports that are due", site.build_command("monitor step NAME")),
        ("Alerts and silences", site.build_command("alerts list")),
    ]
    return ConsolePage(
        "Monitors",
        SECTION,
        "Each window of predictions is evaluated per version.",
        [table, list_alerts(site), *list_quality(site)],
        commands,
    )


def _list_kinds(monitor: Monitor) -> list[tuple[str, bool]]:
    return [(PERFORMANCE, bool(monitor.label_expectations)), (DRIFT, monitor.drift is not None)]


def _build_state_cell(monitor: Monitor, report: WindowReport | None) -> ConsoleCell | str:
    if report is None:
        return UNKNOWN
    return ConsoleCell(f"{report.state} ({report.partition})", monitor_path(monitor.name, report.partition), KINDS.get(report.state, ""))


def _describe_policy(monitor: Monitor) -> str:
    return "nothing" if monitor.on_failure is None else f"retrains after {monitor.on_failure.after} breach(es)"


def find_monitor(site: ConsoleSite, name: str) -> tuple[Project, Monitor]:
    """Return a monitor and its project; raise MissingPageError for an unknown name."""
    known = {monitor.name: (project, monitor) for project, monitor in site.select(Monitor)}
    if name not in known:
        raise MissingPageError("monitor", name, {each: monitor_path(each) for each in known}, site.build_command("status"))
    return known[name]


def show_monitor(site: ConsoleSite, request: ConsoleRequest) -> ConsolePage:
    """Return the page of one monitor: the timeline, its windows, and the decisions to retrain."""
    project, monitor = find_monitor(site, request.path["monitor"])
    before = _parse_time(request.text("before"))
    windows = read_windows(site, monitor, before)
    facts = collect_facts(site.stores, project, monitor, site.instance)
    blocks: list[ConsoleBlock] = [
        ConsoleFacts("", _list_facts(site, monitor, facts)),
        *_draw_timeline(site, monitor, windows, facts),
        _list_windows(monitor, windows, before),
        _list_decisions(monitor, facts),
    ]
    commands = [
        ("Reports, decisions and the next step", site.build_command(f"monitor show {monitor.name}")),
        ("Do the next step once", site.build_command(f"monitor step {monitor.name}")),
    ]
    return ConsolePage(monitor.name, SECTION, "", blocks, commands, ConsoleCell("Monitors", SECTION))


def _list_facts(site: ConsoleSite, monitor: Monitor, facts: LoopFacts) -> tuple[tuple[str, ConsoleCell | str], ...]:
    key = monitor.performance_key if monitor.label_expectations else monitor.drift_key if monitor.drift else monitor.system_key
    asset = site.asset_url(key)
    return (
        ("watches", monitor.of.name),
        ("model", ConsoleCell(monitor.model.name, f"/models/{encode(monitor.model.name)}")),
        ("expects", ", ".join(expectation.name for expectation in monitor.expectations)),
        ("champion", "none" if facts.serving is None else f"version {facts.serving}"),
        ("next", describe_next_action(facts, monitor)),
        *([("in the Dagster UI", ConsoleCell(key, asset))] if asset else []),
    )


def _parse_time(text: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(text) if text else None
        return None if time is None or time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):  # a year before 1 or after 9999 in UTC
        return None


def read_rows(site: ConsoleSite, key: str, span: TimeWindow | None) -> pl.DataFrame:
    """Return the rows of a report table in a span of time; no rows before the first report."""
    try:
        return site.stores.lake.read(key, window=span, event_timestamp=WINDOW_START)
    except LakeError:
        return pl.DataFrame()


def _find_span(monitor: Monitor, keys: Sequence[str]) -> TimeWindow | None:
    """Return the time from the start of the first window to the end of the last; None without windows."""
    spans = [window for key in keys if (window := find_window(monitor, key)) is not None]
    return TimeWindow(min(span.start for span in spans), max(span.end for span in spans)) if spans else None


def find_window(monitor: Monitor, key: str) -> TimeWindow | None:
    """Return the span of a window by its partition key; None when the monitor has no such window."""
    try:
        return window_of(monitor.partitions, key)
    except Exception:  # noqa: BLE001  (a key of earlier partitions: Dagster raises several errors)
        return None


def _draw_timeline(site: ConsoleSite, monitor: Monitor, windows: _Windows, facts: LoopFacts) -> list[ConsoleBlock]:
    """Return the charts of the first metric and of the largest drift, by window; no block without a report."""
    keys, span = windows.keys, _find_span(monitor, windows.keys)
    if span is None:
        return []
    starts = {window.start: position for position, key in enumerate(keys) if (window := find_window(monitor, key)) is not None}
    marks = _list_marks(windows, facts.all_decisions)
    charts = []
    rows = read_rows(site, monitor.performance_key, span) if monitor.label_expectations else pl.DataFrame()
    if not rows.is_empty():
        evaluated = monitor.performance[0] if monitor.performance else None
        metric, bound = (evaluated.metric, evaluated.at_least) if evaluated else (monitor.model.metrics[0], None)
        points = _build_points(keys, starts, rows.filter(pl.col("metric") == metric).sort("predicted"))
        limit = f"; dashed: the minimum, {format_number(bound)}" if bound is not None else ""
        legend = "; below: ▲ drift, ◆ decision to retrain" if any(mark.kind != "version" for mark in marks) else ""
        charts.append(
            (
                f"{metric} by window with its confidence interval; red: a breach; hollow: not evaluated{limit}{legend}",
                draw_history(points, bound, f"{metric} of {len(keys)} windows", marks),
            )
        )
    drift = read_rows(site, monitor.drift_key, span) if monitor.drift else pl.DataFrame()
    if not drift.is_empty() and "severity" in drift.columns:
        charts.append(
            ("Largest drift of a column by window, in multiples of its threshold; dashed: the threshold", _draw_drift(keys, starts, drift))
        )
    return [ConsoleCharts("Timeline", tuple(chart for chart in charts if chart[1]), wide=True)]


def _build_points(keys: Sequence[str], starts: Mapping[datetime, int], rows: pl.DataFrame) -> list[Point]:
    """Return a point per window; of several versions, the last row counts: the one with the most predictions."""
    found: dict[int, Mapping[str, Any]] = {
        starts[row[WINDOW_START]]: row for row in rows.iter_rows(named=True) if row[WINDOW_START] in starts
    }
    return [
        Point(key, row["value"], row["low"], row["high"], row["state"]) if (row := found.get(i)) else Point(key, None)
        for i, key in enumerate(keys)
    ]


def _draw_drift(keys: Sequence[str], starts: Mapping[datetime, int], drift: pl.DataFrame) -> str:
    finite = drift.filter(pl.col("severity").is_finite())
    worst = {start: (value, drifted) for start, value, drifted in _aggregate_drift(finite).iter_rows()}
    points = []
    by_position = {position: start for start, position in starts.items()}  # a key of earlier partitions has no start
    for position, key in enumerate(keys):
        value, drifted = worst.get(by_position[position], (None, False)) if position in by_position else (None, False)
        points.append(Point(key, value, state=BREACH if drifted else GOOD))
    return draw_history(points, 1.0, f"largest drift of {len(keys)} windows")


def _aggregate_drift(drift: pl.DataFrame) -> pl.DataFrame:
    return drift.group_by(WINDOW_START).agg(pl.col("severity").max(), pl.col("drifted").any())


def _list_marks(windows: _Windows, decisions: Sequence[Decision]) -> list[TimelineMark]:
    """Return the marks of version changes, drift alarms and decisions, each at the position of its window."""
    marks, before = list[TimelineMark](), None
    for index, key in enumerate(windows.keys):
        reports = windows.select_reports(key)
        versions = max((report.version for report in reports), default=None)
        if before is not None and versions != before:
            marks.append(TimelineMark(index, "version", f"version {versions}"))
        before = versions
        marks += [TimelineMark(index, "drift", f"{key}: {r.reason}") for r in reports if r.kind == DRIFT and r.state == BREACH][:1]
        marks += [TimelineMark(index, "decision", f"{key}: decision {d.id}") for d in decisions if d.partition == key][:1]
    return marks


def _list_windows(monitor: Monitor, windows: _Windows, before: datetime | None) -> ConsoleTable:
    rows = [
        (
            ConsoleCell(key, monitor_path(monitor.name, key)),
            ", ".join(dict.fromkeys(str(report.version) for report in windows.select_reports(key))),
            *(_describe_worst([report for report in windows.select_reports(key) if report.kind == kind]) for kind in _COLUMNS),
        )
        for key in reversed(windows.keys)
    ]
    oldest = min((report.end for key in windows.keys[:1] for report in windows.select_reports(key)), default=None)
    path = monitor_path(monitor.name)
    more = [ConsoleCell("← newest", path)] * (before is not None)
    if oldest is not None and len(windows.keys) == WINDOWS:
        more.append(ConsoleCell("older →", f"{path}?before={encode(oldest.isoformat())}"))
    empty = "No window is reported yet: the reports follow the predictions. The commands below make those that are due."
    return ConsoleTable("Windows", ("window", "versions", *_COLUMNS), tuple(rows), empty, more=tuple(more))


def _describe_worst(reports: Sequence[WindowReport]) -> ConsoleCell | str:
    if not reports:
        return UNKNOWN
    worst = next((report for report in reports if report.state == BREACH), reports[-1])
    text = worst.reason or worst.state
    return ConsoleCell(text if text.startswith(worst.state) else f"{worst.state}: {text}", kind=KINDS.get(worst.state, ""))


def _list_decisions(monitor: Monitor, facts: LoopFacts) -> ConsoleTable:
    outcomes = {training.decision: training for training in facts.runs if training.decision}
    rows = tuple(
        (
            ConsoleCell(decision.id, monitor_path(monitor.name, decision.partition)),
            ConsoleCell(f"version {decision.version}", version_path(decision.model, decision.version)),
            decision.partition,
            decision.reason,
            f"{outcomes[decision.id].state} (run {outcomes[decision.id].run_id[:8]})" if decision.id in outcomes else "none",
            explain_settlement(decision, facts) or ConsoleCell("open", kind="warn"),
        )
        for decision in reversed(facts.all_decisions[-WINDOWS:])
    )
    empty = (
        "No breach has opened a decision."
        if monitor.on_failure
        else "The monitor has no on_failure=ml.Retrain(…), so it opens no decision."
    )
    return ConsoleTable("Decisions to retrain", ("decision", "about", "window", "reason", "training", "state"), rows, empty)
