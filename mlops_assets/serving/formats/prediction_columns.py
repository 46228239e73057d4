"""The columns of a table of predictions whose types depend on the model: what was predicted, and with which probabilities.

A version may predict another type than the one before it, or other classes. A column keeps its type, so what does not fit goes to a column
of its own: ``prediction_2`` beside ``prediction``, ``probabilities_2`` beside ``probabilities``. Nothing that was stored changes.
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

TYPED = ("prediction", "probabilities")  # in the lake with a number behind their name, where the first one has another type
HAS_PROBABILITIES = "probabilities"  # in a manifest
_FINITE = "__finite"


@dataclass(frozen=True)
class PredictionKind:
    """What the predictions of a version look like.

    Parameters
    ----------
    dtype
        The polars type of a prediction, by name.
    classes
        Names of the classes in the estimator's order; empty when it gives no probabilities.
    positive
        The class that ``probability`` is of; empty unless there are two.
    """

    dtype: str
    classes: tuple[str, ...] = ()
    positive: str = ""

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> PredictionKind:
        """Return what a stored model says of its predictions."""
        dtype = str(manifest["prediction_type"])
        if not manifest.get(HAS_PROBABILITIES):
            return cls(dtype)
        positive = positive_class(manifest["classes"], manifest.get("positive"))
        return cls(dtype, tuple(class_names(manifest["classes"])), "" if positive is None else str(positive))

    @property
    def types(self) -> dict[str, pl.DataType]:
        """The columns whose types depend on it."""
        found = {PREDICTION: polars_type(self.dtype, PREDICTION)}
        return found | ({PROBABILITIES: pl.Struct(dict.fromkeys(self.classes, pl.Float64()))} if self.classes else {})

    def frame(self, predictions: pl.Series, probabilities: pl.Series | None = None) -> pl.DataFrame:
        """Return the columns of some rows; a row whose numbers are not finite has no prediction, and says why.

        Parameters
        ----------
        predictions
            Of each row.
        probabilities
            Of each class, a struct by class name; not used of a model that gives none.
        """
        values = predictions.cast(self.types[PREDICTION]).rename(PREDICTION)
        finite = values.is_finite() if values.dtype.is_float() else values.is_not_null()
        shares = None if probabilities is None or not self.classes else probabilities.cast(self.types[PROBABILITIES]).rename(PROBABILITIES)
        frame = pl.DataFrame([values, finite.fill_null(value=True).alias(_FINITE), *([] if shares is None else [shares])])
        sure = pl.lit(value=True) if shares is None else _all_finite(self.classes)
        frame = frame.with_columns(
            pl.when(~pl.col(_FINITE))
            .then(pl.format("the model predicts {}, which is not finite", pl.col(PREDICTION)))
            .when(~sure)
            .then(pl.lit("the model gives a probability that is not finite"))
            .otherwise(None)
            .alias(PROBLEM)
        )
        good = pl.col(PROBLEM).is_null()
        frame = frame.with_columns(
            pl.when(good).then(pl.col(name)).alias(name) for name in (PREDICTION, PROBABILITIES) if name in frame.columns
        )
        known = self.positive and shares is not None
        of_positive = pl.col(PROBABILITIES).struct.field(self.positive) if known else pl.lit(None)
        frame = frame.with_columns(
            of_positive.cast(pl.Float64).alias(PROBABILITY), pl.lit(self.positive or None).cast(pl.String).alias(PROBABILITY_OF)
        )
        return frame.select(name for name in (PREDICTION, PROBABILITY, PROBABILITY_OF, PROBABILITIES, PROBLEM) if name in frame.columns)


def _all_finite(classes: Sequence[str]) -> pl.Expr:
    return pl.all_horizontal(pl.col(PROBABILITIES).struct.field(name).is_finite() for name in classes).fill_null(value=True)


def probability_structs(classes: Sequence[str], shares: np.ndarray) -> pl.Series:
    """Return probabilities as a struct by class name.

    Parameters
    ----------
    classes
        Names, in the estimator's order.
    shares
        Shape (rows, classes).
    """
    fields = [
        pl.Series(name, np.ascontiguousarray(column, dtype=float)) for name, column in zip(classes, np.asarray(shares).T, strict=True)
    ]
    return pl.DataFrame(fields).to_struct(PROBABILITIES)


def column_for(base: str, dtype: pl.DataType, taken: Mapping[str, pl.DataType]) -> str:
    """Return the column that holds values of a type: the first of ``base``, ``base_2``, … that has this type, or does not exist.

    Parameters
    ----------
    base
        ``prediction`` or ``probabilities``.
    dtype
        Of the values.
    taken
        The columns that exist, with their types.
    """
    names = (base if number == 1 else f"{base}_{number}" for number in count(1))
    return next(name for name in names if name not in taken or _fits(dtype, taken[name]))


def _fits(dtype: pl.DataType, other: pl.DataType) -> bool:
    return dtype == other or (dtype.is_integer() and other.is_integer()) or (dtype.is_float() and other.is_float())


def in_columns_of_their_types(frames: Sequence[pl.DataFrame], taken: Mapping[str, pl.DataType]) -> list[pl.DataFrame]:
    """Return frames of several kinds, each with its predictions in columns of their types.

    Parameters
    ----------
    frames
        Rows under the names of the lake.
    taken
        The columns that the table holds values in, with their types.
    """
    known, found = dict(taken), []
    for frame in frames:
        others = {name: pl.Null() for name in frame.columns if name not in TYPED and name not in known}  # a user's column is no place
        names = {base: column_for(base, frame.schema[base], {**known, **others}) for base in TYPED if base in frame.columns}
        known |= {name: frame.schema[base] for base, name in names.items() if name not in known}
        found.append(frame.rename(names))
    return found


def of_one_version(rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows that one version predicted, with its predictions in ``prediction`` and ``probabilities``.

    Parameters
    ----------
    rows
        Of a table of predictions, under the names that they have in memory.
    """
    for name in (PREDICTION, PROBABILITIES):
        others = [other for other in rows.columns if other.startswith(f"{name}_") and other.removeprefix(f"{name}_").isdigit()]
        held = [column for column in (name, *others) if column in rows.columns and rows[column].null_count() < rows.height]
        if held and held[0] != name:
            rows = rows.with_columns(rows[held[0]].alias(name))
    return rows if PREDICTION in rows.columns else rows.with_columns(pl.lit(None).alias(PREDICTION))


def changed_kind(before: PredictionKind, after: PredictionKind) -> str:
    """Return in words how a version predicts otherwise than the one before it; empty when it does not."""
    if not _fits(polars_type(after.dtype, PREDICTION), polars_type(before.dtype, PREDICTION)):
        return f"it predicts {after.dtype}, the version before it {before.dtype}"
    if before.classes and after.classes and before.classes != after.classes:
        return f"it predicts the classes {', '.join(after.classes)}, the version before it {', '.join(before.classes)}"
    return ""


def polars_type(dtype: str, column: str) -> pl.DataType:
    """Return a polars type by the name that a stored model gives it.

    Raises
    ------
    DataError
        It is not one that a request can carry.
    """
    found: Any = getattr(pl, dtype, None)
    if not (isinstance(found, type) and issubclass(found, pl.DataType)):
        raise DataError(f"column '{column}' has the type {dtype}, which a prediction log cannot hold", hint="cast it in the training set")
    return found()
