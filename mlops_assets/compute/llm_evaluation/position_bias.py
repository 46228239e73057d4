"""Measure whether a judge that compares two answers prefers the position of an answer."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops_assets.compute.llm_evaluation.agreement import CONFIDENCE, Rate
from mlops_assets.compute.llm_evaluation.verdicts import check_cases, check_known
from mlops_assets.values.llm.judge import FAILURES

if TYPE_CHECKING:
    from collections.abc import Sequence

FIRST, SECOND, TIE = "first", "second", "tie"  # the verdicts of a pairwise judge, by position


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
        return (self.original, self.swapped) in {(FIRST, SECOND), (SECOND, FIRST), (TIE, TIE)}


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
        A verdict is no position, tie or failure, or a case occurs twice.

    Examples
    --------
    >>> from mlops_assets.compute.llm_evaluation.position_bias import SwappedPair, measure_position_bias
    >>> pairs = [SwappedPair("a", "first", "second"), SwappedPair("b", "first", "first"), SwappedPair("c", "first", "timeout")]
    >>> bias = measure_position_bias(pairs)
    >>> bias.consistency.count, bias.preference, bias.errors.count
    (1, 0.5, 1)
    """
    check_cases([pair.case for pair in pairs])
    calls = [(pair.case, verdict) for pair in pairs for verdict in (pair.original, pair.swapped)]
    for case, verdict in calls:
        check_known(case, verdict, (FIRST, SECOND, TIE, *FAILURES))
    counts = Counter(verdict for _, verdict in calls)
    return PositionBias(
        consistency=Rate(sum(pair.consistent for pair in pairs), len(pairs), confidence),
        preference=(counts[FIRST] - counts[SECOND]) / len(calls) if calls else None,
        errors=Rate(sum(counts[failure] for failure in FAILURES), len(calls), confidence),
    )
