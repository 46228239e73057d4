"""The trace log: one JSON line for each trace of a write, with a folder for each UTC day on which traces start.

The lines of a write are written by one system call before the reply is sent, so every answered request is in the log even when a process
is killed.
"""

from __future__ import annotations

import threading
from datetime import date
from typing import TYPE_CHECKING

import msgspec

from mlops_assets.errors import DataError
from mlops_assets.serving.logs.checked_lines import ChangedLineError, sign_line, strip_checksum
from mlops_assets.serving.logs.day_log import DayLog, list_files, read_lines
from mlops_assets.values.llm.span import SECOND, Span, read_start_second

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

TRACE_LOG = "trace log"  # in messages
TRACE_FOLDER = "traces"  # in the folder of a service
_DAY = 86_400  # seconds
_MAX_FEEDBACK_AGE = 60 * _DAY


class TraceLine(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """Spans of one trace that were written together."""

    spans: list[Span]


class TraceLog:
    """Appends traces to files that only it writes. Threads may share it.

    Parameters
    ----------
    folder, interval
        As in :class:`~mlops_assets.serving.logs.day_log.DayLog`.
    export
        A function that receives the spans of each write after it; it must neither wait nor raise.

    Raises
    ------
    ServiceError
        The folder cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from datetime import date
    >>> from pathlib import Path
    >>> from mlops_assets.serving.logs.trace_log import TraceLog, read_traces
    >>> from mlops_assets.values.llm.span import Span
    >>> folder = Path(tempfile.mkdtemp())
    >>> log = TraceLog(folder)
    >>> log.write([Span("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", None, "chat smollm2", 0, 250_000_000, "ok")])
    >>> log.close()
    >>> [span.name for spans in read_traces(folder, date(1970, 1, 1), date(1970, 1, 2)).values() for span in spans]
    ['chat smollm2']
    """

    def __init__(self, folder: Path, *, interval: float = 0.1, export: Callable[[Sequence[Span]], None] | None = None) -> None:
        self._export = export
        self._folder, self._log = folder, DayLog(folder, what=TRACE_LOG, interval=interval)
        self._encode, self._lock = msgspec.json.Encoder().encode, threading.Lock()

    @property
    def problem(self) -> str:
        """Why traces cannot be written or synced; ``""`` when they can."""
        return self._log.problem

    def is_ready(self) -> bool:
        """Whether traces can be logged; after a failure, the folder is tested again."""
        return self._log.is_ready()

    def close(self) -> None:
        """Sync all traces to the disk and close the files."""
        self._log.close()

    def write(self, spans: Sequence[Span], days: Mapping[str, int] = {}) -> None:
        """Write spans, and set ``problem`` to the reason of a failure or to ``""``.

        Spans of one trace become one line, in the folder of the day on which the first of them starts. Feedback is in the folder of the
        day that its trace id names, if :func:`~mlops_assets.values.llm.span.make_trace_id` made the id at most 60 days before.

        Parameters
        ----------
        spans
            The spans, of one trace or several.
        days
            Trace id → day since 1970, for traces that are filed on another day than the one on which these spans start.

        Raises
        ------
        OSError
            Not all spans can be written; the caller must not send the reply.
        """
        by_day: dict[int, list[bytes]] = {}
        for trace in group_by_trace(spans):
            day = days.get(trace[0].trace_id)
            by_day.setdefault(find_day(trace) if day is None else day, []).append(sign_line(self._encode_line(trace)))
        try:
            with self._lock:
                for day, lines in by_day.items():
                    self._log.write(day, b"\n".join(lines) + b"\n")
        except OSError as error:
            self._log.problem = f"the {TRACE_LOG} in '{self._folder}' cannot be written: {error.strerror}"
            raise
        self._log.problem = ""
        if self._export is not None:
            self._export(spans)

    def _encode_line(self, trace: list[Span]) -> bytes:
        try:
            return self._encode(TraceLine(trace))
        except UnicodeEncodeError:  # a model may send half of a pair of surrogates
            return self._encode(_replace_surrogates(msgspec.to_builtins(TraceLine(trace))))


def group_by_trace(spans: Iterable[Span]) -> Iterable[list[Span]]:
    """Return the spans of each trace, in the order of the first spans."""
    traces: dict[str, list[Span]] = {}
    for span in spans:
        traces.setdefault(span.trace_id, []).append(span)
    return traces.values()


def find_day(trace: Sequence[Span]) -> int:
    """Return the day on which spans of one trace are filed, as a number of days since 1970."""
    start = min(span.start for span in trace) // SECOND
    if all(span.is_feedback for span in trace):
        named = read_start_second(trace[0].trace_id)
        if named is not None and start - _MAX_FEEDBACK_AGE <= named <= start:
            return named // _DAY
    return start // _DAY


def _replace_surrogates(value: object) -> object:
    """Return a JSON value in which every surrogate is a question mark."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_replace_surrogates(name): _replace_surrogates(item) for name, item in value.items()}
    return [_replace_surrogates(item) for item in value] if isinstance(value, list) else value


def read_traces(folder: Path, first: date, last: date, corrupt: list[str] | None = None) -> Mapping[date, list[Span]]:
    """Return day → the spans that were logged for it, each once.

    Parameters
    ----------
    folder
        Folder of the log; it may be missing.
    first, last
        First and last day in UTC.
    corrupt
        A list that gets ``file:line`` of every unreadable or changed line, except a torn last line, whose reply was never sent.

    Raises
    ------
    DataError
        A line cannot be read, and ``corrupt`` is None.
    """
    by_day: dict[date, list[Span]] = {}
    seen: set[tuple[str, str]] = set()
    unread: list[str] = []
    for path in list_files(folder, first, last):
        spans = by_day.setdefault(date.fromisoformat(path.parent.name), [])
        for span in _read_file(path, folder, unread):
            if (key := (span.trace_id, span.span_id)) not in seen:
                seen.add(key)
                spans.append(span)
    if unread and corrupt is None:
        raise DataError(
            f"{len(unread)} lines of the {TRACE_LOG} cannot be read, the first is {unread[0]}",
            hint="look at the file: the content of the line cannot be restored",
        )
    if corrupt is not None:
        corrupt.extend(unread)
    return by_day


def _read_file(path: Path, folder: Path, unread: list[str]) -> Iterator[Span]:
    decode = msgspec.json.Decoder(TraceLine).decode
    for number, line in enumerate(read_lines(path), 1):
        try:
            yield from decode(strip_checksum(line)).spans
        except (msgspec.DecodeError, UnicodeDecodeError, ChangedLineError, DataError):
            if not line.isspace():  # an erased one
                unread.append(f"{path.relative_to(folder)}:{number}")
