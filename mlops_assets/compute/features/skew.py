"""Training-serving skew: compare served features with the offline store, value by value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

ROW, FEATURE, SERVED, OFFLINE = "row", "feature", "served", "offline"


@dataclass(frozen=True)
class FeatureSource:
    """The feature view or on-demand function that provides a feature.

    Parameters
    ----------
    name
        The name of the feature view or on-demand function.
    keys
        The join keys of the lookup, or the columns that the function reads.
    """

    name: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class SkewedValue:
    """A served value that differs from the offline store.

    Parameters
    ----------
    view, feature
        The feature, and the feature view or on-demand function that provides it.
    entity
        The values of the feature's keys in this row.
    at
        The event time of the row; None for a row without time.
    served, offline
        Both values, as Python writes them.
    """

    view: str
    feature: str
    entity: Mapping[str, Any]
    at: datetime | None
    served: str
    offline: str

    def __str__(self) -> str:
        """Return the difference as one sentence."""
        keys = ", ".join(f"{key} = {value!r}" for key, value in self.entity.items())
        return f"feature '{self.feature}' of '{self.view}' for {keys} at {self.at}: served {self.served}, offline it is {self.offline}"


def find_skewed_values(served: pl.DataFrame, offline: pl.DataFrame, features: Sequence[str]) -> pl.DataFrame:
    """Return served values that differ from the offline store, ordered by row, then by feature.

    Parameters
    ----------
    served, offline
        The same rows in the same order, with the features among the columns.
    features
        The features to compare, without a tolerance. Null equals NaN, because a model treats them alike. If the types differ, offline
        values are cast to the served type.

    Returns
    -------
    polars.DataFrame
        ``row``, ``feature``, ``served`` and ``offline``: the number of the row from 0, and both values as Python writes them.
    """
    differences = [pl.DataFrame(schema={ROW: pl.UInt32, "order": pl.UInt32, FEATURE: pl.String, SERVED: pl.String, OFFLINE: pl.String})]
    for order, name in enumerate(features):
        served_values, offline_values = _nan_to_null(served[name]), _nan_to_null(offline[name])
        if served_values.dtype != offline_values.dtype:
            offline_values = offline_values.cast(served_values.dtype, strict=False)
        rows = served_values.ne_missing(offline_values).arg_true()
        if rows.len():
            values = [
                pl.Series(text, [repr(value) for value in series.gather(rows)])
                for text, series in ((SERVED, served_values), (OFFLINE, offline_values))
            ]
            position = {ROW: rows.cast(pl.UInt32), "order": pl.Series([order] * rows.len(), dtype=pl.UInt32), FEATURE: [name] * rows.len()}
            differences.append(pl.DataFrame({**position, SERVED: values[0], OFFLINE: values[1]}))
    return pl.concat(differences).sort(ROW, "order").drop("order")


def _nan_to_null(series: pl.Series) -> pl.Series:
    return series.fill_nan(None) if series.dtype.is_float() else series


def find_first_skew(skewed: pl.DataFrame, rows: pl.DataFrame, sources: Mapping[str, FeatureSource], event_timestamp: str) -> SkewedValue:
    """Return the first value that differs, with its feature, entity and event time.

    Parameters
    ----------
    skewed
        From :func:`find_skewed_values`, not empty.
    rows
        The served rows.
    sources
        Feature → its source.
    event_timestamp
        The column with the time of a row.
    """
    first = skewed.row(0, named=True)
    row, source = rows.row(first[ROW], named=True), sources[first[FEATURE]]
    entity = {key: row[key] for key in source.keys if key in row}
    return SkewedValue(source.name, first[FEATURE], entity, row.get(event_timestamp), first[SERVED], first[OFFLINE])
