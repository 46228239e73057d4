"""Batches of what an active run logs, each written in one transaction."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mlops_assets.errors import RegistryError
from mlops_assets.stores.database import sql
from mlops_assets.stores.database.schema import curves, metrics, run_artifacts, runs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    import numpy as np

Point = tuple[int, float, int]  # step, value, microseconds since 1970


@dataclass(frozen=True)
class RunArtifact:
    """A file of a run.

    Parameters
    ----------
    name
        The path of the file within the run, with ``/`` between folders.
    sha256
        The sha256 of the file's bytes, which are in the artifact store.
    size
        The size in bytes.
    media
        The media type.
    """

    name: str
    sha256: str
    size: int
    media: str


@dataclass(frozen=True, eq=False)
class Curve:
    """All logged values of one metric, ordered by step, and by time within a step.

    Parameters
    ----------
    steps, values, times
        Arrays of equal length: int64 steps, float64 values, and times in microseconds since 1970.
    """

    steps: np.ndarray
    values: np.ndarray
    times: np.ndarray


@dataclass(frozen=True)
class RunEnd:
    """The end of a run.

    Parameters
    ----------
    status
        ``finished``, ``failed`` or ``pruned``.
    at
        The time, with a time zone.
    error
        The reason of a failure; empty otherwise.
    record
        Entries to merge into the run's record; an entry replaces one of the same name from the start of the run.
    """

    status: str
    at: datetime
    error: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Batch:
    """Logged values that are not written yet. A batch without any value is false.

    Parameters
    ----------
    points
        Metric → its logged points, in the order of logging.
    plain
        Metric → value, for metrics without steps.
    params, tags
        Parameters and tags to merge into earlier ones; the latest value of a name counts.
    artifacts
        Name → file.
    """

    points: dict[str, list[Point]] = field(default_factory=dict)
    plain: dict[str, float] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    artifacts: dict[str, RunArtifact] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.points or self.plain or self.params or self.tags or self.artifacts)


def write_batch(connection: sa.Connection, run_id: str, batch: Batch, ending: RunEnd | None = None) -> None:
    """Write a batch, and the end of the run if given.

    The connection must be in a transaction that no other writer overlaps, because new values are computed from stored ones.

    Raises
    ------
    RegistryError
        There is no such run.
    """
    _update_run(connection, run_id, batch, ending)
    _append_curves(connection, run_id, batch.points)
    summaries = {name: _summarise_points(points) for name, points in batch.points.items()}
    _upsert_metrics(connection, run_id, summaries | {name: build_metric_row(value) for name, value in batch.plain.items()})
    if batch.artifacts:
        replaced = sa.and_(run_artifacts.c.run_id == run_id, run_artifacts.c.name.in_(batch.artifacts))
        connection.execute(run_artifacts.delete().where(replaced))
        connection.execute(run_artifacts.insert(), [{"run_id": run_id, **vars(artifact)} for artifact in batch.artifacts.values()])


def build_metric_row(value: float) -> dict[str, Any]:
    """Return the row of a metric that has one value and no steps; NaN and infinities go into ``text``."""
    finite = sql.finite_or_none(value)
    return {"value": finite, "low": finite, "high": finite, "text": "" if finite is not None else str(value), "step": None, "count": 1}


def _update_run(connection: sa.Connection, run_id: str, batch: Batch, ending: RunEnd | None) -> None:
    """Merge parameters and tags into a run, and write its end if given; raise RegistryError for an unknown run."""
    stored = connection.execute(sa.select(runs.c.params, runs.c.tags, runs.c.record).where(runs.c.id == run_id)).first()
    if stored is None:
        raise RegistryError(f"there is no run '{run_id}' to write to", hint="start it with `ml.start_run(...)`")
    changed: dict[str, Any] = {}
    if batch.params:
        changed["params"] = {**stored.params, **batch.params}
    if batch.tags:
        changed["tags"] = {**stored.tags, **batch.tags}
    if ending is not None:
        changed |= {"status": ending.status, "error": ending.error, "ended_at": ending.at.isoformat()}
        changed |= {"record": {**stored.record, **ending.record}} if ending.record else {}
    if changed:
        connection.execute(runs.update().where(runs.c.id == run_id).values(**changed))


def _append_curves(connection: sa.Connection, run_id: str, points: Mapping[str, Sequence[Point]]) -> None:
    """Write the points of each metric as the next part of its curve."""
    if not points:
        return
    query = sa.select(curves.c.name, sa.func.max(curves.c.part)).where(curves.c.run_id == run_id).group_by(curves.c.name)
    last_parts: list[Any] = list(connection.execute(query))
    last = dict(last_parts)
    rows = [{"run_id": run_id, "name": name, "part": last.get(name, -1) + 1, **_pack_points(curve)} for name, curve in points.items()]
    connection.execute(curves.insert(), rows)


def _pack_points(points: Sequence[Point]) -> dict[str, bytes]:
    import numpy as np

    steps, values, times = zip(*points, strict=True)
    return {
        "steps": np.array(steps, "<i8").tobytes(),
        "values": np.array(values, "<f8").tobytes(),
        "times": np.array(times, "<i8").tobytes(),
    }


def unpack_curve(parts: Sequence[Any]) -> Curve:
    """Return the curve of one metric from its stored rows, which are given oldest first."""
    import numpy as np

    steps, values, times = (
        np.concatenate([np.frombuffer(part[name], kind) for part in parts])
        for name, kind in (("steps", "<i8"), ("values", "<f8"), ("times", "<i8"))
    )
    order = np.argsort(steps, kind="stable")
    return Curve(steps[order], values[order], times[order])


def _summarise_points(points: Sequence[Point]) -> dict[str, Any]:
    """Return the row of a metric with steps: its last value at the maximum step, and its lowest and highest finite values."""
    step, last = points[0][0], points[0][1]
    for point_step, value, _ in points:
        if point_step >= step:  # of several values at one step, the last counts
            step, last = point_step, value
    finite_values = [value for _, value, _ in points if math.isfinite(value)]
    return build_metric_row(last) | {
        "step": step,
        "count": len(points),
        "low": min(finite_values, default=None),
        "high": max(finite_values, default=None),
    }


def _upsert_metrics(connection: sa.Connection, run_id: str, rows_by_name: Mapping[str, Mapping[str, Any]]) -> None:
    """Insert the rows of new metrics, and merge the rows of known metrics into the stored ones."""
    if not rows_by_name:
        return
    before: dict[str, Any] = {
        row["name"]: row for row in connection.execute(sa.select(metrics).where(metrics.c.run_id == run_id)).mappings()
    }
    new = [{"run_id": run_id, "name": name, **row} for name, row in rows_by_name.items() if name not in before]
    changed = [{"n": name, **_merge_rows(before[name], row)} for name, row in rows_by_name.items() if name in before]
    if new:
        connection.execute(metrics.insert(), new)
    if changed:
        columns: dict[str, Any] = {name: sa.bindparam(f"new_{name}") for name in ("value", "text", "step", "low", "high", "count")}
        rows = [{"n": row.pop("n"), **{f"new_{name}": value for name, value in row.items()}} for row in changed]
        matching = sa.and_(metrics.c.run_id == run_id, metrics.c.name == sa.bindparam("n"))
        connection.execute(metrics.update().where(matching).values(columns), rows)


def _merge_rows(before: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stored row of a metric, merged with a newer row. Its value is the newer one, unless that is at a lower step."""
    newer = before["step"] is None or row["step"] is None or row["step"] >= before["step"]
    last = row if newer else before
    lows, highs = ([values[name] for values in (before, row) if values[name] is not None] for name in ("low", "high"))
    return {
        **{name: last[name] for name in ("value", "text", "step")},
        "low": min(lows, default=None),
        "high": max(highs, default=None),
        "count": before["count"] + row["count"],
    }
