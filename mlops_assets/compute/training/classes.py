"""Classes of a label: the positive class of a binary label, and the encoding that metrics need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mlops_assets.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

NEED_POSITIVE = frozenset(
    {"average_precision", "f1", "jaccard", "neg_negative_likelihood_ratio", "positive_likelihood_ratio", "precision", "recall"}
)
MAX_NAMED_CLASSES = 5  # classes in a message
_SKLEARN_CLASSES = ({0, 1}, {-1, 1})  # scikit-learn's own: the positive class is 1, or True
_MULTICLASS = {"roc_auc": "roc_auc_ovr", **{name: f"{name}_macro" for name in ("f1", "jaccard", "precision", "recall")}}


def class_names(classes: Any) -> list[str]:  # noqa: ANN401  (an estimator's classes)
    """Return the classes as text, in their order: the field names of the column ``probabilities``."""
    return [str(value) for value in np.asarray(classes).tolist()]


def positive_class(classes: Any, declared: Any = None) -> Any:  # noqa: ANN401  (any label)
    """Return the class whose probability the column ``probability`` holds; None unless there are two classes.

    Parameters
    ----------
    classes
        The classes in the estimator's order.
    declared
        ``@ml.model(positive=...)``, which is returned even if it is not among ``classes``; the second class when None.
    """
    values = np.asarray(classes).tolist()
    if len(values) != 2:
        return None
    return values[1] if declared is None else declared


def class_to_encode(classes: Any, y: np.ndarray, declared: Any = None) -> Any:  # noqa: ANN401  (any label)
    """Return the class to encode as True for metrics; None when metrics get the labels unchanged.

    Labels stay unchanged unless there are two classes, when ``declared`` or a label is not among them, and when the classes are 0 and 1
    (or False and True) with 1 as the positive class.

    Parameters
    ----------
    classes
        The classes in the estimator's order; None for a regressor.
    y
        The labels.
    declared
        As in :func:`positive_class`.
    """
    positive = None if classes is None else positive_class(classes, declared)
    values = () if positive is None else np.asarray(classes).tolist()
    if positive not in values or (set(values) == _SKLEARN_CLASSES[0] and positive == 1) or set(np.unique(y).tolist()) - set(values):
        return None
    return positive


class TwoClasses:
    """A binary classifier with labels encoded for metrics: True for the positive class.

    Parameters
    ----------
    model
        A fitted classifier, or a :class:`mlops_assets.compute.training.responses.CachedPredictor` of one; arguments of its methods are
        passed on unchanged.
    positive
        From :func:`class_to_encode`.
    """

    def __init__(self, model: Any, positive: Any) -> None:  # noqa: ANN401  (any estimator, any label)
        self._model, self._positive = model, positive
        self.classes_ = np.array([False, True])

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  (any attribute)
        """Return a prediction method that predicts encoded labels; any other attribute of the model is returned unchanged."""
        attribute = getattr(self._model, name)
        encode = {
            "predict": self._encode_predictions,
            "predict_proba": self._encode_probabilities,
            "decision_function": self._encode_decisions,
        }.get(name)
        if encode is None:
            return attribute

        def answer(rows: Any) -> np.ndarray:  # noqa: ANN401  (what the model takes)
            return encode(np.asarray(attribute(rows)))

        answer.__name__ = name  # scikit-learn's scorers read the name of the method
        return answer

    def _encode_predictions(self, labels: np.ndarray) -> np.ndarray:
        return np.asarray(labels == self._positive)

    def _encode_probabilities(self, shares: np.ndarray) -> np.ndarray:
        positive = shares[:, self._positive_index()]
        return np.column_stack([1 - positive, positive])

    def _encode_decisions(self, margins: np.ndarray) -> np.ndarray:
        return margins if margins.ndim == 2 or self._positive_index() else -margins

    def _positive_index(self) -> int:
        indices = np.flatnonzero(np.asarray(self._model.classes_) == self._positive)
        if not len(indices):
            raise ValueError(f"the model does not know the class '{self._positive}'")
        return int(indices[0])


def wrap_two_classes(model: Any, positive: Any) -> Any:  # noqa: ANN401  (any estimator, any label)
    """Return a binary model that predicts True for class ``positive``; the model itself when ``positive`` is None."""
    return model if positive is None else TwoClasses(model, positive)


def encode_labels(y: np.ndarray, positive: Any) -> np.ndarray:  # noqa: ANN401  (any label)
    """Return True for labels of class ``positive`` and False for others; the labels unchanged when ``positive`` is None."""
    return y if positive is None else np.asarray(y == positive)


def refuse_unclear_classes(where: str, label: str, parts: Sequence[np.ndarray], metrics: Sequence[str], positive: Any) -> None:  # noqa: ANN401
    """Raise DataError before training for metrics that cannot be measured on these labels.

    Parameters
    ----------
    where
        The training set or model with these labels, named in the error message.
    label
        The column of the labels.
    parts
        The labels of train, validation and holdout.
    metrics
        scikit-learn scorer names.
    positive
        ``@ml.model(positive=...)``; None when it is not declared.

    Raises
    ------
    DataError
        ``positive`` is not among the labels, or is set for labels that do not have two classes. The labels have more classes
        than a metric supports. A metric needs a positive class that neither ``positive`` nor scikit-learn's convention (1 or True) names.
    """
    classes = np.unique(np.concatenate([np.unique(part) for part in parts if len(part)])).tolist() if any(map(len, parts)) else []
    contents = f"column '{label}' holds {_list_values(classes)}"
    if positive is not None and positive not in classes:
        raise DataError(
            f"{where}: positive={positive!r} is not a value of the label: {contents}",
            hint="set positive= to one of these values, in its own type",
        )
    if positive is not None and len(classes) != 2:
        raise DataError(f"{where}: positive={positive!r} needs a label with two classes: {contents}", hint="omit positive=")
    metric = next((name for name in metrics if name in NEED_POSITIVE or (name == "roc_auc" and len(classes) > 2)), None)
    if metric is None or not classes:
        return
    if len(classes) > 2:
        replacement = _MULTICLASS.get(metric, "")
        raise DataError(
            f"{where}: the metric '{metric}' supports two classes only: {contents}",
            hint=f"use {replacement or 'a metric of several classes'}",
        )
    if positive is None and not any(set(classes) <= convention for convention in _SKLEARN_CLASSES):
        raise DataError(
            f"{where}: the metric '{metric}' needs to know which class is the positive one: {contents}",
            hint=f"set @ml.model(positive={classes[-1]!r}), or positive={classes[0]!r}",
        )


def _list_values(values: Sequence[Any]) -> str:
    shown = ", ".join(map(repr, values[:MAX_NAMED_CLASSES]))
    return f"{shown} and {len(values) - MAX_NAMED_CLASSES} more values" if len(values) > MAX_NAMED_CLASSES else shown
