"""The run tracker: what was trained, from what, with what result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import sqlalchemy as sa

from mlops_assets.errors import RegistryError
from mlops_assets.stores import sql


@dataclass(frozen=True)
class Run:
    """One finished training.

    Parameters
    ----------
    fingerprint
        Hash of everything that decides the result: data, code, parameters, libraries.
    snapshot
        The state of the lake it read.
    record
        Enough to train it again, as JSON.
    """

    id: str
    model: str
    fingerprint: str
    dagster_run_id: str
    started_at: datetime
    ended_at: datetime
    snapshot: int
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    record: Mapping[str, Any]


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
        row = {name: getattr(run, name) for name in ("id", "model", "fingerprint", "dagster_run_id", "snapshot")}
        with self._database.writing() as connection:
            if connection.execute(sa.select(sql.runs.c.id).filter_by(id=run.id)).first():
                return
            times = {"started_at": run.started_at.isoformat(), "ended_at": run.ended_at.isoformat()}
            connection.execute(sql.runs.insert().values(**row, **times, params=dict(run.params), record=dict(run.record)))
            values = [
                {"run_id": run.id, "name": n, "value": sql.finite(v), "text": "" if sql.finite(v) is not None else str(v)}
                for n, v in run.metrics.items()
            ]
            if values:
                connection.execute(sql.metrics.insert(), values)

    def get(self, run_id: str) -> Run:
        """Return a run; raise RegistryError when there is none."""
        found = self._runs(sa.select(sql.runs).filter_by(id=run_id))
        if not found:
            raise RegistryError(f"there is no run '{run_id}'", hint="`mlops status` shows the latest runs")
        return found[0]

    def find(self, model: str, fingerprint: str) -> Run | None:
        """Return the newest run with a fingerprint."""
        found = self._runs(
            sa.select(sql.runs).filter_by(model=model, fingerprint=fingerprint).order_by(sql.runs.c.sequence.desc()).limit(1)
        )
        return found[0] if found else None

    def list(self, model: str | None = None, limit: int = 100) -> Sequence[Run]:
        """Return runs, newest first; of every model when None."""
        query = sa.select(sql.runs).order_by(sql.runs.c.sequence.desc()).limit(limit)
        return self._runs(query if model is None else query.filter_by(model=model))

    def _runs(self, query: sa.Select[Any]) -> Sequence[Run]:
        with self._database.reading() as connection:
            rows = connection.execute(query).mappings().all()
            return [_run(row, connection) for row in rows]


def _run(row: sa.RowMapping, connection: sa.Connection) -> Run:
    values = connection.execute(sa.select(sql.metrics).filter_by(run_id=row["id"]).order_by(sql.metrics.c.name)).mappings()
    metrics = {v["name"]: float(v["text"]) if v["value"] is None else v["value"] for v in values}
    times: dict[str, Any] = {name: datetime.fromisoformat(row[name]) for name in ("started_at", "ended_at")}
    return Run(**{k: v for k, v in row.items() if k not in ("sequence", *times)}, **times, metrics=metrics)


def open_tracker(url: str) -> SqlTracker:
    """Open the tracker at a SQLAlchemy URL."""
    return SqlTracker(sql.database(url))
