"""The database of tracker, registry and attempts: SQLite by default, through SQLAlchemy."""

from __future__ import annotations

import math
import os
import re
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakSet

import sqlalchemy as sa

from mlops_assets.errors import InstallationError, MissingExtraError, RegistryError
from mlops_assets.stores.base.lock import hold_lock
from mlops_assets.stores.database import migrations

if TYPE_CHECKING:
    from collections.abc import Iterator

_BUSY_TIMEOUT = 120  # seconds that a writer waits for another
_WRITER_LOCK = 0x6D6C6F7073  # the advisory lock of PostgreSQL that writers hold

_SHA256_LENGTH = 64
_POOL_SIZE = 4  # open connections that a process keeps
_MAX_OPEN = 16  # databases with open connections: each holds three files, and a process may open 1,024
_OPEN_DATABASES: WeakSet[Database] = WeakSet()


class Database:
    """One database, created or migrated to this program's revision if needed.

    Parameters
    ----------
    url
        A SQLAlchemy URL.

    Raises
    ------
    InstallationError
        The database cannot be opened or written, or a newer version of the program made it.
    RegistryError
        The SQLite file is missing or empty, but artifacts or prediction logs of an earlier registry remain.
    MissingExtraError
        The driver of the database is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = _add_driver(url)
        self.engine = _create_engine(self.url)
        if len(_OPEN_DATABASES) >= _MAX_OPEN:
            _close_idle()
        _OPEN_DATABASES.add(self)
        try:
            self._prepare()
        except BaseException:
            self.engine.dispose()
            raise

    @contextmanager
    def write_transaction(self) -> Iterator[sa.Connection]:
        """Run a transaction that excludes all other writers; it is rolled back on an exception.

        Raises
        ------
        InstallationError
            The database fails, e.g. because another process has kept it locked for two minutes, or because the disk is full.
        """
        with self._translate_errors(), self.engine.connect() as connection:
            _begin_writing(connection)
            yield connection
            connection.commit()

    @contextmanager
    def read_transaction(self) -> Iterator[sa.Connection]:
        """Run a transaction that reads one consistent state."""
        with self._translate_errors(), self.engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN")
            else:
                connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection

    def _prepare(self) -> None:
        """Create or migrate the tables if needed.

        On SQLite, a file lock is held, and no tables are created where an earlier registry left files.
        """
        path = Path(str(self.engine.url.database))
        with self._translate_errors():
            if self.engine.dialect.name != "sqlite":
                self._migrate()
            elif not (path.exists() and self._is_current()):
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with hold_lock(Path(f"{path}.lock")):  # several new processes may try to create the tables
                        if not path.exists() or self._has_no_table():
                            _refuse_leftovers(path)
                        self._migrate()
                except OSError as error:
                    raise InstallationError(f"the registry '{path}' cannot be written: {error.strerror}", hint=_WRITABLE_HINT) from error

    def _is_current(self) -> bool:
        with self.engine.connect() as connection:
            return migrations.is_current(connection)

    def _has_no_table(self) -> bool:
        """Return whether the database has no tables of this package; a file that was only opened has none."""
        with self.engine.connect() as connection:
            return migrations.read_revision(connection) is None

    def _migrate(self) -> None:
        """Migrate in one transaction, unless another process has done so meanwhile."""
        if self._is_current():
            return
        with self.engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("PRAGMA foreign_keys = OFF")  # a table that is rebuilt is dropped in between
            _begin_writing(connection)
            migrations.migrate(connection)
            connection.commit()
            connection.invalidate()  # discard it: its foreign keys are off

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Translate errors of the database into InstallationError, but not errors of a statement, such as a violated constraint."""
        where = self.engine.url.render_as_string(hide_password=True)
        try:
            yield
        except sa.exc.DatabaseError as error:
            if type(error) not in (sa.exc.DatabaseError, sa.exc.OperationalError):
                raise
            raise InstallationError(
                f"the registry '{where}' failed: {str(error.orig).strip()}", hint=_build_hint(str(error.orig))
            ) from error


_WRITABLE_HINT = "make its folder writable, or set MLOPS_HOME"


def _build_hint(message: str) -> str:
    if "locked" in message:
        return "another process has been writing for longer than two minutes: find it, stop it, and run this command again"
    if "full" in message or "No space" in message:
        return "nothing was recorded: free disk space, and run this command again"
    if "malformed" in message or "not a database" in message or "no such" in message:
        return "the file is damaged: restore it from a backup; `mlops doctor` checks everything else"
    return (
        _WRITABLE_HINT
        if "readonly" in message or "unable to open" in message
        else "check that the database server runs, and the value of MLOPS_REGISTRY"
    )


def _begin_writing(connection: sa.Connection) -> None:
    """Begin a transaction that waits for other writers: SQLite's write lock, or an advisory lock of PostgreSQL."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_WRITER_LOCK)))


def _add_driver(url: str) -> str:
    """Return a PostgreSQL URL with the driver psycopg; other URLs are returned as they are."""
    return re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url)


def _create_engine(url: str) -> sa.Engine:
    """Return an engine for a URL. For SQLite, it reopens its connections when the file was replaced."""
    if not url.startswith("sqlite"):
        try:
            return sa.create_engine(url, pool_size=_POOL_SIZE, max_overflow=16, pool_use_lifo=True)
        except ImportError as error:
            raise MissingExtraError.from_extra("psycopg", "postgres") from error
    engine = sa.create_engine(url, connect_args={"timeout": _BUSY_TIMEOUT}, pool_size=_POOL_SIZE, max_overflow=-1, pool_use_lifo=True)
    path = Path(str(engine.url.database))

    @sa.event.listens_for(engine, "connect")
    def _set_pragmas(connection, record) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001  (SQLAlchemy's hook)
        record.info["file"] = _read_file_identity(path)
        connection.isolation_level = None  # transactions begin explicitly, with an explicit lock
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT * 1000}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @sa.event.listens_for(engine, "checkout")
    def _reconnect_to_replaced_file(_connection, record, _proxy) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001  (SQLAlchemy's hook)
        if record.info["file"] != _read_file_identity(path):  # the path now has another file, e.g. from a backup
            raise sa.exc.DisconnectionError  # the pool opens a new connection

    return engine


def _read_file_identity(path: Path) -> tuple[int, int] | None:
    try:
        info = path.stat()
    except FileNotFoundError:
        return None
    return info.st_dev, info.st_ino


def _close_idle() -> None:
    """Close the idle connections of all databases.

    This limits the number of open files. Before a fork it is required: SQLite's locks and a server's sockets belong to one process.
    """
    for opened in list(_OPEN_DATABASES):
        opened.engine.dispose()


os.register_at_fork(before=_close_idle)


@cache
def open_database(url: str) -> Database:
    """Return the database at ``url``; all callers in a process share one object."""
    return Database(url)


def inspect_database(url: str) -> tuple[str | None, str]:
    """Return the revision of a database and its damage, without creating or migrating it.

    The revision is None when the database has no tables or cannot be read. The damage is ``""`` when the database is intact.

    Parameters
    ----------
    url
        A SQLAlchemy URL.

    Raises
    ------
    RegistryError
        The SQLite file is missing or empty, but artifacts or prediction logs of an earlier registry remain.
    """
    engine = _create_engine(_add_driver(url))
    path = Path(str(engine.url.database))
    try:
        is_file = engine.dialect.name == "sqlite"
        if is_file and (not path.exists() or not path.stat().st_size):
            _refuse_leftovers(path)
            return None, ""
        with engine.connect() as connection:
            message = connection.exec_driver_sql("PRAGMA integrity_check").scalar() if is_file else "ok"
            revision = migrations.read_revision(connection)
        if is_file and message == "ok" and revision is None:
            _refuse_leftovers(path)
        return revision, "" if message == "ok" else str(message)
    except sa.exc.DatabaseError as error:
        return None, str(error.orig).strip()
    finally:
        engine.dispose()


def _refuse_leftovers(registry: Path) -> None:
    """Raise RegistryError when a registry is missing or empty, but artifacts or prediction logs of an earlier registry remain."""
    home = registry.parent
    leftovers = {
        "artifact(s)": [path for path in (home / "artifacts" / "sha256").glob("*/*") if len(path.name) == _SHA256_LENGTH],
        "prediction log file(s)": list((home / "services").glob("*/log/*/*.jsonl")),
    }
    remains = [f"{len(files)} {kind}, such as '{files[0]}'," for kind, files in leftovers.items() if files]
    if remains:
        raise RegistryError(
            f"the registry '{registry}' is missing or empty, but {' and '.join(remains)} remain",
            hint=f"restore '{registry.name}' from a backup; to begin again without versions and runs, move the remains away first",
        )


def timestamp() -> str:
    """Return the current time in UTC as ISO 8601 text with microseconds, which sorts by time."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def finite_or_none(value: float | None) -> float | None:
    """Return a number as float; None when it is None, NaN or infinite."""
    return None if value is None or not math.isfinite(value) else float(value)
