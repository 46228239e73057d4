"""Content hashes of rows: equal for equal rows in any order, on every machine, with every version of every library.

The bytes that are hashed are ours: for each column its name, logical type, validity and canonical values (little-endian
numbers, UTF-8 text with lengths), of rows sorted by the key or by every column.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Types whose values are hashed as numbers, by their logical names; all others are hashed as text.
_PLAIN: dict[str, pl.DataType] = {
    "int": pl.Int64(),
    "float": pl.Float64(),
    **{str(dtype): dtype for dtype in (pl.Boolean(), pl.Date(), pl.Datetime("us"), pl.Datetime("us", "UTC"))},
}


def content_hash(frame: pl.DataFrame, key: Sequence[str] = ()) -> str:
    """Return the sha256 of a frame's rows, whatever their order.

    Parameters
    ----------
    frame
        Normalised rows.
    key
        Columns that identify a row; every column when empty.
    """
    return hash_parts(frame, [(0, frame.height)], key)[0]


def ordered_hash(frame: pl.DataFrame) -> str:
    """Return the sha256 of a frame's rows in their order.

    Parameters
    ----------
    frame
        Normalised rows.
    """
    hasher = hashlib.sha256(str(frame.height).encode())
    for name in sorted(frame.columns):
        hasher.update(f"|{name}:{_logical(frame[name].dtype)}|".encode())
        for chunk in _bytes(frame[name])(0, frame.height):
            hasher.update(chunk)
    return hasher.hexdigest()


def logical_types(frame: pl.DataFrame) -> dict[str, str]:
    """Return the type of each column as its hash names it: all widths of a whole number are one."""
    return {name: _logical(dtype) for name, dtype in frame.schema.items()}


def hash_parts(
    frame: pl.DataFrame, bounds: Sequence[tuple[int, int]], key: Sequence[str] = (), *, types: Mapping[str, str] | None = None
) -> list[str]:
    """Return the hash of each slice ``[start, end)`` of a frame; rows are put in order within their slice.

    Parameters
    ----------
    frame
        Normalised rows, the slices one after the other.
    bounds
        Start and end row of each slice.
    key
        As in :func:`content_hash`.
    types
        Those of :func:`logical_types` when the rows were written, where the table's columns may have been widened since.
    """
    hashers = [hashlib.sha256(str(end - start).encode()) for start, end in bounds]
    if frame.height:
        frame = _in_order(frame, bounds, key)
    for name in sorted(frame.columns):
        series, logical = _as_written(frame[name], (types or {}).get(name))
        head = f"|{name}:{logical}|".encode()
        chunks = _bytes(series)
        for hasher, (start, end) in zip(hashers, bounds, strict=True):
            hasher.update(head)
            for chunk in chunks(start, end):
                hasher.update(chunk)
    return [hasher.hexdigest() for hasher in hashers]


def _as_written(series: pl.Series, logical: str | None) -> tuple[pl.Series, str]:
    """Return a column in the type that it had when it was written, and that type's name."""
    now = _logical(series.dtype)
    if logical is None or logical == now:
        return series, now
    if logical == "int" and now == "float":
        return series.cast(pl.Int64, strict=False), logical
    if series.null_count() == len(series):  # a column without any value takes the type of the first value
        return pl.Series(series.name, [None] * len(series), dtype=_PLAIN.get(logical, pl.String())), logical
    return series, now


def _in_order(frame: pl.DataFrame, bounds: Sequence[tuple[int, int]], key: Sequence[str]) -> pl.DataFrame:
    part = np.zeros(frame.height, dtype=np.int32)
    for index, (start, end) in enumerate(bounds):
        part[start:end] = index
    by = [*key, *sorted(c for c in frame.columns if c not in key)]
    # Lists and structs have no order of their own: their text does.
    order = [
        pl.Series(f"__by_{name}", _as_text(frame[name])) if frame[name].dtype.is_nested() else frame[name].alias(f"__by_{name}")
        for name in by
    ]
    return frame.hstack([pl.Series("__part", part), *order]).sort("__part", *(s.name for s in order), nulls_last=True).select(frame.columns)


def _as_text(series: pl.Series) -> list[str | None]:
    return [None if value is None else json.dumps(value, default=str) for value in series.to_list()]


def _logical(dtype: pl.DataType) -> str:
    if dtype.is_integer():
        return "int"
    if dtype.is_float():
        return "float"
    return str(dtype)


def _bytes(series: pl.Series):  # type: ignore[no-untyped-def]  # noqa: ANN202  (a reader of slices of one column)
    valid = series.is_not_null().to_numpy()
    if series.dtype.is_nested() or isinstance(series.dtype, (pl.Decimal, pl.Binary)):
        series = pl.Series(series.name, _as_text(series), dtype=pl.String)
    if series.dtype == pl.String:
        return _text_reader(series, valid)
    values = _numbers(series)
    return lambda start, end: (np.packbits(valid[start:end]).tobytes(), values[start:end].tobytes())


def _text_reader(series: pl.Series, valid: np.ndarray):  # type: ignore[no-untyped-def]  # noqa: ANN202
    filled = series.fill_null("")
    lengths = filled.str.len_bytes().to_numpy().astype("<u4")
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    text = "".join(filled.to_list()).encode()
    return lambda start, end: (
        np.packbits(valid[start:end]).tobytes(),
        lengths[start:end].tobytes(),
        text[offsets[start] : offsets[end]],
    )


def _numbers(series: pl.Series) -> np.ndarray:
    """Return canonical little-endian values: one NaN, one zero, nulls as zero."""
    physical = series.to_physical()
    if physical.dtype.is_float():
        values = physical.cast(pl.Float64).fill_null(0.0).to_numpy().astype("<f8") + 0.0
        return np.where(np.isnan(values), np.nan, values).astype("<f8")
    if physical.dtype == pl.UInt64:
        return physical.fill_null(0).to_numpy().astype("<u8")
    return physical.cast(pl.Int64).fill_null(0).to_numpy().astype("<i8")
