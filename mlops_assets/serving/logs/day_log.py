"""Logs of lines with a folder for each UTC day. Each write is one appending system call, and lines are synced to the disk.

Only their owner can read the files, because they contain what clients sent.
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
from typing import TYPE_CHECKING

from mlops_assets.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Iterator

DAY = 86_400_000_000  # microseconds
PREDICTION_LOG = "prediction log"
_FIRST = date(1970, 1, 1)
_sync = getattr(os, "fdatasync", os.fsync)


@dataclass
class _OpenFile:
    descriptor: int
    size: int


class DayLog:
    """Appends lines to files that only it writes. ``problem`` says why lines cannot be written or synced; it is ``""`` when they can.

    Parameters
    ----------
    folder
        Created when missing.
    what
        Name of the log in messages.
    interval
        Seconds between two syncs to the disk, by a thread. A killed process loses no written line; a machine that stops may lose lines
        since the last sync. With None, lines are synced by :meth:`sync` and :meth:`close` only, and the folder of a new file is synced when
        the file is created.
    suffix
        Suffix of the file names.
    max_open
        Maximum number of files to keep open.

    Raises
    ------
    ServiceError
        The folder cannot be written.
    """

    def __init__(
        self, folder: Path, *, what: str = PREDICTION_LOG, interval: float | None = 0.1, max_open: int = 32, suffix: str = ""
    ) -> None:
        self.what = what
        self.problem = find_write_problem(folder, what=what)
        if self.problem:
            raise ServiceError(self.problem, hint="free disk space, or make the folder writable")
        self._folder, self._interval, self._max_open = folder, interval or 0.0, max_open
        self._suffix, self._durable = suffix, interval is None
        self._name = self._new_name()
        self._open: OrderedDict[int, _OpenFile] = OrderedDict()
        self._lock, self._dirty, self._retired = threading.Lock(), set[int](), list[int]()
        self._syncing = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._sync_forever, name="log sync", daemon=True)
        if interval is not None:
            self._thread.start()

    def _new_name(self) -> str:
        return f"{os.getpid()}-{time.time_ns()}{self._suffix}.jsonl"

    def sync(self) -> None:
        """Sync all written lines to the disk.

        Raises
        ------
        OSError
            A file cannot be synced, or ``problem`` names an earlier failure.
        """
        self._sync_once()
        if self.problem:
            raise OSError(self.problem)

    def is_ready(self) -> bool:
        """Whether lines can be logged; after a failure, the folder is tested again."""
        if self.problem:
            self.problem = find_write_problem(self._folder, what=self.what)
        return not self.problem

    def close(self) -> None:
        """Sync all lines to the disk and close the files."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()
        self._retire(0)
        self._sync_once()

    def write(self, day: int, data: bytes) -> None:
        """Write whole lines to the file of a day, given as days since 1970; raise OSError unless all are written."""
        file = self._find_or_open_file(day)
        written = 0
        try:
            written = os.write(file.descriptor, data)
            while written < len(data):  # a disk that becomes full takes a part first
                written += os.write(file.descriptor, data[written:])
        except OSError:
            if written:
                self._undo_write(day, file)
            raise
        file.size += written
        with self._lock:
            self._dirty.add(file.descriptor)

    def _undo_write(self, day: int, file: _OpenFile) -> None:
        """Truncate a half-written line; if that fails as well, start a new file, because readers ignore a torn last line."""
        try:
            os.ftruncate(file.descriptor, file.size)
        except OSError:
            self._name = self._new_name()
            del self._open[day]
            with self._lock:
                self._retired.append(file.descriptor)

    def _find_or_open_file(self, day: int) -> _OpenFile:
        """Return the open file of a day; create one if there is none, or if it was deleted."""
        if (file := self._open.get(day)) is not None and os.fstat(file.descriptor).st_nlink:
            self._open.move_to_end(day)
            return file
        if file is not None:  # the file was deleted: lines written to it would be lost
            self._open.move_to_end(day, last=False)
            self._retire(len(self._open) - 1)
        self._retire(self._max_open - 1)
        folder = self._folder / (_FIRST + timedelta(days=day)).isoformat()
        folder.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(folder / self._name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        file = self._open[day] = _OpenFile(descriptor, os.fstat(descriptor).st_size)
        if self._durable:
            for place in (folder, self._folder):
                _sync_folder(place)
        return file

    def _retire(self, keep: int) -> None:
        """Retire the files that were idle for the longest time, until ``keep`` are open.

        The next sync closes them, so that no reused descriptor is synced by mistake.
        """
        while len(self._open) > keep:
            _, file = self._open.popitem(last=False)
            with self._lock:
                self._retired.append(file.descriptor)
        if len(self._retired) > self._max_open:  # lines of very many days: sync now
            self._sync_once()

    def _sync_forever(self) -> None:
        while not self._closed.wait(self._interval):
            self._sync_once()

    def _sync_once(self) -> None:
        """Sync the files with new lines, and close retired ones; an error is only stored in ``problem``."""
        with self._syncing:
            with self._lock:
                dirty, retired = self._dirty, self._retired
                self._dirty, self._retired = set(), []
            for descriptor in dirty:
                try:
                    _sync(descriptor)
                except OSError as error:
                    self.problem = f"the {self.what} in '{self._folder}' cannot be synced to the disk: {error.strerror}"
            for descriptor in retired:
                os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def find_write_problem(folder: Path, *, sync: bool = True, what: str = PREDICTION_LOG) -> str:
    """Write and delete a file of 4096 bytes in a folder, and return why that fails; ``""`` when it does not.

    Parameters
    ----------
    folder
        Created when missing.
    sync
        Whether the file is synced to the disk.
    what
        Name of the log in the reason.
    """
    probe = folder / f".{os.getpid()}.probe"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
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


def hash_log_files(folder: Path, first: date, last: date) -> str:
    """Return a hash of the names and sizes of the files of some days; it changes when lines of these days are logged.

    Parameters
    ----------
    folder, first, last
        The log, and its first and last day in UTC.
    """
    facts = [f"{path.relative_to(folder)} {path.stat().st_size}" for path in list_files(folder, first, last)]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def list_log_days(folder: Path) -> list[date]:
    """Return the UTC days with a folder in the log, sorted; other entries are ignored: see :func:`list_foreign_entries`."""
    days = [_parse_day(path) for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(day for day in days if day is not None)


def list_foreign_entries(folder: Path) -> list[Path]:
    """Return the entries of a log's folder that are neither days nor hidden, sorted."""
    return (
        sorted(path for path in folder.iterdir() if _parse_day(path) is None and not path.name.startswith(".")) if folder.is_dir() else []
    )


def _parse_day(path: Path) -> date | None:
    try:
        day = date.fromisoformat(path.name)
    except ValueError:
        return None
    return day if path.is_dir() and day.isoformat() == path.name else None


def list_files(folder: Path, first: date, last: date) -> Iterator[Path]:
    """Yield the log's files from the first to the last day, sorted by day and name."""
    for day in list_log_days(folder):
        if first <= day <= last:
            yield from sorted((folder / day.isoformat()).glob("*.jsonl"))


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a log file, without holding the file in memory; a torn last line, without a newline, is omitted."""
    with path.open("rb") as file:
        yield from (line[:-1] for line in file if line.endswith(b"\n"))
