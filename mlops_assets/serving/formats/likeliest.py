"""Whether an estimator's prediction is its likeliest class, so that a service need not ask it for both."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

_LIBRARIES = ("sklearn.", "lightgbm.", "xgboost.", "mlops_assets.serving.")
# Thresholds; and estimators of scikit-learn whose predictions and probabilities come from two computations that part far from the
# training rows, so that no holdout shows it.
_OTHERWISE = frozenset(
    {
        *("FixedThresholdClassifier", "TunedThresholdClassifierCV", "SVC", "NuSVC", "SGDClassifier", "OneVsRestClassifier"),
        *("GaussianProcessClassifier", "NearestCentroid", "RadiusNeighborsClassifier"),
    }
)


def likeliest_class(classes: Any, probabilities: np.ndarray) -> np.ndarray:  # noqa: ANN401  (an estimator's classes)
    """Return the class with the greatest probability of each row, the first of equal ones.

    Parameters
    ----------
    classes
        In the estimator's order.
    probabilities
        Shape (rows, classes).
    """
    return np.asarray(classes)[np.asarray(probabilities).argmax(axis=1)]  # type: ignore[no-any-return]


def may_predict_likeliest(estimator: Any) -> bool:  # noqa: ANN401  (any estimator)
    """Return whether no part of an estimator may predict otherwise, such as a threshold, a support vector machine, or a class of the project.

    Rows cannot show that a threshold of 0.499 is not 0.5, so such an estimator is always asked.

    Parameters
    ----------
    estimator
        Fitted.
    """
    if not hasattr(estimator, "predict_proba"):
        return False
    params = estimator.get_params(deep=True).values() if hasattr(estimator, "get_params") else ()
    parts = [estimator, *(part for part in params if hasattr(part, "predict") and not isinstance(part, type))]
    return all(type(p).__module__.startswith(_LIBRARIES) and type(p).__name__ not in _OTHERWISE for p in parts)


def rows_not_likeliest(estimator: Any, rows: pl.DataFrame) -> int:  # noqa: ANN401  (any estimator)
    """Return on how many rows the prediction of a classifier is not its likeliest class.

    Parameters
    ----------
    estimator
        Fitted, with ``predict_proba``.
    rows
        Of ``X``.
    """
    if not rows.height:
        return 0
    return int((likeliest_class(estimator.classes_, estimator.predict_proba(rows)) != labels_of(estimator, rows)).sum())


def labels_of(estimator: Any, rows: pl.DataFrame) -> np.ndarray:  # noqa: ANN401  (any estimator)
    """Return the predictions of rows: what every gate, service, batch and monitor calls so.

    Parameters
    ----------
    estimator
        Fitted.
    rows
        Of ``X``.
    """
    return np.asarray(estimator.predict(rows)) if rows.height else np.asarray(getattr(estimator, "classes_", np.zeros(0)))[:0]
