"""The request schema of a service and the steps that compute ``X``, derived from the training set and stored with the version."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import polars as pl

from mlops_assets.values.features import FeatureView, OnDemandFeatures

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlops_assets.values.training import TrainingSet


RENAMED_KEYS, RENAMED_FEATURES = "renamed_keys", "renamed_features"  # keys in the serving step of a renamed view


def describe_request_fields(training_set: TrainingSet[..., Any], rows: pl.DataFrame, key: Sequence[str]) -> list[dict[str, Any]]:
    """Return a description of each field in a row of a request.

    Parameters
    ----------
    training_set
        The training set.
    rows
        The rows of the training set. A field has the type of its column, and is nullable when the column has nulls.
    key
        Columns that identify a row; a column that ``rows`` lacks is not a field.

    Returns
    -------
    list of dict
        ``name``, ``type`` (``str``, ``int``, ``float``, ``bool``, ``datetime``, or the name of a type that JSON cannot carry), ``nullable``
        and ``role``: ``time``, ``column``, ``join_key``, ``input`` (of an on-demand feature) or ``key`` (optional, only logged).
    """
    roles: dict[str, str] = {}
    for name, role in _iterate_roles(training_set, key):
        if name in rows.columns:
            roles.setdefault(name, role)
    return [
        {"name": name, "type": _json_type(rows.schema[name]), "nullable": bool(rows[name].null_count()), "role": role}
        for name, role in roles.items()
    ]


def _iterate_roles(training_set: TrainingSet[..., Any], key: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield name and role of each field of a request; a name with several roles has the first."""
    feature_names = {name for f in training_set.features if isinstance(f, FeatureView) for name in f.renamed_features}
    if training_set.event_timestamp:
        yield training_set.event_timestamp, "time"
    yield from ((name, "column") for name in training_set.columns)
    for feature in training_set.features:
        if isinstance(feature, FeatureView):
            yield from ((name, "join_key") for name in feature.renamed_keys)
        else:
            yield from ((name, "input") for name in feature.parameters if name not in feature_names)
    yield from ((name, "key") for name in key)


def _json_type(dtype: pl.DataType) -> str:
    if isinstance(dtype, pl.Datetime):
        return "datetime"
    kinds = ((dtype == pl.String, "str"), (dtype == pl.Boolean, "bool"), (dtype.is_integer(), "int"), (dtype.is_float(), "float"))
    return next((name for matches, name in kinds if matches), str(dtype))


def example_row(fields: Sequence[dict[str, Any]], rows: pl.DataFrame) -> str:
    """Return the last row among those with the fewest nulls, as request JSON; empty without fields or rows.

    A service predicts this row as a test before it is ready.
    """
    names = [field["name"] for field in fields]
    if not names or rows.is_empty():
        return ""
    nulls = rows.select(pl.sum_horizontal(pl.col(name).is_null() for name in names)).to_series()
    row = rows.select(names).row(rows.height - 1 - int(nulls.reverse().arg_min() or 0), named=True)
    return json.dumps({name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()}, default=str)


def serving_steps(training_set: TrainingSet[..., Any]) -> list[dict[str, Any]]:
    """Return a description of each feature, in declared order: a feature view to look up, or an on-demand function to run."""
    return [_describe_step(feature) for feature in training_set.features]


def _describe_step(feature: FeatureView | OnDemandFeatures[..., Any]) -> dict[str, Any]:
    if isinstance(feature, OnDemandFeatures):
        return {"function": feature.name, "parameters": list(feature.parameters)}
    step = {
        "view": feature.name,
        "join_keys": list(feature.entity.join_keys),
        "features": list(feature.feature_names),
        "ttl": feature.ttl.total_seconds() if feature.ttl else None,
        "defaults": dict(feature.defaults),
    }
    renamed = {RENAMED_KEYS: list(feature.renamed_keys), RENAMED_FEATURES: list(feature.renamed_features)}
    return step | renamed if feature.is_renamed else step
