"""Changed rows between two states of a table."""

from __future__ import annotations

import polars as pl


def find_changed_rows(old: pl.DataFrame, new: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the rows that only the new state has, and the rows that only the old state has.

    A corrected row is in both results, with its new and its old values. A row that is more frequent in one state is in the result of that
    state, once.

    Parameters
    ----------
    old, new
        Rows of both states. Every row counts as changed when the schemas differ in a column, its type or the order of columns.

    Examples
    --------
    >>> import polars as pl
    >>> added, gone = find_changed_rows(pl.DataFrame({"k": [1, 2]}), pl.DataFrame({"k": [2, 3]}))
    >>> added["k"].to_list(), gone["k"].to_list()
    ([3], [1])
    """
    if old.schema != new.schema:
        return new, old
    signed = pl.concat([old.with_columns(pl.lit(-1).alias("__side")), new.with_columns(pl.lit(1).alias("__side"))])
    # Unlike a join, grouping treats null as equal to null and NaN to NaN, in lists as well.
    balance = signed.group_by(old.columns, maintain_order=True).agg(pl.col("__side").sum())
    sides = balance["__side"]
    rows = balance.drop("__side")
    return rows.filter(sides > 0), rows.filter(sides < 0)
