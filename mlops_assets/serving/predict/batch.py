"""Score a data frame with a loaded model, as batch predictions and monitoring do."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mlops_assets.compute.tables.own_columns import INPUT_HASH, PREDICTION
from mlops_assets.errors import DataError
from mlops_assets.serving.formats.argmax import predict_labels
from mlops_assets.serving.formats.prediction_columns import PredictionKind, make_probability_structs

if TYPE_CHECKING:
    from mlops_assets.serving.formats.packaging import ModelBundle


def select_input(bundle: ModelBundle, rows: pl.DataFrame, where: str) -> pl.DataFrame:
    """Return the columns of ``X`` in the order of training; their types are checked, not converted.

    Parameters
    ----------
    bundle
        The loaded model.
    rows
        Rows with at least the columns of ``X``.
    where
        A description of the rows for error messages.

    Raises
    ------
    DataError
        A column is missing, or its type differs from training. All number types are accepted for each other, and the type ``Null`` is
        accepted for every type.
    """
    if missing := [name for name in bundle.columns if name not in rows.columns]:
        raise DataError(f"{where} lacks the column '{missing[0]}' that the model was trained on", hint=f"it has {', '.join(rows.columns)}")
    types = bundle.manifest["types"]
    X = rows.select(bundle.columns)
    for name, dtype in X.schema.items():
        if str(dtype) != types[name] and dtype != pl.Null and not (dtype.is_numeric() and _is_number(types[name])):
            raise DataError(f"{where}: column '{name}' is {dtype}, the model was trained on {types[name]}", hint="cast it in the dataset")
    return X


def score_rows(bundle: ModelBundle, X: pl.DataFrame) -> pl.DataFrame:
    """Return the prediction columns of rows and a hash of each row's input: see :meth:`PredictionKind.to_frame`.

    Parameters
    ----------
    bundle
        The loaded model.
    X
        Rows from :func:`select_input`.
    """
    kind, estimator = PredictionKind.from_manifest(bundle.manifest), bundle.estimator
    predicted = pl.Series(predict_labels(estimator, X)) if X.height else pl.Series([], dtype=kind.types[PREDICTION])
    shares = np.asarray(estimator.predict_proba(X)) if kind.classes and X.height else np.zeros((X.height, len(kind.classes)))
    frame = kind.to_frame(predicted, make_probability_structs(kind.classes, shares) if kind.classes else None)
    return frame.with_columns(pl.Series(INPUT_HASH, hash_inputs(X), dtype=pl.String))


def hash_inputs(X: pl.DataFrame) -> list[str]:
    """Return a hash of each row, 16 hexadecimal digits; equal rows have equal hashes on every machine."""
    return [hashlib.blake2b(repr(row).encode(), digest_size=8).hexdigest() for row in X.iter_rows()]


def _is_number(dtype: str) -> bool:
    return dtype.startswith(("Int", "UInt", "Float"))
