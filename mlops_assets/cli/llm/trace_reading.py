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
from mlops_assets.compute.llm_traces.trace_tree import build_traces
from mlops_assets.errors import DataError, DefinitionError, nearest
from mlops_assets.orchestrate.core.graph import compute_fingerprints
from mlops_assets.orchestrate.llm.traces_step import trace_folder, traces_node
from mlops_assets.serving.logs.day_log import list_log_days
from mlops_assets.serving.logs.trace_log import read_traces
from mlops_assets.values.llm.span import read_start_second
from mlops_assets.values.window import TimeWindow

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from mlops_assets.cli.project import LoadedProject
    from mlops_assets.compute.llm_traces.trace_tree import Trace
    from mlops_assets.stores.lake.protocol import Lake, PartitionRecord
    from mlops_assets.values.llm.span import Span
    from mlops_assets.values.llm.trace_source import TraceSource
    from mlops_assets.values.platform import Platform

_MARKED_DIGITS = 12  # of an id, which say when its trace starts
_PREFIX = re.compile(r"[0-9a-f]{1,32}")
_BATCH = 500  # traces whose rows are made at once
_MAX_IDS = 3  # ids that a message lists


@dataclass(frozen=True)
class TraceFilter:
    """Which traces are listed.

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

    def accepts(self, trace: Trace) -> bool:
        """Return whether a trace of an accepted day is listed."""
        root = trace.root
        return (
            self.status in (None, root["status"]) and self.version in (None, root["prompt_version"]) and trace.seconds >= self.min_seconds
        )


@dataclass(frozen=True)
class TraceDay:
    """The spans of a day; rows are made for the wanted traces only, because that takes longer than to read the log.

    Parameters
    ----------
    day
        The day, in UTC.
    logged
        Spans of the log that may not be in the lake.
    stored
        Rows of the lake.
    """

    day: date
    logged: Sequence[Span]
    stored: pl.DataFrame

    @cached_property
    def ids(self) -> list[str]:
        """The ids of the traces, newest first."""
        starts: dict[str, int] = {}
        stored = self.stored.select("trace_id", pl.col("started_at").dt.epoch("us")).iter_rows()
        logged = ((span.trace_id, span.start // 1000) for span in self.logged if not span.is_feedback)
        for trace_id, start in (*stored, *logged):
            starts[trace_id] = min(start, starts.get(trace_id, start))
        return sorted(starts, key=lambda trace_id: (starts[trace_id], trace_id), reverse=True)

    def build(self, ids: Collection[str]) -> list[Trace]:
        """Return the traces with these ids, newest first; spans of the log replace those of the lake."""
        wanted = set(ids)
        logged = build_trace_rows({self.day: [span for span in self.logged if span.trace_id in wanted]}).frame
        stored = self.stored.filter(pl.col("trace_id").is_in(list(wanted)))
        return build_traces(pl.concat([logged, stored.join(logged, on=list(TRACE_KEY), how="anti")], how="diagonal_relaxed"))


@dataclass(frozen=True)
class TraceReader:
    """Reads the traces of one source.

    Parameters
    ----------
    project
        The project that has the source.
    source, platform
        The source, and where its log and its table are.
    corrupt
        Receives the ``file:line`` of unreadable lines of the log.
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
                found += islice(self._list_accepted(day, chosen), limit - len(found))
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
            raise DataError(f"{prefix[:40]!r} is no id of a trace", hint="give the first of its 32 hexadecimal digits")
        second = read_start_second(prefix) if len(prefix) >= _MARKED_DIGITS else None
        named = [] if second is None else [datetime.fromtimestamp(second, UTC).date()]
        for days in (named, self._days):
            found = {trace_id: day for day in map(self._read_day, days) for trace_id in day.ids if trace_id.startswith(prefix)}
            if len(found) > 1:
                raise DataError(
                    f"{len(found)} traces of '{self.source.name}' start with '{prefix}': {', '.join(list(found)[:_MAX_IDS])}, …",
                    hint="give more digits of the id",
                )
            if found:
                ((trace_id, day),) = found.items()
                return day.build([trace_id])[0]
        raise DataError(
            f"no trace of '{self.source.name}' starts with '{prefix}'", hint=f"`mlops traces list {self.source.name}` lists the traces"
        )

    @cached_property
    def folder(self) -> Path:
        """The folder of the log."""
        return trace_folder(self.source, self.platform)

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

    def _list_accepted(self, day: date, chosen: TraceFilter) -> Iterator[Trace]:
        """Yield the accepted traces of a day, newest first."""
        spans = self._read_day(day)
        for first in range(0, len(spans.ids), _BATCH):
            yield from filter(chosen.accepts, spans.build(spans.ids[first : first + _BATCH]))

    def _read_day(self, day: date) -> TraceDay:
        corrupt: list[str] = []
        logged = {} if day in self._imported else read_traces(self.folder, day, day, corrupt)
        self.corrupt.update(dict.fromkeys(corrupt))
        stored = build_trace_rows({}).frame
        if day.isoformat() in self._records:
            start = datetime.combine(day, time(), UTC)
            window = TimeWindow(start, start + timedelta(days=1))
            stored = self._lake.read(self.source.key, window=window, event_timestamp=TRACE_TIME)
        return TraceDay(day, logged.get(day, []), stored)


def open_reader(project: LoadedProject, name: str) -> TraceReader:
    """Return the reader of a source: a service of a prompt, or a declared source of traces; raise DefinitionError if there is none."""
    source, platform = find_source(project, name)
    return TraceReader(project, source, platform)


def find_source(project: LoadedProject, name: str) -> tuple[TraceSource, Platform]:
    """Return a source of traces, that of a service or a declared one, and its platform.

    Raises
    ------
    DefinitionError
        There is no such source.
    """
    known = {source.name: (source, part.platform) for part in project.parts for source in part.project.trace_sources}
    if name not in known:
        raise DefinitionError(
            f"there is no source of traces '{name}'",
            hint=nearest(name, known) + f"there are {', '.join(sorted(known)) or 'none: declare an ml.llm.PromptService or TraceSource'}",
        )
    return known[name]
