"""The scores of judges on a sample of traced answers: a failure is counted, and an uncalibrated judge only reports."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.llm_evaluation.calibration import MAX_ERROR_RATE
from mlops_assets.compute.monitoring.answer_quality import MeasuredValues, QualityVerdict, sample_rows
from mlops_assets.errors import DataError, ProviderError
from mlops_assets.values.monitoring import CANNOT

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    from mlops_assets.compute.llm_evaluation.prices import PriceTable
    from mlops_assets.orchestrate.core.step_context import StepContext
    from mlops_assets.orchestrate.llm.judging import JudgedAnswer
    from mlops_assets.values.dataset import Dataset
    from mlops_assets.values.llm.judge import Judge
    from mlops_assets.values.llm.quality_monitor import QualityMonitor


@dataclass(frozen=True)
class SampledScores:
    """The verdicts of one judge on the sampled answers of one version and day.

    Parameters
    ----------
    judge
        The judge.
    measured
        Its scores, and the share of answers without a verdict, as measures.
    judged
        What it found on each answer.
    """

    judge: Judge
    measured: tuple[MeasuredValues, ...]
    judged: tuple[JudgedAnswer, ...]


def judge_sample(step: StepContext, monitor: QualityMonitor, label: str, rows: pl.DataFrame) -> list[SampledScores]:
    """Return the scores of each judge of a monitor on a sample that depends on the trace ids alone.

    Parameters
    ----------
    step, monitor
        The step and its monitor.
    label
        The day and the version, for the log.
    rows
        The rows of the answers of one version and day.
    """
    import polars as pl

    answered = rows.filter(pl.col("status") == "ok")
    return [_ask_judge(step, judge, f"{monitor.key}, {label}", answered, monitor.judged_answers) for judge in monitor.judges]


def _ask_judge(step: StepContext, judge: Judge, label: str, answered: pl.DataFrame, count: int) -> SampledScores:
    from mlops_assets.orchestrate.llm.judging import judge_answers
    from mlops_assets.orchestrate.llm.progress import CallProgress

    captured = answered.drop_nulls("output")
    readable = captured.filter([_read_row(judge, text) is not None for text in captured["input"]])
    if readable.is_empty():
        problem = "hold no answers: the service does not capture content" if captured.is_empty() else f"do not hold {judge.columns[0]}"
        return SampledScores(judge, (MeasuredValues(judge.name, problem=f"the traces {problem}" if answered.height else ""),), ())
    sample = sample_rows(readable, count)
    answers = [(output, _read_row(judge, text) or {}) for text, output in sample.select("input", "output").rows()]
    log = step.context.log
    progress = CallProgress(f"{label}, judge '{judge.name}'", len(answers) * judge.repeats, log.info, "verdicts")
    try:
        judged = judge_answers(judge, answers, cache=step.stores.responses, warn=log.warning, progress=progress)
    except ProviderError as error:  # the other measures do not need the judge
        return SampledScores(judge, (MeasuredValues(judge.name, problem=f"the judge cannot be asked: {error.message}"),), ())
    return SampledScores(judge, _measure_scores(judge, judged), tuple(judged))


def _read_row(judge: Judge, text: str | None) -> dict[str, Any] | None:
    """Return the variables of a captured input that the judge reads; None for an input that lacks one, such as messages of a chat."""
    try:
        variables = json.loads(text or "null")
    except ValueError:
        variables = None
    found = variables if isinstance(variables, dict) else {}
    return {name: found[name] for name in judge.columns} if found.keys() >= set(judge.columns) else None


def _measure_scores(judge: Judge, judged: Sequence[JudgedAnswer]) -> tuple[MeasuredValues, ...]:
    scores = [found.score(judge) for found in judged]
    values, failed = tuple(score.value for score in scores if score.value is not None), [score for score in scores if score.failed]
    problem = ""
    if len(failed) > MAX_ERROR_RATE * len(scores):
        problem = f"{len(failed)} of {len(scores)} answers have no verdict, {MAX_ERROR_RATE:.0%} may; the first: {failed[0].error}"
    is_share = all(value in (0.0, 1.0) for value in values)
    return (
        MeasuredValues(judge.name, values, problem, is_share=is_share),
        MeasuredValues(f"{judge.name}_failure_rate", tuple(float(score.failed) for score in scores), is_share=True),
    )


def withhold_verdicts(verdicts: Sequence[QualityVerdict], refused: dict[str, str]) -> tuple[QualityVerdict, ...]:
    """Return verdicts in which a judge that may only report decides nothing: its expectation cannot be measured.

    Parameters
    ----------
    verdicts
        The verdicts on expectations.
    refused
        Judge → why its scores may not decide.
    """
    return tuple(
        replace(verdict, state=CANNOT, reason=f"{refused[verdict.expectation.measure]}; it reports: {verdict.reason}")
        if verdict.expectation.measure in refused
        else verdict
        for verdict in verdicts
    )


def find_prices(monitor: QualityMonitor) -> Dataset[..., Any] | None:
    """Return the dataset of prices of the monitored service; None without judges, which are what the monitor pays for.

    Parameters
    ----------
    monitor
        The monitor.
    """
    return getattr(monitor.of, "prices", None) if monitor.judges else None


def read_judge_prices(step: StepContext, monitor: QualityMonitor) -> PriceTable | str:
    """Return the prices of the judges' calls, or why there are none: a report does not fail because a price is missing.

    Parameters
    ----------
    step, monitor
        The step and its monitor.
    """
    from mlops_assets.compute.llm_evaluation.price_rows import read_prices

    prices = find_prices(monitor)
    if prices is None:
        return "the service declares no prices"
    try:
        return read_prices(step.read(step.project.by_key[prices.key]), prices.key)
    except DataError as error:
        step.context.log.warning(f"'{monitor.key}': the cost of its judges is unknown: {error.message}")
        return error.message


def describe_judging(monitor: QualityMonitor, prices: PriceTable | str, sampled: Sequence[SampledScores]) -> dict[str, Any]:
    """Return the verdicts, requests, tokens and costs of each judge as metadata; nothing without judges.

    Parameters
    ----------
    monitor
        The monitor.
    prices
        The prices of the judges' calls, or why there are none.
    sampled
        What the judges found, for each version and day.
    """
    from mlops_assets.orchestrate.core.metadata import to_table
    from mlops_assets.orchestrate.llm.judging import describe_judge

    rows = []
    for judge in monitor.judges:
        judged = [found for scores in sampled if scores.judge is judge for found in scores.judged]
        rows.append({**describe_judge(judge, judged), **_describe_spend(prices, judged)})
    return {"judges": to_table(rows)} if rows else {}


def _describe_spend(prices: PriceTable | str, judged: Sequence[JudgedAnswer]) -> dict[str, str]:
    """Return the tokens and costs of the calls of this run; without prices the cost is unknown, never zero."""
    from mlops_assets.orchestrate.llm.call_costs import Spend, price_requests

    calls = [call for found in judged for call in found.calls]
    asked = [call.completion for call in calls if call.completion is not None and not call.completion.cached]
    cost = f"unknown: {prices}" if isinstance(prices, str) else str(sum((price_requests(prices, call) for call in calls), Spend()))
    return {
        "input tokens": str(sum(completion.prompt_tokens or 0 for completion in asked)),
        "output tokens": str(sum(completion.completion_tokens or 0 for completion in asked)),
        "spent by this run": cost,
    }
