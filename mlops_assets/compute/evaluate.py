"""What a model reaches on rows it has not seen: scikit-learn's scorers, by slice, beside a naive baseline."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from mlops_assets.errors import DefinitionError, nearest
from mlops_assets.values.evaluation import Evaluation, SliceMetrics

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlops_assets.values.evaluation import Split

Scores = tuple[tuple[str, float], ...]
MAX_SLICES = 50


def evaluate(estimator: Any, split: Split, metrics: Sequence[str], slices: Sequence[str] = (), *, train: Split | None = None) -> Evaluation:  # noqa: ANN401  (any estimator)
    """Measure an estimator.

    Parameters
    ----------
    estimator
        A fitted scikit-learn estimator.
    split
        The rows to measure on.
    metrics
        scikit-learn scorer names, greater is better.
    slices
        Columns of ``split.rows``; each of their at most 50 most frequent values is measured by itself.
    train
        Rows that a model which ignores its input learns from; no baseline when None.

    Returns
    -------
    Evaluation
        An undefined or infinite metric is NaN, with the reason among its ``problems``.
    """
    values, problems = _scores(estimator, split.X, split.y, metrics)
    baseline: Scores = ()
    if train is not None:
        baseline, _ = _scores(_baseline(estimator).fit(_blank(train.y), train.y), _blank(split.y), split.y, metrics)
    return Evaluation(len(split.y), values, baseline, tuple(_sliced(estimator, split, metrics, slices)), problems)


def check_metrics(metrics: Sequence[str], where: str) -> None:
    """Raise DefinitionError for a name that is no scikit-learn scorer."""
    from sklearn.metrics import get_scorer_names

    known = get_scorer_names()
    for name in metrics:
        if name not in known:
            raise DefinitionError(
                f"{where} names the metric '{name}', which scikit-learn does not have",
                hint=nearest(name, known) + "see sklearn.metrics.get_scorer_names()",
            )


def _scores(estimator: Any, X: Any, y: np.ndarray, metrics: Sequence[str]) -> tuple[Scores, tuple[tuple[str, str], ...]]:  # noqa: ANN401
    from sklearn.metrics import get_scorer

    values: dict[str, float] = {}
    problems: dict[str, str] = {}
    for name in metrics:
        with warnings.catch_warnings():
            # scikit-learn warns and goes on with NaN or 0 where a metric is undefined: the value decides, not the warning.
            warnings.simplefilter("ignore")
            try:
                values[name] = float(get_scorer(name)(estimator, X, y))
            except (ValueError, TypeError, AttributeError) as error:
                values[name], problems[name] = math.nan, str(error).splitlines()[0]
        if not math.isfinite(values[name]):
            problems.setdefault(name, f"{name} is {values[name]} on these {len(y)} rows" + _why(y))
            values[name] = math.nan
    return tuple(values.items()), tuple(problems.items())


def _why(y: np.ndarray) -> str:
    unique = np.unique(y) if len(y) else y
    return f": every label is {unique[0]!s}" if len(unique) == 1 else ""


def _baseline(estimator: Any) -> Any:  # noqa: ANN401
    from sklearn.base import is_classifier
    from sklearn.dummy import DummyClassifier, DummyRegressor

    return DummyClassifier(strategy="prior") if is_classifier(estimator) else DummyRegressor(strategy="mean")


def _blank(y: np.ndarray) -> np.ndarray:
    return np.zeros((len(y), 1))


def _sliced(estimator: Any, split: Split, metrics: Sequence[str], slices: Sequence[str]) -> list[SliceMetrics]:  # noqa: ANN401
    result = []
    for column in slices:
        counts = split.rows[column].value_counts(sort=True).head(MAX_SLICES)
        for value in counts[column].to_list():
            mask = split.rows[column].eq_missing(value)
            values, _ = _scores(estimator, split.X.filter(mask), split.y[mask.to_numpy()], metrics)
            result.append(SliceMetrics(column, str(value), int(mask.sum()), values))
    return result


def as_rows(evaluation: Evaluation, champion: Evaluation | None) -> list[dict[str, object]]:
    """Return an evaluation as rows of a table: metric, value, baseline, champion."""
    baseline: Mapping[str, float] = dict(evaluation.baseline)
    rival: Mapping[str, float] = dict(champion.metrics) if champion else {}
    return [
        {"metric": name, "holdout": value, "baseline": baseline.get(name, math.nan), "champion": rival.get(name, "none yet")}
        for name, value in evaluation.metrics
    ]
