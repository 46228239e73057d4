"""Figures of feature columns that tell at a glance what they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Iterable

BINS = 12
_BARS = "▁▂▃▄▅▆▇█"


def statistics(frame: pl.DataFrame, features: Iterable[str]) -> list[dict[str, Any]]:
    """Return one row of figures for each feature.

    Parameters
    ----------
    frame
        With the features among its columns.
    features
        Which of them.

    Returns
    -------
    list of dict
        ``feature``, ``type``, ``rows``, ``null`` (share), ``distinct``, ``min``, ``mean``, ``max``, ``std`` and ``histogram``, twelve
        bars of equal width from the least to the greatest value; for text the three most frequent values in place of the bars.
    """
    return [_figures(frame[name]) for name in features]


def _figures(series: pl.Series) -> dict[str, Any]:
    found: dict[str, Any] = {
        "feature": series.name,
        "type": str(series.dtype),
        "rows": series.len(),
        "null": series.null_count() / max(series.len(), 1),
        "distinct": None if series.dtype.is_nested() else series.n_unique(),
    }
    if series.dtype.is_numeric() or series.dtype == pl.Boolean:
        return found | _numbers(series.drop_nulls().cast(pl.Float64))
    if series.dtype.is_temporal():
        return found | {"min": series.min(), "mean": None, "max": series.max(), "std": None, "histogram": histogram(series.to_physical())}
    if series.dtype.is_nested():
        lengths = series.list.len()
        return found | {"min": f"{lengths.min()!s} items", "mean": None, "max": f"{lengths.max()!s} items", "std": None, "histogram": ""}
    counts = series.drop_nulls().value_counts(name="__count")
    often = counts.sort("__count", series.name, descending=[True, False]).head(3)  # of equally frequent ones the first by value
    return found | {
        "min": series.min(),
        "mean": None,
        "max": series.max(),
        "std": None,
        "histogram": ", ".join(map(str, often[series.name])),
    }


def _numbers(values: pl.Series) -> dict[str, Any]:
    finite = values.filter(values.is_finite())
    return {
        "min": finite.min(),
        "mean": finite.mean(),
        "max": finite.max(),
        "std": finite.std(),
        "histogram": histogram(finite),
    }


def histogram(values: pl.Series) -> str:
    """Return twelve bars, the tallest for the fullest of twelve bins of equal width; an empty text when there is no value."""
    numbers = values.drop_nulls().to_numpy().astype(float)
    if not len(numbers):
        return ""
    counts, _ = np.histogram(numbers, bins=BINS)
    heights = np.ceil(counts / counts.max() * len(_BARS)).astype(int)
    return "".join(" " if not height else _BARS[height - 1] for height in heights)
