"""Point-in-time join: the feature values that were known at each row's time.

For a spine row with entity keys k and event time t, the join takes the view's row with the maximum event timestamp ≤ t among rows
with keys k, ties broken by the latest created time; null when there is no such row or when t − event timestamp > ttl. With
``as_known`` only rows with created ≤ t count, so that late data does not leak.

The join looks up a prepared layout: rows sorted by (keys, valid_from) with valid_from = max(event, created). Rows that can never match
are dropped: another row of the same keys has a later (event, created) and an equal or earlier valid_from.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mlops_assets.compute.features.entity_hash import hash_entities
from mlops_assets.compute.features.layout import CREATED, EVENT, VALID, AsOfLayout, Bucket, SpineGroups, find_entity_ranges, look_up
from mlops_assets.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

NO_TIME = np.iinfo(np.int64).min
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MAX_TTL = 2**62  # microseconds; the sum with a time still fits 64 bits
ROWS_PER_BUCKET = 2**16


@dataclass(frozen=True, eq=False)
class ViewRows:
    """Rows of a feature view with its declaration.

    Parameters
    ----------
    name
        The name of the view, for error messages.
    rows
        Join keys, times and features.
    join_keys, event_timestamp, created_timestamp, ttl, features, defaults
        As declared. Without ``created_timestamp``, a row counts as created at its event time.
    """

    name: str
    rows: pl.DataFrame
    join_keys: tuple[str, ...]
    event_timestamp: str
    created_timestamp: str | None
    ttl: timedelta | None
    features: tuple[str, ...]
    defaults: tuple[tuple[str, Any], ...] = ()


def point_in_time_join(
    spine: pl.DataFrame,
    views: Sequence[ViewRows | AsOfLayout],
    *,
    event_timestamp: str,
    as_known: bool = True,
    known_by: datetime | None = None,
) -> pl.DataFrame:
    """Join features to a spine as they were at each row's event time.

    Parameters
    ----------
    spine
        One row per example, in any order; the result has each row exactly once, in this order.
    views
        Feature views with their rows, or with their layout.
    event_timestamp
        The spine's time column, UTC; a row with a null time gets null features.
    as_known
        Whether a lookup ignores feature rows created after the event time. A layout is built for one of the two settings.
    known_by
        A lookup ignores feature rows that became valid after this time (with a time zone), even for spine rows with a later event time.
        None sets no limit.

    Returns
    -------
    polars.DataFrame
        The spine's columns, then every view's features.

    Raises
    ------
    DataError
        A time is not in UTC, key types differ, a feature has the name of a column, or a view has two different rows for one key and time.
    """
    layouts = [view if isinstance(view, AsOfLayout) else build_layout(view, as_known=as_known) for view in views]
    names = list(spine.columns)
    for layout in layouts:
        _check_spine(spine, names, layout, event_timestamp)
        names.extend(layout.features)
    if not layouts:
        return spine
    times = spine[event_timestamp].dt.cast_time_unit("us").to_physical().fill_null(NO_TIME).to_numpy()
    limit = None if known_by is None else (known_by - _EPOCH) // _MICROSECOND
    groups = {keys: SpineGroups.from_spine(spine, keys) for keys in dict.fromkeys(layout.join_keys for layout in layouts)}
    return spine.hstack(look_up(layouts, groups, times, limit))


def build_layout(view: ViewRows, *, as_known: bool = True, buckets: int | None = None) -> AsOfLayout:
    """Return the as-of layout of the rows of a view.

    Parameters
    ----------
    view
        The rows and the declaration of the view.
    as_known
        As in :func:`point_in_time_join`.
    buckets
        The number of buckets; None derives it from the number of rows.
    """
    rows = sort_as_of(view, as_known=as_known)
    count = buckets or choose_bucket_count(rows.height)
    parts = split_buckets(rows, view.join_keys, count)
    tables = [part.to_arrow(compat_level=pl.CompatLevel.oldest()) for part in parts]
    return join_buckets(view, rows.schema, [find_entity_ranges(part, view.join_keys, i) for i, part in enumerate(parts)], tables)


def join_buckets(
    view: ViewRows, schema: Mapping[str, pl.DataType], entities: Sequence[pl.DataFrame], tables: Sequence[pa.Table]
) -> AsOfLayout:
    """Return the layout of a view from its prepared buckets.

    Parameters
    ----------
    view
        The declaration of the view; its rows are not used.
    schema
        The types of join keys and features.
    entities
        The entities of each bucket, from :func:`find_entity_ranges`.
    tables
        The rows of each bucket, as Arrow tables.
    """
    ttl = None if view.ttl is None else min(view.ttl // _MICROSECOND, _MAX_TTL)
    types = {name: schema[name] for name in (*view.join_keys, *view.features)}
    rows = tuple(Bucket.from_arrow(table, view.features) for table in tables)
    return AsOfLayout(view.name, view.join_keys, view.features, types, ttl, pl.concat(entities), rows, view.defaults)


def choose_bucket_count(rows: int) -> int:
    """Return the number of buckets for a number of rows: a power of two up to 4,096, so that a bucket fits the cache."""
    return min(1 << int(max(0, rows - 1) // ROWS_PER_BUCKET).bit_length(), 2**12)


def split_buckets(rows: pl.DataFrame, join_keys: Sequence[str], count: int) -> list[pl.DataFrame]:
    """Return the rows of each bucket, by bucket number, in the order of ``rows``."""
    if count == 1:
        return [rows]
    keys = list(join_keys)
    entities = rows.select(keys).unique()  # an entity has many rows but is hashed once
    numbers = entities.with_columns(pl.Series("__number", hash_entities(entities) % np.uint64(count)))
    numbered = rows.join(numbers, on=keys, how="left", maintain_order="left", nulls_equal=True)
    parts = numbered.partition_by("__number", as_dict=True, include_key=False, maintain_order=True)
    return [parts.get((bucket,), rows.clear()) for bucket in range(count)]


def sort_as_of(view: ViewRows, *, as_known: bool = True) -> pl.DataFrame:
    """Return rows of a view sorted by (keys, valid_from), one per pair, without rows that can never match.

    Rows with a null in a key or a time can never match.

    Returns
    -------
    polars.DataFrame
        Join keys, ``__valid_from``, ``__event``, ``__created`` and the features.
    """
    _check_rows(view)
    created = view.created_timestamp or view.event_timestamp
    keys = list(view.join_keys)
    times = (pl.col(view.event_timestamp).dt.cast_time_unit("us").alias(EVENT), pl.col(created).dt.cast_time_unit("us").alias(CREATED))
    rows = view.rows.select(*keys, *times, *view.features).drop_nulls([*keys, EVENT, CREATED])
    return drop_dominated(rows.with_columns((pl.max_horizontal(EVENT, CREATED) if as_known else pl.col(EVENT)).alias(VALID)), view)


def drop_dominated(rows: pl.DataFrame, view: ViewRows) -> pl.DataFrame:
    """Return rows sorted by (keys, valid_from), one per pair, without rows that can never match.

    Parameters
    ----------
    rows
        Rows with ``__valid_from``, ``__event`` and ``__created``, in any order; repeated rows are allowed.
    view
        The declaration of the view; its rows are not used.
    """
    keys = list(view.join_keys)
    rows = rows.select(*keys, VALID, EVENT, CREATED, *view.features).sort(*keys, VALID, EVENT, CREATED)
    rows = _drop_repeats(rows, view)
    rows = rows.filter(pl.col(EVENT) >= pl.col(EVENT).cum_max().over(keys))
    later = pl.all_horizontal(pl.col(name) == pl.col(name).shift(-1) for name in (*keys, VALID)).fill_null(value=False)
    return rows.filter(~later)


def drop_unreachable(layout: pl.DataFrame, join_keys: Sequence[str], ttl: timedelta | None, history: timedelta) -> pl.DataFrame:
    """Return the rows of a layout that a lookup can still find, at any time since ``history`` before the newest row.

    Parameters
    ----------
    layout
        From :func:`sort_as_of`.
    join_keys, ttl
        The join keys and the ttl of the view.
    history
        The maximum distance of a lookup from the time of the newest row.
    """
    if layout.is_empty():
        return layout
    since = layout[VALID].max() - history  # type: ignore[operator]  # a datetime
    ends = pl.col(VALID).shift(-1).over(list(join_keys))
    alive = pl.lit(value=True) if ttl is None else pl.col(EVENT) >= since - ttl
    return layout.filter((ends.is_null() | (ends > since)) & alive)


def _drop_repeats(rows: pl.DataFrame, view: ViewRows) -> pl.DataFrame:
    """Drop repeated rows; raise DataError for different rows of one key and time."""
    same = rows.select(pl.all_horizontal(pl.col(name) == pl.col(name).shift(1) for name in (*view.join_keys, EVENT, CREATED))).to_series()
    if not same.fill_null(value=False).any():
        return rows
    rows = rows.unique(maintain_order=True)
    different = rows.filter(pl.struct(*view.join_keys, EVENT, CREATED).is_duplicated())
    if different.height:
        first = different.row(0, named=True)
        keys = {key: first[key] for key in view.join_keys}
        raise DataError(
            f"feature view '{view.name}' has different rows for {keys} at {first[EVENT]}, known at {first[CREATED]}",
            hint="deduplicate the source, or declare created_timestamp= so that the later one wins",
        )
    return rows


def _check_rows(view: ViewRows) -> None:
    times = (view.event_timestamp, *((view.created_timestamp,) if view.created_timestamp else ()))
    _check_columns(view.rows, (*view.join_keys, *times, *view.features), "its source", view.name)
    for column in times:
        _check_utc(view.rows, column, f"feature view '{view.name}':")


def _check_spine(spine: pl.DataFrame, used_names: Sequence[str], layout: AsOfLayout, event_timestamp: str) -> None:
    _check_columns(spine, (*layout.join_keys, event_timestamp), "the spine", layout.name)
    _check_utc(spine, event_timestamp, "the spine's")
    for key in layout.join_keys:
        if spine[key].dtype != layout.schema[key]:
            raise DataError(
                f"join key '{key}' is {spine[key].dtype} in the spine and {layout.schema[key]} in feature view '{layout.name}'",
                hint="cast one of them: keys are only compared with keys of the same type",
            )
    if clash := [name for name in layout.features if name in used_names]:
        raise DataError(
            f"feature '{clash[0]}' of view '{layout.name}' is already a column of the training set", hint="rename the feature or the column"
        )


def _check_columns(frame: pl.DataFrame, columns: Sequence[str], where: str, view: str) -> None:
    if missing := [column for column in columns if column not in frame.columns]:
        raise DataError(
            f"feature view '{view}' needs the column '{missing[0]}', which {where} lacks", hint=f"it has {', '.join(frame.columns)}"
        )


def _check_utc(frame: pl.DataFrame, column: str, where: str) -> None:
    dtype = frame[column].dtype
    if not (isinstance(dtype, pl.Datetime) and dtype.time_zone == "UTC"):
        raise DataError(
            f"{where} time '{column}' is {dtype}, not a time in UTC",
            hint="convert every time to UTC before the join",
        )
