"""The push log: one JSON line for each call and UTC day of its rows, on the disk before the call returns.

A call over several days has a line in each day's folder. Each line names all days of the call, and the call is complete when all its lines
exist. These lines are in separate files, so that finding incomplete calls does not read the others.
"""

from __future__ import annotations

import hashlib
import math
import threading
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from mlops_assets.errors import DataError
from mlops_assets.serving.logs.checked_lines import ChangedLineError, sign_line, strip_checksum
from mlops_assets.serving.logs.day_log import DAY, DayLog, list_files, list_log_days, read_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import date
    from pathlib import Path

    import polars as pl

_PUSH_LOG, _SEVERAL_DAYS = "push log", ".days"
LOGGED_AT = "__logged_at"


class PushRecord(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """Rows of one call and one day; ``days`` are all days of the call, counted from 1970.

    Times are microseconds since 1970 in UTC; NaN and infinities are text.
    """

    id: str
    logged_at: int
    days: list[int]
    columns: dict[str, list[Any]]


class _CallHead(msgspec.Struct, gc=False):
    """The fields of a record that decide whether its call is complete."""

    id: str
    days: list[int]


class PushLog:
    """Appends calls to the log of one source.

    Parameters
    ----------
    folder
        Created when missing.

    Raises
    ------
    ServiceError
        The folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._single, self._several = (DayLog(folder, what=_PUSH_LOG, interval=None, suffix=suffix) for suffix in ("", _SEVERAL_DAYS))
        self._lock = threading.Lock()
        self._encode = msgspec.json.Encoder().encode

    def append(self, call: str, logged_at: int, columns: Mapping[str, Sequence[Any]], at: Sequence[int]) -> None:
        """Write one call and sync it to the disk; readers ignore a call whose write raised an error.

        Parameters
        ----------
        call
            Id of the call; a call that is written twice counts once.
        logged_at
            Time of the call, in microseconds since 1970.
        columns, at
            Column → values, and the event time of each row in microseconds since 1970.

        Raises
        ------
        OSError
            A line cannot be written or synced.
        """
        rows: dict[int, list[int]] = {}
        for row, time in enumerate(at):
            rows.setdefault(time // DAY, []).append(row)
        days, log = sorted(rows), self._single if len(rows) == 1 else self._several
        lines = {
            day: sign_line(
                self._encode(
                    PushRecord(call, logged_at, days, {name: [_to_json(values[i]) for i in rows[day]] for name, values in columns.items()})
                )
            )
            for day in days
        }
        with self._lock:
            log.problem = ""
            for day, line in lines.items():
                log.write(day, line + b"\n")
        log.sync()


@cache
def open_push_log(folder: Path) -> PushLog:
    """Return the push log of a folder; within a process, all calls for a folder return the same object."""
    return PushLog(folder)


def read_pushed_rows(
    folder: Path, first: date, last: date, types: Mapping[str, pl.DataType], corrupt: list[str] | None = None
) -> pl.DataFrame:
    """Return the rows of complete calls, in the order in which they were pushed; a repeated call counts once.

    Parameters
    ----------
    folder, first, last
        The log, and its first and last day of event time in UTC.
    types
        Column → type; a missing column is null.
    corrupt
        A list that gets ``file:line`` of every line that is unreadable, changed, or has values that the lake cannot store. A torn last line
        is ignored, because its call never returned.

    Returns
    -------
    polars.DataFrame
        The columns of ``types``, and ``__logged_at`` in microseconds since 1970.

    Raises
    ------
    DataError
        There is such a line, and ``corrupt`` is None.
    """
    import polars as pl

    decode, unread = msgspec.json.Decoder(PushRecord).decode, list[str]()
    by_call: dict[tuple[str, date], tuple[PushRecord, str]] = {}
    for path in list_files(folder, first, last):
        day = _folder_day(path)
        for number, line in enumerate(read_lines(path), 1):
            try:
                record = decode(strip_checksum(line))
            except (msgspec.DecodeError, UnicodeDecodeError, ChangedLineError):
                unread.append(f"{path.relative_to(folder)}:{number}")
                continue
            if (before := by_call.get((record.id, day))) is None or record.logged_at < before[0].logged_at:
                by_call[record.id, day] = record, f"{path.relative_to(folder)}:{number}"
    frames = [_make_frame_or_report(record, place, types, unread) for record, place in _sort_complete_calls(folder, by_call.values())]
    if unread and corrupt is None:
        raise DataError(
            f"{len(unread)} lines of the push log cannot be read, the first is {unread[0]}",
            hint="look at the file: the content of the line cannot be restored",
        )
    if corrupt is not None:
        corrupt.extend(unread)
    return pl.concat([pl.DataFrame(schema={**types, LOGGED_AT: pl.Int64}), *frames])


def _sort_complete_calls(folder: Path, calls: Iterable[tuple[PushRecord, str]]) -> list[tuple[PushRecord, str]]:
    """Return the complete calls in the order in which they were pushed."""
    complete = [(record, place) for record, place in calls if _is_complete(folder, record.id, record.days)]
    return sorted(complete, key=lambda call: (call[0].logged_at, call[0].id))


def _make_frame_or_report(record: PushRecord, place: str, types: Mapping[str, pl.DataType], unread: list[str]) -> pl.DataFrame:
    """Return the rows of a call that the lake can store; if it cannot store all, add the location of the line to ``unread``."""
    import polars as pl

    try:
        frame = _make_frame(record, types)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
        unread.append(place)
        return pl.DataFrame(schema={**types, LOGGED_AT: pl.Int64})
    texts = [name for name, dtype in types.items() if dtype == pl.String]
    is_valid = pl.all_horizontal(~pl.col(name).str.contains("\0", literal=True).fill_null(value=False) for name in texts) if texts else True
    valid = frame.filter(is_valid)
    if valid.height < frame.height:
        unread.append(f"{place} (text with a NUL character)")
    return valid


def hash_push_files(folder: Path, first: date, last: date) -> str:
    """Return a hash that changes when calls about these days are logged or become complete.

    Parameters
    ----------
    folder, first, last
        As in :func:`read_pushed_rows`.
    """
    facts = [f"{path.relative_to(folder)} {path.stat().st_size}" for path in list_files(folder, first, last)]
    heads = (head for path in list_files(folder, first, last) if path.stem.endswith(_SEVERAL_DAYS) for head in _list_heads(path))
    facts += sorted(f"incomplete {call}" for call, days in heads if not _is_complete(folder, call, days))
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def _is_complete(folder: Path, call: str, days: Sequence[int]) -> bool:
    """Whether a call has its line in the folder of each of its days."""
    if len(days) == 1:
        return True
    names = {day.isoformat() for day in list_log_days(folder)}
    for number in days:
        name = _day_number_to_date(number).isoformat()
        if name not in names or not any(
            call == head for path in (folder / name).glob(f"*{_SEVERAL_DAYS}.jsonl") for head, _ in _list_heads(path)
        ):
            return False
    return True


def _list_heads(path: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _read_heads(path, path.stat().st_size)


@lru_cache(maxsize=4096)
def _read_heads(path: Path, size: int) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return id and days of every readable line of a file; its size is part of the cache key, because a file only grows."""
    heads = []
    decode = msgspec.json.Decoder(_CallHead).decode
    for line in path.read_bytes()[:size].split(b"\n")[:-1]:
        try:
            head = decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue  # reading the rows reports it
        heads.append((head.id, tuple(head.days)))
    return tuple(heads)


def _day_number_to_date(number: int) -> date:
    from datetime import date, timedelta

    return date(1970, 1, 1) + timedelta(days=number)


def _folder_day(path: Path) -> date:
    from datetime import date

    return date.fromisoformat(path.parent.name)


def _to_json(value: Any) -> Any:  # noqa: ANN401  (a cell)
    """Return a value for JSON, with NaN and infinities as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return [_to_json(item) for item in value] if isinstance(value, list) else value


def _make_frame(record: PushRecord, types: Mapping[str, pl.DataType]) -> pl.DataFrame:
    import polars as pl

    count = len(next(iter(record.columns.values())))
    columns = [_make_series(name, record.columns.get(name, [None] * count), dtype) for name, dtype in types.items()]
    return pl.DataFrame([*columns, pl.Series(LOGGED_AT, [record.logged_at] * count, dtype=pl.Int64)])


def _make_series(name: str, values: list[Any], dtype: pl.DataType) -> pl.Series:
    """Return logged values as a column of a type: microseconds become times, and text of NaN or infinity becomes floats."""
    import polars as pl

    inner: Any = dtype
    while isinstance(inner, (pl.List, pl.Array)):
        inner = inner.inner
    if inner.is_float():
        values = [_to_number(value) for value in values]
    if isinstance(dtype, pl.Datetime):
        return pl.Series(name, values, dtype=pl.Int64).cast(pl.Datetime("us", dtype.time_zone)).cast(dtype)
    return pl.Series(name, values, dtype=dtype)


def _to_number(value: Any) -> Any:  # noqa: ANN401  (a cell)
    """Return a float that :func:`_to_json` wrote as text, also within lists; other values are returned as they are."""
    return [_to_number(item) for item in value] if isinstance(value, list) else float(value) if isinstance(value, str) else value
