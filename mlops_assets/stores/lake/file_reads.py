"""Read the Parquet files of a table with polars, which takes a third of DuckDB's time. The caller compares the rows with recorded hashes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from mlops_assets.stores.lake.rows import quote_value, split_name
from mlops_assets.stores.lake.table_sql import table_schema

if TYPE_CHECKING:
    import duckdb

    from mlops_assets.values.window import TimeWindow


def read_files(  # noqa: PLR0913  (where rows are read)
    cursor: duckdb.DuckDBPyConnection, table: str, window: TimeWindow | None, event_timestamp: str | None, snapshot: int, max_files: int
) -> pl.DataFrame | None:
    """Return the rows of a table from its files, in the order of DuckDB; None when DuckDB would have to change what the files hold.

    That is the case when rows were deleted or columns were changed after a file was written, and when a file cannot be read. The result is
    also None when the table has more than ``max_files`` files, because polars opens them all.

    Parameters
    ----------
    cursor
        A connection to the lake.
    table, window, event_timestamp, snapshot
        As in :meth:`mlops_assets.stores.lake.protocol.LakeReader.read`.
    max_files
        The maximum number of files that may be opened.
    """
    if max_files < 1:
        return None
    schema, name = split_name(table)
    arguments = f"'lake', {quote_value(name)}, schema => {quote_value(schema)}, snapshot_version => {int(snapshot)}"
    files = cursor.execute(f"SELECT data_file, delete_file FROM ducklake_list_files({arguments})").fetchall()
    if not 0 < len(files) <= max_files or any(deleted for _, deleted in files):
        return None
    try:
        rows = pl.scan_parquet([path for path, _ in files], glob=False, hive_partitioning=False)
        if window is not None:
            rows = rows.filter(pl.col(event_timestamp or "").is_between(window.start, window.end, closed="left"))
        frame = rows.collect()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError):  # DuckDB says what is wrong with a damaged file
        return None
    return frame if frame.schema == table_schema(cursor, table, snapshot) else None
