"""Dagster's SQLite storage with databases that stay open: recording an event takes a tenth of the time.

Dagster opens and closes a database for each event, compiles each statement again, and waits for the disk. Here a process keeps its connections,
and the events of a batch are one transaction. Files and tables are those of Dagster, whose web server and daemon use them at the same time.
"""

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as db
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS, EVENT_TYPE_TO_PIPELINE_RUN_STATUS
from dagster._core.events.log import EventLogEntry
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, SqlEventLogStorageTable
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME, SqliteEventLogStorage
from dagster._core.storage.runs.sqlite.sqlite_run_storage import SqliteRunStorage
from dagster._core.storage.schedules.sqlite.sqlite_schedule_storage import SqliteScheduleStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS, create_db_conn_string
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData, serialize_value
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import NullPool, QueuePool

MAX_BATCH = 1_000  # events that Dagster hands over at once, such as the partitions of one table


def open_pooled_instance(home: str) -> dg.DagsterInstance:
    """Open the Dagster instance of a folder; its SQLite databases of runs and events stay open.

    An instance with another storage than Dagster's default is opened as Dagster does. Otherwise, the batch size of events is set for this
    process, unless ``DAGSTER_EVENT_BATCH_SIZE`` is set.

    Parameters
    ----------
    home
        The folder with ``dagster.yaml``.
    """
    instance_ref = InstanceRef.from_dir(home)
    data = instance_ref.storage_data
    if data is None or data.class_name != DagsterSqliteStorage.__name__:
        return dg.DagsterInstance.from_ref(instance_ref)
    os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", str(MAX_BATCH))
    pooled = ConfigurableClassData(__name__, PooledSqliteStorage.__name__, data.config_yaml)
    return dg.DagsterInstance.from_ref(instance_ref._replace(storage_data=pooled))


def open_engine(url: str) -> Engine:
    """Return an engine that keeps its connections and does not wait for the disk at each commit.

    A crashed process loses no events. A crashed machine may lose the last events; the next run reports the partitions that the lake
    holds again.
    """
    engine = db.create_engine(url, poolclass=QueuePool, connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS, "check_same_thread": False})
    db.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = NORMAL"))
    return engine


def _has_tables(engine: Engine) -> bool:
    with engine.connect() as connection:
        return db.inspect(connection).has_table("alembic_version")


def _has_revision(engine: Engine) -> bool:
    with engine.connect() as connection:
        return connection.execute(db.text("SELECT 1 FROM alembic_version")).first() is not None


def _is_of_asset(event: EventLogEntry) -> bool:
    """Return whether an event is one that Dagster mirrors for its asset, and nothing else."""
    kind = event.dagster_event_type if event.is_dagster_event else None
    others = {*ASSET_CHECK_EVENTS, *EVENT_TYPE_TO_PIPELINE_RUN_STATUS}
    return kind in ASSET_EVENTS and kind not in others and event.get_dagster_event().asset_key is not None


class PooledEventLog(SqliteEventLogStorage):
    """An event log whose databases stay open; a shard is the database of one run, or the index of all runs."""

    def __init__(self, base_dir: str) -> None:
        self._engines: dict[str, Engine] = {}
        self._in_batch: dict[str, Connection] = {}
        self._tables: set[str] = set()
        self._asset_columns: set[str] = set()
        self._last_events: dict[tuple[str, str], tuple[EventLogEntry, int]] = {}
        self._lock = threading.RLock()
        super().__init__(base_dir)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        """Yield a connection to a shard in a transaction: that of the current batch, or a new one. Missing tables are created."""
        with self._lock:
            if shard in self._in_batch:
                yield self._in_batch[shard]
                return
            if shard not in self._engines:
                self._engines[shard] = open_engine(self.conn_string_for_shard(shard))
            if shard not in self._initialized_dbs:
                self._initdb(self._engines[shard])
                self._initialized_dbs.add(shard)
            with self._engines[shard].begin() as connection:
                yield connection

    def _initdb(self, engine: Engine, for_index_shard: bool = False) -> None:  # noqa: FBT001, FBT002  (Dagster's signature)
        """Create the tables if the database has none; otherwise skip reading the migrations, which Dagster does at each start."""
        if not _has_tables(engine):
            super()._initdb(engine, for_index_shard)

    def has_table(self, table_name: str) -> bool:
        """Return True if the index of all runs has a table; this answer is cached, because Dagster asks for each event."""
        if table_name not in self._tables:
            with self._connect(INDEX_SHARD_NAME) as connection:
                self._tables |= set(db.inspect(connection).get_table_names())
        return table_name in self._tables

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Record events in one transaction for each database, and update the summary of each asset once.

        Events of assets alone, such as the materialisations of many partitions, are inserted by one statement for each database.
        """
        shards = dict.fromkeys([INDEX_SHARD_NAME, *(event.run_id for event in events)])
        with self._lock, ExitStack() as stack:
            connections = {shard: stack.enter_context(self._connect(shard)) for shard in shards}
            stack.callback(self._in_batch.clear)
            stack.callback(self._last_events.clear)
            self._in_batch.update(connections)
            if len(shards) == 2 and all(_is_of_asset(event) for event in events):
                self._insert_asset_events(events, *reversed(connections.values()))
            else:
                super().store_event_batch(events)
            for event, event_id in self._last_events.values():
                super()._store_asset_event(connections[INDEX_SHARD_NAME], event, event_id)

    def _insert_asset_events(self, events: Sequence[EventLogEntry], run: Connection, index: Connection) -> None:
        """Insert events of assets of one run into its database and into the index of all runs, as Dagster does one by one."""
        rows, insert = [self._event_to_row(event) for event in events], SqlEventLogStorageTable.insert()
        run.execute(insert, rows)
        inserted = insert.returning(SqlEventLogStorageTable.c.id, sort_by_parameter_order=True)
        event_ids: Sequence[int] = index.execute(inserted, rows).scalars().all()
        self._store_asset_event_tags(index, events, event_ids)
        for event, event_id in zip(events, event_ids, strict=True):
            self._store_asset_event(index, event, event_id)

    def _store_asset_event(self, conn: Connection, event: EventLogEntry, event_id: int) -> None:
        """Update the summary of an asset; within a batch, keep the last event of each asset and type for one update at the end."""
        if not self._in_batch:
            super()._store_asset_event(conn, event, event_id)
        elif event.dagster_event and event.dagster_event.asset_key:
            kind = (event.dagster_event.asset_key.to_string(), event.dagster_event.event_type_value)
            self._last_events.pop(kind, None)  # the order is that of the last events
            self._last_events[kind] = event, event_id

    def _has_asset_key_col_on_connection(self, conn: Connection, column_name: str) -> bool:
        """Return True if the table of assets has a column; this answer is cached, because Dagster asks for each event."""
        if column_name not in self._asset_columns and super()._has_asset_key_col_on_connection(conn, column_name):
            self._asset_columns.add(column_name)
        return column_name in self._asset_columns

    def _store_asset_check_evaluation_planned(self, event: EventLogEntry, event_id: int | None) -> None:
        """Record that a check is planned, like Dagster, but serialise the event once for all partitions."""
        planned: Any = event.get_dagster_event().event_specific_data
        row = {
            "asset_key": planned.asset_key.to_string(),
            "check_name": planned.check_name,
            "run_id": event.run_id,
            "execution_status": AssetCheckExecutionRecordStatus.PLANNED.value,
            "evaluation_event": serialize_value(event),
            "evaluation_event_timestamp": self._event_insert_timestamp(event),  # type: ignore[no-untyped-call]
            "evaluation_event_storage_id": event_id,
        }
        keys = planned.partitions_subset.get_partition_keys() if planned.partitions_subset else [None]
        with self.index_connection() as connection:
            connection.execute(AssetCheckExecutionsTable.insert(), [row | {"partition": key} for key in keys])

    def dispose(self) -> None:
        """Close the databases."""
        super().dispose()
        for engine in self._engines.values():
            engine.dispose()
        self._engines.clear()


class PooledRunStorage(SqliteRunStorage):
    """A storage of runs whose database stays open."""

    def __init__(self, conn_string: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(conn_string, inst_data)
        self._engine = open_engine(conn_string)

    @classmethod
    def open(cls, folder: str) -> "PooledRunStorage":
        """Open the storage in a folder; create it when it does not exist."""
        if (Path(folder) / "runs.db").exists():
            storage = cls(create_db_conn_string(folder, "runs"))
            if _has_tables(storage._engine):
                return storage
            storage.dispose()
        return cls.from_local(folder)

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """Yield a connection in a transaction."""
        with self._engine.begin() as connection:
            yield connection

    def dispose(self) -> None:
        """Close the database."""
        self._engine.dispose()


def _open_schedules(folder: str) -> SqliteScheduleStorage:
    """Open Dagster's storage of schedules; one with a revision needs no migration, so Dagster's scripts of migrations are not read."""
    if (Path(folder) / "schedules.db").exists():
        url = create_db_conn_string(folder, "schedules")
        engine = db.create_engine(url, poolclass=NullPool)
        if _has_tables(engine) and _has_revision(engine):
            return SqliteScheduleStorage(url)
    return SqliteScheduleStorage.from_local(folder)


class PooledSqliteStorage(DagsterSqliteStorage):
    """Dagster's SQLite storage whose databases of runs and events stay open; the storage of schedules is Dagster's own."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        super(DagsterSqliteStorage, self).__init__()  # type: ignore[no-untyped-call]  # the parent opens databases of its own
        self.base_dir, self._inst_data = base_dir, inst_data
        self._run_storage = PooledRunStorage.open(str(Path(base_dir) / "history"))
        self._event_log_storage = PooledEventLog(str(Path(base_dir) / "history" / "runs"))
        self._schedule_storage = _open_schedules(str(Path(base_dir) / "schedules"))

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> "PooledSqliteStorage":
        """Return the storage with the configuration of an instance; Dagster calls this."""
        return cls(inst_data=inst_data, **config_value)
