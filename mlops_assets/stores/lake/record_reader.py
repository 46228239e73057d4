"""Read the records of partitions, table by table or all of them at once; those of a snapshot are read once by each connection."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb

from mlops_assets.stores.lake import table_sql
from mlops_assets.stores.lake.connection import build_damaged_lake_error
from mlops_assets.stores.lake.rows import RECORDS, quote_value, read_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mlops_assets.stores.lake.connection import LakeConnections
    from mlops_assets.stores.lake.protocol import PartitionRecord

MAX_KEPT = 8  # tables at a snapshot whose records a connection keeps; a step of a view reads two for each chunk


@dataclass(frozen=True)
class FrozenRecords:
    """The records of every table at one snapshot: table → partition key → last record."""

    snapshot: int
    tables: dict[str, dict[str, PartitionRecord]]


class RecordReader:
    """Reads the newest snapshot and the records of partitions.

    Parameters
    ----------
    connections
        The lake's folder and its connections.
    """

    def __init__(self, connections: LakeConnections) -> None:
        self.connections = connections
        self._local = threading.local()

    def snapshot(self) -> int:
        """Return the number of the newest snapshot, or that of the frozen records."""
        frozen = self._frozen
        return self._query_snapshot() if frozen is None else frozen.snapshot

    def read(self, table: str, snapshot: int | None) -> dict[str, PartitionRecord]:
        """Return partition key → last record of the partition: see :meth:`mlops_assets.stores.lake.ducklake.DuckLake.records`."""
        frozen = self._frozen
        if frozen is not None and snapshot in (None, frozen.snapshot):
            return dict(frozen.tables.get(table, {}))
        if snapshot is None:
            return _index_records(self._query(table, None))
        kept = self.connections.open_record_cache()
        if (table, snapshot) not in kept:
            records = _index_records(self._query(table, snapshot))
            if len(kept) >= MAX_KEPT:
                kept.clear()
            kept[table, snapshot] = records
        return dict(kept[table, snapshot])

    @contextmanager
    def freeze(self) -> Iterator[None]:
        """Read all records at the newest snapshot, and answer this thread from them until the context ends.

        A command that reads many tables runs one query in place of one for each table, and sees one snapshot. It does not see what is written
        meanwhile.
        """
        snapshot = self._query_snapshot()
        rows: dict[str, list[tuple[Any, ...]]] = {}
        for row in self._query(None, snapshot):
            rows.setdefault(row[0], []).append(row)
        self._local.frozen = FrozenRecords(snapshot, {table: _index_records(found) for table, found in rows.items()})
        try:
            yield
        finally:
            self._local.frozen = None

    @property
    def _frozen(self) -> FrozenRecords | None:
        return getattr(self._local, "frozen", None)

    def _query_snapshot(self) -> int:
        try:
            row = self.connections.cursor().execute("SELECT id FROM ducklake_current_snapshot('lake')").fetchone()
        except duckdb.Error as error:
            raise build_damaged_lake_error(self.connections.folder, error) from error
        return int(row[0]) if row else 0

    def _query(self, table: str | None, snapshot: int | None) -> list[tuple[Any, ...]]:
        """Return the rows of the records of one table, or of all tables when ``table`` is None."""
        cursor = self.connections.cursor()
        condition = "" if table is None else f" WHERE table_name = {quote_value(table)}"
        at = f" AT (VERSION => {int(snapshot)})" if snapshot is not None else ""
        try:
            return cursor.execute(f"SELECT * FROM {RECORDS}{at}{condition}").fetchall()
        except duckdb.CatalogException:
            return []
        except duckdb.Error as error:
            if table_sql.find_snapshot_problem(cursor, snapshot)[0]:
                raise table_sql.explain_read_error(cursor, table or RECORDS, snapshot, error) from error
            raise build_damaged_lake_error(self.connections.folder, error) from error


def _index_records(rows: Iterable[tuple[Any, ...]]) -> dict[str, PartitionRecord]:
    """Return partition key → last record; selected here, because a window function in SQL costs twice as much."""
    return {row[1]: read_record(row) for row in sorted(rows, key=lambda row: (row[1], row[6]))}
