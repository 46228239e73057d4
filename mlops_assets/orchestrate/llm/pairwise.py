"""Ask a pairwise judge which of two answers is better, in both orders; every failure is a verdict without a score."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.llm_evaluation.position_bias import PositionBias, SwappedPair, measure_position_bias
from mlops_assets.compute.llm_evaluation.scorers import Score, score_verdict
from mlops_assets.compute.llm_evaluation.verdicts import JudgeVerdict, combine_orders
from mlops_assets.orchestrate.llm.judging import JudgedAnswer, prepare_call, read_verdict
from mlops_assets.serving.llm.ask_many import ask_many
from mlops_assets.values.llm.pairwise_judge import CANDIDATE, FIRST, PRODUCTION, SECOND, TIE, WIN_POINTS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mlops_assets.orchestrate.llm.progress import CallProgress
    from mlops_assets.serving.llm.ask_many import CallRecord
    from mlops_assets.stores.llm.response_cache import ResponseCache
    from mlops_assets.values.llm.pairwise_judge import PairwiseJudge

_SIDES = {FIRST: CANDIDATE, SECOND: PRODUCTION}  # of a pair in its original order


@dataclass(frozen=True)
class JudgedPair(JudgedAnswer):
    """Two answers with the verdicts of a pairwise judge on them: ``first``, ``second``, ``tie``, ``inconsistent`` or a failure.

    Parameters
    ----------
    orders
        The verdicts by position: for each repeat, that of the original order, then that of the swapped order. Empty without a call.
    """

    orders: tuple[str, ...] = ()

    @property
    def swapped_pairs(self) -> list[tuple[str, str]]:
        """The verdicts of each repeat in both orders."""
        return list(zip(self.orders[::2], self.orders[1::2], strict=True))

    def name_sides(self) -> JudgedPair:
        """Return the pair with ``candidate`` and ``production`` as the names of its first and second answer."""
        return replace(self, verdicts=tuple(replace(one, value=_SIDES.get(one.value, one.value)) for one in self.verdicts))

    def score_win(self) -> Score:
        """Return the points of the candidate; an error for a failure. The sides must be named."""
        return score_verdict(self.verdict, WIN_POINTS)


def compare_answers(
    judge: PairwiseJudge,
    pairs: Sequence[tuple[str, str, Mapping[str, Any]]],
    *,
    cache: ResponseCache | None,
    warn: Callable[[str], object],
    progress: CallProgress,
) -> list[JudgedPair]:
    """Return the verdicts of a pairwise judge on pairs of answers, in their order.

    Parameters
    ----------
    judge
        The judge.
    pairs
        The first and the second answer, with the row of their case. Equal answers are a tie without a call.
    cache, warn, progress
        As in :func:`judge_answers`.

    Raises
    ------
    ProviderError
        The environment variable with the key is missing, or the embedded model does not start: no call can succeed.
    """
    prepared = [_prepare_pair(judge, pair, warn) for pair in pairs]
    values = [variables for found in prepared if not isinstance(found, JudgeVerdict) for variables in found]
    progress.total = len(values) * judge.repeats
    calls: dict[int, CallRecord] = {}
    verdicts: dict[int, JudgeVerdict] = {}
    for position, call in ask_many(judge.prompt, values, cache=cache, repeats=judge.repeats):
        calls[position], verdicts[position] = call, read_verdict(judge, call)
        progress.add(call, failed=verdicts[position].failed)
    judged, start = list[JudgedPair](), 0
    for found in prepared:
        if isinstance(found, JudgeVerdict):
            judged.append(JudgedPair((found,) * judge.repeats))
            continue
        positions = [start + repeat * len(values) + order for repeat in range(judge.repeats) for order in (0, 1)]
        judged.append(_combine_calls([verdicts[one] for one in positions], [calls[one] for one in positions]))
        start += 2
    return judged


def _prepare_pair(
    judge: PairwiseJudge, pair: tuple[str, str, Mapping[str, Any]], warn: Callable[[str], object]
) -> tuple[dict[str, Any], dict[str, Any]] | JudgeVerdict:
    """Return the variables of the calls in both orders, or the verdict when no call is possible or needed."""
    one, other, row = pair
    if one == other:
        return JudgeVerdict(TIE)
    original, swapped = (prepare_call(judge, {FIRST: first, SECOND: second}, row, warn) for first, second in ((one, other), (other, one)))
    if isinstance(original, JudgeVerdict):
        return original
    return swapped if isinstance(swapped, JudgeVerdict) else (original, swapped)


def _combine_calls(verdicts: Sequence[JudgeVerdict], calls: Sequence[CallRecord]) -> JudgedPair:
    combined = tuple(combine_orders(original, swapped) for original, swapped in zip(verdicts[::2], verdicts[1::2], strict=True))
    return JudgedPair(combined, tuple(calls), tuple(verdict.value for verdict in verdicts))


def measure_bias(orders: Sequence[Sequence[str] | None]) -> PositionBias:
    """Return the position bias of a judge, from the first repeat of each pair that it compared.

    Parameters
    ----------
    orders
        The replies to the calls for each pair, as in :class:`JudgedPair`; None or empty for a pair without a call.
    """
    return measure_position_bias([SwappedPair(str(number), found[0], found[1]) for number, found in enumerate(orders) if found])
