"""Statements that replace parts of a table, within a transaction that the caller holds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import duckdb

from mlops_assets.stores.lake.column_types import refuse_difference
from mlops_assets.stores.lake.rows import as_polars, kept_beside, quoted, split_name, sql_name
from mlops_assets.values.window import merged

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import polars as pl

    from mlops_assets.stores.lake.rows import Plan
    from mlops_assets.values.window import TimeWindow


class StoredValues:
    """Facts about the values of a table; see :class:`mlops_assets.stores.lake.column_types.StoredColumn`."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, table: str) -> None:
        self._cursor, self._table = cursor, table

    def is_empty(self, column: str) -> bool:
        """Return whether a column of the table holds no value at all."""
        return self._one(f"count({quoted(column)})", 1) == 0

    def largest(self, column: str) -> float:
        """Return the largest absolute value of a column of numbers; infinity when it cannot be read."""
        name = quoted(column)
        return self._one(f"greatest(abs(min({name})::HUGEINT), abs(max({name})::HUGEINT))", math.inf)

    def _one(self, expression: str, unreadable: float) -> float:
        try:
            row = self._cursor.execute(f"SELECT {expression} FROM {sql_name(self._table)}").fetchone()
        except duckdb.Error:
            return unreadable
        return 0 if row is None or row[0] is None else row[0]


def table_schema(cursor: duckdb.DuckDBPyConnection, table: str, snapshot: int | None = None) -> pl.Schema | None:
    """Return a table's columns; None when there is none. It asks for no row: DuckDB's list of tables looks at every file of the lake."""
    at = f" AT (VERSION => {snapshot})" if snapshot is not None else ""
    try:
        return as_polars(cursor.execute(f"SELECT * FROM {sql_name(table)}{at} LIMIT 0")).schema
    except duckdb.CatalogException:
        return None


def column_types(cursor: duckdb.DuckDBPyConnection, source: str) -> dict[str, str]:
    """Return the columns of a table or a registered frame with their types in SQL."""
    return {row[0]: row[1] for row in cursor.execute(f"DESCRIBE {source}").fetchall()}


def insert_rows(cursor: duckdb.DuckDBPyConnection, target: str, rows: pl.DataFrame) -> None:
    """Insert rows by the names of their columns."""
    cursor.register("mlops_rows", rows.to_arrow())
    try:
        cursor.execute(f"INSERT INTO {target} BY NAME SELECT * FROM mlops_rows")
    finally:
        cursor.unregister("mlops_rows")


def replace_parts(cursor: duckdb.DuckDBPyConnection, plan: Plan, insert: Callable[[str, pl.DataFrame], None]) -> None:
    """Replace the parts of a plan by its rows, which ``insert`` puts into the table.

    Raises
    ------
    DataError
        The table would give back other names or types than the rows have.
    LakeError
        A damaged file holds other rows as well.
    """
    rows, target = plan.frame, sql_name(plan.table)
    cursor.execute(f"CREATE SCHEMA IF NOT EXISTS lake.{quoted(split_name(plan.table)[0])}")
    cursor.register("mlops_rows", rows.clear().to_arrow())
    try:
        _make_room(cursor, plan, target)
    finally:
        cursor.unregister("mlops_rows")
    if rows.height:
        insert(target, rows)
    refuse_difference(plan.table, rows.schema, table_schema(cursor, plan.table) or {})


def _make_room(cursor: duckdb.DuckDBPyConnection, plan: Plan, target: str) -> None:
    """Delete what is replaced, and give the table the columns of the new rows."""
    whole = any(part.window is None for part in plan.parts)
    if plan.known is None:
        cursor.execute(f"CREATE TABLE {target} AS SELECT * FROM mlops_rows")
    elif plan.replaces_table or (whole and (plan.damaged or column_types(cursor, target) != column_types(cursor, "mlops_rows"))):
        # A new shape of a table that is replaced as a whole; older snapshots keep the old one.
        cursor.execute(f"DROP TABLE {target}")
        cursor.execute(f"CREATE TABLE {target} AS SELECT * FROM mlops_rows")
    elif whole:
        cursor.execute(f"DELETE FROM {target}")
    else:
        spans = merged([part.window for part in plan.parts if part.window is not None])
        if plan.damaged:
            _rescue_neighbours(cursor, plan, target, spans)
        _alter_columns(cursor, plan, target)
        time = quoted(plan.event_timestamp or "")
        for span in spans:
            cursor.execute(f"DELETE FROM {target} WHERE {time} >= ? AND {time} < ?", [span.start, span.end])


def _rescue_neighbours(cursor: duckdb.DuckDBPyConnection, plan: Plan, target: str, spans: Sequence[TimeWindow]) -> None:
    """Keep what lies outside of damaged parts: deleting their rows would read their files."""
    kept = kept_beside(cursor, target, spans, plan.event_timestamp)
    cursor.register("mlops_kept", kept.to_arrow())
    cursor.execute(f"DROP TABLE {target}")
    cursor.execute(f"CREATE TABLE {target} AS SELECT * FROM mlops_kept")
    cursor.unregister("mlops_kept")


def _alter_columns(cursor: duckdb.DuckDBPyConnection, plan: Plan, target: str) -> None:
    """Add new columns, and give those of another type the type of the new rows, which holds the stored values too."""
    old = column_types(cursor, target)
    for column, kind in column_types(cursor, "mlops_rows").items():
        name = quoted(column)
        if column in old and old[column] != kind and StoredValues(cursor, plan.table).is_empty(column):
            cursor.execute(f"ALTER TABLE {target} DROP COLUMN {name}")
            del old[column]
        if column not in old:
            cursor.execute(f"ALTER TABLE {target} ADD COLUMN {name} {kind}")
        elif old[column] != kind:
            cursor.execute(f"ALTER TABLE {target} ALTER COLUMN {name} TYPE {kind}")
