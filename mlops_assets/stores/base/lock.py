"""File locks of the operating system, which the kernel releases when their holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOG = logging.getLogger(__name__)
_WARN_AFTER = 10.0  # seconds of waiting before a warning
_held_locks: set[tuple[int, int, str]] = set()


@contextlib.contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold the lock file at ``path``, created if needed; log a warning with the holder's process id after waiting for ten seconds.

    A thread that already holds the lock enters at once.
    """
    holder = (os.getpid(), threading.get_ident(), str(path))
    if holder in _held_locks:
        yield
        return
    with path.open("a+", encoding="ascii") as file:
        _acquire(file.fileno(), path)
        _held_locks.add(holder)
        try:
            file.seek(0)
            file.truncate()
            file.write(str(os.getpid()))
            file.flush()
            yield
        finally:
            _held_locks.discard(holder)
            fcntl.flock(file.fileno(), fcntl.LOCK_UN)


def _acquire(descriptor: int, path: Path) -> None:
    """Poll for the lock without a timeout; a blocking flock could not log a warning about its holder."""
    started, pause, warned = time.monotonic(), 0.001, False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not warned and time.monotonic() - started > _WARN_AFTER:
                _LOG.warning("waiting for a lock: process %s holds %s", path.read_text(encoding="ascii", errors="replace") or "?", path)
                warned = True
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)
        else:
            return
