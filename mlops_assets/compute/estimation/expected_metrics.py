"""Expected metrics of predictions whose labels are unknown, from calibrated probabilities.

Each row counts once for each class, weighted by the calibrated probability of the class. The metric of these weighted rows is the
estimate (CBPE: confidence-based performance estimation). Its standard deviation comes from simulated labels. Each simulation first samples
the calibration maps, because the holdout determines them only up to its sampling error.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from mlops_assets.compute.estimation.calibration_map import calibrate_classes
from mlops_assets.compute.training.evaluate import make_scorer
from mlops_assets.compute.training.resampling import find_verified_form

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlops_assets.compute.estimation.calibration_map import CalibrationMap
    from mlops_assets.compute.training.responses import CachedPredictor

DRAWS = 200
SCORED_DRAWS = 40  # of a metric that calls its scorer for each draw
MAX_DRAWN_ROWS = 20_000  # the maximum number of rows whose labels are drawn; the standard deviation of more rows is extrapolated


def compute_expected_metric(
    metric: str,
    model: Any,  # noqa: ANN401  (a wrapper)
    classes: np.ndarray,
    maps: tuple[CalibrationMap, ...],
    probabilities: np.ndarray,
) -> tuple[float, float]:
    """Return the expected metric and its standard deviation due to unknown labels and a finite holdout; NaN where undefined.

    Parameters
    ----------
    metric
        A scikit-learn scorer name.
    model
        The cached predictions of the rows.
    classes
        The classes, in the order of the columns of ``probabilities``.
    maps
        The calibration maps of the classes, as for :func:`calibrate_classes`.
    probabilities
        Predicted probabilities, shape (rows, classes).
    """
    rows = len(probabilities)
    every = np.arange(rows)
    value = _compute_expectation(metric, model, classes, calibrate_classes(maps, probabilities), every)
    drawn = every if rows <= MAX_DRAWN_ROWS else np.sort(np.random.default_rng(0).permutation(rows)[:MAX_DRAWN_ROWS])
    shares = probabilities[drawn]
    spread = _simulate_spread(
        metric, model, classes, drawn, lambda random: calibrate_classes(tuple(one.sample(random) for one in maps), shares)
    )
    if len(drawn) == rows:
        return value, spread
    # More rows reduce the sampling error of their labels, not that of the holdout.
    calibrated = calibrate_classes(maps, shares)
    labels = _simulate_spread(metric, model, classes, drawn, lambda _random: calibrated)
    return value, math.sqrt(max(0.0, spread**2 - labels**2) + labels**2 * len(drawn) / rows)


def _repeat_rows(classes: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return row numbers and labels, with each row repeated once for each class."""
    return np.tile(rows, len(classes)), np.repeat(classes, len(rows))


def _compute_expectation(metric: str, model: CachedPredictor, classes: np.ndarray, calibrated: np.ndarray, rows: np.ndarray) -> float:
    numbers, labels = _repeat_rows(classes, rows)
    weights = calibrated.T.ravel()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # an undefined metric is NaN
        scorer = make_scorer(metric, classes)
        try:
            value = float(scorer(model, numbers, labels, sample_weight=weights))
        except (ValueError, TypeError, AttributeError):
            return math.nan
    if metric != "roc_auc":
        return value
    # A row is no pair with itself, but the weighted area counts it as a tie of its two classes, which is half a pair.
    pairs, own = float(weights[labels == classes[0]].sum() * weights[labels == classes[1]].sum()), float(calibrated.prod(axis=1).sum())
    return (value * pairs - own / 2) / (pairs - own) if pairs > own else math.nan


def _simulate_spread(
    metric: str,
    model: CachedPredictor,
    classes: np.ndarray,
    rows: np.ndarray,
    draw_probabilities: Callable[[np.random.Generator], np.ndarray],
) -> float:
    """Return the standard deviation of the metric over simulated labels; each simulation draws the probabilities first."""
    random, count = np.random.default_rng(0), len(rows)
    numbers, labels = _repeat_rows(classes, rows)

    def draw_labels() -> np.ndarray:
        bounds = np.cumsum(draw_probabilities(random), axis=1)[:, :-1]
        return (random.random(count)[:, None] > bounds).sum(axis=1)  # type: ignore[no-any-return]

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        scorer = make_scorer(metric, classes)

        def score(chosen: np.ndarray, y: np.ndarray) -> float:
            try:
                return float(scorer(model, chosen, y))
            except (ValueError, TypeError, AttributeError):
                return math.nan

        if (form := find_verified_form(metric, model, numbers, labels, score(numbers, labels))) is None:
            values = np.array([score(rows, classes[draw_labels()]) for _ in range(SCORED_DRAWS)])
        else:
            step = max(1, (1 << 20) // max(len(numbers), 1))
            parts = []
            for begin in range(0, DRAWS, step):
                drawn = np.stack([draw_labels() for _ in range(min(step, DRAWS - begin))])
                parts.append(form((drawn[:, None, :] == np.arange(len(classes))[:, None]).reshape(len(drawn), -1).astype(float)))
            values = np.concatenate(parts)
    finite = values[np.isfinite(values)]
    return float(finite.std(ddof=1)) if len(finite) > len(values) / 2 else math.nan
