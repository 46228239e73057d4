"""The database of tracker, registry and attempts: SQLite by default, through SQLAlchemy."""

from __future__ import annotations

import math
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from mlops_assets.errors import PlatformError
from mlops_assets.stores.lock import exclusive

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA_VERSION = 1
META = sa.MetaData()

schema_version = sa.Table("mlops_schema", META, sa.Column("version", sa.Integer, primary_key=True))
runs = sa.Table(
    "mlops_runs",
    META,
    sa.Column("sequence", sa.Integer, primary_key=True),
    sa.Column("id", sa.String(64), unique=True, nullable=False),
    sa.Column("model", sa.String(64), nullable=False, index=True),
    sa.Column("fingerprint", sa.String(64), nullable=False, index=True),
    sa.Column("dagster_run_id", sa.String(64), nullable=False),
    sa.Column("started_at", sa.String(40), nullable=False),
    sa.Column("ended_at", sa.String(40), nullable=False),
    sa.Column("snapshot", sa.Integer, nullable=False),
    sa.Column("params", sa.JSON, nullable=False),
    sa.Column("record", sa.JSON, nullable=False),
)
metrics = sa.Table(
    "mlops_metrics",
    META,
    sa.Column("run_id", sa.String(64), sa.ForeignKey("mlops_runs.id"), primary_key=True),
    sa.Column("name", sa.String(200), primary_key=True),
    sa.Column("value", sa.Float, nullable=True),
    sa.Column("text", sa.String(20), nullable=False, default=""),
)
candidates = sa.Table(
    "mlops_candidates",
    META,
    sa.Column("model", sa.String(64), primary_key=True),
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("run_id", sa.String(64), nullable=False),
    sa.Column("artifact", sa.String(64), nullable=False),
    sa.Column("snapshot", sa.Integer, nullable=False),
    sa.Column("created_at", sa.String(40), nullable=False),
)
waiting = sa.Table(
    "mlops_waiting",
    META,
    sa.Column("environment", sa.String(64), primary_key=True),
    sa.Column("model", sa.String(64), primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False),
)
evidence = sa.Table(
    "mlops_evidence",
    META,
    sa.Column("environment", sa.String(64), primary_key=True),
    sa.Column("model", sa.String(64), primary_key=True),
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("gate", sa.String(200), primary_key=True),
    sa.Column("definition", sa.String(64), nullable=False),
    sa.Column("relative", sa.Boolean, nullable=False),
    sa.Column("champion", sa.String(64), nullable=False),
    sa.Column("passed", sa.Boolean, nullable=False),
    sa.Column("value", sa.Float, nullable=True),
    sa.Column("threshold", sa.Float, nullable=True),
    sa.Column("reason", sa.Text, nullable=False),
)
versions = sa.Table(
    "mlops_versions",
    META,
    sa.Column("model", sa.String(64), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("run_id", sa.String(64), nullable=False),
    sa.Column("artifact", sa.String(64), nullable=False),
    sa.Column("snapshot", sa.Integer, nullable=False),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.UniqueConstraint("model", "digest"),
)
aliases = sa.Table(
    "mlops_aliases",
    META,
    sa.Column("environment", sa.String(64), primary_key=True),
    sa.Column("model", sa.String(64), primary_key=True),
    sa.Column("alias", sa.String(64), primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
)
alias_log = sa.Table(
    "mlops_alias_log",
    META,
    sa.Column("sequence", sa.Integer, primary_key=True),
    sa.Column("environment", sa.String(64), nullable=False),
    sa.Column("model", sa.String(64), nullable=False),
    sa.Column("alias", sa.String(64), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("previous", sa.Integer, nullable=True),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("actor", sa.String(200), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("evidence", sa.JSON, nullable=False),
    sa.Column("at", sa.String(40), nullable=False),
)
approvals = sa.Table(
    "mlops_approvals",
    META,
    sa.Column("sequence", sa.Integer, primary_key=True),
    sa.Column("environment", sa.String(64), nullable=False),
    sa.Column("model", sa.String(64), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("approved", sa.Boolean, nullable=False),
    sa.Column("approver", sa.String(200), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("at", sa.String(40), nullable=False),
)
reports = sa.Table(
    "mlops_reports",
    META,
    sa.Column("sequence", sa.Integer, primary_key=True),
    sa.Column("environment", sa.String(64), nullable=False),
    sa.Column("monitor", sa.String(64), nullable=False, index=True),
    sa.Column("model", sa.String(64), nullable=False),
    sa.Column("partition", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("state", sa.String(40), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("end", sa.String(40), nullable=False),
)
decisions = sa.Table(
    "mlops_decisions",
    META,
    sa.Column("environment", sa.String(64), primary_key=True),
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("monitor", sa.String(64), nullable=False),
    sa.Column("model", sa.String(64), nullable=False, index=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("partition", sa.String(64), nullable=False),
    sa.Column("opened", sa.String(40), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("evidence", sa.JSON, nullable=False),
    sa.Column("closed", sa.Text, nullable=False),
    sa.Column("recorded_at", sa.String(40), nullable=False),
)
trainings = sa.Table(
    "mlops_trainings",
    META,
    sa.Column("environment", sa.String(64), primary_key=True),
    sa.Column("model", sa.String(64), primary_key=True),
    sa.Column("run_id", sa.String(64), primary_key=True),
    sa.Column("decision", sa.String(64), nullable=True),
    sa.Column("as_of", sa.String(40), nullable=False),
    sa.Column("version", sa.Integer, nullable=True),
    sa.Column("outcome", sa.String(20), nullable=False),
    sa.Column("started_at", sa.String(40), nullable=False),
)
attempts = sa.Table(
    "mlops_attempts",
    META,
    sa.Column("sequence", sa.Integer, primary_key=True),
    sa.Column("table_name", sa.String(130), nullable=False, index=True),
    sa.Column("partition", sa.String(64), nullable=False),
    sa.Column("inputs", sa.String(64), nullable=False),
    sa.Column("run_id", sa.String(64), nullable=False),
    sa.Column("started_at", sa.String(40), nullable=False),
    sa.Column("error", sa.Text, nullable=True),
)
view_versions = sa.Table(
    "mlops_view_versions",
    META,
    sa.Column("sequence", sa.Integer, primary_key=True),
    sa.Column("view", sa.String(64), nullable=False, index=True),
    sa.Column("version", sa.String(16), nullable=False),
    sa.Column("definition", sa.JSON, nullable=False),
    sa.Column("snapshot", sa.Integer, nullable=False),
    sa.Column("recorded_at", sa.String(40), nullable=False),
    sa.Column("removed_at", sa.String(40), nullable=True),
)
erasures = sa.Table(
    "mlops_erasures",
    META,
    sa.Column("sequence", sa.Integer, primary_key=True),
    sa.Column("at", sa.String(40), nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("actor", sa.String(200), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("entity", sa.Text, nullable=False),
    sa.Column("facts", sa.JSON, nullable=False),
)

_IMMUTABLE = ("mlops_versions", "mlops_alias_log", "mlops_approvals", "mlops_erasures")


class Database:
    """One database, made when missing.

    Parameters
    ----------
    url
        A SQLAlchemy URL.
    """

    def __init__(self, url: str) -> None:
        self.engine = _engine(url)
        self._make(url)

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """One transaction that no other writer overlaps."""
        with self.engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                connection.exec_driver_sql("LOCK TABLE mlops_schema IN EXCLUSIVE MODE")
            yield connection
            connection.commit()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """One consistent look."""
        with self.engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN")
            yield connection

    def _make(self, url: str) -> None:
        path = sa.make_url(url).database
        if self.engine.dialect.name != "sqlite" or not path:
            self._create()
            return
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with exclusive(Path(f"{path}.lock")):  # cold processes racing to create tables
                self._create()
        except OSError as error:
            raise PlatformError(
                f"the registry '{path}' cannot be written: {error.strerror}", hint="make its folder writable, or set MLOPS_HOME"
            ) from error

    def _create(self) -> None:
        with self.engine.connect() as connection:
            META.create_all(connection)
            found = connection.execute(sa.select(schema_version.c.version)).scalar()
            if found is None:
                connection.execute(schema_version.insert().values(version=SCHEMA_VERSION))
            elif found > SCHEMA_VERSION:
                raise PlatformError(f"the registry has schema {found}, this program knows {SCHEMA_VERSION}", hint="upgrade mlops_assets")
            if connection.dialect.name == "sqlite":
                _forbid_changes(connection)
            connection.commit()


def _forbid_changes(connection: sa.Connection) -> None:
    for table in _IMMUTABLE:
        for action in ("UPDATE", "DELETE"):
            connection.exec_driver_sql(
                f"CREATE TRIGGER IF NOT EXISTS {table}_no_{action.lower()} BEFORE {action} ON {table} BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )


def _engine(url: str) -> sa.Engine:
    if not url.startswith("sqlite"):
        return sa.create_engine(url)
    engine = sa.create_engine(url, connect_args={"timeout": 30}, poolclass=sa.NullPool)

    @sa.event.listens_for(engine, "connect")
    def _pragmas(connection, _record) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001  (SQLAlchemy's hook)
        connection.isolation_level = None  # transactions begin where we say so, with the lock that we name
        connection.execute("PRAGMA busy_timeout = 30000")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    return engine


@cache
def database(url: str) -> Database:
    """Return the database at ``url``, the same in the whole process."""
    return Database(url)


def now() -> str:
    """Return this instant as text that sorts."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def finite(value: float | None) -> float | None:
    """Return a number that a database can hold, or None."""
    return None if value is None or not math.isfinite(value) else float(value)
