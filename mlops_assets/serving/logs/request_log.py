"""Counts of a service's requests: how many were answered, refused and failed, how long answers took, and how many features were missing.

A process writes a line for each version every five seconds in which it had requests, so that refused requests cannot fill the disk.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from mlops_assets.serving.logs.checked_lines import ChangedLineError, sign_line, strip_checksum
from mlops_assets.serving.logs.day_log import DAY, DayLog, list_files, list_log_days, read_lines

if TYPE_CHECKING:
    from pathlib import Path

REQUEST_LOG, REQUEST_FOLDER = "request log", "requests"
_HOUR = DAY // 24
INTERVAL = 5.0  # seconds; a killed process loses the counts of at most this time
_ANSWERED = 200
_LOG_GROWTH = math.log(1.05)  # of durations: a quantile is known to 2.5 %


class RequestLine(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """The requests that a process answered with one version since ``at``, in microseconds since 1970.

    ``version`` is 0 when no model was loaded. ``codes`` is status → requests, ``seconds`` is bucket → answered requests. ``looked_up`` and
    ``missing`` count the feature values of all rows that were looked up, and those among them that were missing.
    """

    at: int
    version: int
    worker: int
    codes: dict[str, int]
    seconds: dict[str, int]
    rows: int = 0
    looked_up: int = 0
    missing: int = 0


class RequestLog(DayLog):
    """Counts requests in memory, and appends the counts to files that only it writes.

    Parameters
    ----------
    folder
        Created when missing.
    interval
        Seconds between two writes.

    Raises
    ------
    ServiceError
        The folder cannot be written.
    """

    def __init__(self, folder: Path, *, interval: float = INTERVAL) -> None:
        # Appending to a deque takes a tenth of a microsecond and needs no lock; the thread that writes adds up.
        self._replies: deque[tuple[int, int, float]] = deque()
        self._rows: deque[tuple[int, int, int, int]] = deque()
        self._since = _now()
        self._hour = self._since // _HOUR
        self._writing = threading.Lock()
        self._unwritten: dict[tuple[int, int], RequestLine] = {}  # hour and version → counts
        self._encode = msgspec.json.Encoder().encode
        super().__init__(folder, what=REQUEST_LOG, interval=interval)

    def count_reply(self, version: int, code: int, seconds: float) -> None:
        """Count a request and, when it was answered, its duration.

        Parameters
        ----------
        version
            The version; 0 when no model is loaded.
        code
            The status of the reply.
        seconds
            The time that the reply took.
        """
        self._replies.append((version, code, seconds))

    def count_rows(self, version: int, rows: int, looked_up: int, missing: int) -> None:
        """Count the rows of an answered request, and the values of features that were looked up and missing."""
        self._rows.append((version, rows, looked_up, missing))

    def write_counts(self) -> None:
        """Append the counts since the last call; counts that cannot be written wait for the next call, and ``problem`` is set."""
        with self._writing:
            self._add_up()
            problem = ""
            for (hour, version), counts in sorted(self._unwritten.items()):
                self._rotate(hour)
                try:
                    self.write(counts.at // DAY, sign_line(self._encode(counts)) + b"\n")
                except OSError as error:
                    problem = f"the {self.what} in '{self._folder}' cannot be written: {error.strerror}"
                else:
                    del self._unwritten[hour, version]
            self.problem = problem

    def _rotate(self, hour: int) -> None:
        """Continue in a new file when the hour changes, so that unchanged file sizes prove that the counts of a window are unchanged."""
        if hour != self._hour:
            self._hour = hour
            self._name = self._new_name()
            self._retire(0)

    def _new_name(self) -> str:
        return super()._new_name().replace(".jsonl", f"-{self._hour % 24:02}.jsonl")

    def _add_up(self) -> None:
        since, self._since, pid = self._since, _now(), os.getpid()

        def find_counts(version: int) -> RequestLine:
            return self._unwritten.setdefault((since // _HOUR, version), RequestLine(since, version, pid, {}, {}))

        for _ in range(len(self._rows)):
            version, rows, looked_up, missing = self._rows.popleft()
            counts = find_counts(version)
            counts.rows += rows
            counts.looked_up += looked_up
            counts.missing += missing
        for _ in range(len(self._replies)):
            version, code, seconds = self._replies.popleft()
            counts = find_counts(version)
            counts.codes[str(code)] = counts.codes.get(str(code), 0) + 1
            if code == _ANSWERED:
                bucket = str(find_bucket(seconds))
                counts.seconds[bucket] = counts.seconds.get(bucket, 0) + 1

    def close(self) -> None:
        """Append the counts, and close the files."""
        self.write_counts()
        super().close()

    def _sync_forever(self) -> None:
        while not self._closed.wait(self._interval):
            self.write_counts()
            self._sync_once()


def _now() -> int:
    return time.time_ns() // 1000


def find_bucket(seconds: float) -> int:
    """Return the bucket of a duration: its logarithm in steps of 5 %."""
    return round(math.log(max(seconds, 1e-9)) / _LOG_GROWTH)


def find_bucket_seconds(bucket: int) -> float:
    """Return the duration in the middle of a bucket, in seconds."""
    return math.exp(bucket * _LOG_GROWTH)


def list_hour_files(folder: Path) -> dict[datetime, list[tuple[Path, int]]]:
    """Return hour → the files with its counts and their sizes; the folder may be missing."""
    found: dict[datetime, list[tuple[Path, int]]] = {}
    for day in list_log_days(folder):
        for path in list_files(folder, day, day):
            hour = datetime(day.year, day.month, day.day, int(path.stem[-2:]), tzinfo=UTC)
            found.setdefault(hour, []).append((path, path.stat().st_size))
    return found


def read_request_file(path: Path, corrupt: list[int] | None = None) -> list[RequestLine]:
    """Return the counts in one file, without lines that cannot be read.

    Parameters
    ----------
    path
        The file.
    corrupt
        A list that gets the number of every unreadable or changed line.
    """
    decode, found = msgspec.json.Decoder(RequestLine).decode, []
    for number, line in enumerate(read_lines(path), 1):
        try:
            found.append(decode(strip_checksum(line)))
        except (msgspec.DecodeError, UnicodeDecodeError, ChangedLineError):
            if corrupt is not None:
                corrupt.append(number)
    return found
