"""Predictions of all rows, computed once and reused by every metric, slice and resample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import polars as pl

_METHODS = ("predict", "predict_proba", "decision_function")


class CachedPredictor:
    """A predictor over row numbers that scikit-learn scorers accept in place of the estimator.

    Parameters
    ----------
    estimator
        A fitted estimator.
    X
        The rows to predict; ``predict(numbers)`` returns the estimator's predictions for the rows with these numbers.
    """

    def __init__(self, estimator: Any, X: pl.DataFrame) -> None:  # noqa: ANN401  (any estimator)
        self._estimator, self._X = estimator, X
        self._outputs: dict[str, np.ndarray] = {}

    @property
    def estimator(self) -> Any:  # noqa: ANN401  (any estimator)
        """The estimator itself."""
        return self._estimator

    @property
    def X(self) -> pl.DataFrame:  # noqa: N802  (the field's name)
        """The rows to predict."""
        return self._X

    def predict_all(self, method: str) -> np.ndarray:
        """Return the cached output of ``predict``, ``predict_proba`` or ``decision_function`` for all rows."""
        if method not in self._outputs:
            self._outputs[method] = np.asarray(getattr(self._estimator, method)(self._X))
        return self._outputs[method]

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  (any attribute)
        """Return a prediction method that takes row numbers, or any other attribute of the estimator."""
        attribute = getattr(self._estimator, name)
        if name not in _METHODS:
            return attribute

        def answer(rows: np.ndarray) -> np.ndarray:
            return self.predict_all(name)[rows]  # type: ignore[no-any-return]  # an array

        answer.__name__ = name  # scikit-learn's scorers read the name of the method
        return answer

    @property
    def scores(self) -> np.ndarray:
        """The probabilities of all rows; if the estimator has none, decision values, else predictions."""
        return self.predict_all(next(m for m in ("predict_proba", "decision_function", "predict") if hasattr(self._estimator, m)))


def find_unusable_predictions(scores: np.ndarray, rows: int) -> str:
    """Return why predictions cannot be used: a wrong number, values that are not finite, or one constant; empty when they can.

    Parameters
    ----------
    scores
        The predictions, one row each.
    rows
        The number of rows passed to the model.
    """
    if len(scores) != rows:
        return f"gives {len(scores)} predictions for {rows} rows"
    by_row = scores.reshape(rows, -1) if rows else np.zeros((0, 1))
    if np.issubdtype(by_row.dtype, np.number) and (bad := int((~np.isfinite(by_row.astype(float))).any(axis=1).sum())):
        return f"predicts a number that is not finite for {bad} of {rows} rows"
    if rows > 1 and (by_row == by_row[0]).all():
        shown = ", ".join(f"{v:.6g}" if isinstance(v, float) else str(v) for v in by_row[0].tolist())
        return f"predicts the same, {shown}, for all {rows} rows"
    return ""
