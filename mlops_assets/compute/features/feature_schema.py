"""Cast columns of a feature view to their declared types."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import polars as pl

from mlops_assets.errors import DataError
from mlops_assets.values.feature_types import embedding_length, format_type, item_type

if TYPE_CHECKING:
    from collections.abc import Sequence


def cast_features(frame: pl.DataFrame, features: Sequence[tuple[str, Any]], view: str) -> pl.DataFrame:
    """Return a frame with features in their declared types.

    Numbers are widened to 64 bits; integers become floats where a float is declared. Categories become text, arrays become lists, and a
    null column gets the declared type. Nothing else is converted.

    Parameters
    ----------
    frame
        The rows, with every feature among the columns.
    features
        Name and declared type of each feature.
    view
        The name of the view, for error messages.

    Raises
    ------
    DataError
        A column has another type, a value does not fit, or an embedding has another length.
    """
    frame = frame.with_columns(_cast_feature(frame[name], kind, name, view) for name, kind in features)
    for name, kind in features:
        size = embedding_length(kind)
        if size is None:
            continue
        misfits = frame.with_row_index("__row").filter(pl.col(name).list.len() != size)
        if misfits.height:
            row = misfits["__row"][0]
            raise DataError(
                f"'{view}', column '{name}': row {row} has {len(frame[name][row])} items, but an embedding of {size} is declared",
                hint="correct the source, or declare the actual length",
            )
    return frame


def _cast_feature(series: pl.Series, kind: Any, name: str, view: str) -> pl.Series:  # noqa: ANN401
    item = item_type(kind)
    dtype: Any = series.dtype
    if item is not None:
        if isinstance(dtype, pl.Array):
            series, dtype = series.arr.to_list(), pl.List(dtype.inner)
        if isinstance(dtype, pl.List) and (target := _fitting_type(dtype.inner, item)) is not None:
            return series if target == dtype.inner else series.cast(pl.List(target))
    elif (target := _fitting_type(dtype, kind)) is not None:
        return series if target == dtype else _cast_strictly(series, target, name, view)
    raise DataError(
        f"'{view}', column '{name}' has type {dtype}, but the feature is declared as {format_type(kind)}",
        hint="cast the column in the source, or declare the type that it has" + _conversion_hint(dtype, kind),
    )


def _fitting_type(dtype: Any, kind: type) -> Any:  # noqa: ANN401
    """Return the type in which a declared type is stored; None when a column of type ``dtype`` does not fit."""
    stored = {float: pl.Float64(), int: pl.Int64(), bool: pl.Boolean(), str: pl.String(), datetime: pl.Datetime("us", "UTC")}[kind]
    text = isinstance(dtype, (pl.String, pl.Categorical, pl.Enum))
    fits = {
        float: dtype.is_numeric(),
        int: dtype.is_integer(),
        bool: dtype == pl.Boolean,
        str: text,
        datetime: isinstance(dtype, pl.Datetime) and dtype.time_zone == "UTC",
    }
    return stored if dtype == pl.Null or fits[kind] else None


def _cast_strictly(series: pl.Series, target: Any, name: str, view: str) -> pl.Series:  # noqa: ANN401
    try:
        return series.cast(target)
    except pl.exceptions.InvalidOperationError as error:
        raise DataError(
            f"'{view}', column '{name}': a value does not fit {target}: {str(error).splitlines()[0]}", hint="declare it as float"
        ) from error


def _conversion_hint(dtype: Any, kind: type) -> str:  # noqa: ANN401
    if kind is int and dtype.is_float():
        return "; whole numbers with nulls become floats in pandas: use its Int64"
    if kind is datetime and isinstance(dtype, pl.Datetime):
        return "; give it a time zone: .dt.replace_time_zone(...).dt.convert_time_zone('UTC')"
    return ""
