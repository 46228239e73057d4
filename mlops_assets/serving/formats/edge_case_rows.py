"""Rows on which two implementations of a model are likely to differ."""

from __future__ import annotations

from typing import Any

import polars as pl

_EXTREMES = {"Float64": (-1e300, 1e300, 0.0), "Float32": (-1e38, 1e38, 0.0)}


def make_edge_case_rows(probe: pl.DataFrame) -> pl.DataFrame:
    """Return a row of nulls, then copies of the first probe row with one null, extreme or unseen value each."""
    base = probe.head(1)
    frames = [base.with_columns(pl.lit(None, dtype=dtype).alias(name) for name, dtype in probe.schema.items())]
    for name, dtype in probe.schema.items():
        frames += [base.with_columns(pl.lit(value, dtype=dtype).alias(name)) for value in (None, *_edge_values(dtype))]
    return pl.concat(frames)


def _edge_values(dtype: pl.DataType) -> tuple[Any, ...]:
    if dtype == pl.String:
        return ("", "an unseen category", "ß中\x00")
    if dtype == pl.Boolean:
        return (True, False)
    if dtype.is_integer():
        return (0, 1, dtype.min().pipe(pl.select).item(), dtype.max().pipe(pl.select).item())  # type: ignore[attr-defined]
    return _EXTREMES.get(str(dtype), ())
