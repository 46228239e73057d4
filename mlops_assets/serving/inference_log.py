"""The prediction log: what was answered, one JSON object a line, in a folder for each day of the event time.

A line is written before its reply is sent, in one system call, so that whatever is killed, what was answered is in the log.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mlops_assets.errors import DataError, ServiceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl

DAY = 86_400_000_000  # microseconds
_FIRST = date(1970, 1, 1)
_sync = getattr(os, "fdatasync", os.fsync)


class Record(msgspec.Struct, gc=False):
    """One prediction. Times are microseconds since 1970 in UTC, in ``key`` and ``x`` too."""

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


@dataclass
class _File:
    descriptor: int
    size: int


class InferenceLog:
    """Appends predictions to files of its own.

    Parameters
    ----------
    folder
        Made when missing.
    interval
        Seconds between two times that what was written is forced to the disk; what a killed process wrote is safe without it.
    descriptors
        Files that are kept open.

    Raises
    ------
    ServiceError
        The folder cannot be written.
    """

    def __init__(self, folder: Path, *, interval: float = 0.1, descriptors: int = 32) -> None:
        self.problem = writing_problem(folder)
        if self.problem:
            raise ServiceError(self.problem, hint="make room, or make the folder writable")
        self._folder, self._interval, self._most = folder, interval, descriptors
        self._name = f"{os.getpid()}-{time.time_ns()}.jsonl"
        self._open: OrderedDict[int, _File] = OrderedDict()
        self._lock, self._dirty, self._retired = threading.Lock(), set[int](), list[int]()
        self._syncing = threading.Lock()
        self._encode = msgspec.json.Encoder().encode
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._sync_forever, name="log sync", daemon=True)
        self._thread.start()

    def append(self, records: list[Record]) -> None:
        """Write predictions; all of them, or an error.

        Raises
        ------
        OSError
            They cannot be written, and must not be answered.
        """
        try:
            for day, lines in self._by_day(records).items():
                self._write(day, b"\n".join(lines) + b"\n")
        except OSError as error:
            self.problem = f"the prediction log in '{self._folder}' cannot be written: {error.strerror}"
            raise
        self.problem = ""

    def ready(self) -> bool:
        """Whether predictions can be logged; tried, when the last attempt failed."""
        if self.problem:
            self.problem = writing_problem(self._folder)
        return not self.problem

    def close(self) -> None:
        """Force everything to the disk and close the files."""
        self._closed.set()
        self._thread.join()
        self._retire(0)
        self._sync_once()

    def _by_day(self, records: list[Record]) -> dict[int, list[bytes]]:
        days: dict[int, list[bytes]] = {}
        for record in records:
            days.setdefault(record.at // DAY, []).append(self._encode(record))
        return days

    def _write(self, day: int, data: bytes) -> None:
        file = self._file(day)
        written = 0
        try:
            written = os.write(file.descriptor, data)
            if written < len(data):  # the disk is full in the middle
                written += os.write(file.descriptor, data[written:])
        except OSError:
            if written:
                self._undo(day, file)
            raise
        file.size += written
        with self._lock:
            self._dirty.add(file.descriptor)

    def _undo(self, day: int, file: _File) -> None:
        """Take half a line back; where even that fails, the file is left and its last line is torn, which readers know."""
        try:
            os.ftruncate(file.descriptor, file.size)
        except OSError:
            self._name = f"{os.getpid()}-{time.time_ns()}.jsonl"
            del self._open[day]
            with self._lock:
                self._retired.append(file.descriptor)

    def _file(self, day: int) -> _File:
        if (file := self._open.get(day)) is not None and os.fstat(file.descriptor).st_nlink:
            self._open.move_to_end(day)
            return file
        if file is not None:  # somebody deleted it: what is written there is nowhere
            self._open.move_to_end(day, last=False)
            self._retire(len(self._open) - 1)
        self._retire(self._most - 1)
        folder = self._folder / (_FIRST + timedelta(days=day)).isoformat()
        folder.mkdir(exist_ok=True)
        descriptor = os.open(folder / self._name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        file = self._open[day] = _File(descriptor, os.fstat(descriptor).st_size)
        return file

    def _retire(self, keep: int) -> None:
        """Give up the files that were not used for longest; who syncs closes them, lest a number is synced that is another file by then."""
        while len(self._open) > keep:
            _, file = self._open.popitem(last=False)
            with self._lock:
                self._retired.append(file.descriptor)
        if len(self._retired) > self._most:  # events of very many days: then they are waited for
            self._sync_once()

    def _sync_forever(self) -> None:
        while not self._closed.wait(self._interval):
            self._sync_once()

    def _sync_once(self) -> None:
        with self._syncing:
            with self._lock:
                dirty, retired = self._dirty, self._retired
                self._dirty, self._retired = set(), []
            for descriptor in dirty:
                try:
                    _sync(descriptor)
                except OSError as error:
                    self.problem = f"the prediction log in '{self._folder}' cannot be forced to the disk: {error.strerror}"
            for descriptor in retired:
                os.close(descriptor)


def writing_problem(folder: Path, *, sync: bool = True) -> str:
    """Return why a folder cannot be written, or ``""``; it is tried with a page of bytes.

    Parameters
    ----------
    folder
        Made when missing.
    sync
        Whether the page is forced to the disk.
    """
    probe = folder / f".{os.getpid()}.probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with probe.open("wb", buffering=0) as file:
            if file.write(b"\n" * 4096) < 4096:
                return f"the prediction log in '{folder}' cannot be written: no space left on device"
            if sync:
                os.fsync(file.fileno())
    except OSError as error:
        return f"the prediction log in '{folder}' cannot be written: {error.strerror}"
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    return ""


def read_log(folder: Path, first: date, last: date, corrupt: list[str] | None = None) -> pl.DataFrame:
    """Return the predictions of the days of some event times, each once.

    Parameters
    ----------
    folder
        Of the log.
    first, last
        Days in UTC, both included.
    corrupt
        Gets ``file:line`` of every line that cannot be read; a last line that was torn by a kill is none, as it was never answered.

    Returns
    -------
    polars.DataFrame
        As :class:`Record`; ``at`` and ``logged_at`` as times in UTC, ``key`` and ``x`` as structs of every name that occurs. In the
        order of event time, then of logging, then of id.

    Raises
    ------
    DataError
        A line cannot be read, and nobody asked for ``corrupt``.
    """
    found: dict[str, Record] = {}
    unread: list[str] = []
    decode = msgspec.json.Decoder(Record).decode
    for path in _files(folder, first, last):
        for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):  # what follows the last newline is torn, or nothing
            try:
                record = decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                unread.append(f"{path.relative_to(folder)}:{number}")
            else:
                found.setdefault(record.id, record)
    if unread and corrupt is None:
        raise DataError(
            f"{len(unread)} lines of the prediction log cannot be read, the first is {unread[0]}",
            hint="look at the file; what the line said cannot be guessed",
        )
    if corrupt is not None:
        corrupt.extend(unread)
    return _frame(list(found.values()))


def _frame(records: list[Record]) -> pl.DataFrame:
    import polars as pl

    utc, text = pl.Datetime("us", "UTC"), pl.String()
    types = {"id": text, "at": utc, "logged_at": utc, "version": pl.Int64(), "probability": pl.Float64(), "missing": pl.List(text)}
    columns = []
    for name in Record.__struct_fields__:
        values = [getattr(record, name) for record in records]
        if name in ("key", "x"):
            columns.append(_struct(name, values))
        else:
            # Versions may answer with different types: what they have in common holds them all.
            columns.append(pl.Series(name, values, dtype=types.get(name, pl.Int64() if name == "worker" else None), strict=False))
    return pl.DataFrame(columns).sort("at", "logged_at", "id")


def _struct(name: str, values: list[dict[str, Any]]) -> pl.Series:
    import polars as pl

    names = dict.fromkeys(key for value in values for key in value)
    if not names:
        return pl.Series(name, [{}] * len(values), dtype=pl.Struct([]))
    return pl.DataFrame([pl.Series(key, [value.get(key) for value in values], strict=False) for key in names]).to_struct(name)


def log_fingerprint(folder: Path, first: date, last: date) -> str:
    """Return what changes when predictions of these days are logged: a hash of the names and sizes of their files.

    Parameters
    ----------
    folder, first, last
        As in :func:`read_log`.
    """
    facts = [f"{path.relative_to(folder)} {path.stat().st_size}" for path in _files(folder, first, last)]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def log_days(folder: Path) -> list[date]:
    """Return the days that the log has predictions of, in UTC."""
    names = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return sorted(date.fromisoformat(name) for name in names)


def _files(folder: Path, first: date, last: date) -> Iterator[Path]:
    for day in log_days(folder):
        if first <= day <= last:
            yield from sorted((folder / day.isoformat()).glob("*.jsonl"))
