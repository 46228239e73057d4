"""Estimators that wrap a model read from another library's file, with scikit-learn's interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self


class StoredRegressor:
    """A fitted regressor whose predictions come from another library's model; ``n_jobs`` is its only parameter.

    Parameters
    ----------
    compute
        Function of rows and a number of threads (None for all). For a regressor, it returns predictions, shape (rows,). For a classifier,
        it returns probabilities, shape (rows, classes), or those of the second of two classes, shape (rows,).
    n_features
        Number of columns of ``X``.
    """

    kind = "regressor"

    def __init__(self, compute: Callable[[Any, int | None], np.ndarray], n_features: int) -> None:
        self._compute, self.n_features_in_, self.n_jobs = compute, n_features, None

    def predict(self, X: Any) -> np.ndarray:  # noqa: ANN401
        """Return the predictions of rows, shape (rows,)."""
        return self._compute(X, self.n_jobs)

    def score(self, X: Any, y: Any) -> float:  # noqa: ANN401
        """Return R², or the accuracy of a classifier."""
        from sklearn.metrics import accuracy_score, r2_score

        return float((r2_score if self.kind == "regressor" else accuracy_score)(y, self.predict(X)))

    def get_params(self, *, deep: bool = True) -> dict[str, Any]:
        """Return the only parameter, ``n_jobs``: the number of threads, None for all."""
        del deep
        return {"n_jobs": self.n_jobs}

    def set_params(self, **params: Any) -> Self:  # noqa: ANN401
        """Set ``n_jobs``, the number of threads; other parameters are ignored."""
        self.n_jobs = params.get("n_jobs", self.n_jobs)
        return self

    def fit(self, X: object, y: object) -> Self:
        """Raise NotImplementedError, because a stored model cannot be trained again."""
        raise NotImplementedError(f"a stored {self.kind} cannot be trained again")

    def __sklearn_is_fitted__(self) -> bool:
        """Return True: a stored model can always predict."""
        return True

    def __sklearn_tags__(self) -> Any:  # noqa: ANN401
        """Return scikit-learn's tags of a regressor or classifier."""
        from sklearn.utils import ClassifierTags, RegressorTags, Tags, TargetTags

        return Tags(
            estimator_type=self.kind,
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags() if self.kind == "classifier" else None,
            regressor_tags=RegressorTags() if self.kind == "regressor" else None,
        )


class StoredClassifier(StoredRegressor):
    """A fitted classifier whose probabilities come from another library's model.

    Parameters
    ----------
    compute, n_features
        As in :class:`StoredRegressor`.
    facts
        ``classes`` and their ``dtype``.
    """

    kind = "classifier"

    def __init__(self, compute: Callable[[Any, int | None], np.ndarray], n_features: int, facts: Mapping[str, Any]) -> None:
        super().__init__(compute, n_features)
        self.classes_ = np.asarray(facts["classes"], dtype=facts["dtype"])

    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: ANN401
        """Return the probability of each class, shape (rows, classes)."""
        shares = self._compute(X, self.n_jobs)
        return np.column_stack([1 - shares, shares]) if shares.ndim == 1 else shares

    def predict(self, X: Any) -> np.ndarray:  # noqa: ANN401
        """Return the most probable class of each row, shape (rows,), which was verified to be the fitted estimator's prediction."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]  # type: ignore[no-any-return]


def class_facts(estimator: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return ``classes`` and their ``dtype``, JSON-like; an empty dict for an estimator without classes."""
    if not hasattr(estimator, "classes_"):
        return {}
    classes = np.asarray(estimator.classes_)
    return {"classes": classes.tolist(), "dtype": "object" if classes.dtype.kind in "UO" else str(classes.dtype)}


def make_estimator(compute: Callable[[Any, int | None], np.ndarray], facts: Mapping[str, Any]) -> StoredRegressor:
    """Return a classifier if ``facts`` have classes, else a regressor.

    Parameters
    ----------
    compute
        As in :class:`StoredRegressor`.
    facts
        ``n_features``, and ``classes`` with their ``dtype``.
    """
    return StoredClassifier(compute, facts["n_features"], facts) if "classes" in facts else StoredRegressor(compute, facts["n_features"])


def to_matrix(X: Any) -> Any:  # noqa: ANN401
    """Return a frame of numbers as a matrix of float64 with NaN for null; a matrix is returned unchanged."""
    return X.cast(pl.Float64).to_numpy() if isinstance(X, pl.DataFrame) else X
