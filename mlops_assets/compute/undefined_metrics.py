"""Metrics that scikit-learn answers with 0 where nothing can be measured: a window without positive labels is no bad window."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mlops_assets.compute.classes import positive_class

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_assets.compute.labels import Labelled

_NEED_BOTH = frozenset({"average_precision", "matthews_corrcoef", "roc_auc"})
_NEED_POSITIVES = frozenset({"average_precision", "recall"})
_NEED_ANY_POSITIVE = frozenset({"f1", "jaccard"})


def undefined_metrics(names: Sequence[str], labelled: Labelled, positive: Any = None) -> dict[str, str]:  # noqa: ANN401  (any label)
    """Return metric → why it is undefined, of those that need another label than the only one of a window.

    Parameters
    ----------
    names
        scikit-learn scorer names.
    labelled
        Predictions with their labels.
    positive
        The positive one of two classes; the second when None.
    """
    if labelled.classes is None or len(labelled.classes) != 2 or len(np.unique(labelled.y)) != 1:
        return {}
    only, positive = labelled.y[0], positive_class(labelled.classes, positive)
    found = {name: f"every label is {only!s}: {name} needs both classes" for name in names if name in _NEED_BOTH}
    if only == positive:
        return found
    found |= {name: f"every label is {only!s}: {name} needs positive labels" for name in names if name in _NEED_POSITIVES}
    if not (labelled.prediction == positive).any():
        reason = f"every label and every prediction is {only!s}"
        found |= {name: f"{reason}: {name} needs a positive one" for name in names if name in _NEED_ANY_POSITIVE}
    return found
