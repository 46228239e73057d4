"""Vacuum a SQLite catalog in a separate process, because two copies of SQLite in one process release each other's locks.

Standard input is JSON with two fields: ``catalog`` is the path of the catalog, and ``limits`` lists minimum, maximum, table id and
column id of each column.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from contextlib import closing

_SET_BOUNDS = "UPDATE ducklake_table_column_stats SET min_value = ?, max_value = ? WHERE table_id = ? AND column_id = ?"


def main() -> int:
    """Narrow the column bounds, vacuum the catalog and truncate its write-ahead log; return 1 when a reader prevents the truncation, else 0."""
    request = json.load(sys.stdin)
    with closing(sqlite3.connect(request["catalog"], timeout=30, isolation_level=None)) as catalog:
        catalog.execute("BEGIN IMMEDIATE")
        catalog.executemany(_SET_BOUNDS, request["limits"])
        catalog.execute("COMMIT")
        catalog.execute("VACUUM")
        busy, *_ = catalog.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return int(busy)


if __name__ == "__main__":
    sys.exit(main())
