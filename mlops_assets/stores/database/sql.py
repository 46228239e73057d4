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

from mlops_assets.errors import MissingExtraError, PlatformError
from mlops_assets.stores.base.lock import exclusive
from mlops_assets.stores.database import migrations
from mlops_assets.stores.database.remains import refuse_remains

if TYPE_CHECKING:
    from collections.abc import Iterator

_PATIENCE = 120  # seconds that a writer waits for another
_WRITERS = 0x6D6C6F7073  # the advisory lock of PostgreSQL that writers hold

_KEPT = 4  # open connections that a process keeps
_MOST = 16  # databases with open connections: each holds three files, and a process may have no more than 1,024
_OPENED: WeakSet[Database] = WeakSet()


class Database:
    """One database, made when missing.

    Parameters
    ----------
    url
        A SQLAlchemy URL.
    """

    def __init__(self, url: str) -> None:
        self.url = _url(url)
        self.engine = _engine(self.url)
        if len(_OPENED) >= _MOST:
            _close_idle()
        _OPENED.add(self)
        try:
            self._make()
        except BaseException:
            self.engine.dispose()
            raise

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """One transaction that no other writer overlaps.

        Raises
        ------
        PlatformError
            Another process has kept the database locked for two minutes, or the disk is full.
        """
        with self._telling(), self.engine.connect() as connection:
            _begin_writing(connection)
            yield connection
            connection.commit()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """One consistent look."""
        with self._telling(), self.engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN")
            else:
                connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection

    def _make(self) -> None:
        path = Path(str(self.engine.url.database))
        with self._telling():
            if self.engine.dialect.name != "sqlite":
                self._bring_up()
            elif not (path.exists() and self._is_current()):
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with exclusive(Path(f"{path}.lock")):  # cold processes racing to make tables
                        if not path.exists() or self._has_no_table():
                            refuse_remains(path)
                        self._bring_up()
                except OSError as error:
                    raise PlatformError(f"the registry '{path}' cannot be written: {error.strerror}", hint=_WRITABLE) from error

    def _is_current(self) -> bool:
        with self.engine.connect() as connection:
            return migrations.is_current(connection)

    def _has_no_table(self) -> bool:
        """Whether a file was emptied, or given a head and nothing else by a process that looked into the empty file."""
        with self.engine.connect() as connection:
            return migrations.revision(connection) is None

    def _bring_up(self) -> None:
        if self._is_current():
            return
        with self.engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("PRAGMA foreign_keys = OFF")  # a table that is made anew is dropped on the way
            _begin_writing(connection)
            migrations.bring_up(connection)
            connection.commit()
            connection.invalidate()  # not kept: what is checked is off in it

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Say what the database's own errors mean here."""
        where = self.engine.url.render_as_string(hide_password=True)
        try:
            yield
        except sa.exc.DatabaseError as error:
            if type(error) not in (sa.exc.DatabaseError, sa.exc.OperationalError):
                raise  # of a statement, not of the database
            raise PlatformError(f"the registry '{where}' failed: {str(error.orig).strip()}", hint=_hint(str(error.orig))) from error


_WRITABLE = "make its folder writable, or set MLOPS_HOME"


def _hint(told: str) -> str:
    if "locked" in told:
        return "another process has written for longer than two minutes: look for it, stop it, and say this again"
    if "full" in told or "No space" in told:
        return "nothing was recorded: make room on the disk, and say this again"
    if "malformed" in told or "not a database" in told or "no such" in told:
        return "the file is damaged: restore it from a backup; `mlops doctor` looks at everything else"
    return _WRITABLE if "readonly" in told or "unable to open" in told else "see whether the database server runs, and MLOPS_REGISTRY"


def _begin_writing(connection: sa.Connection) -> None:
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_WRITERS)))


def _url(url: str) -> str:
    """Name the driver that the extra installs."""
    return re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url)


def _engine(url: str) -> sa.Engine:
    if not url.startswith("sqlite"):
        try:
            return sa.create_engine(url, pool_size=_KEPT, max_overflow=16, pool_use_lifo=True)
        except ImportError as error:
            raise MissingExtraError.from_extra("psycopg", "postgres") from error
    engine = sa.create_engine(url, connect_args={"timeout": _PATIENCE}, pool_size=_KEPT, max_overflow=-1, pool_use_lifo=True)
    path = Path(str(engine.url.database))

    @sa.event.listens_for(engine, "connect")
    def _pragmas(connection, record) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001  (SQLAlchemy's hook)
        record.info["file"] = _file(path)
        connection.isolation_level = None  # transactions begin where we say so, with the lock that we name
        connection.execute(f"PRAGMA busy_timeout = {_PATIENCE * 1000}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @sa.event.listens_for(engine, "checkout")
    def _same_file(_connection, record, _proxy) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001  (SQLAlchemy's hook)
        if record.info["file"] != _file(path):  # put there from a backup since: what is open is a file without a name
            raise sa.exc.DisconnectionError

    return engine


def _file(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _close_idle() -> None:
    """Close what lies in pools before a fork: SQLite's locks and a server's sockets belong to one process."""
    for opened in list(_OPENED):
        opened.engine.dispose()


os.register_at_fork(before=_close_idle)


@cache
def database(url: str) -> Database:
    """Return the database at ``url``, the same in the whole process."""
    return Database(url)


def examined(url: str) -> tuple[str | None, str]:
    """Look at a database without making or migrating it: its revision (None when it has no tables yet), and what is broken in it.

    Parameters
    ----------
    url
        A SQLAlchemy URL.
    """
    engine = _engine(_url(url))
    path = Path(str(engine.url.database))
    try:
        is_file = engine.dialect.name == "sqlite"
        if is_file and (not path.exists() or not path.stat().st_size):
            refuse_remains(path)
            return None, ""
        with engine.connect() as connection:
            told = connection.exec_driver_sql("PRAGMA integrity_check").scalar() if is_file else "ok"
            revision = migrations.revision(connection)
        if is_file and told == "ok" and revision is None:
            refuse_remains(path)
        return revision, "" if told == "ok" else str(told)
    except sa.exc.DatabaseError as error:
        return None, str(error.orig).strip()
    finally:
        engine.dispose()


def now() -> str:
    """Return this instant as text that sorts."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def finite(value: float | None) -> float | None:
    """Return a number that a database can hold, or None."""
    return None if value is None or not math.isfinite(value) else float(value)
