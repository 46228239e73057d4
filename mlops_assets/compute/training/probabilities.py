"""Assess predictions against labels: calibration and Brier score, by task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlops_assets.compute.training.calibration import CalibrationCurve, compute_calibration_curve
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
        The calibration of the positive class's probability. With several classes, the calibration of the predicted class (Guo et al. 2017,
        On calibration of modern neural networks). For a regression, predicted against observed values.
    brier
        Mean squared difference of the positive class's probability and the outcome. With several classes, the mean over rows of the
        sum over all classes (Brier 1950). None for a regression.
    positive
        The positive class as text; empty for several classes and for a regression.
    """

    kind: str
    calibration: CalibrationCurve
    brier: float | None = None
    positive: str = ""


def detect_task(estimator: object) -> str:
    """Return the task of an estimator: binary or multiclass classification, or regression."""
    from sklearn.base import is_classifier

    if not is_classifier(estimator):
        return REGRESSION
    return BINARY if len(getattr(estimator, "classes_", ())) == 2 else MULTICLASS


def assess_predictions(predictor: CachedPredictor, kind: str, y: np.ndarray, positive: Any = None) -> PredictionQuality | None:  # noqa: ANN401  (any label)
    """Assess predictions against labels; None for a classifier without probabilities and a regressor with several outputs.

    Parameters
    ----------
    predictor
        The cached predictions of the estimator.
    kind
        From :func:`detect_task`.
    y
        The labels.
    positive
        The positive class of a binary classifier; the second class when None.
    """
    if kind == REGRESSION:
        predicted = predictor.predict_all("predict")
        return PredictionQuality(kind, compute_calibration_curve(predicted.astype(float), y.astype(float))) if predicted.ndim == 1 else None
    if not hasattr(predictor, "predict_proba"):
        return None
    probabilities, classes = predictor.predict_all("predict_proba"), np.asarray(predictor.classes_)
    outcomes = y[:, None] == classes[None, :]
    if kind == BINARY:
        name = str(positive_class(classes, positive))
        at = class_names(classes).index(name)
        brier = float(np.square(probabilities[:, at] - outcomes[:, at]).mean())
        return PredictionQuality(kind, compute_calibration_curve(probabilities[:, at], outcomes[:, at].astype(float)), brier, name)
    predicted = (predictor.predict_all("predict")[:, None] == classes[None, :]).argmax(axis=1)[:, None]
    confidence, correct = np.take_along_axis(probabilities, predicted, 1)[:, 0], np.take_along_axis(outcomes, predicted, 1)[:, 0]
    return PredictionQuality(
        kind, compute_calibration_curve(confidence, correct.astype(float)), float(np.square(probabilities - outcomes).sum(axis=1).mean())
    )
