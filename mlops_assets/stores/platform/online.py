"""Look up online features as a service does for a request, without Dagster and without a service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

from mlops_assets.compute.tables.frames import collect
from mlops_assets.errors import DataError, DefinitionError, LakeError
from mlops_assets.stores.online.protocol import Lookup, Status
from mlops_assets.stores.platform.readers import record_reader
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.values.arguments import check_arguments
from mlops_assets.values.asset_names import select_nodes
from mlops_assets.values.feature_types import item_type
from mlops_assets.values.features import FeatureView
from mlops_assets.values.platform import Platform

if TYPE_CHECKING:
    from mlops_assets.stores.online.protocol import FeatureColumns, OnlineStore

STATUS, AGE = "status", "age"  # suffixes of the two columns that a lookup adds for each view
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UTC_TIME = pl.Datetime("us", "UTC")
_DTYPES: dict[type, Any] = {float: pl.Float64, int: pl.Int64, bool: pl.Boolean, str: pl.String, datetime: _UTC_TIME}


@check_arguments
def lookup(
    views: FeatureView | Sequence[FeatureView],
    entities: Any,  # noqa: ANN401  (any of the four frame types, or rows as mappings)
    *,
    at: datetime | None = None,
    platform: Platform | None = None,
) -> pl.DataFrame:
    """Look up the online features of entities, exactly as a service does for a request.

    Parameters
    ----------
    views
        A feature view or several, with ``online=True``. The join key of a view may be a feature of an earlier view in the list.
    entities
        One row per entity with the join keys: a polars, pandas or DuckDB frame, a mapping, or a list of mappings.
    at
        The time of the request, with a time zone; now when None. The store keeps recent rows only.
    platform
        The platform whose online store to read; ``Platform.from_env()`` when None.

    Returns
    -------
    polars.DataFrame
        The rows of ``entities`` in their order, with the features of each view, and its ``<view>_status`` (``FRESH``, ``STALE`` or
        ``MISSING``) and ``<view>_age`` (from the event time to ``at``; null where there is no row). Features that are not fresh are null, or
        have their declared default.

    Raises
    ------
    DefinitionError
        A view is not online, or is pinned to an earlier version.
    DataError
        A join key is missing, two columns would have one name, or ``at`` has no time zone.
    LakeError
        A view has never been materialised online.
    InstallationError
        The online store cannot be read, or lacks a feature of a view.

    See Also
    --------
    training_frame : The same features, as they were at each row's time.

    Examples
    --------
    >>> import tempfile
    >>> import mlops_assets as ml
    >>> punctuality = ml.ExternalDataset("punctuality", key=("carrier", "at"), event_timestamp="at")
    >>> view = ml.FeatureView(source=punctuality, entity=ml.Entity("carrier"), event_timestamp="at", features={"late": float}, online=True)
    >>> ml.lookup(view, {"carrier": "UA"}, platform=ml.Platform.at(tempfile.mkdtemp()))
    Traceback (most recent call last):
    mlops_assets.errors.LakeError: 'features/punctuality' has never been materialised online
    Hint: run `mlops run --select 'key:"online/punctuality_online"'`
    """
    if at is not None and at.tzinfo is None:
        raise DataError(f"at {at} names no time zone", hint="add a time zone: datetime(..., tzinfo=UTC)")
    entity_rows = [entities] if isinstance(entities, Mapping) else entities
    rows = pl.DataFrame(entity_rows) if isinstance(entity_rows, list) else collect(entity_rows, "entities")
    platform, chosen = platform or Platform.from_env(), [views] if isinstance(views, FeatureView) else views
    online = open_stores(platform).online
    micros = ((at or datetime.now(UTC)) - _EPOCH) // timedelta(microseconds=1)
    for view in chosen:
        _refuse_unready(view, online)
        rows = rows.hstack(_look_up(view, rows, online, micros))
    record_reader(platform.home, [view.key for view in chosen], "lookup")
    return rows


def _refuse_unready(view: FeatureView, online: OnlineStore) -> None:
    """Raise an error for a view that cannot be looked up online."""
    if not view.online:
        raise DefinitionError(f"'{view.key}' is not online", hint=f"set online=True in the feature view '{view.name}', then materialise it")
    if view.pinned:
        raise DefinitionError(
            f"'{view.key}' is pinned to version '{view.pinned}', but the online store contains only the current version",
            hint="read earlier versions with ml.training_frame",
        )
    if online.state(view.name) is None:
        raise LakeError(
            f"'{view.key}' has never been materialised online", hint=f"run `mlops run --select '{select_nodes(f'online/{view.name}')}'`"
        )


def _look_up(view: FeatureView, rows: pl.DataFrame, online: OnlineStore, at: int) -> list[pl.Series]:
    """Return the columns that the lookup of one view adds: its features, its status and its age."""
    if missing := [key for key in view.renamed_keys if key not in rows.columns]:
        raise DataError(
            f"entities lack the join key '{missing[0]}' of '{view.key}'", hint=f"they have {', '.join(rows.columns) or 'no column'}"
        )
    own = [f"{view.prefix}{view.name}_{end}" for end in (STATUS, AGE)]
    if existing := [name for name in (*view.renamed_features, *own) if name in rows.columns]:
        raise DataError(
            f"'{view.key}' would add the column '{existing[0]}', which the entities already have",
            hint="look the view up with a prefix: view.renamed(...)",
        )
    reader = online.reader([Lookup(view.name, view.feature_names, view.ttl)])
    (answer,) = reader.lookup_many([rows.select(view.renamed_keys).rows()], [at] * rows.height)
    status = pl.Series(own[0], [Status(code).name for code in answer.status.tolist()], dtype=pl.String)
    ages = pl.Series(own[1], answer.age.tolist(), dtype=pl.Duration("us"))
    return [*_select_features(view, answer).get_columns(), status, ages.set(status == Status.MISSING.name, None)]


def _select_features(view: FeatureView, answer: FeatureColumns) -> pl.DataFrame:
    """Return the features under their renamed names and in their declared types; declared defaults replace nulls."""
    series = []
    for (name, kind), column in zip(view.features, view.renamed_features, strict=True):
        item = item_type(kind)
        dtype = _DTYPES[kind] if item is None else pl.List(_DTYPES[item])
        values = [None if null else value for value, null in zip(answer.values[name].tolist(), answer.nulls[name].tolist(), strict=True)]
        series.append(pl.Series(column, values, dtype=pl.Int64 if kind is datetime else dtype).cast(dtype))
    names = dict(zip(view.feature_names, view.renamed_features, strict=True))
    return pl.DataFrame(series).with_columns(pl.col(names[name]).fill_null(value) for name, value in view.defaults)
