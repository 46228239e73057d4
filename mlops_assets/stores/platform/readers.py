"""The programs that read tables and features outside of the asset graph: one small file for each, in the platform's home.

The console lists these consumers, which no declaration mentions. A read never fails because it cannot be recorded.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import socket
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_assets.stores.base.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterable

FOLDER = "readers"
_INTERVAL = 3600.0  # seconds between two records of the same reader by one process
_MODE = 0o644  # another user's console may read it
_RECORDED: dict[tuple[str, str, str], float] = {}  # (home, table, call) → monotonic time of this process's last record


@dataclass(frozen=True)
class RecordedReader:
    """A program that has read a table through a function of this package.

    Parameters
    ----------
    table
        The key of the table, ``<kind>/<name>``.
    call
        The function: ``read_table``, ``training_frame`` or ``lookup``.
    program, user, host
        The file name of the script, or ``notebook``; the user and the machine that ran it.
    first, last
        The times of the first and of the last record, in UTC. A process records a reader once an hour.
    """

    table: str
    call: str
    program: str
    user: str
    host: str
    first: datetime
    last: datetime


def record_reader(home: str, tables: Iterable[str], call: str) -> None:
    """Record that this process reads tables; nothing happens when that fails, or within an hour of the last record.

    Parameters
    ----------
    home
        The home of the platform.
    tables
        The keys of the tables.
    call
        The public function that reads.
    """
    for table in tables:
        if (last := _RECORDED.get((home, table, call))) is not None and time.monotonic() - last < _INTERVAL:
            continue
        _RECORDED[home, table, call] = time.monotonic()
        with contextlib.suppress(Exception):  # a damaged record or an unknown user: the read matters
            _write(Path(home) / FOLDER, table, call)


def list_readers(home: str, table: str) -> list[RecordedReader]:
    """Return the recorded readers of a table, the latest first; damaged files are skipped."""
    readers = []
    for path in sorted((Path(home) / FOLDER).glob(f"{_hash(table)}-*.json")):
        with contextlib.suppress(Exception):  # JSON and times fail in many ways
            readers.append(_read(path))
    return sorted((reader for reader in readers if reader.table == table), key=lambda reader: reader.last, reverse=True)


def _write(folder: Path, table: str, call: str) -> None:
    if not folder.parent.is_dir():
        return  # a read creates no platform
    program = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "interactive Python"
    if sys.argv and "ipykernel" in sys.argv[0]:
        program = "notebook"
    identity = {"table": table, "call": call, "program": program, "user": getpass.getuser(), "host": socket.gethostname()}
    path = folder / f"{_hash(table)}-{_hash(json.dumps(identity))}.json"
    now = first = datetime.now(UTC)
    with contextlib.suppress(Exception):  # a damaged record is replaced
        first = _read(path).first
    folder.mkdir(exist_ok=True)
    times = {"first": first.isoformat(), "last": now.isoformat()}
    write_atomically(path, json.dumps({**identity, **times}).encode(), mode=_MODE)


def _read(path: Path) -> RecordedReader:
    facts: dict[str, Any] = {name: str(value) for name, value in json.loads(path.read_bytes()).items()}
    first, last = (datetime.fromisoformat(facts.pop(name)) for name in ("first", "last"))
    if first.tzinfo is None or last.tzinfo is None:
        raise ValueError("a time without a zone")
    return RecordedReader(**facts, first=first.astimezone(UTC), last=last.astimezone(UTC))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
