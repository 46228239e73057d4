"""The run tracker: recorded runs with their parameters, metrics and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Protocol

import sqlalchemy as sa

from mlops_assets.errors import RegistryError
from mlops_assets.stores.base.process import is_gone
from mlops_assets.stores.database import sql
from mlops_assets.stores.database.schema import curves, metrics, run_artifacts, runs
from mlops_assets.stores.tracker.queries import build_run_frame, find_run_ids, last_values_query, split_ids
from mlops_assets.stores.tracker.run_batch import Batch, Curve, RunArtifact, RunEnd, build_metric_row, unpack_curve, write_batch

if TYPE_CHECKING:
    import polars as pl

RUNNING, FINISHED, FAILED, PRUNED, KILLED = "running", "finished", "failed", "pruned", "killed"


@dataclass(frozen=True)
class Run:
    """One training, trial, refit, or run of a notebook or script.

    Parameters
    ----------
    model
        The name of the model, or of the experiment for a run of a notebook or script.
    fingerprint
        The hash of everything that decides the result: data, code, parameters, libraries; empty when unknown.
    started_at, ended_at
        Times with a time zone. The end is None while the run is active, and when its process was killed.
    snapshot
        The snapshot of the lake that the run read; None when it read none.
    metrics
        The last value of each metric.
    record
        The facts needed to reproduce the run: JSON values.
    kind
        ``training``, ``trial``, ``refit`` (the second fit of a training) or ``run`` (of a notebook or script).
    parent_id
        The id of the parent run.
    status
        ``running``, ``finished``, ``failed``, ``pruned``, or ``killed`` when its process ended without ending the run.
    error
        The reason why the run failed or was killed; empty otherwise.
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


_CONVERTED = ("sequence", "started_at", "ended_at", "params", "record", "tags")


class Tracker(Protocol):
    """The interface of a store of runs. :class:`SqlTracker` documents parameters and errors."""

    def add(self, run: Run) -> None:
        """Record a run and its metrics; a run whose id is recorded already does not change."""
        ...

    def write_batch(self, run_id: str, batch: Batch, ending: RunEnd | None = None) -> None:
        """Write a batch of an active run, and the run's end if given."""
        ...

    def get(self, run_id: str) -> Run:
        """Return a run by its id or by a unique prefix of the id."""
        ...

    def find(self, model: str, fingerprint: str) -> Run | None:
        """Return the newest finished training of a model with a fingerprint; None when there is none."""
        ...

    def search(self, where: str = "", order_by: str = "", limit: int = 100, offset: int = 0) -> Sequence[Run]:
        """Return the runs that match a filter, in an order."""
        ...

    def curves(self, run_id: str) -> Mapping[str, Curve]:
        """Return metric → its curve, for each metric that was logged with steps."""
        ...


class SqlTracker:
    """The tracker in a database.

    :meth:`get`, :meth:`list`, :meth:`search` and :meth:`frame` call :meth:`reap` first, so that no killed run seems to be active.

    Parameters
    ----------
    database
        The database.
    reaps
        Whether to mark killed runs; False for a reader that must not change the database.
    """

    def __init__(self, database: sql.Database, *, reaps: bool = True) -> None:
        self._database = database
        self._reaps = reaps

    def add(self, run: Run) -> None:
        """Record a run and its metrics in one transaction; a run whose id is recorded already does not change."""
        row = {column.name: getattr(run, column.name) for column in runs.c if column.name not in _CONVERTED}
        with self._database.write_transaction() as connection:
            if connection.execute(sa.select(runs.c.id).filter_by(id=run.id)).first():
                return
            texts = {name: dict(getattr(run, name)) for name in ("params", "record", "tags")}
            times = {"started_at": run.started_at.isoformat(), "ended_at": run.ended_at.isoformat() if run.ended_at else None}
            connection.execute(runs.insert().values(**row, **times, **texts))
            if values := [{"run_id": run.id, "name": name, **build_metric_row(value)} for name, value in run.metrics.items()]:
                connection.execute(metrics.insert(), values)

    def write_batch(self, run_id: str, batch: Batch, ending: RunEnd | None = None) -> None:
        """Write a batch of an active run, and the run's end if given, in one transaction.

        Parameters
        ----------
        run_id
            The run; an unknown id raises RegistryError.
        batch
            The logged values.
        ending
            None while the run is active.
        """
        with self._database.write_transaction() as connection:
            write_batch(connection, run_id, batch, ending)

    def get(self, run_id: str) -> Run:
        """Return a run by its id or by a unique prefix of the id; raise RegistryError when no run or several runs match."""
        self.reap()
        with self._database.read_transaction() as connection:
            matching = sa.or_(runs.c.id == run_id, runs.c.id.startswith(run_id, autoescape=True)) if run_id else sa.false()
            ids: list[str] = list(
                connection.execute(sa.select(runs.c.id).where(matching).order_by(sa.func.length(runs.c.id)).limit(3)).scalars()
            )
            if not ids or (len(ids) > 1 and ids[0] != run_id):
                message = f"'{run_id}' is a prefix of several run ids" if ids else f"there is no run '{run_id}'"
                raise RegistryError(message, hint="`mlops runs list` shows the latest runs")
            return _load_runs(connection, ids[:1])[0]

    def find(self, model: str, fingerprint: str) -> Run | None:
        """Return the newest finished training of a model with a fingerprint; None when there is none."""
        criteria = {"model": model, "fingerprint": fingerprint, "status": FINISHED, "kind": "training"}
        with self._database.read_transaction() as connection:
            newest = sa.select(runs.c.id).filter_by(**criteria).order_by(runs.c.sequence.desc()).limit(1)
            loaded = _load_runs(connection, list(connection.execute(newest).scalars()))
        return loaded[0] if loaded else None

    def list(self, model: str | None = None, limit: int = 100) -> Sequence[Run]:
        """Return at most ``limit`` runs of a model, or of every model when None, newest first."""
        self.reap()
        query = sa.select(runs.c.id).order_by(runs.c.sequence.desc()).limit(limit)
        with self._database.read_transaction() as connection:
            return _load_runs(connection, list(connection.execute(query if model is None else query.filter_by(model=model)).scalars()))

    def search(self, where: str = "", order_by: str = "", limit: int = 100, offset: int = 0) -> Sequence[Run]:
        """Return the runs that match a filter, in an order.

        Parameters
        ----------
        where
            E.g. ``metrics.roc_auc > 0.7 and params.depth >= 3 and tags.team = 'x'``; see :mod:`mlops_assets.stores.tracker.filters`.
        order_by
            E.g. ``metrics.roc_auc desc``. Runs without the field come last. When the order is empty or values are equal, newer runs come
            first.
        limit, offset
            The maximum number of runs, and how many to skip first.

        Raises
        ------
        RegistryError
            The filter or order cannot be parsed, or names a metric, parameter or tag that no run has.
        """
        self.reap()
        with self._database.read_transaction() as connection:
            return _load_runs(connection, find_run_ids(connection, where, order_by, limit, offset))

    def frame(self, where: str = "", order_by: str = "", limit: int | None = None) -> pl.DataFrame:
        """Return runs as a frame, one row each.

        Parameters
        ----------
        where, order_by
            As in :meth:`search`.
        limit
            The maximum number of runs; all when None.

        Returns
        -------
        polars.DataFrame
            Columns of the run, then ``params.…``, ``metrics.…`` (the last values) and ``tags.…``.

        Raises
        ------
        RegistryError
            As in :meth:`search`.
        """
        self.reap()
        with self._database.read_transaction() as connection:
            everything = not where and not order_by and limit is None
            return build_run_frame(connection, None if everything else find_run_ids(connection, where, order_by, limit, 0))

    def load(self, run_ids: Sequence[str]) -> Mapping[str, Run]:
        """Return id → run for whole ids; unknown ids are omitted."""
        with self._database.read_transaction() as connection:
            known: Sequence[str] = list(connection.execute(sa.select(runs.c.id).where(runs.c.id.in_(run_ids))).scalars())
            return {run.id: run for run in _load_runs(connection, known)}

    def curves(self, run_id: str) -> Mapping[str, Curve]:
        """Return metric → its curve, for each metric that was logged with steps."""
        query = sa.select(curves).where(curves.c.run_id == run_id).order_by(curves.c.name, curves.c.part)
        with self._database.read_transaction() as connection:
            parts = connection.execute(query).mappings().all()
        return {name: unpack_curve(list(group)) for name, group in groupby(parts, key=itemgetter("name"))}

    def artifacts(self, run_id: str) -> Sequence[RunArtifact]:
        """Return the files of a run, sorted by name."""
        query = sa.select(run_artifacts).where(run_artifacts.c.run_id == run_id).order_by(run_artifacts.c.name)
        with self._database.read_transaction() as connection:
            return [RunArtifact(row.name, row.sha256, row.size, row.media) for row in connection.execute(query)]

    def pinned_snapshots(self) -> Sequence[tuple[str, str, int]]:
        """Return id, model and snapshot of every run whose snapshot must be kept: finished runs may be reproduced, active runs read it."""
        needed = sa.and_(runs.c.snapshot.is_not(None), runs.c.status.in_((FINISHED, RUNNING)))
        with self._database.read_transaction() as connection:
            rows: list[Any] = list(connection.execute(sa.select(runs.c.id, runs.c.model, runs.c.snapshot).where(needed)))
        return [tuple(row) for row in rows]

    def reap(self) -> Sequence[str]:
        """Mark active runs as killed when their process was on this machine and has ended; return the ids of these runs."""
        if not self._reaps:
            return []
        with self._database.read_transaction() as connection:
            active = connection.execute(sa.select(runs.c.id, runs.c.record).where(runs.c.status == RUNNING)).all()
        dead = [row.id for row in active if is_gone(row.record.get("process", {}))]
        if dead:
            message = "its process has ended: it was killed, or the machine restarted; unwritten values are lost"
            with self._database.write_transaction() as connection:
                still_running = sa.and_(runs.c.id.in_(dead), runs.c.status == RUNNING)
                connection.execute(runs.update().where(still_running).values(status=KILLED, error=message))
        return dead


def _load_runs(connection: sa.Connection, ids: Sequence[str]) -> list[Run]:
    """Return the runs with these ids, in their order, with two queries per thousand ids."""
    rows: dict[str, dict[str, Any]] = {}
    values: dict[str, dict[str, float]] = {}
    for chunk in split_ids(ids):
        rows |= {row["id"]: dict(row) for row in connection.execute(sa.select(runs).where(runs.c.id.in_(chunk))).mappings()}
        last_values: list[Any] = list(connection.execute(last_values_query().where(metrics.c.run_id.in_(chunk))))
        for run_id, name, value, text in last_values:
            values.setdefault(run_id, {})[name] = float(text) if value is None else value
    return [_build_run(rows[run_id], values.get(run_id, {})) for run_id in ids]


def _build_run(row: dict[str, Any], values: Mapping[str, float]) -> Run:
    times: dict[str, Any] = {name: datetime.fromisoformat(row[name]) if row[name] else None for name in ("started_at", "ended_at")}
    return Run(**{k: v for k, v in row.items() if k not in ("sequence", *times)}, **times, metrics=dict(sorted(values.items())))


def open_tracker(url: str) -> SqlTracker:
    """Open the tracker at a SQLAlchemy URL."""
    return SqlTracker(sql.open_database(url))
