"""Changed rows between two states of a table."""

from __future__ import annotations

import polars as pl


def find_changed_rows(old: pl.DataFrame, new: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return rows only in the new state and rows only in the old one; a corrected row is in both.

    Parameters
    ----------
    old, new
        Rows of both states. Every row counts as changed when only one state has a column, or when a column's types differ.

    Examples
    --------
    >>> import polars as pl
    >>> added, gone = find_changed_rows(pl.DataFrame({"k": [1, 2]}), pl.DataFrame({"k": [2, 3]}))
    >>> added["k"].to_list(), gone["k"].to_list()
    ([3], [1])
    """
    if old.schema != new.schema:
        return new, old
    both = pl.concat([old.with_columns(pl.lit(-1).alias("__side")), new.with_columns(pl.lit(1).alias("__side"))])
    # Grouping takes null for null and NaN for NaN, in lists as well, which joins do not.
    balance = both.group_by(old.columns, maintain_order=True).agg(pl.col("__side").sum())
    sides = balance["__side"]
    rows = balance.drop("__side")
    return rows.filter(sides > 0), rows.filter(sides < 0)
