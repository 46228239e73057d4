"""Add looked-up and on-demand features to a spine, with the same code for training and prediction."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import polars as pl

from mlops_assets.compute.features.layout import AsOfLayout
from mlops_assets.compute.features.on_demand import apply_on_demand, columns_as_arrays
from mlops_assets.compute.features.point_in_time import ViewRows, build_layout, point_in_time_join
from mlops_assets.compute.tables.own_columns import MISSING
from mlops_assets.errors import DataError
from mlops_assets.values.names import check_columns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from mlops_assets.values.features import FeatureView


def bind_rows(feature_view: FeatureView, rows: pl.DataFrame) -> ViewRows:
    """Return stored rows of a feature view together with its declaration, for a join."""
    return ViewRows(
        feature_view.name,
        rows,
        feature_view.entity.join_keys,
        feature_view.event_timestamp,
        feature_view.created_timestamp,
        feature_view.ttl,
        feature_view.feature_names,
        feature_view.defaults,
    )


def rename_view_rows(feature_view: FeatureView, rows: pl.DataFrame, *, as_known: bool) -> ViewRows | AsOfLayout:
    """Return rows of a feature view: as a layout with the names of ``renamed(...)`` if the view is renamed, else as :class:`ViewRows`."""
    view = bind_rows(feature_view, rows)
    return rename_layout(feature_view, build_layout(view, as_known=as_known)) if feature_view.is_renamed else view


def rename_layout(feature_view: FeatureView, layout: AsOfLayout) -> AsOfLayout:
    """Return the layout of a feature view with the names of ``renamed(...)``; unchanged if the view is not renamed."""
    return layout.rename(feature_view.renamed_keys, feature_view.renamed_features) if feature_view.is_renamed else layout


def assemble(  # noqa: PLR0913  (what a training set declares)
    spine: pl.DataFrame,
    features: Sequence[ViewRows | AsOfLayout | Callable[..., Any]],
    *,
    event_timestamp: str | None,
    as_known: bool,
    known_by: datetime | None = None,
    flag_missing: bool = False,
) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Join looked-up features to a spine and compute the on-demand ones.

    Parameters
    ----------
    spine
        One row per example.
    features
        Feature views with their rows or layouts, and on-demand functions, in declared order; a function may read earlier features.
    event_timestamp, as_known, known_by
        As in :func:`point_in_time_join`.
    flag_missing
        Whether to add a column ``MISSING`` with the names of the looked-up features that are null in each row before defaults fill them.

    Returns
    -------
    polars.DataFrame, tuple of str
        The spine's columns and the features, in the spine's order; the features' names in declared order.

    Raises
    ------
    DataError
        A column is missing, or a feature has the name of a column.
    """
    joined, names, missing = spine, list[str](), list[pl.Expr]()
    for are_views, group in groupby(features, lambda feature: isinstance(feature, (ViewRows, AsOfLayout))):
        if are_views:
            views: list[Any] = list(group)
            joined = point_in_time_join(joined, views, event_timestamp=event_timestamp or "", as_known=as_known, known_by=known_by)
            looked_up_names = [name for view in views for name in view.features]
            if flag_missing:
                joined = joined.with_columns(pl.col(name).is_null().alias(f"__no_{name}") for name in looked_up_names)
                missing.extend(pl.when(f"__no_{name}").then(pl.lit(name)) for name in looked_up_names)
            joined = joined.with_columns(pl.col(name).fill_null(value) for view in views for name, value in view.defaults)
            names.extend(looked_up_names)
        else:
            for function in group:
                joined, computed_names = _compute_on_demand(joined, function)  # type: ignore[arg-type]  # neither view nor layout
                names.extend(computed_names)
    if flag_missing:
        missing_names = pl.concat_list(missing).list.drop_nulls() if missing else pl.lit([], dtype=pl.List(pl.String))
        joined = joined.with_columns(missing_names.alias(MISSING)).drop(column for column in joined.columns if column.startswith("__no_"))
    return joined, tuple(names)


def _compute_on_demand(frame: pl.DataFrame, function: Callable[..., Any]) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Return the frame with the function's features, and the names of these features."""
    arrays = apply_on_demand([function], columns_as_arrays(frame, frame.columns))
    check_columns(arrays, f"the result of the on-demand features '{function.__name__}'")
    if clash := [name for name in arrays if name in frame.columns]:
        raise DataError(
            f"on-demand feature '{clash[0]}' of '{function.__name__}' is already a column", hint="rename the feature or the column"
        )
    return frame.with_columns(pl.Series(name, values) for name, values in arrays.items()), tuple(arrays)
