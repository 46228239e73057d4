"""The days on which received traces are filed: all spans of a trace go to one day, in any order of arrival."""

from __future__ import annotations

import threading
from collections import OrderedDict
from datetime import date, timedelta
from typing import TYPE_CHECKING

import msgspec

from mlops_assets.serving.logs.checked_lines import ChangedLineError, strip_checksum
from mlops_assets.serving.logs.day_log import list_files, read_lines
from mlops_assets.serving.logs.trace_log import find_day, group_by_trace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mlops_assets.values.llm.span import Span

MAX_TRACES = 100_000  # that are remembered; the ones without spans for the longest time are forgotten
_FIRST = date(1970, 1, 1)


class _LoggedId(msgspec.Struct, gc=False):
    trace_id: str


class _LoggedTrace(msgspec.Struct, gc=False):
    spans: list[_LoggedId]


class TraceDays:
    """Remembers the day of each recent trace. Threads may share it.

    An application sends the steps of a request as they end, so the root comes last. Around midnight, the root starts on the day before.

    Parameters
    ----------
    folder
        The trace log; its traces of today and yesterday are remembered.
    today
        The current day in UTC.
    """

    def __init__(self, folder: Path, today: date) -> None:
        self._days: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()
        paths = list_files(folder, today - timedelta(days=1), today)
        for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True):
            if len(self._days) < MAX_TRACES:
                self._add_older(path)

    def _add_older(self, path: Path) -> None:
        """Remember the traces of a file whose spans are older than those of the remembered traces."""
        newer, self._days = self._days, OrderedDict()
        day, decode = (date.fromisoformat(path.parent.name) - _FIRST).days, msgspec.json.Decoder(_LoggedTrace).decode
        for line in read_lines(path):
            try:
                spans = decode(strip_checksum(line)).spans
            except (msgspec.DecodeError, UnicodeDecodeError, ChangedLineError):
                continue  # the import reports it
            for span in spans:
                self._remember(span.trace_id, day)
        for trace_id, later in newer.items():
            self._remember(trace_id, later)

    def choose_days(self, spans: Sequence[Span]) -> Mapping[str, int]:
        """Return trace id → the day on which spans are filed: the day of the first spans of the trace that were received.

        Parameters
        ----------
        spans
            Received spans, of one trace or several.
        """
        with self._lock:
            return {trace[0].trace_id: self._remember(trace[0].trace_id, find_day(trace)) for trace in group_by_trace(spans)}

    def _remember(self, trace_id: str, day: int) -> int:
        day = self._days.setdefault(trace_id, day)
        self._days.move_to_end(trace_id)
        if len(self._days) > MAX_TRACES:
            self._days.popitem(last=False)
        return day
