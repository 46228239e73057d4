"""The prediction log: one JSON object per line, with a folder for each day of the event time.

A line is written in one system call before its reply is sent, so every answered prediction is in the log even when a process is killed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from mlops_assets.errors import DataError
from mlops_assets.serving.logs.checked_lines import ChangedLineError, sign_line, strip_checksum
from mlops_assets.serving.logs.day_log import DAY, DayLog, list_files, read_lines

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path

    import polars as pl


class PredictionRecord(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """One prediction; ``at`` is the event time, and ``worker`` is a process id.

    All times, including those in ``key`` and ``x``, are microseconds since 1970 in UTC.
    """

    id: str
    at: int
    logged_at: int
    version: int
    key: dict[str, Any]
    x: dict[str, Any]
    prediction: Any
    probability: float | None
    missing: list[str]
    worker: int
    probabilities: dict[str, float] | None = None


class InferenceLog(DayLog):
    """Appends predictions to files that only it writes.

    Parameters
    ----------
    folder, interval, max_open
        As in :class:`DayLog`.
    """

    def __init__(self, folder: Path, *, interval: float = 0.1, max_open: int = 32) -> None:
        super().__init__(folder, interval=interval, max_open=max_open)
        self._encode = msgspec.json.Encoder().encode

    def append(self, records: list[PredictionRecord]) -> None:
        """Write predictions, and set ``problem`` to the reason of a failure or to ``""``.

        Raises
        ------
        OSError
            Not all predictions can be written; the caller must send none of them.
        """
        try:
            for day, lines in self._group_by_day(records).items():
                self.write(day, b"\n".join(lines) + b"\n")
        except OSError as error:
            self.problem = f"the prediction log in '{self._folder}' cannot be written: {error.strerror}"
            raise
        self.problem = ""

    def _group_by_day(self, records: list[PredictionRecord]) -> dict[int, list[bytes]]:
        days: dict[int, list[bytes]] = {}
        for record in records:
            days.setdefault(record.at // DAY, []).append(sign_line(self._encode(record)))
        return days


def read_log(folder: Path, first: date, last: date, corrupt: list[str] | None = None) -> pl.DataFrame:
    """Return the predictions of some days, each once, as a frame.

    Parameters
    ----------
    folder, first, last, corrupt
        As in :func:`read_records`.

    Returns
    -------
    polars.DataFrame
        See :func:`build_records_frame`.

    Raises
    ------
    DataError
        As in :func:`read_records`.
    """
    return build_records_frame(read_records(folder, first, last, corrupt))


def read_records(folder: Path, first: date, last: date, corrupt: list[str] | None = None) -> list[PredictionRecord]:
    """Return the predictions of some days of event time, each once.

    Parameters
    ----------
    folder
        Folder of the log.
    first, last
        First and last day in UTC.
    corrupt
        A list that gets ``file:line`` of every unreadable or changed line, except a torn last line, whose prediction was never sent.

    Raises
    ------
    DataError
        A line cannot be read, and ``corrupt`` is None.
    """
    by_id: dict[str, PredictionRecord] = {}
    unread: list[str] = []
    decode = msgspec.json.Decoder(PredictionRecord).decode
    for path in list_files(folder, first, last):
        for number, line in enumerate(read_lines(path), 1):
            try:
                record = decode(strip_checksum(line))
            except (msgspec.DecodeError, UnicodeDecodeError, ChangedLineError):
                if not line.isspace():  # an erased one
                    unread.append(f"{path.relative_to(folder)}:{number}")
            else:
                by_id.setdefault(record.id, record)
    if unread and corrupt is None:
        raise DataError(
            f"{len(unread)} lines of the prediction log cannot be read, the first is {unread[0]}",
            hint="look at the file: the content of the line cannot be restored",
        )
    if corrupt is not None:
        corrupt.extend(unread)
    return list(by_id.values())


def build_records_frame(records: list[PredictionRecord]) -> pl.DataFrame:
    """Return predictions as a frame with the columns of :class:`PredictionRecord`.

    ``at`` and ``logged_at`` are times in UTC. ``key``, ``x`` and ``probabilities`` are structs with a field for each name that occurs.
    ``prediction`` has the type ``Object`` when predictions are of several kinds, e.g. numbers and text. Rows are sorted by event time, time
    of logging and id.

    Parameters
    ----------
    records
        Records of the log.
    """
    import polars as pl

    utc, text = pl.Datetime("us", "UTC"), pl.String()
    types = {"id": text, "at": utc, "logged_at": utc, "version": pl.Int64(), "probability": pl.Float64(), "missing": pl.List(text)}
    columns = []
    for name in PredictionRecord.__struct_fields__:
        values = [getattr(record, name) for record in records]
        if name in ("key", "x", "probabilities"):
            columns.append(_make_struct(name, [value or {} for value in values]))
        elif name == "prediction" and len({_name_kind(value) for value in values} - {""}) > 1:
            columns.append(pl.Series(name, values, dtype=pl.Object))  # each version is read by its own type
        else:
            # Versions may predict different types: polars finds the common one.
            columns.append(pl.Series(name, values, dtype=types.get(name, pl.Int64() if name == "worker" else None), strict=False))
    return pl.DataFrame(columns).sort("at", "logged_at", "id")


def _name_kind(value: object) -> str:
    return "" if value is None else "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__


def _make_struct(name: str, values: list[dict[str, Any]]) -> pl.Series:
    import polars as pl

    names = dict.fromkeys(key for value in values for key in value)
    if not names:
        return pl.Series(name, [{}] * len(values), dtype=pl.Struct([]))
    return pl.DataFrame([pl.Series(key, [value.get(key) for value in values], strict=False) for key in names]).to_struct(name)
