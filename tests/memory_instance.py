"""Dagster's ephemeral instance, opened in milliseconds: its databases begin as copies of empty ones, and their connections stay open.

Dagster reads every migration to stamp an empty database, opens a connection for each event and compiles each statement for each instance.
"""

import sqlite3
import threading
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import dagster as dg
import sqlalchemy as db
from dagster._core.instance.types import InstanceType
from dagster._core.launcher.sync_in_memory_run_launcher import SyncInMemoryRunLauncher
from dagster._core.run_coordinator import DefaultRunCoordinator
from dagster._core.storage.event_log import InMemoryEventLogStorage
from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager
from dagster._core.storage.root import TemporaryLocalArtifactStorage
from dagster._core.storage.runs import InMemoryRunStorage
from dagster._core.storage.sqlite import create_in_memory_conn_string
from sqlalchemy.engine import Connection, Dialect, Engine
from sqlalchemy.pool import QueuePool
from sqlalchemy.util import LRUCache

STATEMENTS = LRUCache(500)  # compiled once for all instances


def open_memory_instance(like: dg.DagsterInstance | None = None) -> dg.DagsterInstance:
    """Return what `DagsterInstance.ephemeral()` returns; with the runs and events of another memory instance, when one is given."""
    runs, events = MemoryRuns(), MemoryEvents()
    if like is not None:
        runs.copy_from(like.run_storage)
        events.copy_from(like.event_log_storage)
    return dg.DagsterInstance(
        instance_type=InstanceType.EPHEMERAL,
        local_artifact_storage=TemporaryLocalArtifactStorage(),
        run_storage=runs,
        event_storage=events,
        compute_log_manager=NoOpComputeLogManager(),
        run_coordinator=DefaultRunCoordinator(),
        run_launcher=SyncInMemoryRunLauncher(),
    )


@cache
def _template(kind: type[InMemoryEventLogStorage | InMemoryRunStorage]) -> tuple[sqlite3.Connection, Dialect]:
    """Return an empty database with the tables that Dagster makes, and the dialect of its engine."""
    copy, storage = sqlite3.connect(":memory:", check_same_thread=False), kind()
    _raw(storage._held_conn).backup(copy)
    storage.dispose()
    return copy, storage._engine.dialect


def _raw(connection: Connection) -> sqlite3.Connection:
    return connection.connection.driver_connection


class _Copyable:
    """A storage whose database can be filled from that of another."""

    _held_conn: Connection

    def copy_from(self, other: "_Copyable") -> None:
        _raw(other._held_conn).backup(_raw(self._held_conn))


def _open_copy(kind: type[InMemoryEventLogStorage | InMemoryRunStorage]) -> tuple[Engine, Connection]:
    """Return the engine of a new database, and the connection that keeps the database alive."""
    template, dialect = _template(kind)
    url = create_in_memory_conn_string(str(uuid.uuid4()))
    engine = db.create_engine(url, poolclass=QueuePool, connect_args={"check_same_thread": False})
    engine.update_execution_options(compiled_cache=STATEMENTS)
    engine.dialect = engine.pool._dialect = dialect  # compiled statements are kept by dialect
    db.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys = ON"))
    held = engine.connect()
    template.backup(_raw(held))
    return engine, held


class MemoryEvents(_Copyable, InMemoryEventLogStorage):
    """Events in memory."""

    def __init__(self) -> None:
        self._inst_data = None
        self._handlers = defaultdict(set)
        self._storage_id = 0
        self._db_lock = threading.Lock()
        self._engine, self._held_conn = _open_copy(InMemoryEventLogStorage)
        self._tables = frozenset(db.inspect(self._held_conn).get_table_names())

    @contextmanager
    def _connect(self) -> Iterator[Connection]:
        with self._db_lock, self._engine.begin() as connection:
            yield connection

    def has_table(self, table_name: str) -> bool:
        return table_name in self._tables


class MemoryRuns(_Copyable, InMemoryRunStorage):
    """Runs in memory."""

    def __init__(self) -> None:
        self._engine, self._held_conn = _open_copy(InMemoryRunStorage)

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        with self._engine.begin() as connection:
            yield connection
