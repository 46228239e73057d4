"""Find the ids of runs by filter and order, and load runs as a frame."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mlops_assets.errors import RegistryError, suggest_name
from mlops_assets.stores.database.schema import metrics, runs
from mlops_assets.stores.tracker.filters import list_fields, parse_condition, parse_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import polars as pl

    from mlops_assets.stores.tracker.filters import OrderTerm

_CHUNK = 1000  # ids in one query
_FIRST_COLUMNS = {"id": "id", "experiment": "model", "name": "name", "kind": "kind", "status": "status", "environment": "environment"}
_LAST_COLUMNS = {
    "parent": "parent_id",
    "fingerprint": "fingerprint",
    "dagster_run": "dagster_run_id",
    "snapshot": "snapshot",
    "error": "error",
}
_PLAIN_NAME = re.compile(r"[A-Za-z_0-9][\w./-]*", re.ASCII)
_NOUNS = {"metrics": "metric", "lowest": "metric", "highest": "metric", "params": "parameter", "tags": "tag"}


def split_ids(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Split ids into chunks that fit into one query."""
    return (ids[at : at + _CHUNK] for at in range(0, len(ids), _CHUNK))


def last_values_query() -> sa.Select[Any]:
    """Return the query for the last value of each metric of each run; for NaN and infinities ``value`` is null and ``text`` holds them."""
    return sa.select(metrics.c.run_id, metrics.c.name, metrics.c.value, metrics.c.text)


def find_run_ids(connection: sa.Connection, where: str, order_by: str, limit: int | None, offset: int) -> list[str]:
    """Return the ids of the runs that match a filter, in the given order, then newest first.

    Raises
    ------
    RegistryError
        The filter or the order cannot be parsed, or names a field that no run has.
    """
    dialect = connection.dialect.name
    condition, orders = parse_condition(where, dialect), parse_order(order_by, dialect)
    _refuse_unknown_fields(connection, where, order_by, condition)
    if orders and orders[0].field.metric is not None:
        return _order_by_metric(connection, condition, orders, limit, offset)
    query = sa.select(runs.c.id).where(condition).order_by(*_build_terms(orders)).limit(limit).offset(offset)
    return list(connection.execute(query).scalars())


def _build_terms(orders: Sequence[OrderTerm]) -> list[sa.ColumnElement[Any]]:
    return [*(term for order in orders for term in order.terms()), runs.c.sequence.desc()]


def _order_by_metric(
    connection: sa.Connection, condition: sa.ColumnElement[bool], orders: Sequence[OrderTerm], limit: int | None, offset: int
) -> list[str]:
    """Return run ids in the order of a metric, with runs that lack a finite value last.

    The first query reads the index on metrics. Only when it finds fewer than ``limit`` runs, a second query adds runs without a value.
    """
    column, name = orders[0].field.metric or (metrics.c.value, "")
    has = sa.and_(metrics.c.name == name, column.is_not(None))
    with_value = sa.select(runs.c.id).join_from(metrics, runs, metrics.c.run_id == runs.c.id).where(has, condition)
    term = column.desc() if orders[0].descending else column.asc()
    ids: list[str] = list(connection.execute(with_value.order_by(term, *_build_terms(orders[1:])).limit(limit).offset(offset)).scalars())
    if limit is not None and len(ids) >= limit:
        return ids
    before = 0 if not offset else connection.execute(sa.select(sa.func.count()).select_from(with_value.subquery())).scalar_one()
    lacks = ~sa.exists().where(metrics.c.run_id == runs.c.id, has).correlate(runs)
    without_value = (
        sa.select(runs.c.id).where(condition, lacks).order_by(*_build_terms(orders[1:])).limit(None if limit is None else limit - len(ids))
    )
    return [*ids, *connection.execute(without_value.offset(max(0, offset - before))).scalars()]


def build_run_frame(connection: sa.Connection, ids: Sequence[str] | None) -> pl.DataFrame:
    """Return runs as a frame, one row for each run, in the order of ``ids``; all runs, newest first, when ``ids`` is None."""
    import polars as pl

    rows = _load_run_rows(connection, ids)
    positions = {row["id"]: i for i, row in enumerate(rows)}
    begun, ended = ([_parse_time(row[name]) for row in rows] for name in ("started_at", "ended_at"))
    plain: dict[str, Any] = {name: pl.Series([row[column] for row in rows], dtype=pl.String) for name, column in _FIRST_COLUMNS.items()}
    plain |= {name: pl.Series(times, dtype=pl.Datetime("us", "UTC")) for name, times in (("started_at", begun), ("ended_at", ended))}
    plain |= {n: pl.Series([row[c] for row in rows], dtype=pl.Int64 if n == "snapshot" else pl.String) for n, c in _LAST_COLUMNS.items()}
    frame = pl.DataFrame(plain).with_columns(duration_s=(pl.col("ended_at") - pl.col("started_at")).dt.total_microseconds() / 1e6)
    params = {f"params.{name}": _param_series(values) for name, values in _to_columns([row["params"] for row in rows]).items()}
    tags = {f"tags.{name}": pl.Series(values, dtype=pl.String) for name, values in _to_columns([row["tags"] for row in rows]).items()}
    last_values = {f"metrics.{n}": pl.Series(values, dtype=pl.Float64) for n, values in _metric_columns(connection, ids, positions).items()}
    return frame.with_columns(**params, **last_values, **tags)


def _load_run_rows(connection: sa.Connection, ids: Sequence[str] | None) -> list[dict[str, Any]]:
    query = sa.select(*(column for column in runs.c if column.name != "record"))
    if ids is None:
        return [dict(row) for row in connection.execute(query.order_by(runs.c.sequence.desc())).mappings()]
    by_id = {row["id"]: dict(row) for chunk in split_ids(ids) for row in connection.execute(query.where(runs.c.id.in_(chunk))).mappings()}
    return [by_id[run_id] for run_id in ids]


def _metric_columns(connection: sa.Connection, ids: Sequence[str] | None, positions: Mapping[str, int]) -> dict[str, list[float | None]]:
    """Return metric → its last value in each run, by the run's position; None for a run without the metric. Metrics are sorted."""
    queries = [last_values_query()] if ids is None else [last_values_query().where(metrics.c.run_id.in_(chunk)) for chunk in split_ids(ids)]
    columns: dict[str, list[float | None]] = {}
    for query in queries:
        rows: list[Any] = list(connection.execute(query))
        for run_id, name, value, text in rows:
            column = columns.get(name)
            if column is None:
                column = columns[name] = [None] * len(positions)
            column[positions[run_id]] = float(text) if value is None else value
    return dict(sorted(columns.items()))


def _to_columns(mappings: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return name → its value in each mapping, None where a mapping lacks it; names are sorted."""
    names = sorted({name for mapping in mappings for name in mapping})
    return {name: [mapping.get(name) for mapping in mappings] for name in names}


def _param_series(values: Sequence[Any]) -> pl.Series:
    """Return a parameter as booleans, integers or floats if all of its values are such, else as text; null for a run without it.

    Integers beyond 64 bits are text, and so are lists and mappings, as JSON.
    """
    import polars as pl

    kinds = {type(value) for value in values} - {type(None)}
    for kinds_of, dtype in (({bool}, pl.Boolean), ({int}, pl.Int64), ({int, float}, pl.Float64)):
        if kinds and kinds <= kinds_of and all(abs(value or 0) < 2**63 for value in values):
            return pl.Series([None if value is None else value for value in values], dtype=dtype, strict=False)
    texts = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
    return pl.Series(texts, dtype=pl.String)


def _parse_time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _refuse_unknown_fields(connection: sa.Connection, where: str, order_by: str, condition: sa.ColumnElement[bool]) -> None:
    """Raise RegistryError for a filter by a field that no run has, or an order by a field that no matching run has.

    Parameters
    ----------
    connection
        The connection to the database.
    where, order_by
        The texts of filter and order.
    condition
        The parsed filter.

    Raises
    ------
    RegistryError
        A field is unknown. The hint suggests a similar name. If no run is recorded or matches, no error is raised.
    """
    for fields, run_filter, reason in ((list_fields(where), sa.true(), "recorded"), (list_fields(order_by), condition, "found")):
        for prefix, name in dict.fromkeys(fields):
            if not _has_name(connection, prefix, name, run_filter) and _exists(connection, sa.select(runs.c.id).where(run_filter)):
                raise _build_unknown_field_error(connection, prefix, name, run_filter, reason)


def _exists(connection: sa.Connection, query: sa.Select[Any]) -> bool:
    return connection.execute(query.limit(1)).first() is not None


def _has_name(connection: sa.Connection, prefix: str, name: str, run_filter: sa.ColumnElement[bool]) -> bool:
    query, key = _names_query(connection.dialect.name, prefix, run_filter)
    return _exists(connection, query.where(key == name))


def _names_query(dialect: str, prefix: str, run_filter: sa.ColumnElement[bool]) -> tuple[sa.Select[Any], sa.ColumnElement[Any]]:
    """Return the query for the names that some runs have with a prefix such as ``params``, and the column that holds the names.

    ``run_filter`` is the condition on the runs.
    """
    if _NOUNS[prefix] == "metric":
        return sa.select(metrics.c.name).join_from(metrics, runs, metrics.c.run_id == runs.c.id).where(run_filter), metrics.c.name
    column = runs.c[prefix]
    if dialect == "sqlite":
        keys = sa.func.json_each(column).table_valued("key", "value", "type")
    else:
        keys = sa.func.json_object_keys(column).table_valued("key").render_derived()
    return sa.select(keys.c.key).select_from(runs.join(keys, sa.true())).where(run_filter), keys.c.key


def _build_unknown_field_error(
    connection: sa.Connection, prefix: str, name: str, run_filter: sa.ColumnElement[bool], reason: str
) -> RegistryError:
    names_by_prefix = {kind: _known_names(connection, kind, run_filter) for kind in dict.fromkeys((prefix, "metrics", "params", "tags"))}
    hint = suggest_name(name, names_by_prefix[prefix]) or next(
        (f"did you mean '{kind}.{name}'? " for kind, names in names_by_prefix.items() if name in names), ""
    )
    listed = ", ".join(f"{prefix}.{quote_name(known_name)}" for known_name in names_by_prefix[prefix][:10]) + (
        ", …" if len(names_by_prefix[prefix]) > 10 else ""
    )
    return RegistryError(
        f"no run {reason} has the {_NOUNS[prefix]} '{name}'",
        hint=f"{hint}there are {listed}" if listed else f"{hint}no run {reason} has any {_NOUNS[prefix]}",
    )


def _known_names(connection: sa.Connection, prefix: str, run_filter: sa.ColumnElement[bool]) -> Sequence[str]:
    query, key = _names_query(connection.dialect.name, prefix, run_filter)
    return list(connection.execute(query.distinct().order_by(key)).scalars())


def quote_name(name: str) -> str:
    """Return a name as a filter or an order writes it: in double quotes if it has other characters than plain names."""
    return name if _PLAIN_NAME.fullmatch(name) else '"{}"'.format(name.replace('"', '""'))
