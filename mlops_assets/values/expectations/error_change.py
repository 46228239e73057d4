"""The expectation that the error of a version does not increase while it serves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mlops_assets.errors import DefinitionError
from mlops_assets.values.arguments import check_constructor


@check_constructor
@dataclass(frozen=True)
class ErrorChange:
    """The expectation that the mean error of a version does not increase while it serves, by ADWIN on the error of each row.

    It needs no bound: the error is compared with that of the same version in earlier windows. The error of a class is 1 less the
    probability of the true class, or 1 for a wrong class without probabilities. The error of a number is the absolute error, divided by
    its 95 % quantile on the version's holdout and cut off at 1.

    Windows are breaches from the detection of an increase until the error is above its former mean by less than half of what a detection
    needs. A decrease is not a breach. The check is part of the performance report, and ``Retrain(on=("performance",))`` follows it.

    A version that is bad from its first window is never a breach, because it is compared with itself. Declare a
    :class:`~mlops_assets.Performance` with it, or ``Retrain(every=...)``.

    Parameters
    ----------
    delta
        The approximate probability of a detection without a change. With 0.002, 30 streams of 10,000 independent rows had no false
        detection, and an increase from 10 to 15 % after 10,000 rows was found after about 1,200 rows. Dependence between neighbouring rows
        is estimated from their errors, and a detection then needs more rows. With a correlation of 0.95 and windows of 24 rows, a doubled
        error was found after about 1,300 rows. If all rows of a window have the same time, such errors can cause false detections.
    min_coverage
        The minimum share of predictions with a label; a window with a smaller share is not evaluated, and its errors are not part of the
        history of later windows.

    Raises
    ------
    DefinitionError
        A number is out of range.

    See Also
    --------
    mlops_assets.Performance : Compares a metric of one window with a bound.
    mlops_assets.Retrain : Starts a training after a breach.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.monitoring.ErrorChange().name
    'error_change'
    """

    NAME: ClassVar = "error_change"

    delta: float = 0.002
    min_coverage: float = 0.5

    def __post_init__(self) -> None:
        """Refuse numbers that are not a probability or a share."""
        if not 0 < self.delta < 1 or not 0 <= self.min_coverage <= 1:
            raise DefinitionError(
                f"ErrorChange(delta={self.delta}, min_coverage={self.min_coverage}) has a number out of range",
                hint="give a delta between 0 and 1, e.g. 0.002, and a share of labels from 0 to 1",
            )

    @property
    def name(self) -> str:
        """The name of the asset check."""
        return self.NAME
