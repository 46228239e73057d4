"""Summary statistics of feature columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Iterable

BINS = 12
_BARS = "▁▂▃▄▅▆▇█"


def compute_statistics(frame: pl.DataFrame, features: Iterable[str]) -> list[dict[str, Any]]:
    """Return one row of statistics per feature.

    Parameters
    ----------
    frame
        The rows, with the features among the columns.
    features
        The features to describe.

    Returns
    -------
    list of dict
        ``feature``, ``type``, ``rows``, ``null`` (share), ``distinct``, ``min``, ``mean``, ``max``, ``std`` and ``histogram``. The last
        has twelve bars of equal width from minimum to maximum; for text, the three most frequent values. Statistics of numbers
        ignore non-finite values; for lists, ``min`` and ``max`` are lengths. A statistic that a type does not have is None.
    """
    return [_measure_safely(frame[name]) for name in features]


def _measure_safely(series: pl.Series) -> dict[str, Any]:
    """Return the statistics of a column; if an error occurs, None for each statistic and the error as the histogram."""
    try:
        return _measure_column(series)
    except Exception as error:  # noqa: BLE001  (a figure for display fails no step)
        empty = dict.fromkeys(("null", "distinct", "min", "mean", "max", "std"))
        reason = f"not drawn ({type(error).__name__}: {error})"
        return {"feature": series.name, "type": str(series.dtype), "rows": series.len(), **empty, "histogram": reason}


def _measure_column(series: pl.Series) -> dict[str, Any]:
    row: dict[str, Any] = {
        "feature": series.name,
        "type": str(series.dtype),
        "rows": series.len(),
        "null": series.null_count() / max(series.len(), 1),
        "distinct": None if series.dtype.is_nested() else series.n_unique(),
    }
    if series.dtype.is_numeric() or series.dtype == pl.Boolean:
        values = series.drop_nulls()
        return (
            row | _measure_numbers(values.cast(pl.Float64)) | ({"histogram": draw_histogram(values)} if series.dtype.is_integer() else {})
        )
    if series.dtype.is_temporal():
        return row | {
            "min": series.min(),
            "mean": None,
            "max": series.max(),
            "std": None,
            "histogram": draw_histogram(series.to_physical()),
        }
    if series.dtype.is_nested():
        lengths = series.list.len()
        return row | {"min": f"{lengths.min()!s} items", "mean": None, "max": f"{lengths.max()!s} items", "std": None, "histogram": ""}
    counts = series.drop_nulls().value_counts(name="__count")
    top_values = counts.sort("__count", series.name, descending=[True, False]).head(3)  # equally frequent values are sorted by value
    return row | {
        "min": series.min(),
        "mean": None,
        "max": series.max(),
        "std": None,
        "histogram": ", ".join(map(str, top_values[series.name])),
    }


def _measure_numbers(values: pl.Series) -> dict[str, Any]:
    finite = values.filter(values.is_finite())
    return {
        "min": finite.min(),
        "mean": finite.mean(),
        "max": finite.max(),
        "std": finite.std(),
        "histogram": draw_histogram(finite),
    }


def draw_histogram(values: pl.Series) -> str:
    """Return twelve bars of equal-width bins as text; one bar for a constant, empty without values."""
    present = values.drop_nulls()
    if present.is_empty():
        return ""
    low = present.min()
    if low == present.max():
        return _BARS[-1]
    # Subtract the minimum: floats cannot distinguish narrow bins of large numbers. A wrapped integer difference is correct when read as unsigned.
    numbers = present.to_numpy()
    is_integer = numbers.dtype.kind in "iu"
    with np.errstate(over="ignore"):
        offsets = (numbers - numbers.min()).view(f"u{numbers.itemsize}") if is_integer else numbers / 2 - numbers.min() / 2
    shares = offsets / offsets.max()
    counts, _ = np.histogram(shares, bins=BINS, range=(0, 1))
    heights = np.ceil(counts / counts.max() * len(_BARS)).astype(int)
    return "".join(" " if not height else _BARS[height - 1] for height in heights)
