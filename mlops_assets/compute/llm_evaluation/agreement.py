"""Agreement with intervals that are not degenerate at 0 % and 100 %: rates of counted events, and Cohen's kappa.

The interval of kappa is asymptotic (J. L. Fleiss, J. Cohen, B. S. Everitt, *Large Sample Standard Errors of Kappa and Weighted Kappa*,
1969). That formula, like the bootstrap, gives an interval of width zero for a judge that is always right, even on three cases. The
interval therefore always includes Wilson's interval of the agreement, converted to kappa with the observed agreement by chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Rate:
    """A share of trials, with Wilson's score interval.

    Parameters
    ----------
    count : int
        The trials in which the event occurred.
    trials : int
        All trials.
    confidence : float
        The confidence of the interval.

    Raises
    ------
    ValueError
        ``count`` is not from 0 to ``trials``, or the confidence not between 0 and 1.

    References
    ----------
    E. B. Wilson, *Probable Inference, the Law of Succession, and Statistical Inference*, 1927.

    Examples
    --------
    >>> from mlops_assets.compute.llm_evaluation.agreement import Rate
    >>> rate = Rate(8, 10)
    >>> rate.value, round(rate.low, 3), round(rate.high, 3)
    (0.8, 0.49, 0.943)
    >>> Rate(0, 0).value, Rate(0, 0).low, Rate(0, 0).high
    (None, 0.0, 1.0)
    """

    count: int
    trials: int
    confidence: float = CONFIDENCE

    def __post_init__(self) -> None:
        """Check that ``count`` is at most ``trials``, and that the confidence is between 0 and 1."""
        if not 0 <= self.count <= self.trials:
            raise ValueError(f"{self.count} of {self.trials} trials is not a rate")
        if not 0 < self.confidence < 1:
            raise ValueError(f"the confidence {self.confidence} is not between 0 and 1")

    @property
    def value(self) -> float | None:
        """The share; None without trials."""
        return self.count / self.trials if self.trials else None

    @property
    def low(self) -> float:
        """The lower end of the interval; 0 without trials."""
        return self._bounds[0]

    @property
    def high(self) -> float:
        """The upper end of the interval; 1 without trials."""
        return self._bounds[1]

    @cached_property
    def _bounds(self) -> tuple[float, float]:
        if not self.trials:
            return 0.0, 1.0
        z = NormalDist().inv_cdf((1 + self.confidence) / 2)
        share, weight = self.count / self.trials, z * z / self.trials
        middle = (share + weight / 2) / (1 + weight)
        width = math.sqrt(share * (1 - share) * weight + weight * weight / 4) / (1 + weight)
        # At the ends the interval is exact; rounding would miss them.
        return (0.0 if self.count == 0 else middle - width), (1.0 if self.count == self.trials else middle + width)


def measure_kappa(table: np.ndarray, confidence: float = CONFIDENCE) -> tuple[float | None, float | None, float | None]:
    """Return Cohen's kappa of a square table of counts, with its interval.

    Parameters
    ----------
    table : numpy.ndarray
        The number of cases by label (row) and verdict (column), in the same order.
    confidence : float
        The confidence of the interval.

    Returns
    -------
    tuple of (float or None)
        Kappa, and the lower and upper end of its interval: at each end, the wider of Fleiss, Cohen and Everitt's asymptotic interval
        and Wilson's interval of the agreement. All are None if there are no cases, or if all labels and verdicts are equal.

    Examples
    --------
    >>> import numpy as np
    >>> from mlops_assets.compute.llm_evaluation.agreement import measure_kappa
    >>> [round(value, 3) for value in measure_kappa(np.array([[20, 5], [10, 15]]))]
    [0.4, 0.125, 0.649]
    """
    cases = int(table.sum())
    if not cases:
        return None, None, None
    # Whole numbers, so that a constant judge has kappa 0 exactly.
    by_chance = sum(int(row) * int(column) for row, column in zip(table.sum(axis=1), table.sum(axis=0), strict=True))
    if by_chance == cases**2:
        return None, None, None
    kappa = (int(np.trace(table)) * cases - by_chance) / (cases**2 - by_chance)
    shares, chance = table / cases, by_chance / cases**2
    rows, columns = shares.sum(axis=1), shares.sum(axis=0)
    # Equation 13 of Fleiss, Cohen and Everitt. A label's row meets the column of the same verdict: rows[j] + columns[i] of cell (i, j).
    margins = rows[None, :] + columns[:, None]
    inside = float(np.sum(np.diag(shares) * (1 - (rows + columns) * (1 - kappa)) ** 2))
    outside = (1 - kappa) ** 2 * float(np.sum((shares - np.diag(np.diag(shares))) * margins**2))
    variance = (inside + outside - (kappa - chance * (1 - kappa)) ** 2) / (cases * (1 - chance) ** 2)
    width = NormalDist().inv_cdf((1 + confidence) / 2) * max(variance, 0.0) ** 0.5
    agreement = Rate(int(np.trace(table)), cases, confidence)
    low, high = ((bound - chance) / (1 - chance) for bound in (agreement.low, agreement.high))
    return kappa, max(-1.0, min(kappa - width, low)), min(1.0, max(kappa + width, high))
