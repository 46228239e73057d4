"""Refuse a filter or an order that names a metric, parameter or tag of no run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mlops_assets.errors import RegistryError, nearest
from mlops_assets.stores.database.schema import metrics, runs
from mlops_assets.stores.tracker.filters import named_fields

if TYPE_CHECKING:
    from collections.abc import Sequence

_PLAIN_NAME = re.compile(r"[A-Za-z_0-9][\w./-]*", re.ASCII)
_NOUNS = {"metrics": "metric", "lowest": "metric", "highest": "metric", "params": "parameter", "tags": "tag"}


def refuse_unknown_fields(connection: sa.Connection, where: str, order_by: str, wanted: sa.ColumnElement[bool]) -> None:
    """Refuse a filter by what no run has, and an order by what none of the runs found has.

    Parameters
    ----------
    connection
        To the database of the runs.
    where, order_by
        Filter and order as written.
    wanted
        The filter as a condition on runs.

    Raises
    ------
    RegistryError
        The message names the field, the hint the nearest that exists. With no run recorded nothing is refused.
    """
    for fields, among, reason in ((named_fields(where), sa.true(), "recorded"), (named_fields(order_by), wanted, "found")):
        for of, name in dict.fromkeys(fields):
            if not _has(connection, of, name, among) and _exists(connection, sa.select(runs.c.id).where(among)):
                raise _unknown(connection, of, name, among, reason)


def _exists(connection: sa.Connection, query: sa.Select[Any]) -> bool:
    return connection.execute(query.limit(1)).first() is not None


def _has(connection: sa.Connection, of: str, name: str, among: sa.ColumnElement[bool]) -> bool:
    query, key = _names(connection.dialect.name, of, among)
    return _exists(connection, query.where(key == name))


def _names(dialect: str, of: str, among: sa.ColumnElement[bool]) -> tuple[sa.Select[Any], sa.ColumnElement[Any]]:
    """Return the query for the names that runs have of one kind, and its column."""
    if _NOUNS[of] == "metric":
        return sa.select(metrics.c.name).join_from(metrics, runs, metrics.c.run_id == runs.c.id).where(among), metrics.c.name
    column = runs.c[of]
    if dialect == "sqlite":
        keys = sa.func.json_each(column).table_valued("key", "value", "type")
    else:
        keys = sa.func.json_object_keys(column).table_valued("key").render_derived()
    return sa.select(keys.c.key).select_from(runs.join(keys, sa.true())).where(among), keys.c.key


def _unknown(connection: sa.Connection, of: str, name: str, among: sa.ColumnElement[bool], reason: str) -> RegistryError:
    known = {kind: _known(connection, kind, among) for kind in dict.fromkeys((of, "metrics", "params", "tags"))}
    hint = nearest(name, known[of]) or next((f"did you mean '{kind}.{name}'? " for kind, names in known.items() if name in names), "")
    listed = ", ".join(f"{of}.{_quoted(one)}" for one in known[of][:10]) + (", …" if len(known[of]) > 10 else "")
    return RegistryError(
        f"no run {reason} has the {_NOUNS[of]} '{name}'",
        hint=f"{hint}there are {listed}" if listed else f"{hint}no run {reason} has any {_NOUNS[of]}",
    )


def _known(connection: sa.Connection, of: str, among: sa.ColumnElement[bool]) -> Sequence[str]:
    query, key = _names(connection.dialect.name, of, among)
    return list(connection.execute(query.distinct().order_by(key)).scalars())


def _quoted(name: str) -> str:
    return name if _PLAIN_NAME.fullmatch(name) else '"{}"'.format(name.replace('"', '""'))
