"""Content hashes of rows, equal for equal rows on every machine and with every library version.

This module defines the hashed bytes. They are each column's name, logical type, validity and canonical values: little-endian numbers,
UTF-8 text with lengths. Rows are first sorted by the key, then by every other column; only :func:`ordered_hash` keeps their order.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    # First row and end → the hashed bytes of a column in these rows.
    SliceReader: TypeAlias = Callable[[int, int], tuple[bytes | memoryview, ...]]

# Types whose values are hashed as numbers, by their logical names; all others are hashed as text.
_PLAIN: dict[str, pl.DataType] = {
    "int": pl.Int64(),
    "float": pl.Float64(),
    **{str(dtype): dtype for dtype in (pl.Boolean(), pl.Date(), pl.Datetime("us"), pl.Datetime("us", "UTC"))},
}

_SAMPLE = 1_000  # first rows, from which a sort is planned
_MIN_PACKED_ROWS = 100_000  # rows of a slice from which leading columns are packed into one number to sort by
_MAX_PACKED = 2**62  # distinct packed numbers


def content_hash(frame: pl.DataFrame, key: Sequence[str] = ()) -> str:
    """Return the sha256 of the rows of a frame, independent of their order.

    Parameters
    ----------
    frame
        Normalised rows.
    key
        Columns that identify a row. Rows are sorted by these columns first, so another key may give another hash.
    """
    return hash_slices(frame, [(0, frame.height)], key)[0]


def ordered_hash(frame: pl.DataFrame) -> str:
    """Return the sha256 of the rows of a frame in their order.

    Parameters
    ----------
    frame
        Normalised rows.
    """
    return hash_ordered_slices(frame, [(0, frame.height)])[0]


def hash_ordered_slices(frame: pl.DataFrame, bounds: Sequence[tuple[int, int]], *, types: Mapping[str, str] | None = None) -> list[str]:
    """Return the :func:`ordered_hash` of each slice ``[start, end)`` of a frame; slices may overlap.

    Parameters
    ----------
    frame
        Normalised rows.
    bounds
        Start and end row of each slice.
    types
        As in :func:`hash_slices`.
    """
    return _hash_columns(frame, bounds, types or {})


def logical_types(frame: pl.DataFrame) -> dict[str, str]:
    """Return column → the name of its type in the hash; all integer widths are ``int``, all float widths ``float``."""
    return {name: _logical_type(dtype) for name, dtype in frame.schema.items()}


def hash_slices(
    frame: pl.DataFrame, bounds: Sequence[tuple[int, int]], key: Sequence[str] = (), *, types: Mapping[str, str] | None = None
) -> list[str]:
    """Return the :func:`content_hash` of each slice ``[start, end)`` of a frame.

    Parameters
    ----------
    frame
        Normalised rows; the slices are consecutive and cover all of them.
    bounds
        Start and end row of each slice.
    key
        As in :func:`content_hash`.
    types
        The result of :func:`logical_types` when the rows were written, for a table whose columns may have been widened later.
    """
    return _hash_columns(_sort_rows(frame, bounds, key) if frame.height else frame, bounds, types or {})


def _hash_columns(frame: pl.DataFrame, bounds: Sequence[tuple[int, int]], types: Mapping[str, str]) -> list[str]:
    """Return the hash of each slice, with the rows in their current order."""
    hashers = [hashlib.sha256(str(end - start).encode()) for start, end in bounds]
    for name in sorted(frame.columns):
        series, logical = _restore_type(frame[name], types.get(name))
        head = f"|{name}:{logical}|".encode()
        chunks = _build_byte_slicer(series)
        for hasher, (start, end) in zip(hashers, bounds, strict=True):
            hasher.update(head)
            for chunk in chunks(start, end):
                hasher.update(chunk)
    return [hasher.hexdigest() for hasher in hashers]


def _restore_type(series: pl.Series, logical: str | None) -> tuple[pl.Series, str]:
    """Return a column in its type at writing time and the name of that type; the current type if it cannot be restored."""
    current = _logical_type(series.dtype)
    if logical is None or logical == current:
        return series, current
    if logical == "int" and current == "float":
        return series.cast(pl.Int64, strict=False), logical
    if series.null_count() == len(series):  # the type of a column without values changes when its first value is written
        return pl.Series(series.name, [None] * len(series), dtype=_PLAIN.get(logical, pl.String())), logical
    return series, current


def _sort_rows(frame: pl.DataFrame, bounds: Sequence[tuple[int, int]], key: Sequence[str]) -> pl.DataFrame:
    """Return the rows sorted within their slices, by the key and then by every other column."""
    by = [*key, *sorted(c for c in frame.columns if c not in key)]
    leading = by[: _count_deciding(frame, by, len(key))]
    return frame.rechunk()[pl.concat([_find_order(frame[start:end], by, leading) + start for start, end in bounds])]


def _count_deciding(frame: pl.DataFrame, by: Sequence[str], keys: int) -> int:
    """Return the number of leading sort columns that probably decide the order.

    These are the key's columns. Without a key, they are the columns that distinguish the first rows, and one more.
    """
    if keys:
        return keys
    sample = frame.head(_SAMPLE)
    for count in range(1, len(by)):
        if sample[by[count - 1]].dtype.is_nested():
            break
        if not sample.select(by[:count]).is_duplicated().any():
            return count + 1
    return len(by)


def _find_order(rows: pl.DataFrame, by: Sequence[str], leading: Sequence[str]) -> pl.Series:
    """Return the row numbers sorted by every column of ``by``.

    A sort by ``leading``, the first columns of ``by``, is tried first: it gives the same order unless two rows are equal in these columns.
    """
    if rows.height >= _MIN_PACKED_ROWS and (packed := _pack_columns([rows[name] for name in leading])) is not None:
        order = packed.arg_sort()
        in_order = packed.gather(order)
        if (in_order[1:] != in_order[:-1]).all():
            return order
    if not any(rows[name].dtype.is_nested() for name in leading):
        order = _arg_sort(rows, leading)
        if len(leading) == len(by) or not _has_ties(rows.select(leading)[order], leading):
            return order
    return _arg_sort(rows, by)


def _arg_sort(rows: pl.DataFrame, by: Sequence[str]) -> pl.Series:
    """Return the row numbers sorted by the columns ``by``."""
    # Lists and structs have no order of their own: their text does.
    keys = [pl.Series(name, _to_text(rows[name])) if rows[name].dtype.is_nested() else rows[name] for name in by]
    return pl.DataFrame(keys).select(pl.arg_sort_by([pl.col(name) for name in by], nulls_last=True)).to_series()


def _pack_columns(columns: Sequence[pl.Series]) -> pl.Series | None:
    """Return one integer for each row that sorts like the columns, or like the leading columns that fit into it; None if none fits."""
    packed, span = None, 1
    for series in columns:
        ranks = _rank_values(series)
        if ranks is None or span * (size := int(ranks.max() or 0) + 1) > _MAX_PACKED:  # type: ignore[arg-type]  # whole numbers
            break
        packed, span = (ranks if packed is None else packed * size + ranks), span * size
    return packed


def _rank_values(series: pl.Series) -> pl.Series | None:
    """Return whole numbers from 0 that sort like the values, nulls last; None for other types and for text with many values."""
    if series.dtype == pl.String:
        if series.head(_SAMPLE).n_unique() > _SAMPLE // 2:
            return None
        ranks = series.cast(pl.Enum(series.unique().drop_nulls().sort())).to_physical().cast(pl.Int64)
    elif series.dtype in (pl.Boolean, pl.Date, pl.Int64, pl.Int32, pl.Int16, pl.Int8) or isinstance(series.dtype, pl.Datetime):
        ranks = series.to_physical().cast(pl.Int64)
        lowest, highest = int(ranks.min() or 0), int(ranks.max() or 0)  # type: ignore[arg-type]  # whole numbers
        if highest - lowest >= _MAX_PACKED:
            return None
        ranks = ranks - lowest
    else:
        return None
    return ranks.fill_null(int(ranks.max() or 0) + 1) if ranks.null_count() else ranks  # type: ignore[arg-type]  # a whole number


def _has_ties(ordered: pl.DataFrame, by: Sequence[str]) -> bool:
    """Return True if two neighbouring rows are equal in ``by``, the columns by which the rows are sorted."""
    equal = np.ones(max(ordered.height - 1, 0), dtype=bool)
    for name in by:
        equal &= ordered[name][1:].eq_missing(ordered[name][:-1]).to_numpy()
    return bool(equal.any())


def _to_text(series: pl.Series) -> list[str | None]:
    """Return each value as JSON text; null stays None."""
    return [None if value is None else json.dumps(value, default=str) for value in series.to_list()]


def _logical_type(dtype: pl.DataType) -> str:
    if dtype.is_integer():
        return "int"
    if dtype.is_float():
        return "float"
    return str(dtype)


def _build_byte_slicer(series: pl.Series) -> SliceReader:
    """Return a function that returns the bytes to hash of a column between two rows: validity bits, then values."""
    valid = series.is_not_null().to_numpy()
    if series.dtype.is_nested() or isinstance(series.dtype, (pl.Decimal, pl.Binary)):
        series = pl.Series(series.name, _to_text(series), dtype=pl.String)
    if series.dtype == pl.String:
        return _build_text_slicer(series, valid)
    values = _canonical_numbers(series)
    return lambda start, end: (np.packbits(valid[start:end]).tobytes(), values[start:end].view(np.uint8).data)


def _build_text_slicer(series: pl.Series, valid: np.ndarray) -> SliceReader:
    array = series.fill_null("").rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())  # offsets, and all text in one buffer
    _, ends, text = array.buffers()
    offsets = np.frombuffer(ends, dtype=np.int64)[array.offset : array.offset + len(array) + 1]
    lengths, data = np.diff(offsets).astype("<u4"), memoryview(text or b"")
    return lambda start, end: (
        np.packbits(valid[start:end]).tobytes(),
        lengths[start:end].tobytes(),
        data[offsets[start] : offsets[end]],
    )


def _canonical_numbers(series: pl.Series) -> np.ndarray:
    """Return canonical little-endian values: one NaN, one zero, nulls as zero."""
    physical = series.to_physical()
    if physical.dtype.is_float():
        values = np.asarray(physical.cast(pl.Float64).fill_null(0.0).to_numpy() + 0.0, dtype="<f8")
        unknown = np.isnan(values)
        if unknown.any():
            values[unknown] = np.nan
        return values
    if physical.dtype == pl.UInt64:
        return physical.fill_null(0).to_numpy().astype("<u8", copy=False)
    return physical.cast(pl.Int64).fill_null(0).to_numpy().astype("<i8", copy=False)
