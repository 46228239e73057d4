"""Columns that know too much: values known later than their row, smuggled in under another name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Sequence

_SHARE = 0.99  # of the rows on which a column must repeat a later one
_SAMPLE = 20_000


@dataclass(frozen=True)
class Leak:
    """A column of a training set that repeats a column known later than its row.

    Parameters
    ----------
    column
        Of ``X``.
    later
        The column that is known later, and its dataset.
    share
        The share of rows on which they agree or rank alike.
    """

    column: str
    later: str
    share: float


def leaks(rows: pl.DataFrame, columns: Sequence[str], later: pl.DataFrame) -> list[Leak]:
    """Find columns that repeat, up to scale and offset, a column known later.

    Parameters
    ----------
    rows
        The training set.
    columns
        The columns of ``X`` that might.
    later
        The columns known later, row by row beside ``rows``.
    """
    step = max(1, rows.height // _SAMPLE)
    sample, known = rows.gather_every(step), later.gather_every(step)
    found = []
    for column in columns:
        for name in known.columns:
            share = _agreement(sample[column], known[name])
            if share >= _SHARE:
                found.append(Leak(column, name, share))
    return found


def _agreement(one: pl.Series, other: pl.Series) -> float:
    both = pl.DataFrame({"one": one, "other": other}).drop_nulls()
    if both.height < 20 or both["other"].n_unique() < 2 or both["one"].n_unique() < 2:
        return 0.0
    if both["one"].dtype == both["other"].dtype and (equal := (both["one"] == both["other"]).mean()) and float(equal) >= _SHARE:  # type: ignore[arg-type]  # the mean of booleans
        return float(equal)  # type: ignore[arg-type]
    if not _ordered(both["one"].dtype) or not _ordered(both["other"].dtype):
        return 0.0
    correlation = both.select(
        pl.corr(pl.col("one").to_physical().cast(pl.Float64), pl.col("other").to_physical().cast(pl.Float64), method="spearman")
    ).item()
    return abs(float(correlation)) if correlation is not None and correlation == correlation else 0.0  # noqa: PLR0124  (NaN)


def _ordered(dtype: pl.DataType) -> bool:
    return dtype.is_numeric() or dtype.is_temporal() or dtype == pl.Boolean
