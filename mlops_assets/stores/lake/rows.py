"""Convert rows and names between polars and the lake."""

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
    """Return the record in a row. In an older lake, the last columns are missing or null."""
    return PartitionRecord(*row[:8], *(text or "" for text in row[8:CHECKSUM_INDEX]))


def split_name(table: str) -> tuple[str, str]:
    """Return kind and name of ``<kind>/<name>``; raise LakeError for any other text."""
    partitions = table.split("/")
    if len(partitions) != 2 or not all(_NAME.fullmatch(partition) for partition in partitions):
        raise LakeError(
            f"'{table}' is not a table's name", hint="tables are named <kind>/<name>, in lower-case letters, digits and underscores"
        )
    return partitions[0], partitions[1]


def quote_name(name: str) -> str:
    """Return a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quote_value(value: str | datetime) -> str:
    """Return a value as an SQL literal. A bound parameter would make DuckDB import pandas, which takes half a second."""
    return f"TIMESTAMPTZ '{value.isoformat()}'" if isinstance(value, datetime) else "'" + value.replace("'", "''") + "'"


def sql_name(table: str) -> str:
    """Return the name of a table in SQL."""
    schema, name = split_name(table)
    return f'lake."{schema}"."{name}"'


def to_polars(result: duckdb.DuckDBPyConnection) -> pl.DataFrame:
    """Return a result of DuckDB as a polars frame with times in UTC."""
    frame = pl.DataFrame(result.to_arrow_table())
    times = [
        pl.col(name).cast(pl.Datetime("us", "UTC"))
        for name, dtype in frame.schema.items()
        if isinstance(dtype, pl.Datetime) and dtype.time_zone
    ]
    return frame.with_columns(times) if times else frame


def to_storable(frame: pl.DataFrame, table: str) -> pl.DataFrame:
    """Cast rows to types that the lake stores without change; raise DataError with the table's name when there is no such type."""
    with _name_table(table):
        return normalize(frame)


def refuse_unstorable(frame: pl.DataFrame, table: str) -> None:
    """Raise DataError with the table's name when it cannot store the columns of a frame."""
    with _name_table(table):
        cast_to_stored(frame.clear())


@contextmanager
def _name_table(table: str) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise DataError(f"'{table}': {error.message}. Nothing was committed; the earlier data stay readable", hint=error.hint) from error


def slice_partitions(
    frame: pl.DataFrame, partitions: Sequence[Partition], event_timestamp: str | None, table: str, *, others: bool = False
) -> tuple[pl.DataFrame, list[tuple[int, int]]]:
    """Return the rows ordered by partition, and where each partition begins and ends.

    ``others``: whether to skip rows outside of every partition; if false, such rows raise DataError.
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
    if others:
        cut = [frame[start:end] for start, end in bounds]
        ends = list(itertools.accumulate((partition.height for partition in cut), initial=0))
        return pl.concat(cut), list(itertools.pairwise(ends))
    if sum(end - start for start, end in bounds) != frame.height:
        raise DataError(
            f"'{table}': rows lie outside of the partitions {partitions[0].key} to {partitions[-1].key}",
            hint="return the rows of the given window only",
        )
    return frame, bounds
