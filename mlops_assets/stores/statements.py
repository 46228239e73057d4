"""Statements that are asked all the time, made once: SQLAlchemy takes longer to put one together than SQLite to answer it."""

from __future__ import annotations

from functools import cache
from typing import Any

import sqlalchemy as sa


@cache
def rows_of(table: sa.Table, *names: str) -> sa.Select[Any]:
    """Return the query for the rows of a table by the values of columns, given when it is executed; in the order of the first column."""
    return sa.select(table).where(*(table.c[name] == sa.bindparam(name) for name in names)).order_by(next(iter(table.c)))


@cache
def removal(table: sa.Table, *names: str) -> sa.Delete:
    """Return the statement that removes rows of a table by the values of columns, given when it is executed."""
    return sa.delete(table).where(*(table.c[name] == sa.bindparam(name) for name in names))


@cache
def insertion(table: sa.Table) -> sa.Insert:
    """Return the statement that adds rows to a table."""
    return sa.insert(table)
