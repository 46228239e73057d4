"""Erase rows from a DuckLake permanently: from every snapshot, from the files, and from the catalog's free pages.

Each step first searches for the remaining work, so an erasure that was killed at any point can be repeated.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb

from mlops_assets.errors import LakeError
from mlops_assets.stores.lake.rows import split_name, sql_name, to_polars
from mlops_assets.stores.lake.table_sql import list_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import polars as pl

    from mlops_assets.stores.lake.ducklake import DuckLake
    from mlops_assets.stores.lake.protocol import PartitionRecord

QUARANTINE = "quarantine"
_METADATA = "__ducklake_metadata_lake"
_FILES = f"""
    SELECT DISTINCT s.schema_name || '/' || t.table_name, f.path, f.begin_snapshot, f.end_snapshot FROM {_METADATA}.ducklake_data_file f
    JOIN {_METADATA}.ducklake_table t USING (table_id) JOIN {_METADATA}.ducklake_schema s USING (schema_id)
"""
_TYPES = {
    "varchar": "VARCHAR",
    "boolean": "BOOLEAN",
    "int8": "TINYINT",
    "int16": "SMALLINT",
    "int32": "INTEGER",
    "int64": "BIGINT",
    "uint8": "UTINYINT",
    "uint16": "USMALLINT",
    "uint32": "UINTEGER",
    "uint64": "UBIGINT",
    "float32": "FLOAT",
    "float64": "DOUBLE",
    "date": "DATE",
    "timestamp": "TIMESTAMP",
    "timestamptz": "TIMESTAMPTZ",
}  # DuckLake's type names to DuckDB's


@dataclass(frozen=True)
class EntityFile:
    """A Parquet file that holds rows of an entity, including rows that a later snapshot deleted.

    Parameters
    ----------
    table, path
        The table and the path of the file.
    first_snapshot, end_snapshot
        The first snapshot that contains the file, and the first later snapshot that does not; None while the newest snapshot contains it.
    """

    table: str
    path: Path
    first_snapshot: int
    end_snapshot: int | None


class Erasure:
    """Finds and erases the rows of one entity in the tables of a lake.

    An erasure calls :meth:`delete`, :meth:`rewrite`, :meth:`expire` and :meth:`vacuum`, in this order. The other methods only read.

    Parameters
    ----------
    lake
        The lake; the caller holds its lock.
    entity
        Column → value, as text. A row belongs to the entity when it has all of these values.
    include
        A function of a table's name that returns whether to search the table.
    """

    def __init__(self, lake: DuckLake, entity: Mapping[str, str], include: Callable[[str], bool] = lambda _: True) -> None:
        self._lake, self._entity, self._include = lake, dict(entity), include

    def rows(self, table: str) -> pl.DataFrame:
        """Return the entity's rows of a table in the newest snapshot."""
        condition, values = self._condition(table)
        return to_polars(self._cursor.execute(f"SELECT * FROM {sql_name(table)} WHERE {condition}", values))

    def remaining_rows(self, table: str, snapshot: int) -> pl.DataFrame:
        """Return the rows of a table in a snapshot that do not belong to the entity."""
        condition, values = self._condition(table)
        query = f"SELECT * FROM {sql_name(table)} AT (VERSION => {snapshot}) WHERE ({condition}) IS NOT TRUE"
        return to_polars(self._cursor.execute(query, values))

    def tables(self) -> list[str]:
        """Return the searched tables that have the entity's columns, and the searched quarantines, whose rows are JSON."""
        names = [table for table in list_tables(self._cursor) if self._include(table)]
        return [name for name in names if name.startswith(f"{QUARANTINE}/") or self._entity.keys() <= self._columns(sql_name(name))]

    def files(self) -> list[EntityFile]:
        """Return the files of the searched tables that hold rows of the entity, in all snapshots."""
        paths = {path.name: path for path in self._lake.connections.data_path.rglob("*.parquet")}
        files_by_table: dict[str, list[tuple[Path, int, int | None]]] = {}
        for table, name, first_snapshot, end_snapshot in self._cursor.execute(_FILES).fetchall():
            path = paths.get(name.rpartition("/")[2])
            if path is not None and not table.startswith("_mlops/") and self._include(table):
                files_by_table.setdefault(table, []).append((path, first_snapshot, end_snapshot))
        return [file for table, files in files_by_table.items() for file in self._entity_files(table, files)]

    def snapshots(self, files: Sequence[EntityFile]) -> list[int]:
        """Return the snapshots, except the newest, that contain at least one of the given files."""
        numbers = [row[0] for row in self._cursor.execute("SELECT snapshot_id FROM ducklake_snapshots('lake') ORDER BY 1").fetchall()]
        return [n for n in numbers[:-1] if any(f.first_snapshot <= n and (f.end_snapshot is None or n < f.end_snapshot) for f in files)]

    def delete(self, tables: Sequence[str], records: Sequence[PartitionRecord]) -> dict[str, int]:
        """Delete the entity's rows and append new records in one transaction; return table → number of deleted rows, without zeros.

        Parameters
        ----------
        tables
            The tables to delete from.
        records
            The new records of the partitions that lose rows.
        """
        counts: dict[str, int] = {}
        self._lake.run_transaction(lambda: counts.update((table, self._delete_rows(table)) for table in tables), records)
        return {table: count for table, count in counts.items() if count}

    def rewrite(self) -> None:
        """Rewrite the files of the newest snapshot that still contain rows of the entity, which :meth:`delete` only marked as deleted.

        Raises
        ------
        LakeError
            A rewritten file still contains rows of the entity.
        """
        for table in sorted({file.table for file in self.files() if file.end_snapshot is None}):
            schema, name = split_name(table)
            call = "CALL ducklake_rewrite_data_files('lake', ?, schema => ?, delete_threshold => 0)"
            self._cursor.execute(call, [name, schema]).fetchall()
        if remaining := [file for file in self.files() if file.end_snapshot is None]:
            raise LakeError(
                f"file '{remaining[0].path.name}' of table '{remaining[0].table}' still contains rows of the entity after it was rewritten",
                hint="run the same command again; if the error stays, report it: the erasure is not complete",
            )

    def expire(self) -> list[int]:
        """Expire every older snapshot that contains a file with rows of the entity, even when pinned; return the expired snapshots.

        Every file that no remaining snapshot names is deleted from the disk.

        Raises
        ------
        LakeError
            A running step reads one of those snapshots.
        """
        with self._lake.connections.leases.block():
            snapshots = self.snapshots(self.files())
            leased = {n: pids for n, pids in self._lake.connections.leases.list_active().items() if n in snapshots}
            if leased:
                number, pids = next(iter(leased.items()))
                raise LakeError(
                    f"process {pids[0]} reads snapshot {number} of the lake, which holds rows of the entity",
                    hint="stop it or wait until it has ended, then run the same command again: it continues from here",
                )
            if snapshots:
                self._cursor.execute(f"CALL ducklake_expire_snapshots('lake', versions => {snapshots})").fetchall()
                self._lake.connections.open_record_cache().clear()
        # The caller holds the lock of all writers, so a file that no snapshot names is garbage.
        self._cursor.execute("CALL ducklake_cleanup_old_files('lake', cleanup_all => true)").fetchall()
        self._cursor.execute("CALL ducklake_delete_orphaned_files('lake', cleanup_all => true)").fetchall()
        return snapshots

    def vacuum(self) -> None:
        """Remove values of erased rows from the catalog.

        Such values remain in its free pages, in its write-ahead log, and in column bounds, because DuckLake never narrows bounds. This
        thread's connection to the lake is closed.

        Raises
        ------
        LakeError
            A reader keeps the write-ahead log open, or the vacuum failed.
        """
        bounds, connections = [bound for table in self.tables() for bound in self._column_bounds(table)], self._lake.connections
        connections.close()  # this process must not keep the write-ahead log open
        request = json.dumps({"catalog": str(connections.catalog_path), "limits": bounds})
        command = [sys.executable, "-m", "mlops_assets.stores.lake.catalog_vacuum"]
        result = subprocess.run(command, input=request, capture_output=True, text=True, check=False)  # noqa: S603  (a program of ours)
        if result.returncode:
            reason = result.stderr.strip().rpartition("\n")[2] or "a reader keeps it open"
            raise LakeError(f"the lake's catalog cannot be vacuumed: {reason}", hint="run the same command again: it continues from here")

    def _column_bounds(self, table: str) -> Iterator[tuple[str | None, str | None, int, int]]:
        """Yield minimum, maximum, table id and column id of each column of a type in ``_TYPES``, from the statistics of the remaining files."""
        schema, name = split_name(table)
        query = (
            f"SELECT c.table_id, c.column_id, c.column_type FROM {_METADATA}.ducklake_column c JOIN {_METADATA}.ducklake_table t USING (table_id) "
            f"JOIN {_METADATA}.ducklake_schema s USING (schema_id) WHERE s.schema_name = ? AND t.table_name = ? AND c.parent_column IS NULL "
            "AND c.end_snapshot IS NULL AND t.end_snapshot IS NULL"
        )
        for table_id, column_id, kind in self._cursor.execute(query, [schema, name]).fetchall():
            sql_type = _TYPES.get(kind)
            if sql_type is None:
                continue
            ends = (
                f"SELECT arg_min(min_value, CAST(min_value AS {sql_type})), arg_max(max_value, CAST(max_value AS {sql_type})) "
                f"FROM {_METADATA}.ducklake_file_column_stats WHERE table_id = ? AND column_id = ?"
            )
            min_value, max_value = self._cursor.execute(ends, [table_id, column_id]).fetchone() or (None, None)
            yield min_value, max_value, table_id, column_id

    @property
    def _cursor(self) -> duckdb.DuckDBPyConnection:
        return self._lake.connections.cursor()

    def _columns(self, source: str) -> set[str]:
        return {row[0] for row in self._cursor.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()}

    def _condition(self, table: str) -> tuple[str, list[Any]]:
        """Return the SQL condition that selects the entity's rows of a table, and the values that it binds."""
        if table.startswith(f"{QUARANTINE}/"):
            return " AND ".join('json_extract_string("row", ?) = ?' for _ in self._entity), [
                part for column, value in self._entity.items() for part in (f'$."{column}"', value)
            ]
        return " AND ".join(f'CAST("{column}" AS VARCHAR) = ?' for column in self._entity), list(self._entity.values())

    def _delete_rows(self, table: str) -> int:
        condition, values = self._condition(table)
        row = self._cursor.execute(f"DELETE FROM {sql_name(table)} WHERE {condition}", values).fetchone()
        return int(row[0]) if row else 0

    def _entity_files(self, table: str, files: Sequence[tuple[Path, int, int | None]]) -> Iterator[EntityFile]:
        """Yield the files of a table that hold rows of the entity."""
        try:
            with_entity = self._paths_with_entity(table, [path for path, _, _ in files])
        except duckdb.Error:  # the files have incompatible columns: an older file lacks the key, or has it in another type
            with_entity = {name for path, _, _ in files for name in self._search_file(table, path)}
        yield from (
            EntityFile(table, path, first_snapshot, end_snapshot)
            for path, first_snapshot, end_snapshot in files
            if str(path) in with_entity
        )

    def _paths_with_entity(self, table: str, paths: Sequence[Path]) -> set[str]:
        condition, values = self._condition(table)
        names = ", ".join("'{}'".format(str(path).replace("'", "''")) for path in paths)
        source = f"read_parquet([{names}], union_by_name => true, filename => '__file')"
        return {row[0] for row in self._cursor.execute(f"SELECT DISTINCT __file FROM {source} WHERE {condition}", values).fetchall()}

    def _search_file(self, table: str, path: Path) -> set[str]:
        """Return the path of a file if it has the entity's columns and holds its rows, else an empty set."""
        columns = self._columns("read_parquet('{}')".format(str(path).replace("'", "''")))
        entity_columns = {"row"} if table.startswith(f"{QUARANTINE}/") else set(self._entity)
        return self._paths_with_entity(table, [path]) if entity_columns <= columns else set()
