"""Columns of a table of predictions whose types depend on the model: predictions and probabilities.

A version may predict another type or other classes than the previous one. A column keeps its type, so values of another type go to a
separate column, such as ``prediction_2`` or ``probabilities_2``. Stored values never change.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mlops_assets.compute.tables.own_columns import PREDICTION, PROBABILITIES, PROBABILITY, PROBABILITY_OF, PROBLEM
from mlops_assets.compute.training.classes import class_names, positive_class
from mlops_assets.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TYPED = ("prediction", "probabilities")  # in the lake a number is appended when the plain column has another type
HAS_PROBABILITIES = "probabilities"  # in a manifest
_FINITE = "__finite"


@dataclass(frozen=True)
class PredictionKind:
    """The type of a version's predictions.

    Parameters
    ----------
    dtype
        The polars type of a prediction, by name.
    classes
        Names of the classes in the estimator's order; empty when the estimator gives no probabilities.
    positive
        The class whose probability is in the column ``probability``; empty without probabilities and unless there are two classes.
    """

    dtype: str
    classes: tuple[str, ...] = ()
    positive: str = ""

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> PredictionKind:
        """Return the kind of a stored model's predictions."""
        dtype = str(manifest["prediction_type"])
        if not manifest.get(HAS_PROBABILITIES):
            return cls(dtype)
        positive = positive_class(manifest["classes"], manifest.get("positive"))
        return cls(dtype, tuple(class_names(manifest["classes"])), "" if positive is None else str(positive))

    @property
    def types(self) -> dict[str, pl.DataType]:
        """Column → type, of ``prediction`` and, with probabilities, ``probabilities``."""
        types = {PREDICTION: find_polars_type(self.dtype, PREDICTION)}
        return types | ({PROBABILITIES: pl.Struct(dict.fromkeys(self.classes, pl.Float64()))} if self.classes else {})

    def to_frame(self, predictions: pl.Series, probabilities: pl.Series | None = None) -> pl.DataFrame:
        """Return the prediction columns of rows.

        If a row's prediction or a probability is not finite, both are null, and ``problem`` has the reason.

        Parameters
        ----------
        predictions
            One prediction for each row.
        probabilities
            Structs by class name; ignored for a model without probabilities.
        """
        values = predictions.cast(self.types[PREDICTION]).rename(PREDICTION)
        finite = values.is_finite() if values.dtype.is_float() else values.is_not_null()
        shares = None if probabilities is None or not self.classes else probabilities.cast(self.types[PROBABILITIES]).rename(PROBABILITIES)
        frame = pl.DataFrame([values, finite.fill_null(value=True).alias(_FINITE), *([] if shares is None else [shares])])
        sure = pl.lit(value=True) if shares is None else _are_all_finite(self.classes)
        frame = frame.with_columns(
            pl.when(~pl.col(_FINITE))
            .then(pl.format("the model predicts {}, which is not finite", pl.col(PREDICTION)))
            .when(~sure)
            .then(pl.lit("the model gives a probability that is not finite"))
            .otherwise(None)
            .alias(PROBLEM)
        )
        is_storable = pl.col(PROBLEM).is_null()
        frame = frame.with_columns(
            pl.when(is_storable).then(pl.col(name)).alias(name) for name in (PREDICTION, PROBABILITIES) if name in frame.columns
        )
        has_positive = self.positive and shares is not None
        of_positive = pl.col(PROBABILITIES).struct.field(self.positive) if has_positive else pl.lit(None)
        frame = frame.with_columns(
            of_positive.cast(pl.Float64).alias(PROBABILITY), pl.lit(self.positive or None).cast(pl.String).alias(PROBABILITY_OF)
        )
        return frame.select(name for name in (PREDICTION, PROBABILITY, PROBABILITY_OF, PROBABILITIES, PROBLEM) if name in frame.columns)


def _are_all_finite(classes: Sequence[str]) -> pl.Expr:
    return pl.all_horizontal(pl.col(PROBABILITIES).struct.field(name).is_finite() for name in classes).fill_null(value=True)


def make_probability_structs(classes: Sequence[str], probabilities: np.ndarray) -> pl.Series:
    """Return probabilities as structs by class name.

    Parameters
    ----------
    classes
        Class names in the estimator's order.
    probabilities
        Shape (rows, classes).
    """
    fields = [
        pl.Series(name, np.ascontiguousarray(column, dtype=float))
        for name, column in zip(classes, np.asarray(probabilities).T, strict=True)
    ]
    return pl.DataFrame(fields).to_struct(PROBABILITIES)


def find_column(base: str, dtype: pl.DataType, existing: Mapping[str, pl.DataType]) -> str:
    """Return the name of the column for values of a type: the first of ``base``, ``base_2``, … that fits the type or does not exist.

    Integers of any width fit each other, and so do floats.

    Parameters
    ----------
    base
        ``prediction`` or ``probabilities``.
    dtype
        Type of the values.
    existing
        Existing columns with their types.
    """
    names = (base if number == 1 else f"{base}_{number}" for number in count(1))
    return next(name for name in names if name not in existing or _are_compatible(dtype, existing[name]))


def _are_compatible(dtype: pl.DataType, other: pl.DataType) -> bool:
    return dtype == other or (dtype.is_integer() and other.is_integer()) or (dtype.is_float() and other.is_float())


def rename_by_type(frames: Sequence[pl.DataFrame], existing: Mapping[str, pl.DataType]) -> list[pl.DataFrame]:
    """Return the frames, in order, with their predictions and probabilities renamed to columns of fitting types.

    Parameters
    ----------
    frames
        Rows of versions that may predict different types, under the names of the lake.
    existing
        Columns of the table that have values, with their types.
    """
    column_types, renamed = dict(existing), []
    for frame in frames:
        # A name that a column of the user has is not free.
        others = {name: pl.Null() for name in frame.columns if name not in TYPED and name not in column_types}
        names = {base: find_column(base, frame.schema[base], {**column_types, **others}) for base in TYPED if base in frame.columns}
        column_types |= {name: frame.schema[base] for base, name in names.items() if name not in column_types}
        renamed.append(frame.rename(names))
    return renamed


def merge_typed_columns(rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows of one version with its values in ``prediction`` and ``probabilities``, copied from the first column that has values.

    Numbered columns such as ``prediction_2`` stay. If none has values, a missing ``prediction`` is added with nulls.

    Parameters
    ----------
    rows
        Rows of a table of predictions, under the names in memory.
    """
    for name in (PREDICTION, PROBABILITIES):
        others = [other for other in rows.columns if other.startswith(f"{name}_") and other.removeprefix(f"{name}_").isdigit()]
        filled = [column for column in (name, *others) if column in rows.columns and rows[column].null_count() < rows.height]
        if filled and filled[0] != name:
            rows = rows.with_columns(rows[filled[0]].alias(name))
    return rows if PREDICTION in rows.columns else rows.with_columns(pl.lit(None).alias(PREDICTION))


def describe_changed_kind(before: PredictionKind, after: PredictionKind) -> str:
    """Describe how a version's predictions differ in type or classes from those of the previous version; ``""`` when they do not."""
    if not _are_compatible(find_polars_type(after.dtype, PREDICTION), find_polars_type(before.dtype, PREDICTION)):
        return f"it predicts {after.dtype}, but the previous version {before.dtype}"
    if before.classes and after.classes and before.classes != after.classes:
        return f"it predicts the classes {', '.join(after.classes)}, but the previous version {', '.join(before.classes)}"
    return ""


def find_polars_type(dtype: str, column: str) -> pl.DataType:
    """Return the polars type that a manifest names.

    Parameters
    ----------
    dtype
        Name of a type without parameters, such as ``Int64``.
    column
        Name of the column, for error messages.

    Raises
    ------
    DataError
        The name is not that of a type without parameters.
    """
    polars_type: Any = getattr(pl, dtype, None)
    if not (isinstance(polars_type, type) and issubclass(polars_type, pl.DataType)):
        raise DataError(f"column '{column}' has the type {dtype}, which a prediction log cannot hold", hint="cast it in the training set")
    return polars_type()
