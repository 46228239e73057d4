"""Tables about prompts: the quality monitors, and the clients of a service by the names of their API keys."""

from datetime import UTC, datetime, timedelta

import polars as pl

from mlops_assets.compute.llm_traces.trace_rows import TRACE_TIME
from mlops_assets.compute.pages.console_page import ConsoleCell, ConsoleRow, ConsoleTable
from mlops_assets.compute.text import UNKNOWN, format_number
from mlops_assets.errors import LakeError
from mlops_assets.orchestrate.console.site import ConsoleSite
from mlops_assets.orchestrate.monitoring.reports import WINDOW_START
from mlops_assets.values.llm.prompt_service import PromptService
from mlops_assets.values.llm.quality_monitor import QualityMonitor
from mlops_assets.values.monitoring import BREACH, GOOD
from mlops_assets.values.window import TimeWindow

_DAYS = 30  # of reports and traces that are read
_KINDS = {BREACH: "bad", GOOD: "good"}


def list_quality(site: ConsoleSite) -> list[ConsoleTable]:
    """Return the measures of the newest day of each quality monitor as a table; no table without such a monitor."""
    monitors = [monitor for _, monitor in site.select(QualityMonitor)]
    rows = tuple(row for monitor in monitors for row in _list_measures(site, monitor))
    head = ("monitor", "watches", "day", "version", "measure", "value", "answers", "state")
    return [ConsoleTable("Quality of answers, newest day", head, rows, "", frozenset({5, 6}))] if monitors else []


def _list_measures(site: ConsoleSite, monitor: QualityMonitor) -> list[ConsoleRow]:
    name = ConsoleCell(monitor.name, site.asset_url(monitor.key))
    rows = _read_recent(site, monitor.key, WINDOW_START, ["version", "measure", "answers", "value", "state", "reason", WINDOW_START])
    if rows.is_empty():
        return [(name, monitor.of.name, "not reported in the last 30 days", *[UNKNOWN] * 5)]
    return [
        (
            name,
            monitor.of.name,
            f"{row[WINDOW_START]:%Y-%m-%d}",
            UNKNOWN if row["version"] is None else str(row["version"]),
            row["measure"] or UNKNOWN,
            format_number(row["value"], 4),
            UNKNOWN if row["answers"] is None else f"{row['answers']:,}",
            ConsoleCell(row["reason"] or row["state"] or UNKNOWN, kind=_KINDS.get(row["state"], "")),
        )
        for row in rows.filter(pl.col(WINDOW_START) == pl.col(WINDOW_START).max()).iter_rows(named=True)
    ]


def list_clients(site: ConsoleSite, service: PromptService) -> ConsoleTable:
    """Return the clients of a prompt's service in the imported traces of the last 30 days, by the names of their keys."""
    traces = _read_recent(site, f"traces/{service.name}", TRACE_TIME, ["api_key", TRACE_TIME])
    known = traces.filter(pl.col("api_key").is_not_null()) if not traces.is_empty() else pl.DataFrame()
    counts = (
        [] if known.is_empty() else known.group_by("api_key").agg(pl.len(), pl.col(TRACE_TIME).max()).sort("len", descending=True).rows()
    )
    rows = tuple((name, f"{count:,}", f"{last:%Y-%m-%d %H:%M}") for name, count, last in counts)
    empty = "The imported traces of the last 30 days name no API key."
    return ConsoleTable("Clients", ("API key", "spans", "last (UTC)"), rows, empty, frozenset({1}))


def _read_recent(site: ConsoleSite, table: str, time: str, columns: list[str]) -> pl.DataFrame:
    """Return the rows of the last 30 days; no rows when the table does not exist or has other columns."""
    now = datetime.now(UTC)
    try:
        return site.stores.lake.read(
            table, window=TimeWindow(now - timedelta(days=_DAYS), now + timedelta(days=1)), event_timestamp=time, columns=columns
        )
    except LakeError:
        return pl.DataFrame()
