"""The lake on DuckLake: a SQLite catalog and Parquet files in one folder."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import polars as pl

from mlops_assets.compute.tables.stored_types import normalize
from mlops_assets.errors import InstallationError
from mlops_assets.stores.lake import data_files, table_sql
from mlops_assets.stores.lake.connection import LakeConnections, build_damaged_lake_error
from mlops_assets.stores.lake.file_reads import read_files
from mlops_assets.stores.lake.protocol import DAMAGED_PREFIX, Commit, DataFile, MaintenanceReport, Partition, PartitionRecord, TableWrite
from mlops_assets.stores.lake.record_checksums import RecordsReport, compute_record_checksum, examine_records
from mlops_assets.stores.lake.record_reader import RecordReader
from mlops_assets.stores.lake.rows import RECORDS, quote_name, quote_value, slice_partitions, sql_name, to_polars
from mlops_assets.stores.lake.write_plan import TableState, build_records, has_other_content, plan_write

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from datetime import timedelta

    from mlops_assets.stores.lake.erasure import Erasure
    from mlops_assets.stores.lake.write_plan import WritePlan
    from mlops_assets.values.window import TimeWindow

_RECORD_COLUMNS = "(table_name VARCHAR, partition VARCHAR, content_hash VARCHAR, inputs VARCHAR, row_count BIGINT, run_id VARCHAR, snapshot BIGINT, recorded_at TIMESTAMPTZ, hashed VARCHAR, checksum VARCHAR)"


class DuckLake:
    """A lake in a local folder.

    Many processes may read while one writes. Writers take turns by a lock of the operating system.

    Parameters
    ----------
    connections
        The folder and its connections.
    """

    def __init__(self, connections: LakeConnections) -> None:
        self.connections = connections
        self._records = RecordReader(connections)

    @classmethod
    def open(cls, folder: str | Path) -> DuckLake:
        """Open the lake in ``folder``, which is created if needed; the first use creates the catalog.

        Raises
        ------
        InstallationError
            The folder cannot be written, or ``folder`` is a URL.
        """
        if "://" in str(folder):
            raise InstallationError(f"the lake '{folder}' is not a folder", hint="set MLOPS_LAKE to a folder on this machine")
        return cls(LakeConnections(Path(folder).absolute()))

    def snapshot(self) -> int:
        """Return the number of the newest snapshot."""
        return self._records.snapshot()

    def has_snapshot(self, snapshot: int) -> bool:
        """Return whether a snapshot can still be read."""
        return bool(self._cursor.execute(f"SELECT 1 FROM ducklake_snapshots('lake') WHERE snapshot_id = {int(snapshot)}").fetchall())

    def read(  # noqa: PLR0913  (one query)
        self,
        table: str,
        *,
        window: TimeWindow | None = None,
        event_timestamp: str | None = None,
        snapshot: int | None = None,
        columns: Sequence[str] | None = None,
        values: Mapping[str, Collection[str]] | None = None,
    ) -> pl.DataFrame:
        """Return the rows of a table, restricted to a time window if one is given.

        Parameters
        ----------
        table
            ``<kind>/<name>``.
        window, event_timestamp
            The time window, and the column with the time of a row. Only rows whose time lies in the window are returned.
        snapshot
            The newest when None.
        columns
            The columns to read; all when None or empty.
        values
            Column → allowed texts; only rows with one of these texts in the column are returned.

        Raises
        ------
        LakeError
            The table or a column does not exist, the snapshot does not exist or has expired, or a file cannot be read.
        """
        selected = ", ".join(map(quote_name, columns)) if columns else "*"
        at = f" AT (VERSION => {int(snapshot)})" if snapshot is not None else ""
        conditions = [
            f"{quote_name(column)} IN ({', '.join(map(quote_value, texts))})" if texts else "FALSE"
            for column, texts in (values or {}).items()
        ]
        if window is not None:
            time = quote_name(event_timestamp or "")
            conditions.append(f"{time} >= {quote_value(window.start)} AND {time} < {quote_value(window.end)}")
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        try:
            return to_polars(self._cursor.execute(f"SELECT {selected} FROM {sql_name(table)}{at}{where}"))
        except duckdb.Error as error:
            raise table_sql.explain_read_error(self._cursor, table, snapshot, error) from error

    def read_files(
        self, table: str, *, window: TimeWindow | None, event_timestamp: str | None, snapshot: int, max_files: int
    ) -> pl.DataFrame | None:
        """Return the rows of a table from its files, or None: see :func:`mlops_assets.stores.lake.file_reads.read_files`."""
        return read_files(self._cursor, table, window, event_timestamp, snapshot, max_files)

    def records(self, table: str, *, snapshot: int | None = None) -> dict[str, PartitionRecord]:
        """Return partition key → last record of the partition; empty when the table has no records.

        Parameters
        ----------
        table
            ``<kind>/<name>``.
        snapshot
            The newest when None.

        Raises
        ------
        LakeError
            The snapshot does not exist or has expired, or the records cannot be read.
        """
        return self._records.read(table, snapshot)

    def freeze_records(self) -> AbstractContextManager[None]:
        """Answer :meth:`snapshot` and :meth:`records` from one read of all records: see :meth:`RecordReader.freeze`."""
        return self._records.freeze()

    def records_of_runs(self, run_ids: Collection[str]) -> list[PartitionRecord]:
        """Return the current records, of any table, that one of these runs wrote.

        Parameters
        ----------
        run_ids
            The ids that were passed to :meth:`write`.
        """
        if not run_ids:
            return []
        query = f"SELECT DISTINCT table_name FROM {RECORDS} WHERE run_id IN ({', '.join(map(quote_value, run_ids))}) ORDER BY 1"
        try:
            tables = self._cursor.execute(query).fetchall()
        except duckdb.CatalogException:
            return []
        except duckdb.Error as error:
            raise build_damaged_lake_error(self.connections.folder, error) from error
        return [record for (table,) in tables for record in self.records(table).values() if record.run_id in run_ids]

    def write(  # noqa: PLR0913  (one transaction, described in full)
        self,
        table: str,
        frame: pl.DataFrame,
        partitions: Sequence[Partition],
        *,
        event_timestamp: str | None = None,
        key: Sequence[str] = (),
        run_id: str = "",
        unhashed_columns: Collection[str] = (),
        companions: Sequence[TableWrite] = (),
    ) -> Commit:
        """Replace the given partitions of a table and of its companions in one transaction; skip unchanged partitions.

        Parameters
        ----------
        table
            ``<kind>/<name>``; created if needed.
        frame
            The rows of all partitions together.
        partitions
            The partitions. For an unpartitioned table, one partition with key ``""`` and no window.
        event_timestamp
            The column with the time that assigns a row to a partition.
        key
            Columns that identify a row. Rows are sorted by them, or by every column when empty, before they are hashed.
        run_id
            The run that writes.
        unhashed_columns
            Columns that the content hash excludes.
        companions
            Writes to other tables in the same transaction.

        Returns
        -------
        Commit
            The outcome for ``table``. A partition is skipped when its content and inputs equal its last record. If every partition is
            skipped, no snapshot is made.

        Raises
        ------
        DataError
            A row lies in none of the partitions, or the lake cannot store a column under its name and type.
        LakeError
            The column type in the table cannot be widened to the new type, and partitions that are not rewritten need the old type. Or
            a damaged file also holds partitions that are not rewritten.
        """
        writes = [TableWrite(table, frame, partitions, event_timestamp, key, unhashed_columns), *companions]
        with self.lock():
            plans = [plan_write(write, self._table_state(write.table), run_id) for write in writes]
            if any(plan.new_records for plan in plans):
                with self._transaction():
                    for plan in plans:
                        if plan.rows is not None:
                            self._replace_rows(plan)
                    self._append_records([record for plan in plans for record in plan.new_records])
            return self._build_commit(partitions, plans[0].new_records, plans[0].old_records, plans[0].changes)

    def record(
        self, table: str, partitions: Sequence[Partition], *, event_timestamp: str | None = None, key: Sequence[str] = (), run_id: str = ""
    ) -> Commit:
        """Record the current rows of partitions that another program, such as dbt, has written.

        Parameters
        ----------
        table, partitions, event_timestamp, key, run_id
            As in :meth:`write`. Rows outside of the partitions are ignored.
        """
        with self.lock():
            windows = [partition.window for partition in partitions if partition.window is not None]
            window = type(windows[0])(min(w.start for w in windows), max(w.end for w in windows)) if windows else None
            frame = self.read(table, window=window, event_timestamp=event_timestamp)
            frame, bounds = slice_partitions(normalize(frame), partitions, event_timestamp, table, skip_outside=True)
            stored = self._table_state(table)
            new_records = build_records(TableWrite(table, frame, partitions, event_timestamp, key), frame, bounds, stored, run_id)
            if new_records:
                with self._transaction():
                    self._append_records(new_records)
        return self._build_commit(partitions, new_records, stored.records)

    def mark_damaged(self, records: Sequence[PartitionRecord]) -> None:
        """Record partitions as damaged by a prefix of their hash: they count as stale, and the next run that makes them rebuilds them."""
        with self.lock(), self._transaction():
            now, snapshot = datetime.now(UTC), self.snapshot() + 1
            marked = [replace(record, content_hash=DAMAGED_PREFIX + record.content_hash) for record in records]
            self._append_records([replace(record, snapshot=snapshot, recorded_at=now) for record in marked])

    def schema(self, table: str, *, snapshot: int | None = None) -> Mapping[str, pl.DataType]:
        """Return column → type of a table; empty when the table or the snapshot does not exist."""
        try:
            return table_sql.table_schema(self._cursor, table, snapshot) or {}
        except duckdb.Error:
            if snapshot is None:
                raise
            return {}

    def tables(self) -> list[str]:
        """Return the sorted names of all tables that have records, including tables without rows."""
        try:
            rows = self._cursor.execute(f"SELECT DISTINCT table_name FROM {RECORDS} ORDER BY 1").fetchall()
        except duckdb.CatalogException:
            return []
        return [name for (name,) in rows]

    def find_keys(
        self, table: str, keys: pl.DataFrame, *, outside: Sequence[TimeWindow], event_timestamp: str, snapshot: int
    ) -> pl.DataFrame:
        """Return the keys that also occur outside of some time windows: see :func:`mlops_assets.stores.lake.table_sql.find_keys`."""
        return table_sql.find_keys(self._cursor, table, keys, outside=outside, event_timestamp=event_timestamp, snapshot=snapshot)

    def query_columns(self, query: str) -> tuple[str, ...]:
        """Return the column names of a dbt model's query; empty when the lake's connection cannot run the query."""
        try:
            return tuple(table_sql.column_types(self._cursor, f"({query.strip().rstrip(';')})"))
        except duckdb.Error:
            return ()

    def drop(self, table: str) -> None:
        """Drop a table and its records, in one transaction; earlier snapshots keep both."""
        with self.lock(), self._transaction():
            self._cursor.execute(f"DROP TABLE IF EXISTS {sql_name(table)}")
            self._cursor.execute(f"DELETE FROM {RECORDS} WHERE table_name = ?", [table])

    def run_transaction(self, change: Callable[[], None], records: Sequence[PartitionRecord]) -> None:
        """Call ``change`` and append records of its effect in one transaction. The caller must hold the lock."""
        with self._transaction():
            change()
            if records:
                self._append_records(records)

    def lock(self) -> AbstractContextManager[None]:
        """Hold the lock that admits one writer of the lake at a time."""
        return self.connections.lock()

    def maintain(self, pins: Collection[int], *, older_than: timedelta) -> MaintenanceReport:
        """Merge files, expire snapshots and delete unneeded files: see :func:`mlops_assets.stores.lake.maintenance.run_maintenance`."""
        from mlops_assets.stores.lake.maintenance import run_maintenance

        return run_maintenance(self.connections, pins, older_than=older_than)

    def lease_snapshot(self) -> AbstractContextManager[int]:
        """Return a context that yields the newest snapshot and keeps it readable until the context or this process ends."""
        # Opening a connection takes the lake's lock. Upkeep takes that lock before the one of the leases; the other order could deadlock.
        self.connections.cursor()
        return self.connections.leases.lease(self.snapshot)

    def data_files(self) -> list[DataFile]:
        """Return the Parquet files of the newest snapshot."""
        return data_files.list_data_files(self._cursor)

    def partition_files(self, table: str, window: TimeWindow | None, event_timestamp: str | None, snapshot: int) -> list[str]:
        """Return the paths of the files with the rows of a time window (None: all rows); empty when a file cannot be read."""
        return data_files.list_partition_files(self._cursor, table, window, event_timestamp, snapshot)

    def orphaned_files(self, *, older_than: timedelta) -> list[Path]:
        """Return the data files on the disk that the catalog does not name and that are older than ``older_than``."""
        return data_files.list_orphaned_files(self._cursor, older_than=older_than)

    def examine_records(self) -> RecordsReport:
        """Compare every record with its checksum: see :func:`mlops_assets.stores.lake.record_checksums.examine_records`."""
        return examine_records(self.connections)

    def erasure(self, entity: Mapping[str, str], include: Callable[[str], bool] = lambda _: True) -> Erasure:
        """Return an object that finds and erases the rows of one entity in the tables whose name ``include`` accepts."""
        from mlops_assets.stores.lake.erasure import Erasure

        return Erasure(self, entity, include)

    @property
    def _cursor(self) -> duckdb.DuckDBPyConnection:
        return self.connections.cursor()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Run a transaction on this thread's connection; roll it back on any exception."""
        self._cursor.execute("BEGIN")
        try:
            yield
            self._cursor.execute("COMMIT")
        except BaseException:
            with suppress(duckdb.TransactionException):  # DuckDB has already rolled back
                self._cursor.execute("ROLLBACK")
            raise

    def _table_state(self, table: str) -> TableState:
        """Return the current state of a table. The number of the next snapshot is certain while the caller holds the lock."""
        schema = table_sql.table_schema(self._cursor, table)
        snapshot = self.snapshot()
        return TableState(schema, self.records(table, snapshot=snapshot), table_sql.TableValues(self._cursor, table), snapshot + 1)

    def _append_records(self, records: Sequence[PartitionRecord]) -> None:
        """Insert records with their checksums; create the table of records if needed, or add columns that an older lake lacks."""
        self._cursor.execute('CREATE SCHEMA IF NOT EXISTS lake."_mlops"')
        self._cursor.execute(f"CREATE TABLE IF NOT EXISTS {RECORDS} {_RECORD_COLUMNS}")
        existing = table_sql.column_types(self._cursor, RECORDS)
        for column in ("hashed", "checksum"):
            if column not in existing:
                self._cursor.execute(f"ALTER TABLE {RECORDS} ADD COLUMN {column} VARCHAR")
        rows = pl.DataFrame([{**asdict(record), "checksum": compute_record_checksum(record)} for record in records])
        self._insert_rows(RECORDS, rows.rename({"table": "table_name", "rows": "row_count"}))

    def _replace_rows(self, plan: WritePlan) -> None:
        table_sql.replace_partitions(self._cursor, plan, self._insert_rows)

    def _insert_rows(self, target: str, rows: pl.DataFrame) -> None:
        table_sql.insert_rows(self._cursor, target, rows)

    def _build_commit(
        self,
        partitions: Sequence[Partition],
        new: Sequence[PartitionRecord],
        old: Mapping[str, PartitionRecord],
        changes: Sequence[str] = (),
    ) -> Commit:
        """Return the outcome of a write, given the new records and the records before it."""
        current = {**old, **{record.partition: record for record in new}}
        changed = tuple(record.partition for record in new if has_other_content(record, old))
        return Commit(
            new[0].snapshot if new else self.snapshot(), tuple(current[partition.key] for partition in partitions), changed, tuple(changes)
        )
