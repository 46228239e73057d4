"""The parts of a training set, and the measurements by which gates judge a candidate."""

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

    See Also
    --------
    training_set : Declares how rows are split.
    model : Its function receives ``train: ml.Split``.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> import numpy as np
    >>> import polars as pl
    >>> rows = pl.DataFrame({"minutes": [3.0, 9.0], "buys": [0, 1]})
    >>> train = ml.Split(rows.select("minutes"), np.array([0, 1]), rows)
    >>> train.X.shape, train.y.tolist()
    ((2, 1), [0, 1])
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
        The slice: the rows with this value in this column.
    rows
        The number of rows.
    metrics
        Metric → value, as pairs.

    See Also
    --------
    Evaluation : Holds the metrics of slices.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.types.SliceMetrics("origin", "LGA", 120, (("roc_auc", 0.58),)).rows
    120
    """

    column: str
    value: str
    rows: int
    metrics: tuple[tuple[str, float], ...]


@check_constructor
@dataclass(frozen=True)
class Evaluation:
    """The metrics of a model on the holdout.

    Parameters
    ----------
    rows
        The number of rows of the holdout.
    metrics
        Metric → value, NaN when undefined; greater is better.
    baseline
        The metrics of a model that ignores its input.
    slices
        Metrics by the values of the slice columns.
    problems
        Metric → why it is undefined.

    See Also
    --------
    Candidate : Has the evaluation that gates judge.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> evaluation = ml.types.Evaluation(200, (("roc_auc", 0.71),), slices=(ml.types.SliceMetrics("origin", "LGA", 120, (("roc_auc", 0.58),)),))
    >>> evaluation.metric("roc_auc"), evaluation.metric("roc_auc", within=("origin", "LGA"))
    (0.71, 0.58)
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
        match = next((s for s in self.slices if (s.column, s.value) == within), None)
        return dict(match.metrics).get(name, float("nan")) if match else float("nan")


@check_constructor
@dataclass(frozen=True)
class GateResult:
    """The result of one gate.

    Parameters
    ----------
    passed
        Whether the candidate passes this gate.
    reason
        The reason for the result, in words.
    value, threshold
        The number that the gate compares, and its bound; None for a gate without them.
    low, high
        The confidence interval of the difference from the champion, or of the value if the gate is not relative; None without an interval.

    See Also
    --------
    gate : Declares a gate of your own.
    Gate : A gate on a metric.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.GateResult(passed=True, reason="every airport is above 0.6", value=0.64, threshold=0.6).passed
    True
    """

    passed: bool
    reason: str = ""
    value: float | None = None
    threshold: float | None = None
    low: float | None = None
    high: float | None = None


class Intervals(Protocol):
    """Confidence intervals of a candidate's metrics on its holdout; NaN where an interval is undefined.

    See Also
    --------
    mlops_assets.Candidate : Holds them as ``intervals``.
    """

    @property
    def method(self) -> str:
        """The resampled units: ``independent rows``, or blocks of time."""
        ...

    def value(self, metric: str, confidence: float = 0.95, within: tuple[str, str] | None = None) -> tuple[float, float]:
        """Return ``(low, high)`` of a metric, of a slice ``(column, value)`` when given."""
        ...

    def difference(self, metric: str, confidence: float = 0.95, within: tuple[str, str] | None = None) -> tuple[float, float]:
        """Return ``(low, high)`` of the candidate's metric minus the champion's on the same rows, of a slice when given."""
        ...


@dataclass(frozen=True)
class PredictionTimes:
    """The durations of single-row predictions.

    Parameters
    ----------
    seconds
        The duration of each call in seconds.
    description
        The called method and the rows that it predicts, in words.

    See Also
    --------
    Costs : Measures them.
    """

    seconds: tuple[float, ...]
    description: str


class Costs(Protocol):
    """The costs of a candidate, measured in its stored form when a gate asks for them.

    See Also
    --------
    mlops_assets.Candidate : Holds them as ``costs``.
    """

    def artifact_bytes(self) -> float:
        """Return the number of bytes that a version of the candidate stores."""
        ...

    def time_predictions(self, calls: int) -> PredictionTimes:
        """Measure the duration of ``calls`` single-row predictions, made as a service makes them."""
        ...


@check_constructor
@dataclass(frozen=True, eq=False)
class Candidate:
    """A trained model that waits for its gates.

    Parameters
    ----------
    model
        The model's name.
    digest
        Identifies this candidate; every gate result is stored with it.
    estimator
        The fitted estimator; for another kind of candidate, the object that predicts.
    holdout
        Rows that training has not seen.
    evaluation
        The candidate's metrics on the holdout.
    champion
        The champion's metrics on the same rows, of the fit that its gates judged and not of a later refit; None without a champion.
    intervals
        Intervals of metrics and of their differences from the champion's: ``candidate.intervals.difference("roc_auc")``.
    costs
        Size and prediction time, measured on demand: ``candidate.costs.artifact_bytes()``. None where they cannot be measured.

    See Also
    --------
    gate : Declares a function that judges a candidate.
    GateResult : What it returns.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> import numpy as np
    >>> import polars as pl
    >>> rows = pl.DataFrame({"minutes": [3.0, 9.0], "buys": [0, 1]})
    >>> holdout = ml.Split(rows.select("minutes"), np.array([0, 1]), rows)
    >>> candidate = ml.Candidate("buyer", "3f2a", None, holdout, ml.types.Evaluation(2, (("roc_auc", 0.71),)))
    >>> candidate.evaluation.metric("roc_auc")
    0.71
    """

    model: str
    digest: str
    estimator: Any
    holdout: Split
    evaluation: Evaluation
    champion: Evaluation | None = None
    intervals: Intervals | None = None
    costs: Costs | None = None
