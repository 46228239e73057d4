"""What training sees and what a candidate is judged by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from mlops_assets.values.arguments import check_constructor

if TYPE_CHECKING:
    import numpy as np
    import polars as pl


@check_constructor
@dataclass(frozen=True, eq=False)
class Split:
    """One part of a training set.

    Parameters
    ----------
    X
        Features, then declared columns; shape (rows, columns).
    y
        The label, shape (rows,).
    rows
        Every column of the training set for the same rows, for slices.
    """

    X: pl.DataFrame
    y: np.ndarray
    rows: pl.DataFrame


@check_constructor
@dataclass(frozen=True)
class SliceMetrics:
    """The metrics of the rows on which one column has one value.

    Parameters
    ----------
    column, value
        Which rows.
    rows
        How many.
    metrics
        Metric → value, as pairs.
    """

    column: str
    value: str
    rows: int
    metrics: tuple[tuple[str, float], ...]


@check_constructor
@dataclass(frozen=True)
class Evaluation:
    """What a model reached on the holdout.

    Parameters
    ----------
    rows
        Rows of the holdout.
    metrics
        Metric → value, NaN when undefined; greater is better.
    baseline
        The same of a model that ignores its input.
    slices
        Metrics by the values of the slice columns.
    problems
        Metric → why it is undefined.
    """

    rows: int
    metrics: tuple[tuple[str, float], ...]
    baseline: tuple[tuple[str, float], ...] = ()
    slices: tuple[SliceMetrics, ...] = ()
    problems: tuple[tuple[str, str], ...] = ()

    def metric(self, name: str, within: tuple[str, str] | None = None) -> float:
        """Return one metric, of a slice ``(column, value)`` when given; NaN when it was not measured."""
        if within is None:
            return dict(self.metrics).get(name, float("nan"))
        found = next((s for s in self.slices if (s.column, s.value) == within), None)
        return dict(found.metrics).get(name, float("nan")) if found else float("nan")


@check_constructor
@dataclass(frozen=True)
class GateResult:
    """What a gate found.

    Parameters
    ----------
    passed
        Whether the candidate may go on.
    reason
        In words, for people.
    value, threshold
        The figure and its bound, when there are such.
    low, high
        The interval that was looked at: of the difference from the champion, or of the value where there is none.
    """

    passed: bool
    reason: str = ""
    value: float | None = None
    threshold: float | None = None
    low: float | None = None
    high: float | None = None


class Intervals(Protocol):
    """How sure a candidate's metrics are, on the rows of its holdout; NaN where that is undefined."""

    @property
    def method(self) -> str:
        """What is resampled: ``independent rows``, or which blocks of time."""
        ...

    def value(self, metric: str, confidence: float = 0.95, within: tuple[str, str] | None = None) -> tuple[float, float]:
        """Return the interval of a metric, of a slice ``(column, value)`` when given."""
        ...

    def difference(self, metric: str, confidence: float = 0.95, within: tuple[str, str] | None = None) -> tuple[float, float]:
        """Return the interval of candidate less champion on the same rows."""
        ...


@check_constructor
@dataclass(frozen=True, eq=False)
class Candidate:
    """A trained model that waits to be judged.

    Parameters
    ----------
    model
        The model's name.
    digest
        Identifies this candidate; all evidence names it.
    estimator
        The fitted estimator.
    holdout
        Rows that training has not seen.
    evaluation
        What the candidate reached on them.
    champion
        What the champion reaches on the same rows, by the fit that its gates judged; None when there is no champion.
    intervals
        How sure metrics and their differences from the champion's are: ``candidate.intervals.difference("roc_auc")``.
    """

    model: str
    digest: str
    estimator: Any
    holdout: Split
    evaluation: Evaluation
    champion: Evaluation | None = None
    intervals: Intervals | None = None
