"""As-of layout: feature rows in the order in which a point-in-time join looks them up.

A hash spreads entities over buckets; within a bucket rows are sorted by (entity, valid_from), unique per pair.
A lookup processes the rows of the spine bucket by bucket, so that the searched part of the layout stays in the processor's cache.
A search over the whole layout would miss the cache at every step.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa

VALID, EVENT, CREATED = "__valid_from", "__event", "__created"
BUCKET, START, END, _GROUP = "__bucket", "__start", "__end", "__group"


@dataclass(frozen=True, eq=False)
class Bucket:
    """The rows of the entities that hash to one bucket.

    Parameters
    ----------
    valid_from, event
        Microseconds since 1970, int64 of shape (rows,); ascending ``valid_from`` within an entity.
    features
        One column for each feature.
    """

    valid_from: np.ndarray
    event: np.ndarray
    features: pa.Table

    @classmethod
    def from_arrow(cls, table: pa.Table, features: Sequence[str]) -> Bucket:
        """Return a bucket of the rows of an Arrow table with layout columns; a column of one chunk is not copied."""
        valid, event = (_column_buffers(table[name], np.dtype(np.int64))[0] for name in (VALID, EVENT))
        return cls(valid, event, table.select(list(features)))


@dataclass(frozen=True, eq=False)
class AsOfLayout:
    """The rows of a feature view, sorted and bucketed for lookups.

    Parameters
    ----------
    name
        The name of the view, for error messages.
    join_keys, features
        Column names.
    schema
        The type of each join key and feature.
    ttl
        Microseconds, inclusive; None when values never expire.
    entities
        One row for each entity: its join keys, ``__bucket``, and the start and end of its rows in the bucket.
    buckets
        The rows of each bucket, by number.
    defaults
        Feature → its value for spine rows without a match. :func:`look_up` returns null there; its callers fill in the value.
    """

    name: str
    join_keys: tuple[str, ...]
    features: tuple[str, ...]
    schema: Mapping[str, pl.DataType]
    ttl: int | None
    entities: pl.DataFrame
    buckets: tuple[Bucket, ...]
    defaults: tuple[tuple[str, Any], ...] = ()

    def rename(self, join_keys: Sequence[str], features: Sequence[str]) -> AsOfLayout:
        """Return the layout with new names, given in the order of the current names; no value is copied."""
        keys, names = dict(zip(self.join_keys, join_keys, strict=True)), dict(zip(self.features, features, strict=True))
        buckets = tuple(replace(bucket, features=bucket.features.rename_columns(list(features))) for bucket in self.buckets)
        return replace(
            self,
            join_keys=tuple(join_keys),
            features=tuple(features),
            schema={new: self.schema[old] for old, new in (*keys.items(), *names.items())},
            entities=self.entities.rename(keys),
            buckets=buckets,
            defaults=tuple((names[name], value) for name, value in self.defaults),
        )

    def clear(self) -> AsOfLayout:
        """Return the layout without entities, so that a lookup finds nothing."""
        return replace(self, entities=self.entities.clear())


def find_entity_ranges(rows: pl.DataFrame, join_keys: Sequence[str], bucket: int) -> pl.DataFrame:
    """Return the entities of sorted rows with the start and end of their rows.

    Parameters
    ----------
    rows
        One bucket, with the rows of each entity adjacent.
    join_keys
        Columns of ``rows`` that identify an entity.
    bucket
        The bucket's number.
    """
    keys = rows.select(join_keys)
    first = pl.any_horizontal(pl.col(key) != pl.col(key).shift(1) for key in join_keys).fill_null(value=True)
    starts = keys.with_row_index(START).filter(first)
    return starts.select(
        *join_keys,
        pl.lit(bucket, dtype=pl.UInt16).alias(BUCKET),
        pl.col(START),
        pl.col(START).shift(-1).fill_null(rows.height).cast(pl.UInt32).alias(END),
    )


@dataclass(frozen=True, eq=False)
class SpineGroups:
    """The distinct entities of a spine, and the entity of each row.

    Parameters
    ----------
    entities
        One row for each distinct entity, without nulls in its keys.
    codes
        The position in ``entities`` of the entity of each spine row, shape (rows,). A row with a null key has the code ``len(entities)``.
    """

    entities: pl.DataFrame
    codes: np.ndarray

    @classmethod
    def from_spine(cls, spine: pl.DataFrame, join_keys: Sequence[str]) -> SpineGroups:
        """Group the rows of a spine by their entity."""
        keys = list(join_keys)
        entities = spine.select(keys).drop_nulls().unique(maintain_order=True)
        codes = spine.select(keys).join(entities.with_row_index(_GROUP), on=keys, how="left", maintain_order="left")[_GROUP]
        return cls(entities, codes.fill_null(entities.height).to_numpy())


def look_up(
    layouts: Sequence[AsOfLayout], groups: Mapping[tuple[str, ...], SpineGroups], times: np.ndarray, known_by: int | None = None
) -> list[pl.Series]:
    """Return the features of each spine row, looked up on all cores.

    Parameters
    ----------
    layouts
        The layouts of the views.
    groups
        The entities of the spine, by join keys.
    times
        The event time of each spine row, int64 microseconds since 1970, shape (rows,); the minimum of int64 for a null time.
    known_by
        Microseconds since 1970. A lookup ignores feature rows that became valid after this time, even for spine rows with a later event
        time. None sets no limit.

    Returns
    -------
    list of polars.Series
        The features of all views in order, with values in the spine's order; null where no row matches.
    """
    # Search all views in parallel, then gather all features in parallel: three views keep two cores busy.
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        matches = list(pool.map(lambda layout: _ViewMatches.from_lookup(layout, groups[layout.join_keys], times, known_by), layouts))
        return list(
            pool.map(lambda job: job[0].build_series(job[1]), [(match, name) for match in matches for name in match.layout.features])
        )


@dataclass(frozen=True, eq=False)
class _ViewMatches:
    """Matches of a spine in one layout.

    Parameters
    ----------
    layout
        The layout of the view.
    buckets
        The matches of each bucket.
    positions
        The position of each spine row among all matches; the number of matches for a row without a match.
    is_matched
        Whether each spine row has a match; None when all rows have a match.
    """

    layout: AsOfLayout
    buckets: Sequence[_BucketMatches]
    positions: np.ndarray
    is_matched: pl.Series | None

    @classmethod
    def from_lookup(cls, layout: AsOfLayout, groups: SpineGroups, times: np.ndarray, known_by: int | None) -> _ViewMatches:
        buckets = list(_match_buckets(layout, groups, times, known_by))
        count = sum(len(matches.spine_rows) for matches in buckets)
        positions = np.full(len(times), count, dtype=np.intp)
        if buckets:
            positions[np.concatenate([matches.spine_rows for matches in buckets])] = np.arange(count)
        return cls(layout, buckets, positions, None if count == len(times) else pl.Series(positions < count))

    def build_series(self, name: str) -> pl.Series:
        """Return one feature in spine order; gathering buckets first is faster than scattering values."""
        kind = self.layout.schema[name]
        dtype = _find_plain_dtype(kind)
        return self._gather_polars(name, kind) if dtype is None else self._gather_numpy(name, kind, dtype)

    def _gather_numpy(self, name: str, kind: pl.DataType, dtype: np.dtype[Any]) -> pl.Series:
        columns = [_column_buffers(matches.bucket.features[name], dtype) for matches in self.buckets]
        values = [data[matches.bucket_rows] for (data, _), matches in zip(columns, self.buckets, strict=True)]
        series = pl.Series(name, np.concatenate([*values, np.zeros(1, dtype=dtype)])[self.positions])
        series = series.cast(kind) if series.dtype != kind else series
        is_valid = self.is_matched
        if any(present is not None for _, present in columns):
            valid = [
                np.ones(len(matches.bucket_rows), dtype=np.bool_) if present is None else present[matches.bucket_rows]
                for (_, present), matches in zip(columns, self.buckets, strict=True)
            ]
            is_valid = pl.Series(np.concatenate([*valid, np.zeros(1, dtype=np.bool_)])[self.positions])
        return series if is_valid is None else pl.select(pl.when(pl.lit(is_valid)).then(pl.lit(series)).alias(name)).to_series()

    def _gather_polars(self, name: str, kind: pl.DataType) -> pl.Series:
        """Return a feature of text, lists or another type without a fixed-width numpy type, in spine order."""
        columns = [pl.Series(name, matches.bucket.features[name]).gather(matches.bucket_rows).cast(kind) for matches in self.buckets]
        values = pl.concat([pl.Series(name, [], dtype=kind), *columns])
        index = pl.Series(self.positions)
        return values.gather(index.set(index == values.len(), None).cast(pl.UInt32))


@dataclass(frozen=True, eq=False)
class _BucketMatches:
    """The row numbers of the spine that have a match in one bucket, and for each the row number of its match within the bucket."""

    bucket: Bucket
    spine_rows: np.ndarray
    bucket_rows: np.ndarray


def _match_buckets(layout: AsOfLayout, groups: SpineGroups, times: np.ndarray, known_by: int | None) -> Iterator[_BucketMatches]:
    """Yield the matches in each bucket that entities of the spine hash to."""
    entities = groups.entities.join(layout.entities, on=list(layout.join_keys), how="left", maintain_order="left")
    no_bucket = len(layout.buckets)
    # One more entry, for rows whose key is null.
    bucket = np.append(entities[BUCKET].fill_null(no_bucket).to_numpy(), no_bucket).astype(np.uint16)
    start, end = (np.append(entities[name].fill_null(0).to_numpy(), 0).astype(np.intp) for name in (START, END))
    bucket_of_row = bucket[groups.codes]
    order = np.argsort(bucket_of_row, kind="stable")
    bounds = np.searchsorted(bucket_of_row[order], np.arange(no_bucket + 1))
    codes, sorted_times = groups.codes[order], times[order]
    for index, rows in enumerate(layout.buckets):
        part = slice(bounds[index], bounds[index + 1])
        spine_rows, at = order[part], sorted_times[part]
        if not len(spine_rows):
            continue
        first = start[codes[part]]
        count = _count_not_after(rows.valid_from, first, end[codes[part]] - first, at if known_by is None else np.minimum(at, known_by))
        position = first + count - 1
        alive = count > 0
        if layout.ttl is not None:
            # Add the ttl, which is limited, instead of subtracting times: their difference could overflow.
            alive &= at <= rows.event[np.maximum(position, 0)] + layout.ttl
        yield _BucketMatches(rows, spine_rows[alive], position[alive])


def _count_not_after(values: np.ndarray, start: np.ndarray, length: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return the number of ascending ``values[start : start + length]`` not after ``at``, by one binary search per row.

    Each step halves the remaining range without a branch and without a new array, four times as fast as masks. Values outside the range are
    never compared.
    """
    position, left = start - 1, length.copy()
    half, probe = np.empty_like(left), np.empty_like(left)
    for _ in range(int(length.max()).bit_length()):
        np.right_shift(np.add(left, 1, out=half), 1, out=half)
        np.add(position, half, out=probe)
        half *= values[probe] <= at
        position += half
        left >>= 1
    count: np.ndarray = position - start + 1
    return count


def _find_plain_dtype(dtype: pl.DataType) -> np.dtype[Any] | None:
    """Return the numpy type of a column's values, int64 for a Datetime; None for a type without a fixed-width numpy type."""
    if isinstance(dtype, pl.Datetime):
        return np.dtype(np.int64)
    if dtype == pl.Boolean:
        return np.dtype(np.bool_)
    if dtype in (pl.Float64, pl.Float32, pl.Int64, pl.Int32, pl.Int16, pl.Int8, pl.UInt64, pl.UInt32, pl.UInt16, pl.UInt8):
        return np.dtype(str(dtype).lower())
    return None


def _column_buffers(column: pa.ChunkedArray, dtype: np.dtype[Any]) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the values of an Arrow column and its validity mask; the mask is None when all values are valid."""
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    bits, data = array.buffers()
    if data is None:
        return np.zeros(0, dtype=dtype), None
    present = None if not array.null_count else _unpack_bits(bits, array.offset, len(array))
    if dtype == np.bool_:
        return _unpack_bits(data, array.offset, len(array)), present
    return np.frombuffer(data, dtype=dtype, count=len(array), offset=array.offset * dtype.itemsize), present


def _unpack_bits(bits: pa.Buffer, offset: int, length: int) -> np.ndarray:
    """Return the bits of an Arrow bitmap, from ``offset``, as booleans."""
    return np.unpackbits(np.frombuffer(bits, dtype=np.uint8), bitorder="little", count=offset + length)[offset:].view(np.bool_)
