"""Frequent SQL statements, each built once, because SQLAlchemy takes longer to build a statement than SQLite takes to run it."""

from __future__ import annotations

from functools import cache
from typing import Any

import sqlalchemy as sa


@cache
def build_select(table: sa.Table, *names: str) -> sa.Select[Any]:
    """Return the query for rows by the values of the columns ``names``, bound at execution; ordered by the table's first column."""
    return sa.select(table).where(*(table.c[name] == sa.bindparam(name) for name in names)).order_by(next(iter(table.c)))


@cache
def build_delete(table: sa.Table, *names: str) -> sa.Delete:
    """Return the statement that deletes rows by the values of the columns ``names``, bound at execution."""
    return sa.delete(table).where(*(table.c[name] == sa.bindparam(name) for name in names))


@cache
def build_insert(table: sa.Table) -> sa.Insert:
    """Return the statement that inserts rows into a table."""
    return sa.insert(table)


@cache
def build_insert_if_new(table: sa.Table) -> sa.TextClause:
    """Return the statement that inserts a row unless its primary key exists, for SQLite and PostgreSQL."""
    return sa.text(f"{_build_insert_text(table)} ON CONFLICT ({_key_columns(table)}) DO NOTHING")


@cache
def build_upsert(table: sa.Table) -> sa.TextClause:
    """Return the statement that inserts a row, or updates the row with the same primary key, for SQLite and PostgreSQL."""
    rest = ", ".join(f'"{c.name}" = excluded."{c.name}"' for c in table.c if not c.primary_key)
    return sa.text(f"{_build_insert_text(table)} ON CONFLICT ({_key_columns(table)}) DO UPDATE SET {rest}")


def _build_insert_text(table: sa.Table) -> str:
    names, values = (", ".join(form.format(c.name) for c in table.c) for form in ('"{}"', ":{}"))
    return f"INSERT INTO {table.name} ({names}) VALUES ({values})"


def _key_columns(table: sa.Table) -> str:
    return ", ".join(f'"{column.name}"' for column in table.primary_key)
