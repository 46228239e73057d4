"""Measure whether a judge that compares two answers prefers the position of an answer."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops_assets.compute.llm_evaluation.agreement import CONFIDENCE, Rate
from mlops_assets.compute.llm_evaluation.verdicts import check_distinct_cases, check_known, match_orders
from mlops_assets.values.llm.judge import FAILURES
from mlops_assets.values.llm.pairwise_judge import FIRST, SECOND, TIE

if TYPE_CHECKING:
    from collections.abc import Sequence

MIN_CONSISTENCY = 0.5  # below this share, the position decides more often than the answer
MAX_PREFERENCE = 0.2


@dataclass(frozen=True)
class SwappedPair:
    """The two verdicts of a pairwise judge on one case, by position.

    Parameters
    ----------
    case : str
        The identifier of the case.
    original : str
        ``first``, ``second``, ``tie`` or a failure (``unparsable``, ``error``, ``timeout``), with the answers in one order.
    swapped : str
        The verdict on the same answers in the other order.

    Examples
    --------
    >>> from mlops_assets.compute.llm_evaluation.position_bias import SwappedPair
    >>> SwappedPair("delay-7", "first", "second").consistent
    True
    """

    case: str
    original: str
    swapped: str

    @property
    def consistent(self) -> bool:
        """Whether the same answer wins in both orders, or neither does."""
        return match_orders(self.original, self.swapped)


@dataclass(frozen=True)
class PositionBias:
    """How much a pairwise judge prefers a position.

    Parameters
    ----------
    consistency : Rate
        The share of pairs whose winner does not depend on the order. A pair with a failure is not consistent.
    preference : float or None
        Share of calls that chose the first answer − share that chose the second: 1 for a judge that always chooses the first, 0 for
        one without bias. Ties and failures choose neither. None without pairs.
    errors : Rate
        The share of calls without a verdict.
    """

    consistency: Rate
    preference: float | None
    errors: Rate

    def explain_refusal(self) -> str:
        """Return why the judge is too position-biased for a gate; empty if it is not.

        The lower end of the interval of the consistency must reach 0.5, and the preference must not exceed 0.2 on either side.
        """
        if self.preference is None:
            return "its position bias is unknown: no pair was judged in both orders"
        rate = self.consistency
        shown = f"{rate.count} of {rate.trials} pairs have one verdict in both orders"
        if rate.low < MIN_CONSISTENCY:
            return f"its verdicts depend on the position: {shown} (95 % CI {rate.low:.2f} to {rate.high:.2f}), the lower end is below 0.5"
        if abs(self.preference) > MAX_PREFERENCE:
            side = FIRST if self.preference > 0 else SECOND
            return f"it prefers the {side} answer by {abs(self.preference):.2f}, above the maximum of {MAX_PREFERENCE}; {shown}"
        return ""

    def describe(self) -> dict[str, str]:
        """Return consistency and preference as texts, by their labels on a page."""
        rate = self.consistency
        share = "no pair" if rate.value is None else f"{rate.value:.3f} ({rate.low:.3f} to {rate.high:.3f}, {rate.count} of {rate.trials})"
        return {
            "consistent in both orders (95 % CI)": share,
            "preference for the first position": "" if self.preference is None else f"{self.preference:+.3f}",
        }


def measure_position_bias(pairs: Sequence[SwappedPair], *, confidence: float = CONFIDENCE) -> PositionBias:
    """Measure how much a pairwise judge prefers a position.

    Parameters
    ----------
    pairs : Sequence[SwappedPair]
        The verdicts on the same answers in both orders.
    confidence : float
        The confidence of the intervals.

    Returns
    -------
    PositionBias
        Consistency, preference and error rate.

    Raises
    ------
    DataError
        A verdict is not a position, tie or failure, or a case occurs twice.

    Examples
    --------
    >>> from mlops_assets.compute.llm_evaluation.position_bias import SwappedPair, measure_position_bias
    >>> pairs = [SwappedPair("a", "first", "second"), SwappedPair("b", "first", "first"), SwappedPair("c", "first", "timeout")]
    >>> bias = measure_position_bias(pairs)
    >>> bias.consistency.count, bias.preference, bias.errors.count
    (1, 0.5, 1)
    """
    check_distinct_cases([pair.case for pair in pairs])
    calls = [(pair.case, verdict) for pair in pairs for verdict in (pair.original, pair.swapped)]
    for case, verdict in calls:
        check_known(case, verdict, (FIRST, SECOND, TIE, *FAILURES))
    counts = Counter(verdict for _, verdict in calls)
    return PositionBias(
        consistency=Rate(sum(pair.consistent for pair in pairs), len(pairs), confidence),
        preference=(counts[FIRST] - counts[SECOND]) / len(calls) if calls else None,
        errors=Rate(sum(counts[failure] for failure in FAILURES), len(calls), confidence),
    )
