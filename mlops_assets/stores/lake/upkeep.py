"""Upkeep of a DuckLake: small files are merged, old snapshots expire, what nothing needs is deleted."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import duckdb

from mlops_assets.stores.lake.protocol import MaintenanceReport
from mlops_assets.stores.lake.rows import RECORDS

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import timedelta

    from mlops_assets.stores.lake.connection import LakeConnections

_RECORDS = f"SELECT count(*) FROM {RECORDS}"


def maintained(connections: LakeConnections, pins: Collection[int], *, older_than: timedelta) -> MaintenanceReport:
    """Merge small files and expire old snapshots, never a pinned or leased one nor the newest.

    Parameters
    ----------
    connections
        Of the lake.
    pins
        Snapshots that must stay readable.
    older_than
        Only snapshots and files older than this; longer than the longest transaction.
    """
    cursor, before = connections.cursor(), datetime.now(UTC) - older_than
    with connections.exclusive():
        at_first = disk(connections)
        merged = cursor.execute("CALL ducklake_merge_adjacent_files('lake')").fetchall()
        with connections.leases.closed():
            leased = connections.leases.taken()
            query = "SELECT snapshot_id, snapshot_time < ? FROM ducklake_snapshots('lake') ORDER BY 1"
            every = cursor.execute(query, [before]).fetchall()
            expired = sorted({number for number, old in every if old} - {*pins, *leased, every[-1][0]})
            if expired:
                cursor.execute(f"CALL ducklake_expire_snapshots('lake', versions => {expired})").fetchall()
        cleaned = cursor.execute("CALL ducklake_cleanup_old_files('lake', older_than => ?::TIMESTAMPTZ)", [before]).fetchall()
        orphans = cursor.execute("CALL ducklake_delete_orphaned_files('lake', older_than => ?::TIMESTAMPTZ)", [before]).fetchall()
        files, size = zip(at_first, disk(connections), strict=True)
    return MaintenanceReport(
        len(merged), len(expired), len(cleaned) + len(orphans), len(every) - len(expired), files, size, leased, _records(cursor)
    )


def disk(connections: LakeConnections) -> tuple[int, int]:
    """Return how many Parquet files the lake has on the disk, and their bytes."""
    sizes = [path.stat().st_size for path in connections.data_path.rglob("*.parquet")]
    return len(sizes), sum(sizes)


def _records(cursor: duckdb.DuckDBPyConnection) -> int:
    try:
        row = cursor.execute(_RECORDS).fetchone()
    except duckdb.CatalogException:  # nothing was ever written
        return 0
    return 0 if row is None else int(row[0])
