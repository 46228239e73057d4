"""Assess predictions against labels: calibration and Brier score, by task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlops_assets.compute.training.calibration import CalibrationCurve, calibrate
from mlops_assets.compute.training.classes import class_names, positive_class

if TYPE_CHECKING:
    from mlops_assets.compute.training.responses import CachedPredictor

BINARY, MULTICLASS, REGRESSION = "binary classification", "multiclass classification", "regression"


@dataclass(frozen=True)
class PredictionQuality:
    """Calibration and Brier score of predictions.

    Parameters
    ----------
    kind
        Binary or multiclass classification, or regression.
    calibration
        The calibration of the positive class's probability. With several classes, that of the predicted class (Guo et al. 2017, On
        calibration of modern neural networks); for numbers, predicted against observed values.
    brier
        Mean squared distance of probabilities from outcomes, over all classes when there are several (Brier 1950); None for numbers.
    about
        The class whose probability is assessed; empty for several classes and for numbers.
    """

    kind: str
    calibration: CalibrationCurve
    brier: float | None = None
    about: str = ""


def task_of(estimator: object) -> str:
    """Return the task of an estimator: binary or multiclass classification, or regression."""
    from sklearn.base import is_classifier

    if not is_classifier(estimator):
        return REGRESSION
    return BINARY if len(getattr(estimator, "classes_", ())) == 2 else MULTICLASS


def assess_predictions(answers: CachedPredictor, kind: str, y: np.ndarray, positive: Any = None) -> PredictionQuality | None:  # noqa: ANN401  (any label)
    """Assess predictions against labels; None for a classifier without probabilities.

    Parameters
    ----------
    answers
        The cached predictions of the estimator.
    kind
        From :func:`task_of`.
    y
        The labels.
    positive
        The positive class of two; the second when None.
    """
    if kind == REGRESSION:
        predicted = answers.answers("predict")
        return PredictionQuality(kind, calibrate(predicted.astype(float), y.astype(float))) if predicted.ndim == 1 else None
    if not hasattr(answers, "predict_proba"):
        return None
    shares, classes = answers.answers("predict_proba"), np.asarray(answers.classes_)
    happened = y[:, None] == classes[None, :]
    if kind == BINARY:
        about = str(positive_class(classes, positive))
        at = class_names(classes).index(about)
        brier = float(np.square(shares[:, at] - happened[:, at]).mean())
        return PredictionQuality(kind, calibrate(shares[:, at], happened[:, at].astype(float)), brier, about)
    predicted = (answers.answers("predict")[:, None] == classes[None, :]).argmax(axis=1)[:, None]
    sure, right = np.take_along_axis(shares, predicted, 1)[:, 0], np.take_along_axis(happened, predicted, 1)[:, 0]
    return PredictionQuality(kind, calibrate(sure, right.astype(float)), float(np.square(shares - happened).sum(axis=1).mean()))
