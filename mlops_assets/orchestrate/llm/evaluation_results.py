"""The results of an evaluation: the rows of its table, the outcomes of its checks, and its figures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from mlops_assets.compute.llm_evaluation.score_summary import ScoreSummary, summarise_scores
from mlops_assets.compute.llm_evaluation.scorers import Score
from mlops_assets.compute.tables.verify import Outcome
from mlops_assets.orchestrate.core.metadata import to_table
from mlops_assets.orchestrate.llm.call_costs import check_prices, describe_costs, list_cost_columns, sum_calls
from mlops_assets.orchestrate.llm.case_columns import list_unused_columns
from mlops_assets.orchestrate.llm.judging import describe_judge, list_verdict_columns
from mlops_assets.orchestrate.llm.pairwise import measure_bias
from mlops_assets.values.llm.prompt_evaluation import COMPLETE

if TYPE_CHECKING:
    from mlops_assets.compute.llm_evaluation.prices import PriceTable
    from mlops_assets.orchestrate.llm.cases import EvaluationCase
    from mlops_assets.orchestrate.llm.judging import JudgedAnswer
    from mlops_assets.serving.llm.ask_many import CallRecord
    from mlops_assets.values.llm.judge import Judge
    from mlops_assets.values.llm.pairwise_judge import PairwiseJudge
    from mlops_assets.values.llm.prompt_evaluation import PromptEvaluation

TOKEN_COUNTS = "token_counts"  # noqa: S105  (the name of a check)
MAX_SLICES = 50  # values of a column in the metadata, the most frequent first
_MAX_NAMED = 3  # errors that a check names


@dataclass(frozen=True)
class ScoredCase:
    """A case with its call and its scores.

    Parameters
    ----------
    case, call
        The case, and the record of its call.
    scores
        Scorer → score; empty when the call failed.
    judged
        Judge → its verdicts; empty when the call failed.
    """

    case: EvaluationCase
    call: CallRecord
    scores: Mapping[str, Score] = field(default_factory=dict)
    judged: Mapping[str, JudgedAnswer] = field(default_factory=dict)

    @property
    def error(self) -> str:
        """The error of the call or of its scorers; empty when all succeeded."""
        failed = [f"scorer '{name}': {score.error}" for name, score in self.scores.items() if score.failed]
        return self.call.error or "; ".join(failed)

    def value(self, scorer: str) -> float | None:
        """Return a score; None where there is none."""
        score = self.scores.get(scorer)
        return None if score is None else score.value

    def find_score(self, scorer: str) -> Score | None:
        """Return a score or its error, or the error of the call if it failed; None when the scorer did not run."""
        return self.scores.get(scorer) or (Score(error=self.call.error) if self.call.error else None)


@dataclass(frozen=True)
class EvaluationResults:
    """The scored cases of one evaluation.

    Parameters
    ----------
    evaluation, version
        The evaluation, and the version of its prompt.
    rows
        The rows of the dataset of cases.
    scored
        The scored cases, in the order of ``rows``.
    methods
        Scorer → how it computes, where that depends on installed packages.
    prices
        The prices of models; None when the evaluation has none.
    """

    evaluation: PromptEvaluation
    version: str
    rows: pl.DataFrame
    scored: Sequence[ScoredCase]
    methods: Mapping[str, str] = field(default_factory=dict)
    prices: PriceTable | None = None

    @property
    def error_rate(self) -> float:
        """The share of cases with an error."""
        return sum(bool(scored.error) for scored in self.scored) / len(self.scored)

    def group_cases(self, column: str) -> dict[str, list[ScoredCase]]:
        """Return value → cases of a column, in the order of the cases."""
        groups: dict[str, list[ScoredCase]] = {}
        for scored in self.scored:
            groups.setdefault(str(scored.case.row[column]), []).append(scored)
        return groups

    def mean_cost(self, scored: Sequence[ScoredCase]) -> float:
        """Return the mean cost in USD of answering the given cases; NaN if there are no answers, or the cost of a call is unknown."""
        return math.nan if self.prices is None else sum_calls(self.prices, (one.call for one in scored)).mean

    def to_frame(self) -> pl.DataFrame:
        """Return the rows of the table: key, slices, answer, facts of the call, and scores."""
        carried = list(dict.fromkeys((*self.evaluation.case_key, *self.evaluation.slices)))
        completions = [scored.call.completion for scored in self.scored]
        columns: dict[str, tuple[type[pl.DataType] | pl.DataType, list[Any]]] = {
            "answer": (pl.String, [found and found.text for found in completions]),
            "error": (pl.String, [scored.error or None for scored in self.scored]),
            "model": (pl.String, [found and found.model for found in completions]),
            "prompt_version": (pl.String, [self.version] * len(self.scored)),
            "cached": (pl.Boolean, [found is not None and found.cached for found in completions]),
            "input_tokens": (pl.Int64, [found and found.prompt_tokens for found in completions]),
            "output_tokens": (pl.Int64, [found and found.completion_tokens for found in completions]),
            "endpoint": (pl.String, [found and found.endpoint for found in completions]),
            "seconds": (pl.Float64, [scored.call.seconds for scored in self.scored]),
            "seconds_to_first_token": (pl.Float64, [found and found.seconds_to_first_token for found in completions]),
            **{name: (pl.Float64, [scored.value(name) for scored in self.scored]) for name in self._scorer_names},
        }
        for judge in self.evaluation.judges:
            columns |= list_verdict_columns(judge, [scored.judged.get(judge.name) for scored in self.scored])
        if self.prices is not None:
            columns |= list_cost_columns(self.prices, self.list_calls())
        facts = pl.DataFrame({name: pl.Series(values, dtype=dtype) for name, (dtype, values) in columns.items()})
        return pl.concat([self.rows.select(carried), facts], how="horizontal")

    @property
    def _scorer_names(self) -> list[str]:
        return [scorer.name for scorer in self.evaluation.scorers]

    def check_completeness(self) -> Iterator[Outcome]:
        """Yield the outcomes of the checks on errors, token counts and prices; no failure blocks the commit of rows."""
        failed = [scored for scored in self.scored if scored.error]
        maximum = self.evaluation.max_error_rate
        yield Outcome(
            COMPLETE,
            passed=self.error_rate <= maximum,
            message=f"{len(failed)} of {len(self.scored)} cases have an error ({self.error_rate:.1%}, maximum {maximum:.1%}): {_name_errors(failed)}",
            hint=f"fix the cause and materialise '{self.evaluation.key}' again: answered cases come from the cache",
            blocking=False,
            serious=True,
            facts={"error rate": self.error_rate, "max_error_rate": maximum},
        )
        uncounted = self._count_without_tokens()
        yield Outcome(
            TOKEN_COUNTS,
            passed=not uncounted,
            message=f"the endpoint did not report the tokens of {uncounted} answer(s): their cost is unknown",
            hint="check that the endpoint reports `usage`",
            blocking=False,
            facts={"answers without token counts": uncounted},
        )

        if self.prices is not None:
            yield check_prices(self.prices, [(scored.case.label, scored.call) for scored in self.scored])

    def _count_without_tokens(self) -> int:
        found = [scored.call.completion for scored in self.scored if scored.call.completion is not None]
        return sum(None in (completion.prompt_tokens, completion.completion_tokens) for completion in found)

    def describe(self, production: EvaluationResults | None = None) -> dict[str, Any]:
        """Return the metadata of the materialisation.

        Parameters
        ----------
        production
            The evaluation of the production version in this run, whose cost counts as well; None without one.
        """
        completions = [scored.call.completion for scored in self.scored if scored.call.completion is not None]
        summaries = self._summarise(self.scored, "")
        means = {f"mean {name}": summary.mean for name, summary in summaries.items() if summary.mean is not None}
        model = self.evaluation.prompt.model
        requests, cached = sum(scored.call.attempts for scored in self.scored), sum(completion.cached for completion in completions)
        return {
            "summary": f"{self._describe_means(summaries)}; {requests} requests, {cached} cached answers",
            "prompt": self.evaluation.prompt.key,
            "prompt version": self.version,
            "model": f"{model.model} ({model.pin})" if model.pin else model.model,
            "cases": len(self.scored),
            "error rate": self.error_rate,
            **means,
            "scores": to_table([self._describe_summary(name, summary) for name, summary in summaries.items()]),
            **self._describe_judges(),
            **self._describe_costs(production),
            **{f"scores by {column}": to_table(self._describe_slices(column)) for column in self.evaluation.slices},
            "input tokens": sum(completion.prompt_tokens or 0 for completion in completions),
            "output tokens": sum(completion.completion_tokens or 0 for completion in completions),
            "answers without token counts": self._count_without_tokens(),
            "unused columns": ", ".join(list_unused_columns(self.evaluation, self.rows.columns)) or "none",
            "answers cut off by max_tokens": sum(completion.finish_reason == "length" for completion in completions),
            "requests": requests,
            "cached answers": cached,
        }

    def find_verdicts(self, judge: Judge | PairwiseJudge) -> list[JudgedAnswer]:
        """Return the verdicts of a judge, for each answer that it judged."""
        return [scored.judged[judge.name] for scored in self.scored if judge.name in scored.judged]

    def _describe_judges(self) -> dict[str, Any]:
        rows = [describe_judge(judge, self.find_verdicts(judge)) for judge in self.evaluation.judges]
        biases = [
            {"judge": judge.name, **measure_bias([getattr(found, "orders", ()) for found in self.find_verdicts(judge)]).describe()}
            for judge in self.evaluation.pairwise_judges
        ]
        return {**({"judges": to_table(rows)} if rows else {}), **({"position bias": to_table(biases)} if biases else {})}

    def _describe_costs(self, production: EvaluationResults | None) -> dict[str, Any]:
        if self.prices is None:
            return {}
        others = [] if production is None else [*production.list_calls(), *production.list_verdict_calls()]
        return describe_costs(self.prices, self.list_calls(), [*self.list_verdict_calls(), *others])

    def list_calls(self) -> list[CallRecord]:
        """Return the call of each case."""
        return [scored.call for scored in self.scored]

    def list_verdict_calls(self) -> list[CallRecord]:
        """Return the calls of judges on all cases."""
        return [call for scored in self.scored for found in scored.judged.values() for call in found.calls]

    def _summarise(self, scored: Sequence[ScoredCase], label: str) -> dict[str, ScoreSummary]:
        """Return scorer → summary of some cases; ``label`` makes the seed of the bootstrap."""
        seed = f"{self.evaluation.key} {self.version} {label}"
        return {name: summarise_scores([one.value(name) for one in scored], seed=f"{seed} {name}") for name in self._scorer_names}

    def _describe_means(self, summaries: Mapping[str, ScoreSummary]) -> str:
        """Return one line for the terminal: cases, errors and mean scores."""
        errors = sum(bool(scored.error) for scored in self.scored)
        means = (f"; {name} {_format_mean(summary) or 'no score'}" for name, summary in summaries.items())
        return f"{len(self.scored)} cases, {errors} with an error" + "".join(means)

    def _describe_summary(self, name: str, summary: ScoreSummary) -> dict[str, Any]:
        return {
            "scorer": name,
            "mean": _format_mean(summary),
            "95 % CI": summary.interval,
            "n": str(summary.n),
            "missing": str(summary.missing),
            "method": self.methods.get(name, ""),
        }

    def list_slices(self, column: str) -> list[tuple[str, list[ScoredCase]]]:
        """Return each value of a column with its cases, the most frequent first; the last pair combines the remaining values."""
        ordered = sorted(self.group_cases(column).items(), key=lambda group: (-len(group[1]), group[0]))
        shown = [(value, cases) for value, cases in ordered[:MAX_SLICES]]
        if rest := ordered[MAX_SLICES:]:
            shown.append((f"{len(rest)} other values", [scored for _, cases in rest for scored in cases]))
        return shown

    def _describe_slices(self, column: str) -> list[dict[str, Any]]:
        return [self._describe_slice(column, value, cases) for value, cases in self.list_slices(column)]

    def _describe_slice(self, column: str, value: str, cases: Sequence[ScoredCase]) -> dict[str, Any]:
        summaries = self._summarise(cases, f"{column}={value}")
        scores = {name: " ".join((_format_mean(summary), summary.interval)).strip() for name, summary in summaries.items()}
        costs = {} if self.prices is None else {"mean cost (USD)": f"{self.mean_cost(cases):.6g}"}
        return {column: value, "cases": str(len(cases)), "errors": str(sum(bool(scored.error) for scored in cases)), **scores, **costs}


def _format_mean(summary: ScoreSummary) -> str:
    return "" if summary.mean is None else f"{summary.mean:.3f}"


def _name_errors(failed: Sequence[ScoredCase]) -> str:
    named = "; ".join(f"case {scored.case.label}: {scored.error}" for scored in failed[:_MAX_NAMED])
    return named + ("; …" if len(failed) > _MAX_NAMED else "")
