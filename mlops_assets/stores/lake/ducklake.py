"""The lake on DuckLake: a SQLite catalog and Parquet files in one folder."""

from __future__ import annotations

import json
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import polars as pl

from mlops_assets.compute.tables.content_hash import hash_parts, logical_types
from mlops_assets.compute.tables.stored_types import normalised
from mlops_assets.errors import LakeError, PlatformError
from mlops_assets.stores.lake.column_types import Fit, describe_changes, fill_unknown_types, fit_columns, refuse_conflicts
from mlops_assets.stores.lake.connection import LakeConnections, damaged_lake
from mlops_assets.stores.lake.protocol import Commit, MaintenanceReport, Part, PartitionRecord, Write
from mlops_assets.stores.lake.record_checksums import checksum_of
from mlops_assets.stores.lake.rows import RECORDS, Plan, as_polars, in_parts, no_table, quoted, read_record, sql_name, storable
from mlops_assets.stores.lake.writes import StoredValues, column_types, insert_rows, replace_parts, table_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from datetime import timedelta

    from mlops_assets.values.window import TimeWindow

_RECORD_COLUMNS = "(table_name VARCHAR, partition VARCHAR, content_hash VARCHAR, inputs VARCHAR, row_count BIGINT, run_id VARCHAR, snapshot BIGINT, recorded_at TIMESTAMPTZ, hashed VARCHAR, checksum VARCHAR)"


class DuckLake:
    """A lake in a local folder.

    Many processes may read while one writes; writers wait for each other at one lock of the operating system.

    Parameters
    ----------
    connections
        The folder and its connections.
    """

    def __init__(self, connections: LakeConnections) -> None:
        self.connections = connections

    @classmethod
    def open(cls, folder: str | Path) -> DuckLake:
        """Open the lake in ``folder``, making it when it does not exist.

        Raises
        ------
        PlatformError
            The folder cannot be written, or the URL names a kind of catalog that is not supported.
        """
        if "://" in str(folder):
            raise PlatformError(f"the lake '{folder}' is not a folder", hint="set MLOPS_LAKE to a folder on this machine")
        return cls(LakeConnections(Path(folder).absolute()))

    def snapshot(self) -> int:
        """Return the newest state of the lake."""
        return int(self._one("SELECT id FROM ducklake_current_snapshot('lake')"))

    def read(
        self,
        table: str,
        *,
        window: TimeWindow | None = None,
        event_timestamp: str | None = None,
        snapshot: int | None = None,
        columns: Sequence[str] | None = None,
    ) -> pl.DataFrame:
        """Return rows, of one window and as of one snapshot when given.

        Parameters
        ----------
        table
            ``<kind>/<name>``.
        window, event_timestamp
            Only rows whose time lies in the window.
        snapshot
            The newest when None.
        columns
            All when None.

        Raises
        ------
        LakeError
            There is no such table, in that snapshot.
        """
        chosen = ", ".join(map(quoted, columns)) if columns else "*"
        at = f" AT (VERSION => {int(snapshot)})" if snapshot is not None else ""
        where, values = ("", [])
        if window is not None:
            time = quoted(event_timestamp or "")
            where, values = f" WHERE {time} >= ? AND {time} < ?", [window.start, window.end]
        try:
            return as_polars(self._cursor.execute(f"SELECT {chosen} FROM {sql_name(table)}{at}{where}", values))
        except duckdb.CatalogException as error:
            raise no_table(self._cursor, table, snapshot) from error
        except duckdb.Error as error:
            raise LakeError(
                f"'{table}' cannot be read: {error}",
                hint="a file of the lake is damaged or missing: put it back from a backup, or make the table again",
            ) from error

    def columns(self, table: str) -> tuple[str, ...]:
        """Return the names of a table's columns; empty when there is no such table."""
        return tuple(table_schema(self._cursor, table) or ())

    def records(self, table: str, *, snapshot: int | None = None) -> dict[str, PartitionRecord]:
        """Return the last record of each partition; empty when nothing was written.

        Parameters
        ----------
        table
            ``<kind>/<name>``.
        snapshot
            As the lake was then; now when None.
        """
        at = f" AT (VERSION => {int(snapshot)})" if snapshot is not None else ""
        query = f"SELECT * FROM {RECORDS}{at} WHERE table_name = ?"
        try:
            rows = self._cursor.execute(query, [table]).fetchall()
        except duckdb.CatalogException:
            return {}
        except duckdb.Error as error:
            raise damaged_lake(self.connections.folder, error) from error
        # The latest of each partition is taken here: a window function in SQL costs twice as much.
        return {row[1]: read_record(row) for row in sorted(rows, key=lambda row: (row[1], row[6]))}

    def last_written_by(self, run_ids: Collection[str]) -> list[PartitionRecord]:
        """Return the last record of each partition, of any table, that one of these runs was the last to write.

        Parameters
        ----------
        run_ids
            As given to :meth:`write`.
        """
        query = f"SELECT DISTINCT table_name FROM {RECORDS} WHERE run_id IN (SELECT unnest(?)) ORDER BY 1"
        try:
            tables = self._cursor.execute(query, [list(run_ids)]).fetchall()
        except duckdb.CatalogException:
            return []
        except duckdb.Error as error:
            raise damaged_lake(self.connections.folder, error) from error
        return [record for (table,) in tables for record in self.records(table).values() if record.run_id in run_ids]

    def write(  # noqa: PLR0913  (one transaction, described in full)
        self,
        table: str,
        frame: pl.DataFrame,
        parts: Sequence[Part],
        *,
        event_timestamp: str | None = None,
        key: Sequence[str] = (),
        run_id: str = "",
        unhashed: Collection[str] = (),
        beside: Sequence[Write] = (),
    ) -> Commit:
        """Replace exactly the given parts in one transaction.

        Parameters
        ----------
        table
            ``<kind>/<name>``; made when missing.
        frame
            The rows of all parts together.
        parts
            The partitions; one with key ``""`` and no window for an unpartitioned table.
        event_timestamp
            The column that says which part a row belongs to.
        key
            Columns that identify a row; they order rows for the hash.
        run_id
            Who writes.
        unhashed
            Columns that do not count as content.
        beside
            Parts of other tables that are replaced in the same transaction.

        Returns
        -------
        Commit
            A part whose content and inputs are those of its last record is not written again; when none is left, no
            snapshot is made.

        Raises
        ------
        DataError
            A row lies in none of the parts, or a column would not come back with its name and type.
        LakeError
            A column has a type that the table's cannot be widened to, and other partitions keep the table's.
        """
        writes = [Write(table, frame, parts, event_timestamp, key, unhashed), *beside]
        with self.connections.exclusive():
            plans = [self._plan(write, run_id) for write in writes]
            if any(plan.made for plan in plans):
                with self._transaction():
                    for plan in plans:
                        if plan.rows is not None:
                            self._replace(plan)
                    self._append([record for plan in plans for record in plan.made])
            return self._commit(parts, plans[0].made, plans[0].before, plans[0].changes)

    def _plan(self, write: Write, run_id: str) -> Plan:
        """Find out what of a table differs from what was recorded; the lock is held."""
        known, before = table_schema(self._cursor, write.table), self.records(write.table)
        frame = storable(fill_unknown_types(write.frame, known or {}), write.table)
        fit = self._fit(write, frame, known)
        replaces = bool(fit.conflicts) and before.keys() <= {part.partition for part in write.parts}
        if replaces:
            fit = Fit(frame, describe_changes(frame, known or {}))
        refuse_conflicts(write.table, fit)
        frame, bounds = in_parts(fit.frame, write.parts, write.event_timestamp, write.table)
        counted = frame.drop(write.unhashed, strict=False)
        hashes = hash_parts(counted, bounds, write.key)
        made = self._made(write.table, write.parts, hashes, bounds, before, run_id, write.key, counted)
        stale = {r.partition for r in made if r.partition not in before or before[r.partition].content_hash != r.content_hash}
        rewritten = [i for i, part in enumerate(write.parts) if replaces or part.partition in stale]
        rows = pl.concat([frame[bounds[i][0] : bounds[i][1]] for i in rewritten]) if rewritten else None
        changes = fit.changes if rewritten else ()
        return Plan(write.table, [write.parts[i] for i in rewritten], write.event_timestamp, rows, made, before, known, changes, replaces)

    def _fit(self, write: Write, frame: pl.DataFrame, known: pl.Schema | None) -> Fit:
        """Give rows the types that the table has or will have; a table that is replaced as a whole takes theirs."""
        if known is None:
            return Fit(frame)
        if any(part.window is None for part in write.parts):
            return Fit(frame, describe_changes(frame, known))
        return fit_columns(frame, known, StoredValues(self._cursor, write.table))

    def record(
        self, table: str, parts: Sequence[Part], *, event_timestamp: str | None = None, key: Sequence[str] = (), run_id: str = ""
    ) -> Commit:
        """Record what a table holds that somebody else writes.

        Parameters
        ----------
        table, parts, event_timestamp, key, run_id
            As in :meth:`write`; the rows are those that the lake holds now.
        """
        with self.connections.exclusive():
            spans = [part.window for part in parts if part.window is not None]
            window = type(spans[0])(min(s.start for s in spans), max(s.end for s in spans)) if spans else None
            frame = self.read(table, window=window, event_timestamp=event_timestamp)
            frame, bounds = in_parts(normalised(frame), parts, event_timestamp, table, others=True)
            hashes, before = hash_parts(frame, bounds, key), self.records(table)
            made = self._made(table, parts, hashes, bounds, before, run_id, key, frame)
            if made:
                with self._transaction():
                    self._append(made)
        return self._commit(parts, made, before)

    def distrust(self, records: Sequence[PartitionRecord]) -> None:
        """Record partitions with hashes that nothing has, so that they count as made no more."""
        with self.connections.exclusive(), self._transaction():
            self._append([replace(record, snapshot=self.snapshot() + 1, recorded_at=datetime.now(UTC)) for record in records])

    def schema(self, table: str, *, snapshot: int | None = None) -> Mapping[str, pl.DataType]:
        """Return the columns of a table with their types; empty when there is none, or no such state of the lake any more."""
        try:
            return table_schema(self._cursor, table, snapshot) or {}
        except duckdb.Error:
            if snapshot is None:
                raise
            return {}

    def tables(self) -> list[str]:
        """Return the names of the tables that have a record."""
        try:
            rows = self._cursor.execute(f"SELECT DISTINCT table_name FROM {RECORDS} ORDER BY 1").fetchall()
        except duckdb.CatalogException:
            return []
        return [name for (name,) in rows]

    def drop(self, table: str) -> None:
        """Drop a table and forget its partitions, in one transaction; earlier states of the lake keep both."""
        with self.connections.exclusive(), self._transaction():
            self._cursor.execute(f"DROP TABLE IF EXISTS {sql_name(table)}")
            self._cursor.execute(f"DELETE FROM {RECORDS} WHERE table_name = ?", [table])

    def amend(self, change: Callable[[], None], records: Sequence[PartitionRecord]) -> None:
        """Change tables and record what they hold then, in one transaction; the caller holds the lock."""
        with self._transaction():
            change()
            if records:
                self._append(records)

    def maintain(self, pins: Collection[int], *, older_than: timedelta) -> MaintenanceReport:
        """Merge small files and expire old states: see :func:`mlops_assets.stores.lake.upkeep.maintained`."""
        from mlops_assets.stores.lake.upkeep import maintained

        return maintained(self.connections, pins, older_than=older_than)

    def leased(self) -> AbstractContextManager[int]:
        """Return the newest state of the lake; upkeep leaves it readable until the context ends, or this process."""
        self.connections.cursor()  # opening it takes the lake's lock, which upkeep holds when it asks for leases
        return self.connections.leases.held(self.snapshot)

    @property
    def _cursor(self) -> duckdb.DuckDBPyConnection:
        return self.connections.cursor()

    def _one(self, query: str) -> int:
        try:
            row = self._cursor.execute(query).fetchone()
        except duckdb.Error as error:
            raise damaged_lake(self.connections.folder, error) from error
        return 0 if row is None or row[0] is None else row[0]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._cursor.execute("BEGIN")
        try:
            yield
            self._cursor.execute("COMMIT")
        except BaseException:
            with suppress(duckdb.TransactionException):  # DuckDB has already rolled back
                self._cursor.execute("ROLLBACK")
            raise

    def _made(  # noqa: PLR0913  (what a record says)
        self,
        table: str,
        parts: Sequence[Part],
        hashes: Sequence[str],
        bounds: Sequence[tuple[int, int]],
        before: Mapping[str, PartitionRecord],
        run_id: str,
        key: Sequence[str],
        counted: pl.DataFrame,
    ) -> list[PartitionRecord]:
        """Make the records of parts that differ; while the lock is held the next snapshot's number is certain."""
        snapshot, now = self.snapshot() + 1, datetime.now(UTC)
        hashed = json.dumps({"key": list(key), "columns": counted.columns, "types": logical_types(counted)})
        return [
            PartitionRecord(table, part.partition, digest, part.inputs, end - start, run_id, snapshot, now, hashed)
            for part, digest, (start, end) in zip(parts, hashes, bounds, strict=True)
            if part.partition not in before or (before[part.partition].content_hash, before[part.partition].inputs) != (digest, part.inputs)
        ]

    def _append(self, records: Sequence[PartitionRecord]) -> None:
        self._cursor.execute('CREATE SCHEMA IF NOT EXISTS lake."_mlops"')
        self._cursor.execute(f"CREATE TABLE IF NOT EXISTS {RECORDS} {_RECORD_COLUMNS}")
        known = column_types(self._cursor, RECORDS)
        for column in ("hashed", "checksum"):  # a lake may have been made before them
            if column not in known:
                self._cursor.execute(f"ALTER TABLE {RECORDS} ADD COLUMN {column} VARCHAR")
        rows = pl.DataFrame([{**asdict(record), "checksum": checksum_of(record)} for record in records])
        self._insert(RECORDS, rows.rename({"table": "table_name", "rows": "row_count"}))

    def _replace(self, plan: Plan) -> None:
        replace_parts(self._cursor, plan, self._insert)

    def _insert(self, target: str, rows: pl.DataFrame) -> None:
        insert_rows(self._cursor, target, rows)

    def _commit(
        self, parts: Sequence[Part], made: Sequence[PartitionRecord], before: dict[str, PartitionRecord], changes: Sequence[str] = ()
    ) -> Commit:
        now = {**before, **{record.partition: record for record in made}}
        changed = tuple(r.partition for r in made if r.partition not in before or before[r.partition].content_hash != r.content_hash)
        return Commit(made[0].snapshot if made else self.snapshot(), tuple(now[part.partition] for part in parts), changed, tuple(changes))
