"""Between the lake's frames and the type a user annotated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from mlops_assets.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

FRAME_TYPES = ("polars.LazyFrame", "polars.DataFrame", "pandas.DataFrame", "duckdb.DuckDBPyRelation")


def present(frame: pl.DataFrame, frame_type: str) -> object:
    """Return ``frame`` as the annotated type, one of ``FRAME_TYPES``."""
    return _PRESENT[frame_type](frame)


def _relation(frame: pl.DataFrame) -> object:
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    return connection.from_arrow(frame.to_arrow())


_PRESENT: dict[str, Callable[[pl.DataFrame], object]] = {
    "polars.LazyFrame": lambda frame: frame.lazy(),
    "polars.DataFrame": lambda frame: frame,
    "pandas.DataFrame": lambda frame: frame.to_pandas(),
    "duckdb.DuckDBPyRelation": _relation,
}


def collect(value: object, what: str) -> pl.DataFrame:
    """Return what a function returned as a collected polars frame.

    Raises
    ------
    DataError
        It is none of the four frame types.
    """
    if isinstance(value, pl.LazyFrame):
        return value.collect()
    if isinstance(value, pl.DataFrame):
        return value
    kind = type(value)
    if kind.__module__.startswith("pandas"):
        return pl.from_pandas(value)
    if kind.__name__ == "DuckDBPyRelation":
        return pl.DataFrame(value.to_arrow_table())  # type: ignore[attr-defined]
    raise DataError(f"{what} returned {kind.__name__}, not a frame", hint="return a polars, pandas or DuckDB frame")
