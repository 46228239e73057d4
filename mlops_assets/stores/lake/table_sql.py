"""SQL statements on the tables of a lake. The caller passes the cursor, and begins and ends the transaction."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import duckdb
import polars as pl

from mlops_assets.errors import LakeError, suggest_name
from mlops_assets.stores.lake.column_types import refuse_difference
from mlops_assets.stores.lake.rows import quote_name, quote_value, register_rows, split_name, sql_name, to_polars
from mlops_assets.values.window import join_windows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlops_assets.stores.lake.write_plan import WritePlan
    from mlops_assets.values.window import TimeWindow

MAX_KEYS = 1000
_TABLES = "SELECT schema_name || '/' || table_name FROM duckdb_tables() WHERE database_name = 'lake' AND schema_name <> '_mlops' ORDER BY 1"


class TableValues:
    """Facts about the stored values of a table, as :class:`mlops_assets.stores.lake.column_types.StoredValues`."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, table: str) -> None:
        self._cursor, self._table = cursor, table

    def is_empty(self, column: str) -> bool:
        """Return whether a column holds no value but null; False when it cannot be read."""
        return self._query(f"count({quote_name(column)})", unreadable=1) == 0

    def max_abs(self, column: str) -> float:
        """Return the maximum absolute value of a column of numbers; infinity when it cannot be read."""
        name = quote_name(column)
        return self._query(f"greatest(abs(min({name})::HUGEINT), abs(max({name})::HUGEINT))", unreadable=math.inf)

    def _query(self, expression: str, *, unreadable: float) -> float:
        """Return a number computed over the table: 0 for null, ``unreadable`` when DuckDB cannot compute it."""
        try:
            row = self._cursor.execute(f"SELECT {expression} FROM {sql_name(self._table)}").fetchone()
        except duckdb.Error:
            return unreadable
        return 0 if row is None or row[0] is None else row[0]


def list_tables(cursor: duckdb.DuckDBPyConnection) -> list[str]:
    """Return the sorted names of the tables in the newest snapshot, with or without records."""
    return [name for (name,) in cursor.execute(_TABLES).fetchall()]


def build_missing_table_error(cursor: duckdb.DuckDBPyConnection, table: str, snapshot: int | None) -> LakeError:
    """Return the error for a table that does not exist; the hint lists the tables of the newest snapshot."""
    tables, when = list_tables(cursor), "" if snapshot is None else f" in snapshot {snapshot}"
    return LakeError(
        f"the lake has no table '{table}'{when}",
        hint=suggest_name(table, tables) + (f"it has {', '.join(tables)}" if tables else "it has no table yet"),
    )


def find_snapshot_problem(cursor: duckdb.DuckDBPyConnection, snapshot: int | None) -> tuple[str, str]:
    """Return why a snapshot cannot be read, as a text and a hint; two empty texts when it can be read or the catalog is unreadable."""
    if snapshot is None:
        return "", ""
    try:
        numbers = {number for (number,) in cursor.execute("SELECT snapshot_id FROM ducklake_snapshots('lake')").fetchall()}
    except duckdb.Error:
        return "", ""
    if snapshot in numbers:
        return "", ""
    newest = max(numbers)
    what = f"snapshot {snapshot} has expired" if 0 <= snapshot < newest else f"the lake has no snapshot {snapshot}"
    return what, f"read the newest snapshot, {newest}; `mlops gc` keeps only those that a version of a model or of a feature view needs"


def explain_read_error(cursor: duckdb.DuckDBPyConnection, table: str, snapshot: int | None, error: duckdb.Error) -> LakeError:
    """Return the error for a failed read: the snapshot, the table or a column does not exist, or a file is damaged."""
    problem, hint = find_snapshot_problem(cursor, snapshot)
    if problem:
        return LakeError(f"'{table}' cannot be read: {problem}", hint=hint)
    if isinstance(error, duckdb.CatalogException):
        return build_missing_table_error(cursor, table, snapshot)
    if isinstance(error, duckdb.BinderException):
        reason = str(error).splitlines()[0].removeprefix("Binder Error: ")
        return LakeError(f"'{table}' cannot be read: {reason}", hint=f"it has {', '.join(table_schema(cursor, table, snapshot) or ())}")
    return LakeError(
        f"'{table}' cannot be read: {error}",
        hint="a file of the lake is damaged or missing: restore it from a backup, or rebuild the table",
    )


def find_keys(  # noqa: PLR0913  (where it looks)
    cursor: duckdb.DuckDBPyConnection,
    table: str,
    keys: pl.DataFrame,
    *,
    outside: Sequence[TimeWindow],
    event_timestamp: str,
    snapshot: int,
) -> pl.DataFrame:
    """Return the keys that also occur outside of some time windows, each with the time of its latest row there as ``__elsewhere``.

    The result is sorted and ends after ``MAX_KEYS`` keys. Only the key columns and the time column are read.

    Parameters
    ----------
    cursor, table, snapshot
        Where to search; the result is empty when the table does not exist.
    keys
        The key columns of rows that are about to be written.
    outside
        The windows in which the write replaces all rows.
    event_timestamp
        The column with the time that assigns a row to a partition.

    Raises
    ------
    LakeError
        The snapshot does not exist or has expired, or a file cannot be read.
    """
    columns, time = ", ".join(map(quote_name, keys.columns)), quote_name(event_timestamp)
    inside = " OR ".join(f"({_build_window_condition(time, window)})" for window in outside)
    query = (
        f'SELECT {columns}, max({time}) AS "__elsewhere" FROM {sql_name(table)} AT (VERSION => {int(snapshot)}) '
        f"SEMI JOIN mlops_keys USING ({columns}) WHERE NOT ({inside}) GROUP BY ALL ORDER BY ALL LIMIT {MAX_KEYS}"
    )
    with register_rows(cursor, "mlops_keys", keys.unique()):
        try:
            return to_polars(cursor.execute(query))
        except duckdb.CatalogException:
            return keys.clear()
        except duckdb.Error as error:
            raise explain_read_error(cursor, table, snapshot, error) from error


def _build_window_condition(time: str, window: TimeWindow) -> str:
    """Return the SQL condition that a time lies in a window."""
    return f"{time} >= {quote_value(window.start)} AND {time} < {quote_value(window.end)}"


def table_schema(cursor: duckdb.DuckDBPyConnection, table: str, snapshot: int | None = None) -> pl.Schema | None:
    """Return column → type of a table; None when there is no such table.

    The function runs a query without rows, because DuckDB's list of tables would open every file of the lake.
    """
    at = f" AT (VERSION => {snapshot})" if snapshot is not None else ""
    try:
        return to_polars(cursor.execute(f"SELECT * FROM {sql_name(table)}{at} LIMIT 0")).schema
    except duckdb.CatalogException:
        return None


def column_types(cursor: duckdb.DuckDBPyConnection, source: str) -> dict[str, str]:
    """Return column → SQL type of a table, a registered frame or a query in parentheses."""
    return {row[0]: row[1] for row in cursor.execute(f"DESCRIBE {source}").fetchall()}


def insert_rows(cursor: duckdb.DuckDBPyConnection, target: str, rows: pl.DataFrame) -> None:
    """Insert rows, matching columns by name."""
    with register_rows(cursor, "mlops_rows", rows):
        cursor.execute(f"INSERT INTO {target} BY NAME SELECT * FROM mlops_rows")


def _create_table(cursor: duckdb.DuckDBPyConnection, target: str, rows: pl.DataFrame) -> None:
    with register_rows(cursor, "mlops_rows", rows):
        cursor.execute(f"CREATE TABLE {target} AS SELECT * FROM mlops_rows")


def _frame_types(cursor: duckdb.DuckDBPyConnection, rows: pl.DataFrame) -> dict[str, str]:
    """Return the columns of a frame with the SQL types that DuckDB gives them."""
    with register_rows(cursor, "mlops_rows", rows.clear()):
        return column_types(cursor, "mlops_rows")


def replace_partitions(cursor: duckdb.DuckDBPyConnection, plan: WritePlan, insert: Callable[[str, pl.DataFrame], None]) -> None:
    """Replace the partitions of a plan: create or adapt the table, delete their old rows, and call ``insert`` with the new rows.

    Raises
    ------
    DataError
        The table would return other column names or types than the rows have.
    LakeError
        A damaged file also holds rows of partitions that are not replaced.
    """
    rows, target = plan.frame, sql_name(plan.table)
    cursor.execute(f"CREATE SCHEMA IF NOT EXISTS lake.{quote_name(split_name(plan.table)[0])}")
    _clear_partitions(cursor, plan, target)
    if rows.height:
        insert(target, rows)
    refuse_difference(plan.table, rows.schema, table_schema(cursor, plan.table) or {})


def _clear_partitions(cursor: duckdb.DuckDBPyConnection, plan: WritePlan, target: str) -> None:
    """Delete the rows of the replaced partitions and give the table the columns of the new rows; create the table if needed."""
    is_unpartitioned = any(part.window is None for part in plan.partitions)
    if plan.stored_schema is None:
        _create_table(cursor, target, plan.frame.clear())
    elif plan.replaces_table or (is_unpartitioned and (plan.damaged or column_types(cursor, target) != _frame_types(cursor, plan.frame))):
        # The whole table gets other columns, or a DELETE would read damaged files; older snapshots keep the old table.
        cursor.execute(f"DROP TABLE {target}")
        _create_table(cursor, target, plan.frame.clear())
    elif is_unpartitioned:
        cursor.execute(f"DELETE FROM {target}")
    else:
        windows = join_windows([part.window for part in plan.partitions if part.window is not None])
        if plan.damaged:
            _rebuild_without_windows(cursor, plan, target, windows)
        _alter_columns(cursor, plan, target)
        time = quote_name(plan.event_timestamp or "")
        for window in windows:
            cursor.execute(f"DELETE FROM {target} WHERE {_build_window_condition(time, window)}")


def _rebuild_without_windows(cursor: duckdb.DuckDBPyConnection, plan: WritePlan, target: str, windows: Sequence[TimeWindow]) -> None:
    """Rebuild the table from the rows outside of the replaced windows: a DELETE would read the damaged files."""
    outside_rows = _read_rows_outside(cursor, target, windows, plan.event_timestamp)
    cursor.execute(f"DROP TABLE {target}")
    _create_table(cursor, target, outside_rows)


def _alter_columns(cursor: duckdb.DuckDBPyConnection, plan: WritePlan, target: str) -> None:
    """Add new columns, and change others to the type of the new rows, which also holds the stored values.

    An empty column is dropped and added again, because it may change to any type.
    """
    old = column_types(cursor, target)
    for column, dtype in _frame_types(cursor, plan.frame).items():
        name = quote_name(column)
        if column in old and old[column] != dtype and TableValues(cursor, plan.table).is_empty(column):
            cursor.execute(f"ALTER TABLE {target} DROP COLUMN {name}")
            del old[column]
        if column not in old:
            cursor.execute(f"ALTER TABLE {target} ADD COLUMN {name} {dtype}")
        elif old[column] != dtype:
            cursor.execute(f"ALTER TABLE {target} ALTER COLUMN {name} TYPE {dtype}")


def _read_rows_outside(
    cursor: duckdb.DuckDBPyConnection, target: str, windows: Sequence[TimeWindow], event_timestamp: str | None
) -> pl.DataFrame:
    """Return a table's rows outside of some disjoint windows, without opening files that lie within them.

    Raises
    ------
    LakeError
        A file that cannot be read also holds rows outside of the windows.
    """
    edges = [None, *(edge for window in windows for edge in (window.start, window.end)), None]
    frames = []
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        time = quote_name(event_timestamp or "")
        where = " AND ".join(f"{time} {sign} {quote_value(edge)}" for sign, edge in ((">=", start), ("<", end)) if edge is not None)
        try:
            frames.append(to_polars(cursor.execute(f"SELECT * FROM {target} WHERE {where}")))
        except duckdb.Error as error:
            raise LakeError(
                f"a damaged file of {target} holds other partitions as well: {error}",
                hint="restore the file from a backup, or rebuild every partition of the table in one run",
            ) from error
    return pl.concat(frames)
