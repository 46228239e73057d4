"""Leases on states of the lake: what a running step reads stays readable, however long it runs and however it dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
from typing import TYPE_CHECKING

from mlops_assets.stores.base.lock import exclusive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path


class Leases:
    """One file for each lease, locked by the process that holds it: the kernel gives it back when that process ends.

    Parameters
    ----------
    folder
        Made when first used.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def closed(self) -> AbstractContextManager[None]:
        """Let nobody take a lease meanwhile."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return exclusive(self._folder / "lock")

    @contextlib.contextmanager
    def held(self, snapshot: Callable[[], int]) -> Iterator[int]:
        """Lease the state that ``snapshot`` returns.

        Parameters
        ----------
        snapshot
            Asked while nobody can expire what it returns.
        """
        with contextlib.ExitStack() as stack:
            with self.closed():
                leased = snapshot()
                path = self._folder / f"{leased}-{os.getpid()}-{uuid.uuid4().hex}"
                file = stack.enter_context(path.open("w", encoding="ascii"))
                fcntl.flock(file.fileno(), fcntl.LOCK_EX)
            stack.callback(path.unlink, missing_ok=True)
            yield leased

    def taken(self) -> dict[int, tuple[int, ...]]:
        """Return the leased states and the processes that hold them; leases of the dead are removed. Call it within :meth:`closed`."""
        found: dict[int, tuple[int, ...]] = {}
        for path in self._folder.iterdir():
            snapshot, _, rest = path.name.partition("-")
            if not rest:
                continue  # the lock
            with contextlib.suppress(FileNotFoundError), path.open("r", encoding="ascii") as file:
                try:
                    fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    number = int(snapshot)
                    found[number] = (*found.get(number, ()), int(rest.partition("-")[0]))
                else:
                    path.unlink(missing_ok=True)
        return found
