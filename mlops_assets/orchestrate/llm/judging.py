"""Ask a judge for its verdicts on answers; every failure is a verdict without a score."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from mlops_assets.compute.llm_evaluation.calibration import measure_flip_rate
from mlops_assets.compute.llm_evaluation.scorers import Score, score_verdict
from mlops_assets.compute.llm_evaluation.verdicts import JudgeVerdict, combine_verdicts, parse_verdict
from mlops_assets.compute.prompts.messages import build_messages
from mlops_assets.compute.prompts.version import hash_judge
from mlops_assets.compute.user_code.user_errors import describe_error, find_user_line
from mlops_assets.errors import MlopsError
from mlops_assets.orchestrate.llm.cases import convert_stored
from mlops_assets.serving.llm.ask_many import ask_many
from mlops_assets.values.llm.answer import ANSWER
from mlops_assets.values.llm.judge import ERROR, TIMEOUT, UNPARSABLE
from mlops_assets.values.llm.scorers import accepts_none

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mlops_assets.orchestrate.llm.progress import CallProgress
    from mlops_assets.serving.llm.ask_many import CallRecord
    from mlops_assets.stores.llm.response_cache import ResponseCache
    from mlops_assets.values.llm.judge import Judge
    from mlops_assets.values.llm.pairwise_judge import PairwiseJudge

Columns = dict[str, tuple[type[pl.DataType] | pl.DataType, list[Any]]]  # column → type and values


@dataclass(frozen=True)
class JudgedAnswer:
    """An answer with the verdicts of one judge on it.

    Parameters
    ----------
    verdicts
        The verdict of each repeat.
    calls
        The calls of the judge's prompt; empty when the prompt could not be built.
    """

    verdicts: tuple[JudgeVerdict, ...]
    calls: tuple[CallRecord, ...] = ()

    @property
    def verdict(self) -> JudgeVerdict:
        """The verdict that counts: the first failure, else the most frequent verdict."""
        return combine_verdicts(self.verdicts)

    @property
    def flip_rate(self) -> float | None:
        """The share of pairs of repeats that differ; None without repeats."""
        return measure_flip_rate([verdict.value for verdict in self.verdicts]) if len(self.verdicts) > 1 else None

    def score(self, judge: Judge) -> Score:
        """Return the score of the verdict; an error for a failure."""
        return score_verdict(self.verdict, dict(judge.verdicts))


def judge_answers(
    judge: Judge,
    answers: Sequence[tuple[str, Mapping[str, Any]]],
    *,
    cache: ResponseCache | None,
    warn: Callable[[str], object],
    progress: CallProgress,
) -> list[JudgedAnswer]:
    """Return the verdicts of a judge on answers, in their order.

    Parameters
    ----------
    judge
        The judge.
    answers
        Each answer, with the row of the case that it answers.
    cache
        Where verdicts are looked up, and stored as soon as they arrive.
    warn
        A function that receives the reason when the judge's prompt cannot be built for an answer.
    progress
        Counts the calls, and those without a verdict.

    Raises
    ------
    ProviderError
        The environment variable with the key is missing, or the embedded model does not start: no call can succeed.
    """
    prepared = [prepare_call(judge, {ANSWER: answer}, row, warn) for answer, row in answers]
    asked = [number for number, values in enumerate(prepared) if not isinstance(values, JudgeVerdict)]
    calls: dict[int, CallRecord] = {}
    verdicts: dict[int, JudgeVerdict] = {}
    values = [prepared[number] for number in asked]
    for position, call in ask_many(judge.prompt, values, cache=cache, repeats=judge.repeats):  # type: ignore[arg-type]
        calls[position], verdicts[position] = call, read_verdict(judge, call)
        progress.add(call, failed=verdicts[position].failed)
    judged = [JudgedAnswer((found,) * judge.repeats) if isinstance(found, JudgeVerdict) else None for found in prepared]
    for position, number in enumerate(asked):
        positions = range(position, len(asked) * judge.repeats, len(asked))
        judged[number] = JudgedAnswer(tuple(verdicts[one] for one in positions), tuple(calls[one] for one in positions))
    return [found for found in judged if found is not None]


def prepare_call(
    judge: Judge | PairwiseJudge, answers: Mapping[str, str], row: Mapping[str, Any], warn: Callable[[str], object]
) -> dict[str, Any] | JudgeVerdict:
    """Return the variables of a call, or the failure when the judge's prompt cannot be built from the answers and their case.

    Parameters
    ----------
    judge
        The judge.
    answers
        Variable → answer.
    row, warn
        The case, and the function that receives the problem.
    """
    variables = {variable.name: variable for variable in judge.prompt.variables if variable.name not in answers}
    absent = next((name for name, variable in variables.items() if row[name] is None and not accepts_none(variable.annotation)), None)
    if absent is not None:
        return JudgeVerdict(ERROR, f"the case has no '{absent}'")
    values = {**answers, **{name: convert_stored(variable, row[name]) for name, variable in variables.items()}}
    try:
        build_messages(judge.prompt, values)
    except MlopsError as error:
        warn(f"the judge '{judge.name}' cannot be asked: {error.message}")
        return JudgeVerdict(ERROR, f"the prompt of the judge raised {type(error).__name__}")
    except Exception as error:  # noqa: BLE001  (a failed case must not lose the others)
        function = judge.prompt.function
        warn(f"the prompt of the judge '{judge.name}' raised {describe_error(error, function)}")
        return JudgeVerdict(ERROR, f"the prompt of the judge raised {type(error).__name__} ({find_user_line(error, function)})")
    return values


def read_verdict(judge: Judge | PairwiseJudge, call: CallRecord) -> JudgeVerdict:
    """Return the verdict of a call, or its failure.

    Parameters
    ----------
    judge, call
        The judge and the call.
    """
    if call.completion is None:
        return JudgeVerdict(TIMEOUT if call.kind == "timeout" else ERROR, call.error or "no reply")
    if call.error:  # the reply does not have the type that the prompt declares
        return JudgeVerdict(UNPARSABLE, call.error)
    return parse_verdict(call.completion.text, judge.allowed)


def list_verdict_columns(judge: Judge | PairwiseJudge, judged: Sequence[JudgedAnswer | None]) -> Columns:
    """Return the columns that a judge adds to a table next to its scores.

    Parameters
    ----------
    judge
        The judge.
    judged
        Its verdicts on the answer of each row; None where there is no answer.
    """
    verdict, repeats, flip_rate, *orders = judge.verdict_columns
    return {
        verdict: (pl.String, [found and found.verdict.value for found in judged]),
        repeats: (pl.List(pl.String), [found and [one.value for one in found.verdicts] for found in judged]),
        flip_rate: (pl.Float64, [found and found.flip_rate for found in judged]),
        **{name: (pl.List(pl.String), [found and list(getattr(found, "orders", ())) for found in judged]) for name in orders},
    }


def describe_judge(judge: Judge | PairwiseJudge, judged: Sequence[JudgedAnswer]) -> dict[str, str]:
    """Return a judge's verdicts and calls as a row of a table of the UI.

    Parameters
    ----------
    judge, judged
        The judge, and its verdicts on each answer.
    """
    counts = Counter(found.verdict.value for found in judged)
    flips = [found.flip_rate for found in judged if found.flip_rate is not None]
    calls = [call for found in judged for call in found.calls]
    return {
        "judge": judge.name,
        "version": hash_judge(judge),
        "model": judge.prompt.model.model,
        "repeats": str(judge.repeats),
        "verdicts": ", ".join(f"{verdict} {counts[verdict]}" for verdict in sorted(counts)) or "none",
        "flip rate": f"{sum(flips) / len(flips):.3f}" if flips else "",
        "requests": str(sum(call.attempts for call in calls)),
        "cached verdicts": str(sum(call.completion is not None and call.completion.cached for call in calls)),
    }
