"""The expectation that a metric, estimated before labels arrive, meets a bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mlops_assets.errors import DefinitionError
from mlops_assets.values.arguments import check_constructor
from mlops_assets.values.gates.rule import OneRule


@check_constructor
@dataclass(frozen=True, init=False)
class EstimatedPerformance(OneRule):
    """The expectation that the estimate of one metric meets a bound, before the labels of a window arrive.

    A classifier's metrics are expected values under its probabilities, which are calibrated on the version's holdout (CBPE). A regressor's
    losses are predicted by a model of its errors on the holdout (direct loss estimation). Both methods see changes of the inputs, but not
    changes of the relation between inputs and label. When labels arrive, the performance report compares the estimate with the metric.

    Parameters
    ----------
    metric
        A scikit-learn scorer name; greater is better. For a regressor, ``neg_mean_absolute_error``, ``neg_mean_squared_error`` or
        ``neg_root_mean_squared_error``.
    at_least
        The minimum of the estimate.
    no_worse_than_reference_by
        How far the estimate may be below the metric of the same version on its holdout.
    significant
        If True, an estimate is a breach only when its whole interval is below the bound.
    confidence
        The confidence level of the interval.

    Raises
    ------
    DefinitionError
        Not exactly one rule is given, or a number is out of range.

    See Also
    --------
    mlops_assets.Performance : The expectation on the metric, computed from labels.
    mlops_assets.Monitor : Takes expectations.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.monitoring.EstimatedPerformance("roc_auc", at_least=0.62).name
    'estimated_roc_auc_at_least'
    """

    RULES: ClassVar = ("at_least", "no_worse_than_reference_by")

    metric: str
    at_least: float | None
    no_worse_than_reference_by: float | None
    significant: bool
    confidence: float

    def __init__(
        self,
        metric: str,
        *,
        at_least: float | None = None,
        no_worse_than_reference_by: float | None = None,
        significant: bool = False,
        confidence: float = 0.95,
    ) -> None:
        values = {
            "metric": metric,
            "at_least": at_least,
            "no_worse_than_reference_by": no_worse_than_reference_by,
            "significant": significant,
            "confidence": confidence,
        }
        for attribute, value in values.items():
            object.__setattr__(self, attribute, value)
        self._check_rule(f"EstimatedPerformance('{metric}')")
        if self.no_worse_than_reference_by is not None and self.threshold < 0:
            raise DefinitionError(
                f"EstimatedPerformance('{metric}', no_worse_than_reference_by={self.threshold}) has a negative distance",
                hint="give a distance of 0 or more",
            )
        if not 0 < confidence < 1:
            raise DefinitionError(
                f"EstimatedPerformance('{metric}'): confidence={confidence} is invalid", hint="give a share between 0 and 1"
            )

    @property
    def name(self) -> str:
        """``estimated_``, then metric and rule: the name of the asset check."""
        return f"estimated_{self.metric}_{self.rule.removesuffix('_by')}"
