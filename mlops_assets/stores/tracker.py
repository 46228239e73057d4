"""The run tracker: what was trained, from what, with what result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import sqlalchemy as sa

from mlops_assets.errors import RegistryError
from mlops_assets.stores import schema, sql


@dataclass(frozen=True)
class Run:
    """One training, trial, or run of a notebook or script.

    Parameters
    ----------
    model
        Of a model, its name; of a notebook's run, that of its experiment.
    fingerprint
        Hash of everything that decides the result: data, code, parameters, libraries; empty when that is not known.
    ended_at
        None while it goes on.
    snapshot
        The state of the lake it read; None when it read none.
    metrics
        The last value of each.
    record
        Enough to train it again, as JSON.
    kind
        ``training``, ``trial`` or ``run``.
    parent_id
        The run that this one is a part of.
    status
        ``running``, ``finished``, ``failed`` or ``pruned``.
    error
        Why it failed.
    """

    id: str
    model: str
    fingerprint: str
    dagster_run_id: str
    started_at: datetime
    ended_at: datetime | None
    snapshot: int | None
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    record: Mapping[str, Any]
    environment: str = "dev"
    kind: str = "training"
    name: str = ""
    parent_id: str | None = None
    status: str = "finished"
    error: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


_NOT_PLAIN = ("sequence", "started_at", "ended_at", "params", "record", "tags")


class Tracker(Protocol):
    """Finished runs."""

    def add(self, run: Run) -> None:
        """Record a run; recording it again changes nothing."""
        ...

    def get(self, run_id: str) -> Run:
        """Return a run."""
        ...

    def find(self, model: str, fingerprint: str) -> Run | None:
        """Return the newest run with a fingerprint."""
        ...

    def list(self, model: str | None = None, limit: int = 100) -> Sequence[Run]:
        """Return runs, newest first."""
        ...


class SqlTracker:
    """The tracker in a database."""

    def __init__(self, database: sql.Database) -> None:
        self._database = database

    def add(self, run: Run) -> None:
        """Record a run and its metrics in one transaction."""
        row = {column.name: getattr(run, column.name) for column in schema.runs.c if column.name not in _NOT_PLAIN}
        with self._database.writing() as connection:
            if connection.execute(sa.select(schema.runs.c.id).filter_by(id=run.id)).first():
                return
            texts = {name: dict(getattr(run, name)) for name in ("params", "record", "tags")}
            times = {"started_at": run.started_at.isoformat(), "ended_at": run.ended_at.isoformat() if run.ended_at else None}
            connection.execute(schema.runs.insert().values(**row, **times, **texts))
            if values := [_metric(run.id, name, value) for name, value in run.metrics.items()]:
                connection.execute(schema.metrics.insert(), values)

    def get(self, run_id: str) -> Run:
        """Return a run; raise RegistryError when there is none."""
        found = self._runs(sa.select(schema.runs).filter_by(id=run_id))
        if not found:
            raise RegistryError(f"there is no run '{run_id}'", hint="`mlops status` shows the latest runs")
        return found[0]

    def find(self, model: str, fingerprint: str) -> Run | None:
        """Return the newest run with a fingerprint."""
        found = self._runs(
            sa.select(schema.runs).filter_by(model=model, fingerprint=fingerprint).order_by(schema.runs.c.sequence.desc()).limit(1)
        )
        return found[0] if found else None

    def list(self, model: str | None = None, limit: int = 100) -> Sequence[Run]:
        """Return runs, newest first; of every model when None."""
        query = sa.select(schema.runs).order_by(schema.runs.c.sequence.desc()).limit(limit)
        return self._runs(query if model is None else query.filter_by(model=model))

    def _runs(self, query: sa.Select[Any]) -> Sequence[Run]:
        with self._database.reading() as connection:
            rows = connection.execute(query).mappings().all()
            return [_run(row, connection) for row in rows]


def _metric(run_id: str, name: str, value: float) -> dict[str, Any]:
    known = sql.finite(value)
    return {"run_id": run_id, "name": name, "value": known, "low": known, "high": known, "text": "" if known is not None else str(value)}


def _run(row: sa.RowMapping, connection: sa.Connection) -> Run:
    values = connection.execute(sa.select(schema.metrics).filter_by(run_id=row["id"]).order_by(schema.metrics.c.name)).mappings()
    metrics = {v["name"]: float(v["text"]) if v["value"] is None else v["value"] for v in values}
    times: dict[str, Any] = {name: datetime.fromisoformat(row[name]) if row[name] else None for name in ("started_at", "ended_at")}
    return Run(**{k: v for k, v in row.items() if k not in ("sequence", *times)}, **times, metrics=metrics)


def open_tracker(url: str) -> SqlTracker:
    """Open the tracker at a SQLAlchemy URL."""
    return SqlTracker(sql.database(url))
