"""Verify that predictions are the argmax of the probabilities, so that a service can compute the probabilities only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import polars as pl

    from mlops_assets.compute.training.responses import CachedPredictor

_LIBRARIES = ("sklearn.", "lightgbm.", "xgboost.", "mlops_assets.serving.")
# Classifiers with a threshold, and those that compute predictions and probabilities separately. These may differ only far from the
# training rows, where no holdout shows it.
_NOT_ARGMAX = frozenset(
    {
        *("FixedThresholdClassifier", "TunedThresholdClassifierCV", "SVC", "NuSVC", "SGDClassifier", "OneVsRestClassifier"),
        *("GaussianProcessClassifier", "NearestCentroid", "RadiusNeighborsClassifier"),
    }
)


def argmax_class(classes: Any, probabilities: np.ndarray) -> np.ndarray:  # noqa: ANN401  (an estimator's classes)
    """Return for each row the class with the highest probability, the first one in case of a tie.

    Parameters
    ----------
    classes
        Classes in the estimator's order.
    probabilities
        Shape (rows, classes).
    """
    return np.asarray(classes)[np.asarray(probabilities).argmax(axis=1)]  # type: ignore[no-any-return]


def may_predict_argmax(estimator: Any) -> bool:  # noqa: ANN401  (any estimator)
    """Whether every part of an estimator predicts the argmax of its probabilities by construction.

    A tuned decision threshold, a support vector machine or a class of the project may predict otherwise. Rows cannot distinguish a
    threshold of 0.499 from 0.5, so the predictions of such an estimator are always computed.

    Parameters
    ----------
    estimator
        Fitted.
    """
    if not hasattr(estimator, "predict_proba"):
        return False
    params = estimator.get_params(deep=True).values() if hasattr(estimator, "get_params") else ()
    parts = [estimator, *(part for part in params if hasattr(part, "predict") and not isinstance(part, type))]
    return all(type(p).__module__.startswith(_LIBRARIES) and type(p).__name__ not in _NOT_ARGMAX for p in parts)


def count_non_argmax_rows(predictor: CachedPredictor) -> int:
    """Return the number of rows whose prediction is not the argmax of the probabilities.

    Parameters
    ----------
    predictor
        Some rows, and an estimator with ``predict_proba``.
    """
    if not predictor.X.height:
        return 0
    return int((argmax_class(predictor.classes_, predictor.predict_all("predict_proba")) != predictor.predict_all("predict")).sum())


def predict_labels(estimator: Any, rows: pl.DataFrame) -> np.ndarray:  # noqa: ANN401  (any estimator)
    """Return the predictions of rows, as every gate, service, batch and monitor uses them; an empty array for no rows.

    Parameters
    ----------
    estimator
        Fitted.
    rows
        Rows of ``X``.
    """
    return np.asarray(estimator.predict(rows)) if rows.height else np.asarray(getattr(estimator, "classes_", np.zeros(0)))[:0]
