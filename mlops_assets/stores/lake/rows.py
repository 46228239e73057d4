"""Convert rows and names between polars and the lake's SQL, and cut rows into partitions."""

from __future__ import annotations

import itertools
import re
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import polars as pl

from mlops_assets.compute.tables.stored_types import cast_to_stored, normalize
from mlops_assets.errors import DataError, LakeError
from mlops_assets.stores.lake.protocol import PartitionRecord

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import duckdb

    from mlops_assets.stores.lake.protocol import Partition

RECORDS = 'lake."_mlops"."partitions"'
CHECKSUM_INDEX = 9  # position of the checksum among the columns of the records
_NAME = re.compile(r"[a-z_][a-z0-9_]*")


def read_record(row: tuple[Any, ...]) -> PartitionRecord:
    """Return the record in a row of the records. Text columns that an older lake lacks or holds as null become ``""``."""
    return PartitionRecord(*row[:8], *(text or "" for text in row[8:CHECKSUM_INDEX]))


def split_name(table: str) -> tuple[str, str]:
    """Return the kind and the name in ``<kind>/<name>``; raise LakeError for any other text."""
    parts = table.split("/")
    if len(parts) != 2 or not all(_NAME.fullmatch(part) for part in parts):
        raise LakeError(
            f"'{table}' is not a table's name", hint="tables are named <kind>/<name>, in lower-case letters, digits and underscores"
        )
    return parts[0], parts[1]


def quote_name(name: str) -> str:
    """Return a name as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quote_value(value: str | datetime) -> str:
    """Return a value as an SQL literal. A bound parameter would make DuckDB import pandas, which takes half a second."""
    return f"TIMESTAMPTZ '{value.isoformat()}'" if isinstance(value, datetime) else "'" + value.replace("'", "''") + "'"


def sql_name(table: str) -> str:
    """Return the quoted SQL name of a table ``<kind>/<name>``."""
    schema, name = split_name(table)
    return f'lake."{schema}"."{name}"'


def to_polars(result: duckdb.DuckDBPyConnection) -> pl.DataFrame:
    """Return a result of DuckDB as a polars frame; times with a zone are in UTC."""
    frame = pl.DataFrame(result.to_arrow_table())
    times = [
        pl.col(name).cast(pl.Datetime("us", "UTC"))
        for name, dtype in frame.schema.items()
        if isinstance(dtype, pl.Datetime) and dtype.time_zone
    ]
    return frame.with_columns(times) if times else frame


@contextmanager
def register_rows(cursor: duckdb.DuckDBPyConnection, name: str, rows: pl.DataFrame) -> Iterator[None]:
    """Let one statement read a frame as the table ``name``; the frame cannot be read a second time.

    DuckDB reads the Arrow stream of polars. Given an Arrow table, it would import ``pyarrow.dataset``, which imports pandas.
    """
    cursor.register(name, rows.__arrow_c_stream__())
    try:
        yield
    finally:
        cursor.unregister(name)


def to_storable(frame: pl.DataFrame, table: str) -> pl.DataFrame:
    """Cast rows to types that the lake stores without change; raise DataError with the table's name when it cannot store a column."""
    with _name_table(table):
        return normalize(frame)


def refuse_unstorable(frame: pl.DataFrame, table: str) -> None:
    """Raise DataError with the table's name when the lake cannot store a column's name or type; values are not checked."""
    with _name_table(table):
        cast_to_stored(frame.clear())


@contextmanager
def _name_table(table: str) -> Iterator[None]:
    """Prefix the message of a DataError within the context with the table's name."""
    try:
        yield
    except DataError as error:
        raise DataError(f"'{table}': {error.message}. Nothing was committed; the earlier data stay readable", hint=error.hint) from error


def slice_partitions(
    frame: pl.DataFrame, partitions: Sequence[Partition], event_timestamp: str | None, table: str, *, skip_outside: bool = False
) -> tuple[pl.DataFrame, list[tuple[int, int]]]:
    """Return the rows ordered by time, and the index of the first row and of the row after the last, for each partition.

    Parameters
    ----------
    frame
        The rows.
    partitions
        The partitions, with disjoint windows; or one partition without a window, which takes all rows in their order.
    event_timestamp
        The column with the time that assigns a row to a partition.
    table
        The name of the table, for error messages.
    skip_outside
        Whether to drop rows outside of every partition.

    Raises
    ------
    DataError
        The rows have no such time column, or a row lies outside of every partition and ``skip_outside`` is false.
    """
    if len(partitions) == 1 and partitions[0].window is None:
        return frame, [(0, frame.height)]
    if event_timestamp is None or event_timestamp not in frame.columns:
        raise DataError(
            f"'{table}' is partitioned by time, but its rows have no column '{event_timestamp}'",
            hint=f"they have {', '.join(frame.columns)}",
        )
    if not frame[event_timestamp].is_sorted():
        frame = frame.sort(event_timestamp, maintain_order=True)
    times = frame[event_timestamp]
    windows = [partition.window for partition in partitions if partition.window is not None]
    edges = pl.Series([edge for window in windows for edge in (window.start, window.end)], dtype=times.dtype)
    positions = times.search_sorted(edges).to_list()
    bounds = list(zip(positions[::2], positions[1::2], strict=True))
    if skip_outside:
        slices = [frame[start:end] for start, end in bounds]
        ends = list(itertools.accumulate((rows.height for rows in slices), initial=0))
        return pl.concat(slices), list(itertools.pairwise(ends))
    if sum(end - start for start, end in bounds) != frame.height:
        raise DataError(
            f"'{table}': rows lie outside of the partitions {partitions[0].key} to {partitions[-1].key}",
            hint="return the rows of the given window only",
        )
    return frame, bounds
