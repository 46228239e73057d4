"""Point-in-time join: the feature values that were known at each row's time.

For a spine row with entity keys k and event time t, a view gives the row with the greatest event timestamp ≤ t among rows
with keys k, ties broken by the latest created time; null when there is none or when t − event timestamp > ttl. With
``as_known`` only rows with created ≤ t count, so that late data does not leak.

The join is one as-of join on a prepared layout: rows sorted by (keys, valid_from) with valid_from = max(event, created),
from which rows are dropped that can never win because a row with a later (event, created) was known no later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from mlops_assets.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

_VALID, _EVENT, _CREATED, _ROW = "__valid_from", "__event", "__created", "__row"


@dataclass(frozen=True, eq=False)
class View:
    """Rows of a feature view.

    Parameters
    ----------
    name
        For messages.
    rows
        Join keys, times and features.
    join_keys, event_timestamp, created_timestamp, ttl, features, defaults
        As declared; ``created_timestamp`` None means known at the event time.
    """

    name: str
    rows: pl.DataFrame
    join_keys: tuple[str, ...]
    event_timestamp: str
    created_timestamp: str | None
    ttl: timedelta | None
    features: tuple[str, ...]
    defaults: tuple[tuple[str, Any], ...] = ()


def point_in_time_join(spine: pl.DataFrame, views: Sequence[View], *, event_timestamp: str, as_known: bool = True) -> pl.DataFrame:
    """Join features to a spine as they were at each row's event time.

    Parameters
    ----------
    spine
        One row per example, in any order; every row comes back exactly once, in this order.
    views
        Feature views with their rows.
    event_timestamp
        The spine's time column, UTC; a null time finds nothing.
    as_known
        Whether only feature rows known at the event time count.

    Returns
    -------
    polars.DataFrame
        The spine's columns, then every view's features.

    Raises
    ------
    DataError
        A time is not in UTC, key types differ, a feature's name is taken, or a view has two different rows for one key and time.
    """
    result = spine
    for view in views:
        _check(spine, result.columns, view, event_timestamp)
        result = result.hstack(_looked_up(spine, view, event_timestamp, as_known=as_known))
    return result


def as_of_layout(view: View, *, as_known: bool = True) -> pl.DataFrame:
    """Return a view's rows sorted by (keys, valid_from), one per pair, without rows that can never win.

    Returns
    -------
    polars.DataFrame
        Join keys, ``__valid_from``, ``__event``, ``__created`` and the features.
    """
    created = view.created_timestamp or view.event_timestamp
    keys = list(view.join_keys)
    rows = view.rows.select(*keys, pl.col(view.event_timestamp).alias(_EVENT), pl.col(created).alias(_CREATED), *view.features)
    rows = rows.drop_nulls([*keys, _EVENT, _CREATED]).unique(maintain_order=True)
    _refuse_ties(rows, view)
    valid_from = pl.max_horizontal(_EVENT, _CREATED) if as_known else pl.col(_EVENT)
    rows = rows.with_columns(valid_from.alias(_VALID)).sort(*keys, _VALID, _EVENT, _CREATED)
    rows = rows.filter(pl.col(_EVENT) >= pl.col(_EVENT).cum_max().over(keys))
    return rows.unique([*keys, _VALID], keep="last", maintain_order=True)


def reachable(layout: pl.DataFrame, join_keys: Sequence[str], ttl: timedelta | None, history: timedelta) -> pl.DataFrame:
    """Return the rows of a layout that a lookup can still find, as of any time since ``history`` before the newest row.

    Parameters
    ----------
    layout
        From :func:`as_of_layout`.
    join_keys, ttl
        Of the view.
    history
        How far back from the newest row lookups reach.
    """
    if layout.is_empty():
        return layout
    since = layout[_VALID].max() - history  # type: ignore[operator]  # a datetime
    ends = pl.col(_VALID).shift(-1).over(list(join_keys))
    alive = pl.lit(value=True) if ttl is None else pl.col(_EVENT) >= since - ttl
    return layout.filter((ends.is_null() | (ends > since)) & alive)


def _looked_up(spine: pl.DataFrame, view: View, event_timestamp: str, *, as_known: bool) -> pl.DataFrame:
    keys = list(view.join_keys)
    layout = as_of_layout(view, as_known=as_known).sort(_VALID)
    left = spine.select(*keys, pl.col(event_timestamp).alias(_VALID)).with_row_index(_ROW)
    # A null time or key finds nothing; as-of joins want neither.
    wanted = left.drop_nulls([*keys, _VALID]).sort(_VALID)
    found = wanted.join_asof(layout, on=_VALID, by=keys, strategy="backward", check_sortedness=False)
    if view.ttl is not None:
        alive = (pl.col(_VALID) - pl.col(_EVENT)) <= view.ttl
        found = found.with_columns(pl.when(alive).then(pl.col(name)).alias(name) for name in view.features)
    values = left.select(_ROW).join(found.select(_ROW, *view.features), on=_ROW, how="left", maintain_order="left")
    return values.select(view.features)


def _refuse_ties(rows: pl.DataFrame, view: View) -> None:
    same = rows.filter(pl.struct(*view.join_keys, _EVENT, _CREATED).is_duplicated())
    if same.height:
        first = same.row(0, named=True)
        keys = {key: first[key] for key in view.join_keys}
        raise DataError(
            f"feature view '{view.name}' has different rows for {keys} at {first[_EVENT]}, known at {first[_CREATED]}",
            hint="deduplicate the source, or declare created_timestamp= so that the later one wins",
        )


def _check(spine: pl.DataFrame, taken: Sequence[str], view: View, event_timestamp: str) -> None:
    _check_columns(spine, (*view.join_keys, event_timestamp), "the spine", view)
    own = (*view.join_keys, view.event_timestamp, *view.features, *((view.created_timestamp,) if view.created_timestamp else ()))
    _check_columns(view.rows, own, "its source", view)
    _check_utc(spine, event_timestamp, "the spine's")
    for column in (view.event_timestamp, *((view.created_timestamp,) if view.created_timestamp else ())):
        _check_utc(view.rows, column, f"feature view '{view.name}':")
    for key in view.join_keys:
        if spine[key].dtype != view.rows[key].dtype:
            raise DataError(
                f"join key '{key}' is {spine[key].dtype} in the spine and {view.rows[key].dtype} in feature view '{view.name}'",
                hint="cast one of them: keys are never compared through another type",
            )
    if clash := [name for name in view.features if name in taken]:
        raise DataError(
            f"feature '{clash[0]}' of view '{view.name}' is already a column of the training set", hint="rename the feature or the column"
        )


def _check_columns(frame: pl.DataFrame, columns: Sequence[str], where: str, view: View) -> None:
    if missing := [column for column in columns if column not in frame.columns]:
        raise DataError(
            f"feature view '{view.name}' needs the column '{missing[0]}', which {where} lacks", hint=f"it has {', '.join(frame.columns)}"
        )


def _check_utc(frame: pl.DataFrame, column: str, where: str) -> None:
    dtype = frame[column].dtype
    if not (isinstance(dtype, pl.Datetime) and dtype.time_zone == "UTC"):
        raise DataError(
            f"{where} time '{column}' is {dtype}, not a time in UTC",
            hint="convert every time to UTC before it is joined: zones are never mixed",
        )
