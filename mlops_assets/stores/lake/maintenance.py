"""Maintain a lake: merge small files, expire snapshots that are neither pinned nor leased, and delete unneeded files."""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import duckdb

from mlops_assets.stores.base.lock import hold_lock
from mlops_assets.stores.lake.data_files import measure_disk
from mlops_assets.stores.lake.protocol import MaintenanceReport
from mlops_assets.stores.lake.rows import RECORDS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from contextlib import AbstractContextManager
    from datetime import timedelta
    from pathlib import Path

    from mlops_assets.stores.lake.connection import LakeConnections

_RECORDS = f"SELECT count(*) FROM {RECORDS}"


class Leases:
    """Leases, which keep snapshots readable. A lease is a file that its process locks, so the kernel ends it when the process ends.

    Parameters
    ----------
    folder
        The folder of the lease files, created at first use.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def block(self) -> AbstractContextManager[None]:
        """Prevent new leases until the context ends."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return hold_lock(self._folder / "lock")

    @contextlib.contextmanager
    def lease(self, snapshot: Callable[[], int]) -> Iterator[int]:
        """Lease the snapshot that ``snapshot`` returns, and yield its number.

        Parameters
        ----------
        snapshot
            A function that returns the snapshot to lease; it is called while no snapshot can expire.
        """
        with contextlib.ExitStack() as stack:
            with self.block():
                leased = snapshot()
                path = self._folder / f"{leased}-{os.getpid()}-{uuid.uuid4().hex}"
                file = stack.enter_context(path.open("w", encoding="ascii"))
                fcntl.flock(file.fileno(), fcntl.LOCK_EX)
            stack.callback(path.unlink, missing_ok=True)
            yield leased

    def list_active(self) -> dict[int, tuple[int, ...]]:
        """Return snapshot → ids of the processes that lease it, and remove leases of dead processes; call this within :meth:`block`."""
        by_snapshot: dict[int, tuple[int, ...]] = {}
        for path in self._folder.iterdir():
            snapshot, _, rest = path.name.partition("-")
            if not rest:
                continue  # the lock file
            with contextlib.suppress(FileNotFoundError), path.open("r", encoding="ascii") as file:
                try:
                    fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    number = int(snapshot)
                    by_snapshot[number] = (*by_snapshot.get(number, ()), int(rest.partition("-")[0]))
                else:
                    path.unlink(missing_ok=True)
        return by_snapshot


def run_maintenance(connections: LakeConnections, pins: Collection[int], *, older_than: timedelta) -> MaintenanceReport:
    """Merge small files, expire old snapshots and delete old files that no snapshot needs, under the lock of the lake's writers.

    The newest snapshot never expires, nor does one that is pinned or leased.

    Parameters
    ----------
    connections
        The connections of the lake.
    pins
        Snapshots that must stay readable.
    older_than
        The minimum age of snapshots and files to remove. It must exceed the duration of the longest transaction.
    """
    cursor, cutoff = connections.cursor(), datetime.now(UTC) - older_than
    with connections.lock():
        disk_before = measure_disk(connections.data_path)
        merged = cursor.execute("CALL ducklake_merge_adjacent_files('lake')").fetchall()
        with connections.leases.block():
            leased = connections.leases.list_active()
            query = "SELECT snapshot_id, snapshot_time < ? FROM ducklake_snapshots('lake') ORDER BY 1"
            snapshots = cursor.execute(query, [cutoff]).fetchall()
            expired = sorted({number for number, old in snapshots if old} - {*pins, *leased, snapshots[-1][0]})
            if expired:
                cursor.execute(f"CALL ducklake_expire_snapshots('lake', versions => {expired})").fetchall()
                connections.open_record_cache().clear()
        cleaned = cursor.execute("CALL ducklake_cleanup_old_files('lake', older_than => ?::TIMESTAMPTZ)", [cutoff]).fetchall()
        orphans = cursor.execute("CALL ducklake_delete_orphaned_files('lake', older_than => ?::TIMESTAMPTZ)", [cutoff]).fetchall()
        files, size = zip(disk_before, measure_disk(connections.data_path), strict=True)
    return MaintenanceReport(
        len(merged), len(expired), len(cleaned) + len(orphans), len(snapshots) - len(expired), files, size, leased, _count_records(cursor)
    )


def _count_records(cursor: duckdb.DuckDBPyConnection) -> int:
    try:
        row = cursor.execute(_RECORDS).fetchone()
    except duckdb.CatalogException:  # nothing was ever written
        return 0
    return 0 if row is None else int(row[0])
