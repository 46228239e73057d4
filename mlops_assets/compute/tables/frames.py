"""Convert frames of the lake to the annotated type of a user function, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from mlops_assets.errors import DataError
from mlops_assets.values.names import check_columns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

FRAME_TYPES = ("polars.LazyFrame", "polars.DataFrame", "pandas.DataFrame", "duckdb.DuckDBPyRelation")


def convert_frame(frame: pl.DataFrame, frame_type: str) -> object:
    """Return ``frame`` as the annotated type, one of ``FRAME_TYPES``."""
    return _CONVERTERS[frame_type](frame)


def _to_relation(frame: pl.DataFrame) -> object:
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    return connection.from_arrow(frame.to_arrow())


_CONVERTERS: dict[str, Callable[[pl.DataFrame], object]] = {
    "polars.LazyFrame": lambda frame: frame.lazy(),
    "polars.DataFrame": lambda frame: frame,
    "pandas.DataFrame": lambda frame: frame.to_pandas(),
    "duckdb.DuckDBPyRelation": _to_relation,
}


def sample_evenly(frame: pl.DataFrame, max_rows: int) -> pl.DataFrame:
    """Return ``max_rows`` evenly spaced rows, including the first; all rows of a smaller frame."""
    if frame.height <= max_rows:
        return frame
    return frame[pl.int_range(max_rows, eager=True) * frame.height // max_rows]


def list_columns(values: Iterable[object]) -> list[str]:
    """Return the distinct column names of the frames and training-set parts among ``values``, in order of appearance."""
    frames = [getattr(value, "rows", value) for value in values]
    names = [frame.collect_schema().names() if isinstance(frame, pl.LazyFrame) else list(getattr(frame, "columns", ())) for frame in frames]
    return list(dict.fromkeys(str(name) for columns in names for name in columns))


def collect(value: object, what: str) -> pl.DataFrame:
    """Return the result of a user function as a collected polars frame; ``what`` names the function in messages.

    Raises
    ------
    DataError
        The result is none of the four frame types, a DuckDB result has two columns of one name, or a pandas frame cannot be converted
        without a change, see :func:`mlops_assets.compute.tables.strict_pandas.convert_pandas`.
    DefinitionError
        A column has a reserved name.
    """
    frame = _collect(value, what)
    check_columns(frame.columns, what)
    return frame


def _collect(value: object, what: str) -> pl.DataFrame:
    if isinstance(value, pl.LazyFrame):
        return value.collect()
    if isinstance(value, pl.DataFrame):
        return value
    kind = type(value)
    if kind.__module__.startswith("pandas"):
        from mlops_assets.compute.tables.strict_pandas import convert_pandas

        return convert_pandas(value, what)
    if kind.__name__ == "DuckDBPyRelation":
        names = value.columns  # type: ignore[attr-defined]
        if duplicates := [name for name in names if names.count(name) > 1]:
            raise DataError(f"{what} returned two columns named '{duplicates[0]}'", hint="rename one of them in SELECT")
        return pl.DataFrame(value.to_arrow_table())  # type: ignore[attr-defined]
    raise DataError(f"{what} returned {kind.__name__}, not a frame", hint="return a polars, pandas or DuckDB frame")
