"""Types that the lake stores without change, checked at any nesting depth."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import polars as pl

from mlops_assets.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_UNCHANGED_TYPES = (
    *(pl.Boolean, pl.String, pl.Binary, pl.Date, pl.Float32, pl.Float64),
    *(pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64),
)
_MAX_PRECISION = 38  # of a decimal in DuckDB
_NANOSECONDS = 1000  # in one microsecond
_HINTS: dict[type[pl.DataType], str] = {
    pl.Time: "cast a time of day to text or to a number: pl.col('{0}').cast(pl.String), or pl.col('{0}').cast(pl.Int64) // 1000 for microseconds",
    pl.Duration: "store a duration as a number: pl.col('{0}').dt.total_seconds()",
    pl.Array: "store an array as a list: pl.col('{0}').arr.to_list()",
    pl.Int128: "cast it: pl.col('{0}').cast(pl.Int64), or to pl.String where the numbers are longer",
    pl.UInt128: "cast it: pl.col('{0}').cast(pl.UInt64), or to pl.String where the numbers are longer",
    pl.Float16: "cast it: pl.col('{0}').cast(pl.Float32)",
    pl.Object: "build the column from plain values: numbers, text, times, lists and structs of them",
}


def normalize(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a frame in stored types: times in µs, in UTC if they have a zone; categories as text; null columns as int.

    Raises
    ------
    DataError
        Two columns differ only in the case of their names, the lake cannot hold a column's name or type, or text holds a NUL character.
    """
    frame = cast_to_stored(frame)
    for name in frame.columns:
        if any(text.str.contains("\x00", literal=True).any() for text in _iterate_texts(frame[name])):
            raise DataError(
                f"column '{name}' holds text with a NUL character, first in row {_find_nul(frame[name]) + 1}",
                hint="remove it: a filter never matches such text",
            )
    return frame


def cast_to_stored(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a frame in stored types as :func:`normalize` does, without a search for NUL characters in text.

    Raises
    ------
    DataError
        As in :func:`normalize`, except for NUL characters.
    """
    _check_names(frame.columns)
    stored_types = {name: _find_stored_type(name, dtype) for name, dtype in frame.schema.items()}
    casts = [pl.col(name).cast(dtype) for name, dtype in stored_types.items() if dtype != frame.schema[name]]
    return frame.with_columns(casts) if casts else frame


def count_truncated_times(frame: pl.DataFrame) -> dict[str, int]:
    """Return column → the number of times that lose nanoseconds in the lake; columns without such times have no entry."""
    counts = {
        name: sum(int((t.to_physical() % _NANOSECONDS != 0).sum()) for t in _iterate_nanosecond_times(frame[name]))
        for name in frame.columns
    }
    return {name: count for name, count in counts.items() if count}


def stored_type(dtype: pl.DataType) -> pl.DataType:
    """Return the type in which the lake stores ``dtype``; raise TypeError with the unsupported inner type when there is none."""
    if isinstance(dtype, _UNCHANGED_TYPES) or (isinstance(dtype, pl.Decimal) and (dtype.precision or 0) <= _MAX_PRECISION):
        return dtype
    if isinstance(dtype, pl.Datetime):
        return pl.Datetime("us", "UTC" if dtype.time_zone else None)
    if isinstance(dtype, (pl.Categorical, pl.Enum)):
        return pl.String()
    if isinstance(dtype, pl.Null):
        return pl.Int32()
    if isinstance(dtype, pl.List):
        return pl.List(stored_type(_dtype_instance(dtype.inner)))
    names = [field.name for field in dtype.fields] if isinstance(dtype, pl.Struct) else []
    if isinstance(dtype, pl.Struct) and names and all(names) and not _find_case_clashes(names):
        return pl.Struct({field.name: stored_type(_dtype_instance(field.dtype)) for field in dtype.fields})
    raise TypeError(dtype)


def _dtype_instance(dtype: Any) -> pl.DataType:  # noqa: ANN401  (polars gives a class or an instance)
    instance: pl.DataType = dtype() if isinstance(dtype, type) else dtype
    return instance


def _find_stored_type(name: str, dtype: pl.DataType) -> pl.DataType:
    try:
        return stored_type(dtype)
    except TypeError as error:
        refused: pl.DataType = error.args[0]
        inside = "" if refused == dtype else f", because of the {refused} inside it"
        raise DataError(
            f"column '{name}' has type {dtype}, which the lake cannot hold{inside}",
            hint=_build_type_hint(name, refused, nested=bool(inside)),
        ) from None


def _build_type_hint(name: str, refused: pl.DataType, *, nested: bool) -> str:
    if isinstance(refused, pl.Struct):
        return "give every field of a struct a name of its own that differs in more than case, or unnest it"
    hint = _HINTS.get(type(refused), "cast it to a number, text, a time, or a list or struct of them").format(name)
    return f"cast the inner values; if they were a column: {hint}" if nested else hint


def _check_names(names: Sequence[str]) -> None:
    """Raise DataError for names that differ only in case, which the lake ignores, and for names that are empty or contain NUL."""
    if clashes := _find_case_clashes(names):
        other = next(name for name in clashes[1:] if name.lower() == clashes[0].lower())
        raise DataError(
            f"the columns '{clashes[0]}' and '{other}' differ only in case, which the lake does not distinguish", hint="rename one of them"
        )
    for name in names:
        if not name or "\x00" in name:
            raise DataError(f"a column is named {name!r}, which the lake cannot hold", hint="give every column a name that is plain text")


def _find_case_clashes(names: Sequence[str]) -> list[str]:
    """Return the names that differ from another name in upper and lower case only."""
    counts = Counter(name.lower() for name in names)
    return [name for name in names if counts[name.lower()] > 1]


def _iterate_texts(series: pl.Series) -> Iterator[pl.Series]:
    return (part for part in _iterate_leaves(series) if part.dtype == pl.String)


def _iterate_nanosecond_times(series: pl.Series) -> Iterator[pl.Series]:
    return (part for part in _iterate_leaves(series) if isinstance(part.dtype, pl.Datetime) and part.dtype.time_unit == "ns")


def _iterate_leaves(series: pl.Series) -> Iterator[pl.Series]:
    """Yield the values of a column as flat series, also from inside lists and structs."""
    if isinstance(series.dtype, pl.List):
        yield from _iterate_leaves(series.explode())
    elif isinstance(series.dtype, pl.Struct):
        for field in series.dtype.fields:
            yield from _iterate_leaves(series.struct.field(field.name))
    else:
        yield series


def _find_nul(series: pl.Series) -> int:
    """Return the number of the first row, from 0, whose value contains a NUL character."""
    return next(row for row, value in enumerate(series.to_list()) if _contains_nul(value))


def _contains_nul(value: object) -> bool:
    """Return whether a text, or a text inside of a list or a struct, contains a NUL character."""
    if isinstance(value, (list, dict)):
        return any(_contains_nul(part) for part in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, str) and "\x00" in value
