"""How runs are found: which, in what order, and all of them as a frame."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mlops_assets.stores.database.schema import metrics, runs
from mlops_assets.stores.tracker.filter_fields import refuse_unknown_fields
from mlops_assets.stores.tracker.filters import condition, order

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import polars as pl

    from mlops_assets.stores.tracker.filters import Order

_CHUNK = 1000  # ids in one query
_PLAIN = {"id": "id", "experiment": "model", "name": "name", "kind": "kind", "status": "status", "environment": "environment"}
_LATER = {"parent": "parent_id", "fingerprint": "fingerprint", "dagster_run": "dagster_run_id", "snapshot": "snapshot", "error": "error"}


def chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Return ids in as many pieces as databases take in one query."""
    return (ids[at : at + _CHUNK] for at in range(0, len(ids), _CHUNK))


def last_values() -> sa.Select[Any]:
    """Return the query for the last value of metrics; the text names one that is not finite."""
    return sa.select(metrics.c.run_id, metrics.c.name, metrics.c.value, metrics.c.text)


def found_ids(connection: sa.Connection, where: str, order_by: str, limit: int | None, offset: int) -> list[str]:
    """Return the ids of the runs that a filter finds, in order."""
    dialect = connection.dialect.name
    wanted, orders = condition(where, dialect), order(order_by, dialect)
    refuse_unknown_fields(connection, where, order_by, wanted)
    if orders and orders[0].field.metric is not None:
        return _by_metric(connection, wanted, orders, limit, offset)
    query = sa.select(runs.c.id).where(wanted).order_by(*_terms(orders)).limit(limit).offset(offset)
    return list(connection.execute(query).scalars())


def _terms(orders: Sequence[Order]) -> list[sa.ColumnElement[Any]]:
    return [*(term for one in orders for term in one.terms()), runs.c.sequence.desc()]


def _by_metric(
    connection: sa.Connection, wanted: sa.ColumnElement[bool], orders: Sequence[Order], limit: int | None, offset: int
) -> list[str]:
    """Walk along the index of the metric, so that the best of ten thousand runs costs as much as the best of ten; those without it come after."""
    column, name = orders[0].field.metric or (metrics.c.value, "")
    has = sa.and_(metrics.c.name == name, column.is_not(None))
    along = sa.select(runs.c.id).join_from(metrics, runs, metrics.c.run_id == runs.c.id).where(has, wanted)
    term = column.desc() if orders[0].descending else column.asc()
    ids: list[str] = list(connection.execute(along.order_by(term, *_terms(orders[1:])).limit(limit).offset(offset)).scalars())
    if limit is not None and len(ids) >= limit:
        return ids
    before = 0 if not offset else connection.execute(sa.select(sa.func.count()).select_from(along.subquery())).scalar_one()
    lacks = ~sa.exists().where(metrics.c.run_id == runs.c.id, has).correlate(runs)
    rest = sa.select(runs.c.id).where(wanted, lacks).order_by(*_terms(orders[1:])).limit(None if limit is None else limit - len(ids))
    return [*ids, *connection.execute(rest.offset(max(0, offset - before))).scalars()]


def run_frame(connection: sa.Connection, ids: Sequence[str] | None) -> pl.DataFrame:
    """Return runs as a frame, in the order of their ids; all of them, newest first, when None."""
    import polars as pl

    rows = _rows(connection, ids)
    at = {row["id"]: i for i, row in enumerate(rows)}
    begun, ended = ([_time(row[name]) for row in rows] for name in ("started_at", "ended_at"))
    plain: dict[str, Any] = {name: pl.Series([row[column] for row in rows], dtype=pl.String) for name, column in _PLAIN.items()}
    plain |= {name: pl.Series(times, dtype=pl.Datetime("us", "UTC")) for name, times in (("started_at", begun), ("ended_at", ended))}
    plain |= {n: pl.Series([row[c] for row in rows], dtype=pl.Int64 if n == "snapshot" else pl.String) for n, c in _LATER.items()}
    found = pl.DataFrame(plain).with_columns(duration_s=(pl.col("ended_at") - pl.col("started_at")).dt.total_microseconds() / 1e6)
    params = {f"params.{name}": _series(values) for name, values in _wide([row["params"] for row in rows]).items()}
    tags = {f"tags.{name}": pl.Series(values, dtype=pl.String) for name, values in _wide([row["tags"] for row in rows]).items()}
    figures = {f"metrics.{name}": pl.Series(values, dtype=pl.Float64) for name, values in _figures(connection, ids, at).items()}
    return found.with_columns(**params, **figures, **tags)


def _rows(connection: sa.Connection, ids: Sequence[str] | None) -> list[dict[str, Any]]:
    query = sa.select(*(column for column in runs.c if column.name != "record"))
    if ids is None:
        return [dict(row) for row in connection.execute(query.order_by(runs.c.sequence.desc())).mappings()]
    found = {row["id"]: dict(row) for some in chunks(ids) for row in connection.execute(query.where(runs.c.id.in_(some))).mappings()}
    return [found[run_id] for run_id in ids]


def _figures(connection: sa.Connection, ids: Sequence[str] | None, at: Mapping[str, int]) -> dict[str, list[float | None]]:
    """Return one column a metric."""
    queries = [last_values()] if ids is None else [last_values().where(metrics.c.run_id.in_(some)) for some in chunks(ids)]
    columns: dict[str, list[float | None]] = {}
    for query in queries:
        rows: list[Any] = list(connection.execute(query))
        for run_id, name, value, text in rows:
            column = columns.get(name)
            if column is None:
                column = columns[name] = [None] * len(at)
            column[at[run_id]] = float(text) if value is None else value
    return dict(sorted(columns.items()))


def _wide(mappings: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    names = sorted({name for mapping in mappings for name in mapping})
    return {name: [mapping.get(name) for mapping in mappings] for name in names}


def _series(values: Sequence[Any]) -> pl.Series:
    """Return a parameter as numbers or truth values when it always is one, else as text."""
    import polars as pl

    kinds = {type(value) for value in values} - {type(None)}
    for kinds_of, dtype in (({bool}, pl.Boolean), ({int}, pl.Int64), ({int, float}, pl.Float64)):
        if kinds and kinds <= kinds_of and all(abs(value or 0) < 2**63 for value in values):
            return pl.Series([None if value is None else value for value in values], dtype=dtype, strict=False)
    texts = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
    return pl.Series(texts, dtype=pl.String)


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
