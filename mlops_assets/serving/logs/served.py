"""Predictions as rows of the lake: those of a service and those of a batch have one shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from mlops_assets.compute.tables.own_columns import (
    INPUT_HASH,
    LOGGED_AT,
    MISSING,
    MODEL_VERSION,
    PREDICTION,
    PREDICTION_ID,
    PROBABILITIES,
    RUN_ID,
)
from mlops_assets.serving.formats.prediction_columns import PredictionKind, polars_type
from mlops_assets.serving.predict.batch import input_hashes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_UTC = pl.Datetime("us", "UTC")
_JSON_TYPES = {"str": "String", "int": "Int64", "float": "Float64", "bool": "Boolean", "datetime": "Datetime", "Date": "Date"}


def served(
    log: pl.DataFrame, types: Mapping[str, str], *, keys: Mapping[str, str], event_timestamp: str, kinds: Mapping[int, PredictionKind]
) -> list[pl.DataFrame]:
    """Return logged predictions as rows, under the names that they have in memory, one frame for each kind of prediction.

    Parameters
    ----------
    log
        From :func:`mlops_assets.serving.logs.inference_log.read_log`.
    types
        Columns of ``X`` with their polars types by name, of every version that answered.
    keys
        Columns that identify a row, with their types.
    event_timestamp
        The name of the column with the event time.
    kinds
        Version → what its predictions look like.

    Returns
    -------
    list of polars.DataFrame
        Key, event time, ``X``, prediction, probabilities, hash of the input, version, id, names of missing features, time of logging,
        run. One frame without rows when nothing was logged: its predictions have the newest version's types, and without any version
        it has no column whose type is not known.
    """
    known = [kinds[version] for version in sorted(kinds)]
    if not known:
        other = PredictionKind(str(log["prediction"].dtype)) if log.height else None
        return [_of_kind(log, types, keys, event_timestamp, other)]
    by_kind: dict[PredictionKind, list[int]] = {kind: [] for kind in known}
    for version in log["version"].unique().to_list():
        by_kind[kinds.get(version, known[-1])].append(version)
    found = [_of_kind(log.filter(pl.col("version").is_in(v)), types, keys, event_timestamp, kind) for kind, v in by_kind.items()]
    return [frame for frame in found if frame.height] or found[-1:]


def _of_kind(
    log: pl.DataFrame, types: Mapping[str, str], keys: Mapping[str, str], event_timestamp: str, kind: PredictionKind | None
) -> pl.DataFrame:
    identity = [_column(log, "key", name, dtype) for name, dtype in keys.items() if name not in types]
    inputs = [_column(log, "x", name, dtype) for name, dtype in types.items() if name != event_timestamp]
    frame = pl.DataFrame([*identity, log["at"].rename(event_timestamp), *inputs])
    X = frame.select(list(types))
    said = [] if kind is None else kind.frame(_predictions(log, kind), _probabilities(log, kind)).get_columns()
    return frame.with_columns(
        *said,
        pl.Series(INPUT_HASH, input_hashes(X), dtype=pl.String),
        log["version"].rename(MODEL_VERSION).cast(pl.Int64),
        log["id"].rename(PREDICTION_ID),
        log["missing"].rename(MISSING).cast(pl.List(pl.String)),
        log["logged_at"].rename(LOGGED_AT),
        pl.lit("").alias(RUN_ID),
    )


def _predictions(log: pl.DataFrame, kind: PredictionKind) -> pl.Series:
    values, dtype = log["prediction"], kind.types[PREDICTION]
    return pl.Series(PREDICTION, values.to_list(), dtype=dtype, strict=False) if values.dtype == pl.Object else values.cast(dtype)


def _probabilities(log: pl.DataFrame, kind: PredictionKind) -> pl.Series:
    """Return the probabilities by class; of what was logged before there were such, from that of the second of two."""
    if not kind.classes:
        return pl.Series(PROBABILITIES, [None] * log.height)
    rows = [{name: (row or {}).get(name) for name in kind.classes} for row in log["probabilities"].to_list()]
    if len(kind.classes) == 2:
        second = zip(rows, log["probability"].to_list(), strict=True)
        rows = [dict(zip(kind.classes, (1 - p, p), strict=True)) if p is not None and None in row.values() else row for row, p in second]
    return pl.Series(PROBABILITIES, [None if None in row.values() else row for row in rows], dtype=kind.types[PROBABILITIES])


def _column(log: pl.DataFrame, struct: str, name: str, dtype: str) -> pl.Series:
    """Return one field of the logged rows in the type that the model was trained on; null where a row has none."""
    fields = {field.name for field in log.schema[struct].fields}  # type: ignore[attr-defined]  # a struct
    values = log[struct].struct.field(name) if name in fields else pl.Series(name, [None] * log.height)
    return cast_logged(values, dtype).rename(name)


def cast_logged(values: pl.Series, dtype: str, *, strict: bool = True) -> pl.Series:
    """Return logged values in a type that a stored model names; times are logged as microseconds, dates as text.

    Parameters
    ----------
    values, dtype
        The values, and the name of the type.
    strict
        Whether a value that does not fit is an error; else it becomes null.
    """
    if dtype.startswith("Datetime"):
        return values.cast(pl.Int64, strict=strict).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    if dtype == "Date":
        return values.cast(pl.String).str.to_date("%Y-%m-%d", strict=strict)
    return values.cast(polars_type(dtype, values.name), strict=strict)


def key_types(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return what identifies a row and what its features are looked up or computed by, with their types, as a stored model declares them."""
    fields = [field for field in manifest["request"] if field["role"] in ("key", "join_key", "input")]
    # A key of any other type is sent and logged as text.
    return {field["name"]: _JSON_TYPES.get(field["type"], "String" if field["role"] == "key" else field["type"]) for field in fields}


def batch_identity(rows: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """Return what only identifies predictions of a batch: an id made of the key, and no time of logging."""
    ids = input_hashes(rows.select(key)) if key else None
    return pl.DataFrame(
        [
            pl.Series(PREDICTION_ID, ids or [None] * rows.height, dtype=pl.String),
            rows[MISSING].cast(pl.List(pl.String)),
            pl.Series(LOGGED_AT, [None] * rows.height, dtype=_UTC),
        ]
    )
