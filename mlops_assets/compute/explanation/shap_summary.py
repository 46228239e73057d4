"""Summarise SHAP values by column, for the predictions of a window and for the version's reference rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_SUMMARY_ROWS = 200  # predictions of a window that are explained
MAX_SHOWN_COLUMNS = 10
MIN_RANK_CORRELATION = 0.5  # of values and their effects, from which a column has a direction


@dataclass(frozen=True)
class ColumnDependence:
    """How much the predictions of a window depended on one column.

    Parameters
    ----------
    name
        The name of the column.
    size
        The mean of |SHAP value| over the explained rows.
    reference
        The mean of |SHAP value| over the reference rows.
    effect
        The mean SHAP value. It is the contribution of the column to the difference between the mean predictions of the window and of the
        reference rows.
    direction
        The rank correlation of values and SHAP values; None for a column that is not numeric or constant, and for several classes.
    """

    name: str
    size: float
    reference: float
    effect: float
    direction: float | None = None

    @property
    def direction_text(self) -> str:
        """Whether higher values raise or lower the predictions; empty where neither holds for most values."""
        if self.direction is None or abs(self.direction) < MIN_RANK_CORRELATION:
            return ""
        return "higher values raise it" if self.direction > 0 else "higher values lower it"


@dataclass(frozen=True)
class ShapSummary:
    """The columns that the predictions of a window depended on, by SHAP values.

    Parameters
    ----------
    output
        A description of the explained output, e.g. ``the probability of True``.
    rows, predictions, reference_rows
        The number of explained rows, of all rows of the window, and of explained reference rows.
    mean, base
        The mean of the explained number over the explained rows, and over the reference rows.
    columns
        All columns, the largest mean |SHAP value| first. Their effects sum to ``mean`` − ``base``.
    seconds
        The duration of the computation.
    problem
        The reason why there is no summary, with a hint; empty for a summary.
    """

    output: str = ""
    rows: int = 0
    predictions: int = 0
    reference_rows: int = 0
    mean: float = 0.0
    base: float = 0.0
    columns: tuple[ColumnDependence, ...] = ()
    seconds: float = 0.0
    problem: str = ""

    @property
    def shown(self) -> tuple[ColumnDependence, ...]:
        """The columns that a page shows."""
        return self.columns[:MAX_SHOWN_COLUMNS]

    @property
    def hidden_effect(self) -> float:
        """The sum of the effects of the columns that a page does not show."""
        return float(sum(column.effect for column in self.columns[MAX_SHOWN_COLUMNS:]))

    def as_json(self) -> dict[str, Any]:
        """Return the summary as a dict of JSON values."""
        return asdict(self)


def summarise_columns(X: pl.DataFrame, values: np.ndarray, reference: np.ndarray, *, directed: bool = True) -> tuple[ColumnDependence, ...]:
    """Summarise SHAP values by column, the largest mean |SHAP value| first.

    Parameters
    ----------
    X
        The explained rows.
    values
        The SHAP values of these rows, shape (rows, columns).
    reference
        The SHAP values of the reference rows, shape (reference rows, columns).
    directed
        Whether all rows have the same explained output, e.g. the probability of one class. Only then a column has a direction.

    Returns
    -------
    tuple of ColumnDependence
    """
    sizes, before, effects = np.abs(values).mean(axis=0), np.abs(reference).mean(axis=0), values.mean(axis=0)
    found = [
        ColumnDependence(
            name, float(sizes[i]), float(before[i]), float(effects[i]), _correlate_ranks(X[name], values[:, i]) if directed else None
        )
        for i, name in enumerate(X.columns)
    ]
    return tuple(sorted(found, key=lambda column: (-column.size, column.name)))


def name_output(classes: Sequence[str] | None) -> str:
    """Return a description of the explained output.

    Parameters
    ----------
    classes
        The class whose probability is explained, for each row; None for a regressor.
    """
    if classes is None:
        return "the prediction"
    different = set(classes)
    return f"the probability of {different.pop()}" if len(different) == 1 else "the probability of the likeliest class"


def _correlate_ranks(column: pl.Series, values: np.ndarray) -> float | None:
    if not column.dtype.is_numeric():
        return None
    known = pl.DataFrame({"value": column.cast(pl.Float64).fill_nan(None), "effect": values}).drop_nulls()
    if known["value"].n_unique() < 2 or known["effect"].n_unique() < 2:
        return None
    return float(np.corrcoef(known["value"].rank(), known["effect"].rank())[0, 1])
