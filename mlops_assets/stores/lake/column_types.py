"""Fit new rows to a table of the lake whose columns have other names or types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import polars as pl

from mlops_assets.errors import DataError, LakeError

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_EXACT: dict[type[pl.DataType], int] = {pl.Float32: 2**24, pl.Float64: 2**53}  # a float holds every whole number up to here
_RANGES: dict[type[pl.DataType], tuple[int, int]] = {
    kind: edges
    for bits, signed, unsigned in ((8, pl.Int8, pl.UInt8), (16, pl.Int16, pl.UInt16), (32, pl.Int32, pl.UInt32), (64, pl.Int64, pl.UInt64))
    for kind, edges in ((signed, (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)), (unsigned, (0, 2**bits - 1)))
}


class StoredValues(Protocol):
    """Facts about the stored values of a table. Each fact costs a query, so it is read only where column types differ."""

    def is_empty(self, column: str) -> bool:
        """Return whether a column of the table holds no value but null; False when it cannot be read."""
        ...

    def max_abs(self, column: str) -> float:
        """Return the maximum absolute value of a column of numbers; infinity when it cannot be read."""
        ...


class ColumnTypeError(LakeError):
    """A column of the new rows conflicts with the table.

    Their names differ only in case, or no type holds the values of both without loss.
    """


@dataclass(frozen=True)
class TypeFit:
    """New rows, cast to the column types that the table has or will have after the write.

    Parameters
    ----------
    frame
        The rows.
    changes
        One message for each column of the table that changes.
    conflicts
        One message for each column whose name or type does not fit the table; such a column is not cast.
    """

    frame: pl.DataFrame
    changes: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()


def fill_unknown_types(frame: pl.DataFrame, table_types: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Cast columns of polars' type Null, which hold only nulls, to the column's type in the table."""
    unknown = [name for name, dtype in frame.schema.items() if dtype == pl.Null and name in table_types]
    return frame.with_columns(pl.col(name).cast(table_types[name]) for name in unknown) if unknown else frame


def describe_changes(frame: pl.DataFrame, table_types: Mapping[str, pl.DataType]) -> tuple[str, ...]:
    """Return one message for each difference between the columns of new rows and those of a table."""
    new = [f"column '{name}' is new" for name in frame.columns if name not in table_types]
    removed = [f"column '{name}' is no longer there" for name in table_types if name not in frame.columns]
    retyped = [
        _describe_change(name, table_types[name], dtype)
        for name, dtype in frame.schema.items()
        if name in table_types and table_types[name] != dtype
    ]
    return (*new, *removed, *retyped)


def fit_columns(frame: pl.DataFrame, table_types: Mapping[str, pl.DataType], stored: StoredValues) -> TypeFit:
    """Cast each column of new rows to a type that holds its values and the stored values; report columns without such a type as conflicts.

    Parameters
    ----------
    frame
        Normalised rows of partitions of the table.
    table_types
        The table's columns.
    stored
        The stored values.
    """
    folded = {name.lower(): name for name in table_types}
    columns, changes, conflicts = [], list[str](), list[str]()
    for series in frame.iter_columns():
        name, dtype = series.name, series.dtype
        stored_name = folded.get(name.lower())
        if stored_name is None:
            changes.append(f"column '{name}' is new; earlier partitions have no value in it")
        elif stored_name != name:
            conflicts.append(f"column '{name}' is named '{stored_name}' in the lake, which ignores case in names")
        elif dtype != table_types[name]:
            target = _find_common_type(series, table_types[name], stored)
            if target is None:
                conflicts.append(f"column '{name}' is {table_types[name]} in the lake and {dtype} in the new rows")
            else:
                series = series.cast(target)  # noqa: PLW2901  (the fitted column)
                changes += [] if target == table_types[name] else [_describe_change(name, table_types[name], target)]
        columns.append(series)
    new = {name.lower() for name in frame.columns}
    changes += [f"column '{name}' is missing in the new rows and null there" for name in table_types if name.lower() not in new]
    return TypeFit(pl.DataFrame(columns), tuple(changes), tuple(conflicts))


def refuse_conflicts(table: str, fit: TypeFit) -> None:
    """Raise ColumnTypeError when the name or type of a column does not fit; the message names the first such column."""
    if fit.conflicts:
        rest = f" (and {len(fit.conflicts) - 1} more)" if len(fit.conflicts) > 1 else ""
        kind, _, name = table.partition("/")
        drop = f", and so does `mlops datasets drop {name}` before the next run" if kind == "dataset" else ""
        raise ColumnTypeError(
            f"'{table}': {fit.conflicts[0]}{rest}. Nothing was committed; the earlier data stay readable",
            hint="cast it to the old type, or give the new column another name; a run over all recorded partitions at once replaces the type"
            f"{drop}. A schema= gives a column its type from the start",
        )


def refuse_difference(table: str, written: Mapping[str, pl.DataType], stored: Mapping[str, pl.DataType]) -> None:
    """Raise DataError when a table would return other column names or types than the written rows have."""
    for name, dtype in written.items():
        if stored.get(name) != dtype:
            difference = f"as {stored[name]}" if name in stored else "under another name"
            raise DataError(
                f"'{table}': column '{name}' of type {dtype} would be stored {difference}. Nothing was committed; the earlier data stay readable",
                hint="rename it, or cast it to a number, text, a time in UTC, or a list or struct of them",
            )


def _describe_change(name: str, old: pl.DataType, new: pl.DataType) -> str:
    return f"column '{name}' was {old} and is now {new}"


def _find_common_type(new: pl.Series, old: pl.DataType, stored: StoredValues) -> pl.DataType | None:
    """Return the type that holds the new and the stored values without loss, and to which the lake can alter the column; else None."""
    if new.null_count() == len(new):
        return old
    if stored.is_empty(new.name):
        return new.dtype
    if new.dtype.is_float() and old.is_integer():
        return pl.Float64() if stored.max_abs(new.name) <= _MAX_EXACT[pl.Float64] else None
    if new.dtype.is_integer() and old.is_float():
        return old if _max_abs(new) <= _MAX_EXACT[type(old)] else None
    wider = _find_wider_type(new.dtype, old)
    return wider if wider is None or wider == old or not old.is_nested() else None


def _find_wider_type(first: pl.DataType, second: pl.DataType) -> pl.DataType | None:
    """Return a type that holds every value of two types; None when there is none, e.g. for Int64 and UInt64."""
    if first == second:
        return first
    if first.is_integer() and second.is_integer():
        return next((kind() for kind in _RANGES if _covers(kind, first) and _covers(kind, second)), None)
    if first.is_float() and second.is_float():
        return pl.Float64()
    if isinstance(first, pl.List) and isinstance(second, pl.List):
        inner = _find_wider_type(first.inner, second.inner)  # type: ignore[arg-type]  # of a column's type these are instances
        return None if inner is None else pl.List(inner)
    return None


def _covers(wide: type[pl.DataType], narrow: pl.DataType) -> bool:
    (low, high), (first, last) = _RANGES[wide], _RANGES[type(narrow)]
    return low <= first and last <= high


def _max_abs(values: pl.Series) -> int:
    return max((abs(int(edge)) for edge in (values.min(), values.max()) if edge is not None), default=0)  # type: ignore[arg-type]  # a whole number
