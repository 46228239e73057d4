"""Logs of lines in a folder for each UTC day: appended by one system call for each file, forced to the disk, read back by day."""

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
from typing import TYPE_CHECKING

from mlops_assets.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Iterator

DAY = 86_400_000_000  # microseconds
PREDICTIONS = "prediction log"
_FIRST = date(1970, 1, 1)
_sync = getattr(os, "fdatasync", os.fsync)


@dataclass
class _File:
    descriptor: int
    size: int


class DayLog:
    """Appends lines to files of its own.

    Parameters
    ----------
    folder
        Made when missing.
    what
        Its name in messages.
    interval
        Seconds between two times that what was written is forced to the disk; what a killed process wrote is safe without it. None when
        only :meth:`sync` does that, and for new files' places in their folders as well.
    suffix
        Of the names of its files.
    descriptors
        Files that are kept open.

    Raises
    ------
    ServiceError
        The folder cannot be written.
    """

    def __init__(
        self, folder: Path, *, what: str = PREDICTIONS, interval: float | None = 0.1, descriptors: int = 32, suffix: str = ""
    ) -> None:
        self.what = what
        self.problem = writing_problem(folder, what=what)
        if self.problem:
            raise ServiceError(self.problem, hint="make room, or make the folder writable")
        self._folder, self._interval, self._most = folder, interval or 0.0, descriptors
        self._suffix, self._durable = suffix, interval is None
        self._name = self._new_name()
        self._open: OrderedDict[int, _File] = OrderedDict()
        self._lock, self._dirty, self._retired = threading.Lock(), set[int](), list[int]()
        self._syncing = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._sync_forever, name="log sync", daemon=True)
        if interval is not None:
            self._thread.start()

    def _new_name(self) -> str:
        return f"{os.getpid()}-{time.time_ns()}{self._suffix}.jsonl"

    def sync(self) -> None:
        """Force everything that was written to the disk.

        Raises
        ------
        OSError
            It cannot be.
        """
        self._sync_once()
        if self.problem:
            raise OSError(self.problem)

    def ready(self) -> bool:
        """Whether lines can be logged; tried, when the last attempt failed."""
        if self.problem:
            self.problem = writing_problem(self._folder, what=self.what)
        return not self.problem

    def close(self) -> None:
        """Force everything to the disk and close the files."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()
        self._retire(0)
        self._sync_once()

    def write(self, day: int, data: bytes) -> None:
        """Write whole lines of one day; all of them, or an OSError."""
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
            self._name = self._new_name()
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
        if self._durable:
            for place in (folder, self._folder):
                _sync_folder(place)
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
                    self.problem = f"the {self.what} in '{self._folder}' cannot be forced to the disk: {error.strerror}"
            for descriptor in retired:
                os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def writing_problem(folder: Path, *, sync: bool = True, what: str = PREDICTIONS) -> str:
    """Return why a folder cannot be written, or ``""``; it is tried with a page of bytes.

    Parameters
    ----------
    folder
        Made when missing.
    sync
        Whether the page is forced to the disk.
    what
        The log's name in the reason.
    """
    probe = folder / f".{os.getpid()}.probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with probe.open("wb", buffering=0) as file:
            if file.write(b"\n" * 4096) < 4096:
                return f"the {what} in '{folder}' cannot be written: no space left on device"
            if sync:
                os.fsync(file.fileno())
    except OSError as error:
        return f"the {what} in '{folder}' cannot be written: {error.strerror}"
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    return ""


def log_fingerprint(folder: Path, first: date, last: date) -> str:
    """Return what changes when lines of these days are logged: a hash of the names and sizes of their files.

    Parameters
    ----------
    folder, first, last
        Of the log; days in UTC, both included.
    """
    facts = [f"{path.relative_to(folder)} {path.stat().st_size}" for path in files_of(folder, first, last)]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def log_days(folder: Path) -> list[date]:
    """Return the days that the log has lines of, in UTC; what else lies in the folder is ignored: see :func:`foreign_entries`."""
    found = [_day(path) for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(day for day in found if day is not None)


def foreign_entries(folder: Path) -> list[Path]:
    """Return what lies in a log's folder and is no day of the log."""
    return sorted(path for path in folder.iterdir() if _day(path) is None and not path.name.startswith(".")) if folder.is_dir() else []


def _day(path: Path) -> date | None:
    try:
        day = date.fromisoformat(path.name)
    except ValueError:
        return None
    return day if path.is_dir() and day.isoformat() == path.name else None


def files_of(folder: Path, first: date, last: date) -> Iterator[Path]:
    """Yield the files of some days, in an order that stays."""
    for day in log_days(folder):
        if first <= day <= last:
            yield from sorted((folder / day.isoformat()).glob("*.jsonl"))
