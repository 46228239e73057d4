"""Features that reproduce the label: the label itself, or a monotone or one-to-one function of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from mlops_assets.errors import DataError, DefinitionError, suggest_name

if TYPE_CHECKING:
    from collections.abc import Sequence

MIN_ROWS = 20
_MIN_LEVELS = 5  # fewer levels may have the order of the label by chance, or in a legitimate feature
_MAX_TURNS = 0.001  # maximum share of steps between neighbouring feature values against the trend; recomputed floats have a few


@dataclass(frozen=True)
class LabelCopy:
    """A feature that reproduces the label.

    Parameters
    ----------
    column
        The feature.
    how
        ``the label``, ``a monotone function of the label`` or ``a one-to-one function of the label``.
    rows
        The number of rows on which feature and label were compared.
    example
        The values of feature and label in the first row with a label.
    """

    column: str
    how: str
    rows: int
    example: tuple[object, object]


def find_label_copies(X: pl.DataFrame, label: pl.Series) -> list[LabelCopy]:
    """Find the features that reproduce the label.

    Parameters
    ----------
    X
        The features of the holdout, or of other rows.
    label
        The label of the same rows.

    Notes
    -----
    Nothing is found with fewer than 20 labelled rows or a constant label, nor in a nested column. The label and a monotone function are
    compared on rows with a feature value; these must be at least half of the rows.

    A one-to-one function needs 20 rows that repeat an earlier value, so that identifiers are not reported. A monotone function needs five
    distinct values on both sides: with fewer, a legitimate feature may separate the classes.
    """
    return [copy for column in X.columns if (copy := _compare_with_label(column, X[column], label)) is not None]


def refuse_label_copies(X: pl.DataFrame, label: pl.Series, *, allowed: Sequence[str], what: str) -> None:
    """Raise DataError for features that reproduce the label, unless the project allows them by name.

    Parameters
    ----------
    X, label
        As in :func:`find_label_copies`.
    allowed
        The features that may reproduce the label.
    what
        The name of the rows in the message.

    Raises
    ------
    DataError
        A feature that ``allowed`` does not name reproduces the label.
    DefinitionError
        ``allowed`` names a feature that is not in ``X``.
    """
    if unknown := [name for name in allowed if name not in X.columns]:
        raise DefinitionError(
            f"{what}: label_copies= names '{unknown[0]}', which is not a column of X",
            hint=suggest_name(unknown[0], X.columns) + f"X has {', '.join(X.columns)}",
        )
    copies = find_label_copies(X.drop(allowed), label)
    if not copies:
        return
    first, others = copies[0], [copy.column for copy in copies[1:]]
    also = f"; so {'does' if len(others) == 1 else 'do'} {', '.join(map(repr, others))}" if others else ""
    named = ", ".join(f'"{copy.column}"' for copy in copies)
    raise DataError(
        f"the column '{first.column}' of X is {first.how} '{label.name}' on all {first.rows} rows of {what} "
        f"(the first row has {first.example[0]!r} for the label {first.example[1]!r}){also}",
        hint=f"drop '{first.column}' from columns= or features=; if it is known at prediction time, allow it by name: "
        f"@ml.training_set(label_copies=[{named}])",
    )


def _compare_with_label(column: str, feature: pl.Series, label: pl.Series) -> LabelCopy | None:
    """Return how a feature reproduces the label; None when it does not, or when the rows are too few to judge."""
    if feature.dtype.is_nested() or label.dtype.is_nested():
        return None
    pairs = pl.DataFrame({"feature": _to_comparable(feature), "label": _to_comparable(label)}).drop_nulls("label")
    if pairs.height < MIN_ROWS or pairs["label"].n_unique() < 2:
        return None
    how, compared = "", pairs.drop_nulls()
    half_known = compared.height >= MIN_ROWS and 2 * compared.height >= pairs.height
    if half_known and compared["feature"].dtype == compared["label"].dtype and compared["feature"].equals(compared["label"]):
        how = "the label"
    elif _is_one_to_one(pairs):
        how, compared = "a one-to-one function of the label", pairs
    elif half_known and _is_monotone(compared):
        how = "a monotone function of the label"
    example = (feature.filter(label.is_not_null())[0], label.drop_nulls()[0])
    return LabelCopy(column, how, compared.height, example) if how else None


def _to_comparable(values: pl.Series) -> pl.Series:
    """Return numbers, times, booleans and text of numbers as floats with NaN as null; anything else as text."""
    if values.dtype in (pl.String, pl.Categorical, pl.Enum):
        text = values.cast(pl.String)
        numbers = text.cast(pl.Float64, strict=False)
        return numbers.fill_nan(None) if numbers.null_count() == text.null_count() else text
    if values.dtype.is_temporal():
        return values.to_physical().cast(pl.Float64)
    if values.dtype.is_numeric() or values.dtype in (pl.Boolean, pl.Null):
        return values.cast(pl.Float64).fill_nan(None)
    return values.cast(pl.String, strict=False)


def _is_one_to_one(pairs: pl.DataFrame) -> bool:
    """Return True if feature values (null included) and labels correspond one to one, with at least 20 repeated rows."""
    levels = pairs["label"].n_unique()
    return pairs.height - levels >= MIN_ROWS and levels == pairs["feature"].n_unique() == pairs.n_unique()


def _is_monotone(rows: pl.DataFrame) -> bool:
    """Return True if the label only rises or only falls with the feature, apart from 0.1 % of the steps; False for text or few levels."""
    levels = rows["feature"].n_unique()
    if min(levels, rows["label"].n_unique()) < _MIN_LEVELS or pl.String in rows.dtypes:
        return False
    by_level = rows.group_by("feature").agg(low=pl.col("label").min(), high=pl.col("label").max()).sort("feature")
    up = (by_level["high"].shift(1) > by_level["low"]).sum()
    down = (by_level["low"].shift(1) < by_level["high"]).sum()
    return min(up, down) <= _MAX_TURNS * (levels - 1)
