"""Evaluate a fitted estimator on held-out rows: scikit-learn scorers, by slice, with a dummy baseline."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from mlops_assets.compute.training.classes import class_to_encode, encode_labels, wrap_two_classes
from mlops_assets.compute.training.responses import CachedPredictor
from mlops_assets.errors import DefinitionError, suggest_name
from mlops_assets.values.evaluation import Evaluation, SliceMetrics

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    import polars as pl

    from mlops_assets.values.evaluation import Candidate, Split

Scores = tuple[tuple[str, float], ...]
MAX_SLICES = 50
_PROBABILITY_METRICS = frozenset(
    {"d2_brier_score", "d2_log_loss_score", "neg_brier_score", "neg_log_loss", "top_k_accuracy"}
    | {f"roc_auc_{how}{weights}" for how in ("ovo", "ovr") for weights in ("", "_weighted")}
)


def evaluate(  # noqa: PLR0913  (what is measured, and on what)
    estimator: Any,  # noqa: ANN401  (any estimator)
    split: Split,
    metrics: Sequence[str],
    slices: Sequence[str] = (),
    *,
    train: Split | None = None,
    required_min_rows: Mapping[str, int] | None = None,
    required_slices: Collection[tuple[str, str]] = (),
    positive: Any = None,  # noqa: ANN401  (any label)
    part: str = "holdout",
) -> Evaluation:
    """Evaluate an estimator on a split.

    Parameters
    ----------
    estimator
        A fitted scikit-learn estimator, or its cached predictions for ``split``.
    split
        The rows to measure on.
    metrics
        scikit-learn scorer names, greater is better.
    slices
        Columns of ``split.rows``; metrics are measured for each of a column's 50 most frequent values.
    train
        Training rows of the baseline (DummyClassifier or DummyRegressor); no baseline when None.
    required_min_rows
        Column of ``slices`` → a number of rows; a value with at least that many rows is measured even if it is not among the 50.
    required_slices
        Slices ``(column, value)`` that are measured regardless of their number of rows; a value is compared as text.
    positive
        The positive class of a binary classifier; the second class when None.
    part
        Name of the rows in the texts of ``problems``.

    Returns
    -------
    Evaluation
        An undefined or infinite metric is NaN, with a reason in ``problems``.
    """
    predictor = estimator if isinstance(estimator, CachedPredictor) else CachedPredictor(estimator, split.X)
    encoded = class_to_encode(getattr(estimator, "classes_", None), split.y, positive)
    model, y = wrap_two_classes(predictor, encoded), encode_labels(split.y, encoded)
    values, problems = _score(model, np.arange(len(y)), y, metrics)
    baseline: Scores = ()
    if train is not None:
        train_labels = encode_labels(train.y, encoded)
        baseline, _ = _score(_make_baseline(estimator).fit(_constant_column(train_labels), train_labels), _constant_column(y), y, metrics)
    reasons = tuple((name, why + _explain_classes(predictor, split.y, part)) for name, why in problems)
    by_slice = (
        SliceMetrics(column, str(value), len(chosen), _score(model, chosen, y[chosen], metrics)[0])
        for column in slices
        for value, chosen in select_slices(split.rows[column], required_min_rows or {}, required_slices)
    )
    return Evaluation(len(y), values, baseline, tuple(by_slice), reasons)


def check_metrics(metrics: Sequence[str], where: str) -> None:
    """Raise DefinitionError for a name that is not a scikit-learn scorer; ``where`` names the definition in the message."""
    from sklearn.metrics import get_scorer_names

    scorer_names = get_scorer_names()
    for name in metrics:
        if name not in scorer_names:
            raise DefinitionError(
                f"{where} names the metric '{name}', which scikit-learn does not have",
                hint=suggest_name(name, scorer_names) + "see sklearn.metrics.get_scorer_names()",
            )


def _score(estimator: Any, X: Any, y: np.ndarray, metrics: Sequence[str]) -> tuple[Scores, tuple[tuple[str, str], ...]]:  # noqa: ANN401
    """Return the metrics and the reason for each NaN; a metric that raises an error or is not finite is NaN."""
    values: dict[str, float] = {}
    problems: dict[str, str] = {}
    for name in metrics:
        with warnings.catch_warnings():
            # scikit-learn warns and returns NaN or 0 where a metric is undefined: the value decides, not the warning.
            warnings.simplefilter("ignore")
            try:
                values[name] = float(make_scorer(name, getattr(estimator, "classes_", None))(estimator, X, y))
            except (ValueError, TypeError, AttributeError) as error:
                values[name], problems[name] = math.nan, str(error).splitlines()[0]
        if not math.isfinite(values[name]):
            problems.setdefault(name, f"{name} is {values[name]} on these {len(y)} rows" + _explain_constant_label(y))
            values[name] = math.nan
    return tuple(values.items()), tuple(problems.items())


def make_scorer(name: str, classes: Any) -> Any:  # noqa: ANN401  (scikit-learn's)
    """Return a scorer that knows all classes, so that probability metrics work when a class has no rows.

    Parameters
    ----------
    name
        A scikit-learn scorer name.
    classes
        The classes of the estimator; None for a regressor.
    """
    from sklearn.metrics import get_scorer

    scorer: Any = get_scorer(name)
    if classes is not None and name in _PROBABILITY_METRICS:
        scorer._kwargs = {**scorer._kwargs, "labels": np.asarray(classes)}  # noqa: SLF001  (make_scorer's keywords, of a copy)
    return scorer


def _explain_constant_label(y: np.ndarray) -> str:
    unique = np.unique(y) if len(y) else y
    return f": every label is {unique[0]!s}" if len(unique) == 1 else ""


def _explain_classes(model: Any, y: np.ndarray, part: str) -> str:  # noqa: ANN401  (any estimator)
    """Return a note on a class without rows (if there are more than two classes) and on an unknown label; empty without both."""
    model_classes, present = getattr(model, "classes_", None), np.unique(y).tolist()
    classes = [] if model_classes is None else np.asarray(model_classes).tolist()
    absent, unknown = [c for c in classes if c not in present], [label for label in present if classes and label not in classes]
    notes = [f"none of the {len(y)} {part} rows has the label {absent[0]!r}"] if absent and len(classes) > 2 else []
    notes += [f"the label {unknown[0]!r} of the {part} was not among the training rows"] if unknown else []
    return f" ({'; '.join(notes)})" if notes else ""


def _make_baseline(estimator: Any) -> Any:  # noqa: ANN401
    from sklearn.base import is_classifier
    from sklearn.dummy import DummyClassifier, DummyRegressor

    return DummyClassifier(strategy="prior") if is_classifier(estimator) else DummyRegressor(strategy="mean")


def _constant_column(y: np.ndarray) -> np.ndarray:
    return np.zeros((len(y), 1))


def select_slices(
    column: pl.Series, required_min_rows: Mapping[str, int], required_slices: Collection[tuple[str, str]] = ()
) -> Iterator[tuple[object, np.ndarray]]:
    """Yield the values of a column to measure and the numbers of their rows, most frequent first.

    The values are the 50 most frequent ones, and rarer ones with at least ``required_min_rows`` rows or in ``required_slices``.

    Parameters
    ----------
    column
        A column to slice by.
    required_min_rows, required_slices
        As in :func:`evaluate`.
    """
    names = {value for name, value in required_slices if name == column.name}
    for rank, (value, rows) in enumerate(column.value_counts(sort=True, name="__rows").rows()):
        if rank >= MAX_SLICES and not (column.name in required_min_rows and rows >= required_min_rows[column.name]):
            if not names:
                break
            if str(value) not in names:
                continue
        yield value, np.flatnonzero(column.eq_missing(value).to_numpy())


def tabulate_metrics(candidate: Candidate) -> list[dict[str, object]]:
    """Return the metrics of a candidate as table rows: metric, holdout, baseline, champion, difference and its 95 % interval."""
    baseline: Mapping[str, float] = dict(candidate.evaluation.baseline)
    return [
        {"metric": name, "holdout": value, "baseline": baseline.get(name, math.nan), **_compare_with_champion(candidate, name, value)}
        for name, value in candidate.evaluation.metrics
    ]


def compare_with_itself(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, object]]:
    """Return rows of :func:`tabulate_metrics` for a candidate that has become the champion: no metric differs.

    Parameters
    ----------
    rows
        The rows of the candidate, whatever it was compared with.
    """
    return [
        {**row, "champion": row["holdout"], "Δ": 0.0, "95 % CI of Δ": "+0 … +0"}
        if isinstance(row["holdout"], float)
        else {**row, "champion": row["holdout"], "Δ": "nan", "95 % CI of Δ": "undefined"}
        for row in rows
    ]


def _compare_with_champion(candidate: Candidate, metric: str, value: float) -> dict[str, object]:
    """Return three table cells of a metric: the champion's value, the difference and its interval; texts without a champion."""
    if candidate.champion is None:
        return {"champion": "none yet", "Δ": "", "95 % CI of Δ": ""}
    champion_value = candidate.champion.metric(metric)
    low, high = candidate.intervals.difference(metric) if candidate.intervals else (math.nan, math.nan)
    is_known = math.isfinite(low) and math.isfinite(high)
    return {
        "champion": champion_value,
        "Δ": value - champion_value,
        "95 % CI of Δ": f"{low:+.4g} … {high:+.4g}" if is_known else "undefined",
    }
