"""Pages about one window of a monitor: states, metrics and drifted columns by version, and the stored report."""

import shlex
from datetime import timedelta

import polars as pl

from mlops_assets.compute.pages.console_page import ConsoleBlock, ConsoleCell, ConsoleFacts, ConsolePage, ConsoleTable
from mlops_assets.compute.text import UNKNOWN, format_number
from mlops_assets.orchestrate.console.model_pages import version_path
from mlops_assets.orchestrate.console.monitor_pages import (
    KINDS,
    SECTION,
    WINDOWS,
    find_monitor,
    find_window,
    monitor_path,
    read_rows,
    read_windows,
)
from mlops_assets.orchestrate.console.site import ConsoleRequest, ConsoleSite, MissingPageError, StoredDocument, format_time
from mlops_assets.orchestrate.monitoring.reports import WINDOW_START, build_page_path
from mlops_assets.values.asset_names import select_nodes
from mlops_assets.values.monitoring import Monitor
from mlops_assets.values.window import TimeWindow


def show_window(site: ConsoleSite, request: ConsoleRequest) -> ConsolePage:
    """Return the page of one window: states, metrics and drifted columns by version, and the stored report."""
    _, monitor = find_monitor(site, request.path["monitor"])
    key = request.path["window"]
    span = _require_window(site, monitor, key)
    reports = read_windows(site, monitor).select_reports(key) or read_windows(
        site, monitor, span.end + timedelta(microseconds=1)
    ).select_reports(key)
    states = tuple(
        (
            r.kind,
            ConsoleCell(f"version {r.version}", version_path(monitor.model.name, r.version)),
            ConsoleCell(r.state, kind=KINDS.get(r.state, "")),
            r.reason,
        )
        for r in reports
    )
    has_page = site.find_file(build_page_path(site.platform.home, monitor.name, key)) is not None
    page = ConsoleCell("open", f"{monitor_path(monitor.name, key)}/report") if has_page else "not made yet"
    blocks: list[ConsoleBlock] = [
        ConsoleFacts(
            "", (("from (UTC)", format_time(span.start)), ("to (UTC)", format_time(span.end)), ("stored report with charts", page))
        ),
        ConsoleTable("Reports", ("report", "version", "state", "reason"), states, "This window is not reported yet."),
        *_describe_metrics(site, monitor, span),
        *_describe_columns(site, monitor, span),
        *_show_rows(site, "Estimated performance", monitor.estimate_key if monitor.estimates else "", span),
        *_show_rows(site, "Latency, errors and missing features", monitor.system_key if monitor.objectives else "", span),
    ]
    commands = [
        ("The same in a terminal", site.build_command(f"monitor show {shlex.quote(monitor.name)} --partition {shlex.quote(key)}")),
        (
            "Report this window again",
            site.build_command(f"run --select {shlex.quote(_select_reports(monitor))} --partitions {shlex.quote(key)}"),
        ),
    ]
    return ConsolePage(f"{monitor.name}, {key}", SECTION, "", blocks, commands, ConsoleCell(monitor.name, monitor_path(monitor.name)))


def _select_reports(monitor: Monitor) -> str:
    reports = {
        monitor.drift_key: monitor.drift,
        monitor.performance_key: monitor.label_expectations,
        monitor.estimate_key: monitor.estimates,
        monitor.system_key: monitor.objectives,
    }
    return select_nodes(*[key for key, wanted in reports.items() if wanted])


def _require_window(site: ConsoleSite, monitor: Monitor, key: str) -> TimeWindow:
    span = find_window(monitor, key)
    if span is None:
        known = {each: monitor_path(monitor.name, each) for each in read_windows(site, monitor).keys}
        raise MissingPageError(f"window of '{monitor.name}'", key, known, site.build_command(f"monitor show {monitor.name}"))
    return span


def _describe_metrics(site: ConsoleSite, monitor: Monitor, span: TimeWindow) -> list[ConsoleBlock]:
    rows = read_rows(site, monitor.performance_key, span) if monitor.label_expectations else pl.DataFrame()
    if rows.is_empty() or "metric" not in rows.columns:
        return []
    cells = tuple(
        (
            row["metric"] or UNKNOWN,
            f"version {row['version']}",
            format_number(row["value"], 4),
            UNKNOWN if row["low"] is None or row["high"] is None else f"{format_number(row['low'])} to {format_number(row['high'])}",
            format_number(row["reference"], 4),
            f"{row['labelled']:,} of {row['predicted']:,}",
            row["problem"] or "",
        )
        for row in rows.sort("version").iter_rows(named=True)
    )
    head = ("metric", "version", "value", "interval", "on the holdout", "labelled", "")
    return [ConsoleTable("Metrics", head, cells, "", frozenset({2, 3, 4, 5}))]


def _describe_columns(site: ConsoleSite, monitor: Monitor, span: TimeWindow) -> list[ConsoleBlock]:
    rows = read_rows(site, monitor.drift_key, span) if monitor.drift else pl.DataFrame()
    if rows.is_empty() or not {"column", "severity", "drifted"} <= set(rows.columns):
        return []
    cells = tuple(
        (
            ConsoleCell(row["column"], kind="warn" if row["drifted"] else ""),
            f"version {row['version']}",
            format_number(row["severity"], 2),
            row["statistic"] or UNKNOWN,
            format_number(row["value"]),
            format_number(row["threshold"]),
            row["why"] or "",
        )
        for row in rows.filter(pl.col("column").is_not_null())
        .sort("severity", descending=True, nulls_last=True)
        .head(WINDOWS)
        .iter_rows(named=True)
    )
    head = ("column", "version", "× threshold", "decided by", "value", "threshold", "what changed")
    return [ConsoleTable("Drift by column, most drifted first", head, cells, "", frozenset({2, 4, 5}))]


def _show_rows(site: ConsoleSite, title: str, key: str, span: TimeWindow) -> list[ConsoleBlock]:
    """Return the rows of a report table in a window as they are; no block without rows."""
    rows = read_rows(site, key, span) if key else pl.DataFrame()
    if rows.is_empty():
        return []
    shown = rows.drop(WINDOW_START).head(WINDOWS)
    cells = tuple(tuple(_format_value(value) for value in row) for row in shown.iter_rows())
    numeric = frozenset(position for position, kind in enumerate(shown.dtypes) if kind.is_numeric())
    return [ConsoleTable(title, tuple(name.replace("_", " ") for name in shown.columns), cells, "", numeric)]


def _format_value(value: object) -> str:
    return UNKNOWN if value is None else format_number(value, 4) if isinstance(value, float) else str(value)


def show_report(site: ConsoleSite, request: ConsoleRequest) -> StoredDocument:
    """Return the stored page of a window; raise MissingPageError when it was not made."""
    _, monitor = find_monitor(site, request.path["monitor"])
    key = request.path["window"]
    _require_window(site, monitor, key)
    path = site.find_file(build_page_path(site.platform.home, monitor.name, key))
    if path is None:
        raise MissingPageError(
            "stored report of", key, {key: monitor_path(monitor.name, key)}, site.build_command(f"monitor step {monitor.name}")
        )
    return StoredDocument(path.read_bytes())
