"""Convert pandas frames without silent changes: refuse an index, mixed types and rounded integers, with the first bad row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from mlops_assets.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_EXACT = 2**53  # from here on, a float cannot distinguish neighbouring whole numbers
_SUSPECT_KINDS = ("mixed", "datetime", "bytes", "date", "unknown")


def convert_pandas(frame: Any, what: str) -> pl.DataFrame:  # noqa: ANN401  (a pandas frame)
    """Return a pandas frame as a polars frame.

    Parameters
    ----------
    frame
        A pandas frame.
    what
        The asset or function that returned the frame, named in error messages.

    Raises
    ------
    DataError
        The index is not a plain row number. Two columns have one name, or a name is not text. A column mixes types, or times with and
        without a time zone, or holds bytes. Text is not UTF-8. Whole numbers above 2^53 have become floats. A column cannot be converted.
    """
    _refuse_index(frame.index, what)
    duplicates = [str(name) for name in frame.columns[frame.columns.duplicated()]]
    if duplicates:
        raise DataError(
            f"{what} returned two columns named '{duplicates[0]}'",
            hint="rename one of them, or drop it: frame.loc[:, ~frame.columns.duplicated()]",
        )
    if unnamed := [name for name in frame.columns if not isinstance(name, str)]:
        raise DataError(
            f"{what} returned a column named {unnamed[0]!r}, which is not text", hint="name every column: frame.columns = [...]"
        )
    return pl.DataFrame([_convert_column(frame[name], name, what) for name in frame.columns])


def _refuse_index(index: Any, what: str) -> None:  # noqa: ANN401
    """Raise DataError for an index that polars and the lake would lose."""
    import pandas as pd

    unnamed = not any(name is not None for name in index.names)
    if unnamed and (isinstance(index, pd.RangeIndex) or not len(index)):
        return
    names = [str(name) for name in index.names if name is not None]
    description = f"named {', '.join(names)}" if names else "without a name"
    first = f", the first value is {index.tolist()[0]!r}" if len(index) else ""
    raise DataError(
        f"{what}: the pandas frame has an index of its own ({type(index).__name__} {description}{first}), which would be lost",
        hint="call .reset_index() to keep the index as columns, or .reset_index(drop=True) to drop an index that only counts rows",
    )


def _convert_column(values: Any, name: str, what: str) -> pl.Series:  # noqa: ANN401  (a pandas series)
    """Return a pandas column as a polars series; times with a zone in an object column become UTC. Raise DataError for an unsafe column."""
    import pandas as pd

    if values.dtype == object:
        inferred = pd.api.types.infer_dtype(values, skipna=True)
        if inferred.startswith(_SUSPECT_KINDS):
            kinds = _refuse_mixed_kinds(values, name, what)
            if kinds == {"a time with a time zone"}:
                values = pd.to_datetime(values, utc=True)
    elif str(values.dtype) in {"float64", "float32"}:
        _refuse_rounded(values, name, what)
    try:
        return pl.Series(name, pl.from_pandas(values.reset_index(drop=True)))
    except Exception as error:
        raise _build_unconvertible_error(values, name, what, error) from error


def _refuse_mixed_kinds(values: Any, name: str, what: str) -> set[str]:  # noqa: ANN401
    """Return the kinds of the values in an object column; raise DataError for bytes and for several kinds.

    Whole and other numbers may be mixed.
    """
    rows_by_kind: dict[str, int] = {}  # first row of each kind
    for number, kind in _iterate_kinds(values):
        rows_by_kind.setdefault(kind, number)
        if kind == "bytes":
            raise _build_cell_error(
                what, name, number, f"is bytes: {values.iloc[number]!r}", "decode it where it is read: .str.decode('utf-8')"
            )
        if len(rows_by_kind) > 1 and not rows_by_kind.keys() <= {"a whole number", "a number"}:
            (first_kind, first_row), (other_kind, other_row) = list(rows_by_kind.items())[:2]
            hint = (
                f"give every time a zone: pd.to_datetime(frame['{name}'], utc=True) reads times without a zone as UTC"
                if "a time with a time zone" in rows_by_kind
                else f"give the column one type where it is read: frame['{name}'].astype('string') or pd.to_numeric(frame['{name}'])"
            )
            raise _build_cell_error(
                what, name, other_row, f"is {other_kind} ({values.iloc[other_row]!r}), but row {first_row + 1} is {first_kind}", hint
            )
    return set(rows_by_kind)


def _iterate_kinds(values: Any) -> Iterator[tuple[int, str]]:  # noqa: ANN401
    """Yield the row number, from 0, and the kind of each value that is not missing."""
    import datetime as dt
    from numbers import Integral, Real

    import pandas as pd

    for number, value in enumerate(values):
        if pd.api.types.is_scalar(value) and pd.isna(value):
            continue
        if isinstance(value, dt.datetime):
            yield number, "a time with a time zone" if value.tzinfo else "a time without a time zone"
        elif isinstance(value, (bool, str, bytes, dt.date)):
            yield number, {"str": "text", "bool": "a truth value"}.get(type(value).__name__, type(value).__name__)
        elif isinstance(value, Integral):
            yield number, "a whole number"
        elif isinstance(value, Real):
            yield number, "a number"
        else:
            yield number, type(value).__name__


def _refuse_rounded(values: Any, name: str, what: str) -> None:  # noqa: ANN401
    """Raise DataError for integers that pandas converted to floats because of a null and that floats cannot represent exactly."""
    if not values.isna().any():
        return
    present = values.dropna()
    if not len(present) or present.abs().max() < MAX_EXACT or not (present == present.round()).all():
        return
    number = int((values.abs() >= MAX_EXACT).to_numpy().argmax())
    hint = (
        f"read the column as 'Int64' or 'string' (pd.read_csv(..., dtype={{'{name}': 'Int64'}})), which keep nulls without floats; "
        "if these are measurements, return a polars frame"
    )
    raise _build_cell_error(
        what, name, number, f"is {values.iloc[number]:.0f} as a float: whole numbers above 2^53 lose their last digits", hint
    )


def _build_unconvertible_error(values: Any, name: str, what: str, error: Exception) -> DataError:  # noqa: ANN401
    """Return the error for a column that cannot be converted; it names the first text that is not UTF-8, if any."""
    for number, value in enumerate(values):
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                return _build_cell_error(
                    what, name, number, f"is text that is not UTF-8: {value!r}", "read the file with its own encoding="
                )
    return DataError(
        f"{what} returned column '{name}' of pandas type {values.dtype}, which cannot be converted: {error}", hint="cast it to a plain type"
    )


def _build_cell_error(what: str, name: str, number: int, text: str, hint: str) -> DataError:
    return DataError(f"{what} returned column '{name}' whose row {number + 1} {text}", hint=hint)
