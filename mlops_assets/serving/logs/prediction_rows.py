"""Build the rows of predictions in the lake, in one shape for services and batches, and set aside what the lake cannot store."""

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
from mlops_assets.serving.formats.prediction_columns import PredictionKind, find_polars_type
from mlops_assets.serving.predict.batch import hash_inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mlops_assets.serving.logs.inference_log import PredictionRecord

_UTC = pl.Datetime("us", "UTC")
_FITTING_TYPES: dict[str, set[type]] = {"String": {str, int, float, bool}, "Date": {str}, "Boolean": {bool, int}}
_JSON_TYPES = {"str": "String", "int": "Int64", "float": "Float64", "bool": "Boolean", "datetime": "Datetime", "Date": "Date"}


def build_prediction_rows(
    log: pl.DataFrame, types: Mapping[str, str], *, keys: Mapping[str, str], event_timestamp: str, kinds: Mapping[int, PredictionKind]
) -> list[pl.DataFrame]:
    """Return logged predictions as rows with their column names in memory, one frame for each kind of prediction.

    Parameters
    ----------
    log
        From :func:`mlops_assets.serving.logs.inference_log.read_log`.
    types
        Columns of ``X`` of every version in the log, with their polars types by name.
    keys
        Columns that identify a row, with their types.
    event_timestamp
        The name of the column with the event time.
    kinds
        Version → kind of its predictions.

    Returns
    -------
    list of polars.DataFrame
        Key, event time, ``X``, prediction, probabilities, hash of the input, version, id, names of missing features, time of logging,
        run (empty). A version without a kind is read like the newest version. When nothing was logged, the list has one frame without rows, in
        the types of the newest version. Without any version, that frame lacks predictions and probabilities.
    """
    ordered_kinds = [kinds[version] for version in sorted(kinds)]
    if not ordered_kinds:
        kind_of_log = PredictionKind(str(log["prediction"].dtype)) if log.height else None
        return [_build_frame(log, types, keys, event_timestamp, kind_of_log)]
    by_kind: dict[PredictionKind, list[int]] = {kind: [] for kind in ordered_kinds}
    for version in log["version"].unique().to_list():
        by_kind[kinds.get(version, ordered_kinds[-1])].append(version)
    frames = [_build_frame(log.filter(pl.col("version").is_in(v)), types, keys, event_timestamp, kind) for kind, v in by_kind.items()]
    return [frame for frame in frames if frame.height] or frames[-1:]


def _build_frame(
    log: pl.DataFrame, types: Mapping[str, str], keys: Mapping[str, str], event_timestamp: str, kind: PredictionKind | None
) -> pl.DataFrame:
    """Return the rows of versions with one kind of prediction; no prediction columns when the kind is None."""
    identity = [_read_field(log, "key", name, dtype) for name, dtype in keys.items() if name not in types]
    inputs = [_read_field(log, "x", name, dtype) for name, dtype in types.items() if name != event_timestamp]
    frame = pl.DataFrame([*identity, log["at"].rename(event_timestamp), *inputs])
    X = frame.select(list(types))
    predicted = [] if kind is None else kind.to_frame(_read_predictions(log, kind), _read_probabilities(log, kind)).get_columns()
    return frame.with_columns(
        *predicted,
        pl.Series(INPUT_HASH, hash_inputs(X), dtype=pl.String),
        log["version"].rename(MODEL_VERSION).cast(pl.Int64),
        log["id"].rename(PREDICTION_ID),
        log["missing"].rename(MISSING).cast(pl.List(pl.String)),
        log["logged_at"].rename(LOGGED_AT),
        pl.lit("").alias(RUN_ID),
    )


def _read_predictions(log: pl.DataFrame, kind: PredictionKind) -> pl.Series:
    values, dtype = log["prediction"], kind.types[PREDICTION]
    return pl.Series(PREDICTION, values.to_list(), dtype=dtype, strict=False) if values.dtype == pl.Object else values.cast(dtype)


def _read_probabilities(log: pl.DataFrame, kind: PredictionKind) -> pl.Series:
    """Return the probabilities as structs by class, null where a class is missing.

    Old lines of a model with two classes have only the probability of the second class, from which the first follows.
    """
    if not kind.classes:
        return pl.Series(PROBABILITIES, [None] * log.height)
    rows = [{name: (row or {}).get(name) for name in kind.classes} for row in log["probabilities"].to_list()]
    if len(kind.classes) == 2:
        second = zip(rows, log["probability"].to_list(), strict=True)
        rows = [dict(zip(kind.classes, (1 - p, p), strict=True)) if p is not None and None in row.values() else row for row, p in second]
    return pl.Series(PROBABILITIES, [None if None in row.values() else row for row in rows], dtype=kind.types[PROBABILITIES])


def _read_field(log: pl.DataFrame, struct: str, name: str, dtype: str) -> pl.Series:
    """Return one field of the logged rows in the type that it had in training; null where a row lacks the field."""
    fields = {field.name for field in log.schema[struct].fields}  # type: ignore[attr-defined]  # a struct
    values = log[struct].struct.field(name) if name in fields else pl.Series(name, [None] * log.height)
    return cast_logged(values, dtype).rename(name)


def cast_logged(values: pl.Series, dtype: str, *, strict: bool = True) -> pl.Series:
    """Cast logged values to a type of a manifest. Times are logged as microseconds and become times in UTC; dates are logged as text.

    Parameters
    ----------
    values, dtype
        The values, and the name of the type.
    strict
        Whether a value that does not fit is an error; otherwise it becomes null.
    """
    if dtype.startswith("Datetime"):
        return values.cast(pl.Int64, strict=strict).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    if dtype == "Date":
        return values.cast(pl.String).str.to_date("%Y-%m-%d", strict=strict)
    return values.cast(find_polars_type(dtype, values.name), strict=strict)


def read_key_types(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return name → polars type of the fields that identify a row, and of those from which its features are looked up or computed."""
    fields = [field for field in manifest["request"] if field["role"] in ("key", "join_key", "input")]
    # Keys of other types are sent and logged as text.
    return {field["name"]: _JSON_TYPES.get(field["type"], "String" if field["role"] == "key" else field["type"]) for field in fields}


def build_batch_columns(rows: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """Return the id, missing features and null time of logging of the rows of a batch: columns that logged predictions have as well.

    The id is a hash of the key, or null without a key.
    """
    ids = hash_inputs(rows.select(key)) if key else None
    return pl.DataFrame(
        [
            pl.Series(PREDICTION_ID, ids or [None] * rows.height, dtype=pl.String),
            rows[MISSING].cast(pl.List(pl.String)),
            pl.Series(LOGGED_AT, [None] * rows.height, dtype=_UTC),
        ]
    )


def split_storable(
    records: Sequence[PredictionRecord], *, types: Mapping[str, str], keys: Mapping[str, str], prediction_type: str
) -> tuple[list[PredictionRecord], list[str]]:
    """Return the predictions that the lake can store, and a message for each of the others.

    Parameters
    ----------
    records
        Records of the log.
    types, keys, prediction_type
        As in :func:`build_prediction_rows`.
    """
    problems: dict[int, str] = {}
    readers: list[tuple[str, str, Callable[[PredictionRecord], Any]]] = [
        ("prediction", prediction_type, lambda record: record.prediction),
        ("probability", "Float64", lambda record: record.probability),
        *((name, dtype, lambda record, name=name: record.key.get(name)) for name, dtype in keys.items() if name not in types),
        *((name, dtype, lambda record, name=name: record.x.get(name)) for name, dtype in types.items()),
    ]
    for name, dtype, read in readers:
        for row in _find_unstorable(name, [read(record) for record in records], dtype):
            problems.setdefault(row, f"prediction '{records[row].id}': '{name}' has a value that a column of type {dtype} cannot store")
    return [record for row, record in enumerate(records) if row not in problems], [problems[row] for row in sorted(problems)]


def _find_unstorable(name: str, values: Sequence[Any], dtype: str) -> Iterator[int]:
    """Yield the indices of values that do not fit the type, each once; null fits every type."""
    fitting = _FITTING_TYPES.get(dtype, {int, float, bool})
    wrong = {row for row, value in enumerate(values) if value is not None and type(value) not in fitting}
    wrong |= {row for row, value in enumerate(values) if isinstance(value, str) and "\0" in value}
    yield from wrong
    if dtype == "String" or len(wrong) == len(values):
        return
    series = pl.Series(name, [None if row in wrong else value for row, value in enumerate(values)], strict=False)
    cast = cast_logged(series, dtype, strict=False)
    yield from (int(row) for row in (cast.is_null() & series.is_not_null()).arg_true())
