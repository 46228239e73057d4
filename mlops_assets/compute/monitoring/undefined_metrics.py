"""Find metrics that are undefined although scikit-learn may report 0: a window without positives would look like a breach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mlops_assets.compute.training.classes import positive_class

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_assets.compute.monitoring.labels import LabelledPredictions

_NEED_BOTH = frozenset({"average_precision", "matthews_corrcoef", "roc_auc"})
_NEED_POSITIVES = frozenset({"average_precision", "recall"})
_NEED_ANY_POSITIVE = frozenset({"f1", "jaccard"})
_NEED_PREDICTED = frozenset({"precision"})


def find_undefined_metrics(names: Sequence[str], labelled: LabelledPredictions, positive: Any = None) -> dict[str, str]:  # noqa: ANN401  (any label)
    """Return undefined metric of a binary classifier → reason: no second label, no positive label or no positive prediction.

    Parameters
    ----------
    names
        scikit-learn scorer names.
    labelled
        Predictions with their labels.
    positive
        The positive class of a binary classifier; the second class when None.
    """
    if labelled.classes is None or len(labelled.classes) != 2 or not len(labelled.y):
        return {}
    positive = positive_class(labelled.classes, positive)
    predicted, undefined = bool((labelled.prediction == positive).any()), dict[str, str]()
    if not predicted:
        undefined = {name: f"no prediction is {positive!s}: {name} needs one" for name in names if name in _NEED_PREDICTED}
    if len(np.unique(labelled.y)) != 1:
        return undefined
    only = labelled.y[0]
    undefined |= {name: f"every label is {only!s}: {name} needs both classes" for name in names if name in _NEED_BOTH}
    if only == positive:
        return undefined
    undefined |= {name: f"every label is {only!s}: {name} needs positive labels" for name in names if name in _NEED_POSITIVES}
    if not predicted:
        reason = f"every label and every prediction is {only!s}"
        undefined |= {name: f"{reason}: {name} needs a positive one" for name in names if name in _NEED_ANY_POSITIVE}
    return undefined
