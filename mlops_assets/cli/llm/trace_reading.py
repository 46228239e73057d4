"""Read the traces of a source: imported days from the lake, the others from the trace log."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

import polars as pl

from mlops_assets.compute.llm_traces.trace_rows import TRACE_KEY, TRACE_TIME, build_trace_rows
from mlops_assets.compute.llm_traces.trace_tree import build_traces, select_roots
from mlops_assets.errors import DataError, DefinitionError, suggest_name
from mlops_assets.orchestrate.core.graph import compute_fingerprints
from mlops_assets.orchestrate.llm.traces_step import find_trace_folder, traces_node
from mlops_assets.serving.logs.day_log import list_log_days
from mlops_assets.serving.logs.trace_log import group_by_trace, read_traces
from mlops_assets.values.llm.prompt_service import PromptService
from mlops_assets.values.llm.span import read_start_second
from mlops_assets.values.window import TimeWindow

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from mlops_assets.cli.project import LoadedProject
    from mlops_assets.compute.llm_traces.trace_tree import Trace
    from mlops_assets.stores.lake.protocol import Lake, PartitionRecord
    from mlops_assets.values.llm.span import Span
    from mlops_assets.values.llm.trace_source import TraceSource
    from mlops_assets.values.platform import Platform

_DIGITS = 32  # of a whole id
_MARKED_DIGITS = 12  # at the beginning of an id: the start of its trace
_PREFIX = re.compile(r"[0-9a-f]{1,32}")
_BATCH = 500  # traces whose rows are made at once
_OUTLINE = ("trace_id", "span_id", "parent_id", TRACE_TIME, "started_at", "seconds", "status", "prompt_version")  # for filters
_ROUNDING = 1e-3  # seconds by which a duration of an outline may differ
_MAX_IDS = 3  # ids that a message lists


@dataclass(frozen=True)
class TraceFilter:
    """The conditions for a trace to be listed.

    Parameters
    ----------
    since, until
        First and last day in UTC; None for no bound.
    status
        ``ok`` or ``error``; None for both.
    version
        The version of the prompt; None for all.
    min_seconds
        The minimum duration.
    """

    since: date | None = None
    until: date | None = None
    status: str | None = None
    version: int | None = None
    min_seconds: float = 0.0

    def accepts_day(self, day: date) -> bool:
        """Return whether a day is within the bounds."""
        return (self.since is None or self.since <= day) and (self.until is None or day <= self.until)

    def select(self, outline: pl.DataFrame) -> pl.DataFrame:
        """Return the rows of an outline whose traces :meth:`accepts` may accept."""
        end = (pl.col("started_at") + pl.duration(microseconds=pl.col("seconds") * 1e6)).max().over("trace_id")
        lasts = (end - pl.col("started_at").min().over("trace_id")).dt.total_microseconds() / 1e6 >= self.min_seconds - _ROUNDING
        roots = select_roots(outline.filter(lasts) if self.min_seconds else outline)
        for column, value in (("status", self.status), ("prompt_version", self.version)):
            roots = roots if value is None else roots.filter(pl.col(column) == value)
        return outline.join(roots, on="trace_id", how="semi")

    def accepts(self, trace: Trace) -> bool:
        """Return whether a trace of an accepted day is listed."""
        root = trace.root
        return (
            self.status in (None, root["status"]) and self.version in (None, root["prompt_version"]) and trace.seconds >= self.min_seconds
        )


@dataclass(frozen=True)
class TraceDay:
    """The spans of a day; rows are built for the wanted traces only, because building rows takes longer than reading the log.

    Parameters
    ----------
    day
        The day, in UTC.
    logged
        Spans of the log that may not be in the lake.
    outline
        The rows of the lake, with the columns that a filter needs.
    read
        A function that returns the lake's rows of the given traces.
    """

    day: date
    logged: Sequence[Span]
    outline: pl.DataFrame
    read: Callable[[Collection[str]], pl.DataFrame]

    @cached_property
    def _by_trace(self) -> Mapping[str, list[Span]]:
        return {trace[0].trace_id: trace for trace in group_by_trace(self.logged)}

    def list_ids(self, chosen: TraceFilter) -> list[str]:
        """Return the ids of the traces, newest first; if the log has no new spans, only ids that the filter may accept."""
        starts: dict[str, int] = {}
        outline = self.outline if self.logged else chosen.select(self.outline)
        stored = outline.select("trace_id", pl.col("started_at").dt.epoch("us")).iter_rows()
        logged = ((span.trace_id, span.start // 1000) for span in self.logged if not span.is_feedback)
        for trace_id, start in (*stored, *logged):
            starts[trace_id] = min(start, starts.get(trace_id, start))
        return sorted(starts, key=lambda trace_id: (starts[trace_id], trace_id), reverse=True)

    def build(self, ids: Collection[str]) -> list[Trace]:
        """Return the traces with these ids, newest first; spans of the log replace those of the lake."""
        logged = build_trace_rows({self.day: [span for trace_id in ids for span in self._by_trace.get(trace_id, ())]}).frame
        stored = self.read(ids)
        return build_traces(pl.concat([logged, stored.join(logged, on=list(TRACE_KEY), how="anti")], how="diagonal_relaxed"))


@dataclass(frozen=True)
class TraceReader:
    """Reads the traces of one source.

    Parameters
    ----------
    project
        The project that has the source.
    source, platform
        The source, and the platform of its log and its table.
    corrupt
        The ``file:line`` of unreadable lines of the log, as keys; filled while traces are read.
    """

    project: LoadedProject
    source: TraceSource
    platform: Platform
    corrupt: dict[str, None] = field(default_factory=dict)

    def read_newest(self, chosen: TraceFilter, limit: int) -> list[Trace]:
        """Return the newest traces that a filter accepts.

        Parameters
        ----------
        chosen, limit
            The filter, and the maximum number of traces.
        """
        found: list[Trace] = []
        for day in self._days:
            if len(found) < limit and chosen.accepts_day(day):
                found += islice(self._list_accepted(day, chosen, limit - len(found)), limit - len(found))
        return found

    def find(self, prefix: str) -> Trace:
        """Return the trace whose id starts with a text.

        Raises
        ------
        DataError
            The text cannot start an id, there is no such trace, or there are several.
        """
        prefix = prefix.lower()
        if not _PREFIX.fullmatch(prefix):
            raise DataError(f"{prefix[:40]!r} is not a trace id", hint="give its first hexadecimal digits, at most 32")
        second = read_start_second(prefix) if len(prefix) >= _MARKED_DIGITS else None
        named = [] if second is None else [datetime.fromtimestamp(second, UTC).date()]
        for days in (named, self._days):
            found = self._find_days(prefix, days)
            if len(found) > 1:
                raise DataError(
                    f"{len(found)} traces of '{self.source.name}' start with '{prefix}': {', '.join(list(found)[:_MAX_IDS])}, …",
                    hint="give more digits of the id",
                )
            if found:
                ((trace_id, day),) = found.items()
                return self._read_day(day).build([trace_id])[0]
        raise DataError(
            f"no trace of '{self.source.name}' starts with '{prefix}'", hint=f"`mlops traces list {self.source.name}` lists the traces"
        )

    @cached_property
    def folder(self) -> Path:
        """The folder of the log."""
        return find_trace_folder(self.source, self.platform)

    @property
    def _lake(self) -> Lake:
        return self.project.stores.lake

    @cached_property
    def _records(self) -> Mapping[str, PartitionRecord]:
        return self._lake.records(self.source.key)

    @cached_property
    def _days(self) -> Sequence[date]:
        """The days with traces in lake or log, newest first."""
        return sorted({*map(date.fromisoformat, self._records), *self._logged}, reverse=True)

    @cached_property
    def _logged(self) -> frozenset[date]:
        return frozenset(list_log_days(self.folder))

    @cached_property
    def _imported(self) -> frozenset[date]:
        """The days whose log has not changed since its import."""
        keys = [day.isoformat() for day in self._logged]
        current = compute_fingerprints(traces_node(self.source, self.platform), keys, self._lake)
        fresh = (key for key, record in self._records.items() if not record.damaged and current.get(key, record.inputs) == record.inputs)
        return frozenset(map(date.fromisoformat, fresh))

    def _find_days(self, prefix: str, days: Sequence[date]) -> dict[str, date]:
        """Return trace id → day for the ids that start with a text; the search for a whole id stops when the id is found."""
        is_whole, found = len(prefix) == _DIGITS, dict[str, date]()
        stored = [day for day in days if day.isoformat() in self._records]
        if stored:
            window = TimeWindow(_start_of_day(min(stored)), _start_of_day(max(stored)) + timedelta(days=1))
            rows = self._read_rows(window, ["trace_id", TRACE_TIME], [prefix] if is_whole else None)
            rows = rows.filter(pl.col("trace_id").str.starts_with(prefix))
            found |= {trace_id: moment.date() for trace_id, moment in rows.iter_rows()}
        for day in days:
            if not (is_whole and found) and day not in self._imported:
                found |= {span.trace_id: day for span in self._read_log(day) if span.trace_id.startswith(prefix) and not span.is_feedback}
        return found

    def _list_accepted(self, day: date, chosen: TraceFilter, size: int) -> Iterator[Trace]:
        """Yield the accepted traces of a day, newest first; rows are built for ``size`` traces first, then for larger batches."""
        spans = self._read_day(day)
        ids = spans.list_ids(chosen)
        while ids:
            yield from filter(chosen.accepts, spans.build(ids[:size]))
            ids, size = ids[size:], _BATCH

    def _read_log(self, day: date) -> Sequence[Span]:
        corrupt: list[str] = []
        logged = {} if day in self._imported else read_traces(self.folder, day, day, corrupt)
        self.corrupt.update(dict.fromkeys(corrupt))
        return logged.get(day, [])

    def _read_day(self, day: date) -> TraceDay:
        window = TimeWindow(_start_of_day(day), _start_of_day(day) + timedelta(days=1))
        return TraceDay(day, self._read_log(day), self._read_rows(window, _OUTLINE), lambda ids: self._read_rows(window, ids=ids))

    def _read_rows(self, window: TimeWindow, columns: Sequence[str] = (), ids: Collection[str] | None = None) -> pl.DataFrame:
        """Return the rows of the lake within a window of days, of some traces or of all."""
        if not self._records:
            return build_trace_rows({}).frame.select(columns or pl.all())
        values = None if ids is None else {"trace_id": ids}
        return self._lake.read(self.source.key, window=window, event_timestamp=TRACE_TIME, columns=columns, values=values)


def _start_of_day(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def open_reader(project: LoadedProject, name: str) -> TraceReader:
    """Return the reader of a source: a service of a prompt, or a declared source of traces; raise DefinitionError if there is none."""
    source, platform = find_source(project, name)
    return TraceReader(project, source, platform)


def find_source(project: LoadedProject, name: str) -> tuple[TraceSource, Platform]:
    """Return a source of traces, declared or of a service, and its platform.

    Raises
    ------
    DefinitionError
        There is no such source.
    """
    known = {source.name: (source, part.platform) for part in project.parts for source in part.project.trace_sources}
    if name not in known:
        raise DefinitionError(
            f"there is no source of traces '{name}'",
            hint=suggest_name(name, known)
            + f"there are {', '.join(sorted(known)) or 'none: declare an ml.llm.PromptService or TraceSource'}",
        )
    return known[name]


def find_receiving_source(project: LoadedProject, name: str) -> tuple[TraceSource, Platform]:
    """Return a source that may receive traces from outside, and its platform.

    Raises
    ------
    DefinitionError
        There is no such source, or its log is that of a service: monitors evaluate what that log holds, and senders are not authenticated.
    """
    source, platform = find_source(project, name)
    services = [service.name for part in project.parts for service in part.project.select(PromptService)]
    logs = {find_trace_folder(*find_source(project, service)).resolve(): service for service in services}
    if (service := logs.get(find_trace_folder(source, platform).resolve())) is not None:
        raise DefinitionError(
            f"the source of traces '{name}' is the log of the service '{service}', which receives no other traces",
            hint='declare a source for the application, e.g. ml.llm.TraceSource("shop")',
        )
    return source, platform
