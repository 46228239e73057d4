"""One lock of the operating system, which the kernel frees however its holder dies."""

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
_PATIENCE = 10.0  # seconds of waiting before it is worth telling
_held: set[tuple[int, int, str]] = set()


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file at ``path``; waiting is reported with the holder's process id.

    Within one thread the lock is re-entrant.
    """
    mine = (os.getpid(), threading.get_ident(), str(path))
    if mine in _held:
        yield
        return
    with path.open("a+", encoding="ascii") as file:
        _acquire(file.fileno(), path)
        _held.add(mine)
        try:
            file.seek(0)
            file.truncate()
            file.write(str(os.getpid()))
            file.flush()
            yield
        finally:
            _held.discard(mine)
            fcntl.flock(file.fileno(), fcntl.LOCK_UN)


def _acquire(descriptor: int, path: Path) -> None:
    """Poll: a blocking flock would wait in silence, and could not be interrupted with a word about its holder."""
    begun, pause, told = time.monotonic(), 0.001, False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not told and time.monotonic() - begun > _PATIENCE:
                _LOG.warning("waiting: process %s holds %s", path.read_text(encoding="ascii", errors="replace") or "?", path)
                told = True
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)
        else:
            return
