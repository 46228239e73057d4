"""Measure the answers of one version in one window, and evaluate them by expectations."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlops_assets.compute.groundedness.embeddings import list_missing_packages
from mlops_assets.compute.groundedness.refusals import is_refusal
from mlops_assets.compute.groundedness.score import score_groundedness
from mlops_assets.compute.groundedness.words import split_sentences
from mlops_assets.compute.llm_evaluation.operational import find_percentile_interval, measure_percentile
from mlops_assets.compute.monitoring.input_drift import compare_samples, embed_texts
from mlops_assets.compute.monitoring.languages import recognise_language
from mlops_assets.values.llm import quality_monitor as names
from mlops_assets.values.monitoring import BREACH, CANNOT, GOOD, NOT_ENOUGH

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import polars as pl

    from mlops_assets.values.llm.quality_monitor import QualityExpectation

MAX_EMBEDDED = 200  # inputs of a window, and of its reference
MAX_UNKNOWN_COSTS = 0.05  # of the answers, for a mean of the known costs
_CONTENT = (names.GROUNDEDNESS, names.HALLUCINATION_RATE, names.REFUSAL_RATE, names.OUTPUT_WORDS, names.LANGUAGE_RATE)
_SHARES = (names.HALLUCINATION_RATE, names.REFUSAL_RATE, names.LANGUAGE_RATE, names.ERROR_RATE)


@dataclass(frozen=True)
class QualityInputs:
    """The inputs of the measures in addition to the rows.

    Parameters
    ----------
    context
        The variables with the text that must support the answers.
    language
        The declared language; None without one.
    max_scored
        The maximum number of answers whose content is measured.
    reference
        The rows of the days before, for input drift.
    measures
        The measures to compute in addition to the cheap ones.
    """

    context: tuple[str, ...]
    language: str | None
    max_scored: int
    reference: pl.DataFrame
    measures: frozenset[str]


@dataclass(frozen=True)
class MeasuredValues:
    """The values of one measure.

    Parameters
    ----------
    measure
        The name of the measure.
    values
        A number for each measured answer.
    problem
        Why the measure cannot be computed; empty when it can.
    p_value
        The p-value of input drift; None for other measures.
    is_share
        Whether each value is 0 or 1, although the measure is not a share by its name.
    note
        A note on missing values; empty when the values are complete.
    """

    measure: str
    values: tuple[float, ...] = ()
    problem: str = ""
    p_value: float | None = None
    is_share: bool = False
    note: str = ""

    @property
    def value(self) -> float | None:
        """The measure: a mean, a share, or a percentile; None without values."""
        if not self.values:
            return None
        return measure_percentile(self.values, 0.95) if self.measure == names.LATENCY else float(np.mean(self.values))

    @property
    def measures_share(self) -> bool:
        """Whether each value is 0 or 1."""
        return self.is_share or self.measure in _SHARES

    def find_interval(self, confidence: float) -> tuple[float, float]:
        """Return the confidence interval: Clopper and Pearson's for shares, of order statistics for the percentile, Student's t for means.

        Parameters
        ----------
        confidence
            The confidence level.
        """
        from scipy import stats  # type: ignore[import-untyped]  # it has no stubs

        values = np.sort(np.asarray(self.values))
        n, mean = len(values), float(values.mean())
        if self.measures_share:
            count, tail = round(mean * n), (1 - confidence) / 2  # quantiles of beta distributions: binomtest takes ten times as long
            low = float(stats.beta.ppf(tail, count, n - count + 1)) if count else 0.0
            return low, float(stats.beta.ppf(1 - tail, count + 1, n - count)) if count < n else 1.0
        if self.measure == names.LATENCY:
            return find_percentile_interval(values.tolist(), 0.95, confidence)
        error = float(stats.t.ppf((1 + confidence) / 2, n - 1) * values.std(ddof=1) / math.sqrt(n))
        return mean - error, mean + error


@dataclass(frozen=True)
class QualityVerdict:
    """The verdict on one expectation.

    Parameters
    ----------
    expectation
        The expectation.
    state
        ``good``, ``breach``, ``not enough data`` or ``cannot be measured``.
    reason
        The verdict in words.
    """

    expectation: QualityExpectation
    state: str
    reason: str


def measure_answers(rows: pl.DataFrame, inputs: QualityInputs) -> list[MeasuredValues]:
    """Return every measure of the answers of one version in one window.

    Parameters
    ----------
    rows
        Rows of a trace table, one for each answer, without those that a service refused.
    inputs
        What the measures need in addition.
    """
    import polars as pl

    answered = rows.filter(pl.col("status") == "ok")
    return [
        MeasuredValues(names.ERROR_RATE, tuple((rows["status"] == "error").cast(pl.Float64).to_list())),
        MeasuredValues(names.FEEDBACK, tuple(rows["feedback"].drop_nulls())),
        _measure_cost(answered["cost"]),
        MeasuredValues(
            names.LATENCY, tuple(rows.select(pl.when(pl.col("status") == "ok").then("seconds").otherwise(math.inf)).to_series())
        ),
        *_measure_content(sample_rows(answered, inputs.max_scored), inputs),
        *([_measure_drift(answered, inputs)] if names.INPUT_DRIFT in inputs.measures else []),
    ]


def _measure_cost(costs: pl.Series) -> MeasuredValues:
    unknown = costs.null_count()
    text = f"{unknown} of {len(costs)} answers have no known cost" if unknown else ""
    if unknown > MAX_UNKNOWN_COSTS * len(costs):
        return MeasuredValues(names.COST, problem=f"{text}; at most {100 * MAX_UNKNOWN_COSTS:g} % may have none")
    return MeasuredValues(names.COST, tuple(costs.drop_nulls()), note=text)


def sample_rows(rows: pl.DataFrame, count: int) -> pl.DataFrame:
    """Return at most ``count`` rows, chosen by a hash of their trace ids.

    Parameters
    ----------
    rows, count
        Rows of a trace table, and the maximum.
    """
    order = sorted(range(rows.height), key=lambda row: hashlib.sha256(rows["trace_id"][row].encode()).digest())
    return rows[sorted(order[:count])]


def _measure_content(answered: pl.DataFrame, inputs: QualityInputs) -> list[MeasuredValues]:
    captured = answered.drop_nulls("output")
    if captured.is_empty():
        problem = "the traces hold no answers: the service does not capture content" if answered.height else ""
        return [MeasuredValues(measure, problem=problem) for measure in _CONTENT]
    outputs = captured["output"].to_list()
    languages = [code for output in outputs if (code := recognise_language(output))]
    return [
        *_measure_support(captured, inputs.context),
        MeasuredValues(names.REFUSAL_RATE, tuple(float(any(map(is_refusal, split_sentences(output)))) for output in outputs)),
        MeasuredValues(names.OUTPUT_WORDS, tuple(float(len(output.split())) for output in outputs)),
        MeasuredValues(names.LANGUAGE_RATE, tuple(float(code == inputs.language) for code in languages) if inputs.language else ()),
    ]


def _measure_support(captured: pl.DataFrame, context: Sequence[str]) -> list[MeasuredValues]:
    pairs = (
        [(_read_texts(text, context.__contains__), output) for text, output in captured.select("input", "output").rows()] if context else []
    )
    results = [score_groundedness(text, output) for text, output in pairs if text]
    problem = f"no trace holds the variable '{context[0]}'" if context and not results else ""
    return [
        MeasuredValues(names.GROUNDEDNESS, tuple(result.score for result in results), problem),
        MeasuredValues(names.HALLUCINATION_RATE, tuple(float(not result.is_supported) for result in results), problem),
    ]


def _read_texts(text: str | None, takes: Callable[[str], bool]) -> str:
    """Return the texts of some variables of a captured input, one on each line."""
    try:
        variables = json.loads(text or "null")
    except ValueError:
        return ""
    if not isinstance(variables, dict):
        return ""
    return "\n".join(line for name, value in variables.items() if takes(name) for line in _list_texts(value))


def _list_texts(value: Any) -> list[str]:  # noqa: ANN401  (JSON)
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in items for text in _list_texts(item)]


def _measure_drift(answered: pl.DataFrame, inputs: QualityInputs) -> MeasuredValues:
    if missing := list_missing_packages():
        return MeasuredValues(names.INPUT_DRIFT, problem=f"sentence vectors need the packages {', '.join(missing)}")
    current, earlier = (
        [text for row in sample_rows(rows, MAX_EMBEDDED)["input"] if (text := _read_texts(row, lambda name: name not in inputs.context))]
        for rows in (answered, inputs.reference)
    )
    if not current and answered.height:
        return MeasuredValues(names.INPUT_DRIFT, problem="the traces hold no inputs: the service does not capture content")
    if len(earlier) < 2 or len(current) < 2:
        return MeasuredValues(names.INPUT_DRIFT)
    distance, p_value = compare_samples(embed_texts(current), embed_texts(earlier))
    return MeasuredValues(names.INPUT_DRIFT, (distance,) * min(len(current), len(earlier)), p_value=p_value)


def evaluate_measure(expectation: QualityExpectation, measured: MeasuredValues) -> QualityVerdict:
    """Return the verdict on one expectation: a breach only if the whole interval lies beyond the bound.

    Parameters
    ----------
    expectation, measured
        The expectation, and the values of its measure.
    """
    if measured.problem:
        return QualityVerdict(expectation, CANNOT, f"{expectation.measure} cannot be measured: {measured.problem}")
    n, value = len(measured.values), measured.value
    has_no_bound = value == math.inf and expectation.measure == names.LATENCY
    if value is not None and not math.isfinite(value) and not has_no_bound:
        return QualityVerdict(expectation, CANNOT, f"{expectation.measure} cannot be measured: a value is {value}")
    if value is None or n < expectation.min_answers:
        return QualityVerdict(expectation, NOT_ENOUGH, f"{n} measured answers, {expectation.min_answers} are needed")
    side = "at least" if expectation.rule == "at_least" else "at most"
    if measured.p_value is not None:
        breached = value > expectation.threshold and measured.p_value < 1 - expectation.confidence
        text = f"{expectation.measure} {value:.4g} (p = {measured.p_value:.3g}, permutation test)"
    else:
        low, high = measured.find_interval(expectation.confidence)
        breached = high < expectation.threshold if expectation.rule == "at_least" else low > expectation.threshold
        shown = "has no upper bound, because of failed calls" if has_no_bound else f"{value:.4g}"
        counted = f"{n} answers; {measured.note}" if measured.note else f"{n} answers"
        text = f"{expectation.measure} {shown} ({100 * expectation.confidence:g} % CI {low:.4g} to {high:.4g}, {counted})"
    return QualityVerdict(expectation, BREACH if breached else GOOD, f"{text}; expected {side} {expectation.threshold:g}")
