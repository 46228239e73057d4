"""What was pushed: one JSON line for each call and UTC day of its rows' event times, on the disk before the call returns.

A call over several days is a line in the folder of each, and each names them all: it counts when all of them are there. Those lines have
files of their own, so that whoever looks for incomplete calls reads little.
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
from mlops_assets.serving.logs.day_log import DAY, DayLog, files_of, log_days

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import date
    from pathlib import Path

    import polars as pl

_WHAT, _SEVERAL = "push log", ".days"
LOGGED_AT = "__logged_at"


class PushRecord(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """Rows of one call and one day. Times are microseconds since 1970 in UTC; numbers that JSON lacks are texts."""

    id: str
    logged_at: int
    days: list[int]
    columns: dict[str, list[Any]]


class _Head(msgspec.Struct, gc=False):
    """As much of a record as says whether it counts."""

    id: str
    days: list[int]


class PushLog:
    """Appends calls to the log of one source.

    Parameters
    ----------
    folder
        Made when missing.

    Raises
    ------
    ServiceError
        The folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._single, self._several = (DayLog(folder, what=_WHAT, interval=None, suffix=suffix) for suffix in ("", _SEVERAL))
        self._lock = threading.Lock()
        self._encode = msgspec.json.Encoder().encode

    def append(self, call: str, logged_at: int, columns: Mapping[str, Sequence[Any]], at: Sequence[int]) -> None:
        """Write one call and force it to the disk; it is complete then, or there was an error and it does not count.

        Parameters
        ----------
        call
            Its id: a call that is written twice counts once.
        logged_at
            The time, in microseconds since 1970.
        columns, at
            Values and event time of each row.

        Raises
        ------
        OSError
            It cannot be written.
        """
        rows: dict[int, list[int]] = {}
        for row, time in enumerate(at):
            rows.setdefault(time // DAY, []).append(row)
        days, log = sorted(rows), self._single if len(rows) == 1 else self._several
        lines = {
            day: sign_line(
                self._encode(
                    PushRecord(call, logged_at, days, {name: [_plain(values[i]) for i in rows[day]] for name, values in columns.items()})
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
    """Return the log of a folder, the same in the whole process."""
    return PushLog(folder)


def read_pushed(folder: Path, first: date, last: date, types: Mapping[str, pl.DataType], corrupt: list[str] | None = None) -> pl.DataFrame:
    """Return the rows of complete calls, in the order in which they were pushed; repeated calls once.

    Parameters
    ----------
    folder, first, last
        Of the log; days of event times in UTC, both included.
    types
        Column to type: what a row lacks is null.
    corrupt
        Gets ``file:line`` of every line that cannot be read or is not what was written; a last line that was torn by a kill is none, as its call never returned.

    Returns
    -------
    polars.DataFrame
        The columns of ``types``, and ``__logged_at`` in microseconds.

    Raises
    ------
    DataError
        A line cannot be read, and nobody asked for ``corrupt``.
    """
    import polars as pl

    decode, unread = msgspec.json.Decoder(PushRecord).decode, list[str]()
    found: dict[tuple[str, date], tuple[PushRecord, str]] = {}
    for path in files_of(folder, first, last):
        day = _day(path)
        for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):  # what follows the last newline is torn, or nothing
            try:
                record = decode(strip_checksum(line))
            except (msgspec.DecodeError, UnicodeDecodeError, ChangedLineError):
                unread.append(f"{path.relative_to(folder)}:{number}")
                continue
            if (before := found.get((record.id, day))) is None or record.logged_at < before[0].logged_at:
                found[record.id, day] = record, f"{path.relative_to(folder)}:{number}"
    frames = [_frame_or_report(record, place, types, unread) for record, place in _in_order(folder, found.values())]
    if unread and corrupt is None:
        raise DataError(
            f"{len(unread)} lines of the push log cannot be read, the first is {unread[0]}",
            hint="look at the file; what the line said cannot be guessed",
        )
    if corrupt is not None:
        corrupt.extend(unread)
    return pl.concat([pl.DataFrame(schema={**types, LOGGED_AT: pl.Int64}), *frames])


def _in_order(folder: Path, found: Iterable[tuple[PushRecord, str]]) -> list[tuple[PushRecord, str]]:
    """Return the complete calls in the order in which they were pushed."""
    whole = [(record, place) for record, place in found if _complete(folder, record.id, record.days)]
    return sorted(whole, key=lambda pair: (pair[0].logged_at, pair[0].id))


def _frame_or_report(record: PushRecord, place: str, types: Mapping[str, pl.DataType], unread: list[str]) -> pl.DataFrame:
    """Return the rows of a call that the lake can hold; name the place of others in ``unread``."""
    import polars as pl

    try:
        frame = _frame(record, types)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
        unread.append(place)
        return pl.DataFrame(schema={**types, LOGGED_AT: pl.Int64})
    texts = [name for name, dtype in types.items() if dtype == pl.String]
    good = pl.all_horizontal(~pl.col(name).str.contains("\0", literal=True).fill_null(value=False) for name in texts) if texts else True
    kept = frame.filter(good)
    if kept.height < frame.height:
        unread.append(f"{place} (text with a NUL character)")
    return kept


def push_fingerprint(folder: Path, first: date, last: date) -> str:
    """Return what changes when calls about these days are logged, or become complete.

    Parameters
    ----------
    folder, first, last
        As in :func:`read_pushed`.
    """
    facts = [f"{path.relative_to(folder)} {path.stat().st_size}" for path in files_of(folder, first, last)]
    heads = (head for path in files_of(folder, first, last) if path.stem.endswith(_SEVERAL) for head in _heads(path))
    facts += sorted(f"incomplete {call}" for call, days in heads if not _complete(folder, call, days))
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def _complete(folder: Path, call: str, days: Sequence[int]) -> bool:
    """Whether a call has its line in the folder of each of its days."""
    if len(days) == 1:
        return True
    names = {day.isoformat() for day in log_days(folder)}
    for number in days:
        name = _date(number).isoformat()
        if name not in names or not any(call == head for path in (folder / name).glob(f"*{_SEVERAL}.jsonl") for head, _ in _heads(path)):
            return False
    return True


def _heads(path: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _read_heads(path, path.stat().st_size)


@lru_cache(maxsize=4096)
def _read_heads(path: Path, size: int) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return id and days of every line of a file, which has a size: it only grows."""
    heads = []
    decode = msgspec.json.Decoder(_Head).decode
    for line in path.read_bytes()[:size].split(b"\n")[:-1]:
        try:
            head = decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue  # whoever reads the rows says so
        heads.append((head.id, tuple(head.days)))
    return tuple(heads)


def _date(number: int) -> date:
    from datetime import date, timedelta

    return date(1970, 1, 1) + timedelta(days=number)


def _day(path: Path) -> date:
    from datetime import date

    return date.fromisoformat(path.parent.name)


def _plain(value: Any) -> Any:  # noqa: ANN401  (a cell)
    """Return a value that JSON holds exactly."""
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _frame(record: PushRecord, types: Mapping[str, pl.DataType]) -> pl.DataFrame:
    import polars as pl

    count = len(next(iter(record.columns.values())))
    columns = [_series(name, record.columns.get(name, [None] * count), dtype) for name, dtype in types.items()]
    return pl.DataFrame([*columns, pl.Series(LOGGED_AT, [record.logged_at] * count, dtype=pl.Int64)])


def _series(name: str, values: list[Any], dtype: pl.DataType) -> pl.Series:
    import polars as pl

    inner: Any = dtype
    while isinstance(inner, (pl.List, pl.Array)):
        inner = inner.inner
    if inner.is_float():
        values = [_number(value) for value in values]
    if isinstance(dtype, pl.Datetime):
        return pl.Series(name, values, dtype=pl.Int64).cast(pl.Datetime("us", dtype.time_zone)).cast(dtype)
    return pl.Series(name, values, dtype=dtype)


def _number(value: Any) -> Any:  # noqa: ANN401  (a cell)
    return [_number(each) for each in value] if isinstance(value, list) else float(value) if isinstance(value, str) else value
