"""List and measure the Parquet files of a lake, in its catalog and on the disk."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from mlops_assets.stores.lake.protocol import DataFile
from mlops_assets.stores.lake.rows import quote_name, sql_name
from mlops_assets.stores.lake.table_sql import list_tables

if TYPE_CHECKING:
    from datetime import timedelta

    from mlops_assets.values.window import TimeWindow

_LIST_FILES_SQL = "SELECT data_file, data_file_size_bytes FROM ducklake_list_files('lake', ?, schema => ?)"
_LIST_ORPHANS_SQL = "CALL ducklake_delete_orphaned_files('lake', dry_run => true, older_than => ?::TIMESTAMPTZ)"


def list_data_files(cursor: duckdb.DuckDBPyConnection) -> list[DataFile]:
    """Return the files of every table in the newest snapshot, without the lake's own table of records."""
    files = []
    for table in list_tables(cursor):
        schema, _, name = table.partition("/")
        files += [DataFile(table, Path(path), size) for path, size in cursor.execute(_LIST_FILES_SQL, [name, schema]).fetchall()]
    return files


def list_partition_files(
    cursor: duckdb.DuckDBPyConnection, table: str, window: TimeWindow | None, event_timestamp: str | None, snapshot: int
) -> list[str]:
    """Return the sorted paths of the files with the rows of a time window (None: all rows); empty when a file cannot be read."""
    query, values = f"SELECT DISTINCT filename FROM {sql_name(table)} AT (VERSION => {int(snapshot)})", list[object]()
    if window is not None:
        time = quote_name(event_timestamp or "")
        query, values = f"{query} WHERE {time} >= ? AND {time} < ?", [window.start, window.end]
    try:
        return sorted(row[0] for row in cursor.execute(query, values).fetchall())
    except duckdb.Error:
        return []


def list_orphaned_files(cursor: duckdb.DuckDBPyConnection, *, older_than: timedelta) -> list[Path]:
    """Return the sorted paths of data files on the disk that the catalog does not name and that are older than ``older_than``."""
    paths = [Path(row[0]) for row in cursor.execute(_LIST_ORPHANS_SQL, [datetime.now(UTC) - older_than]).fetchall()]
    return sorted(path for path in paths if path.exists())


def measure_disk(folder: Path) -> tuple[int, int]:
    """Return the number of Parquet files in a folder and its subfolders, and their total size in bytes."""
    sizes = [path.stat().st_size for path in folder.rglob("*.parquet")]
    return len(sizes), sum(sizes)
