"""Judging a candidate: a gate passes only on evidence, and everything undefined is not passed."""

from __future__ import annotations

import hashlib
import inspect
import math
from dataclasses import replace
from typing import TYPE_CHECKING

from mlops_assets.compute.user_code.user_errors import describe
from mlops_assets.values.evaluation import GateResult

if TYPE_CHECKING:
    from mlops_assets.values.evaluation import Candidate, Evaluation
    from mlops_assets.values.gate import Gate
    from mlops_assets.values.model import GateFunction

Slice = tuple[str, str]
DEFAULT_CONFIDENCE = 0.95
_UNKNOWN = (math.nan, math.nan)


def judge(gate: Gate, candidate: Candidate) -> GateResult:
    """Judge a candidate by a declared gate.

    Parameters
    ----------
    gate
        A bound on one metric.
    candidate
        With the champion's evaluation on the same rows, when there is a champion.

    Returns
    -------
    GateResult
        Not passed when the metric is undefined, of the candidate or of the champion; passed when a relative gate has no champion to meet.
    """
    return _every(gate, gate.slice, candidate) if isinstance(gate.slice, str) else _one(gate, gate.slice, candidate)


def _one(gate: Gate, within: Slice | None, candidate: Candidate) -> GateResult:
    """Judge one set of rows."""
    value = candidate.evaluation.metric(gate.metric, within)
    if not math.isfinite(value):
        return GateResult(passed=False, reason=_undefined(gate, within, candidate.evaluation, "the candidate's"), threshold=gate.threshold)
    if not gate.relative:
        return _absolute(gate, within, candidate, value)
    if candidate.champion is None:
        return GateResult(
            passed=True, reason=f"no champion yet to compare with; {gate.metric} is {value:.5g}{_within(within)}", value=value
        )
    rival = candidate.champion.metric(gate.metric, within)
    if not math.isfinite(rival):
        return GateResult(passed=False, reason=_undefined(gate, within, candidate.champion, "the champion's"), value=value)
    return _compared(gate, within, candidate, value, rival)


def _absolute(gate: Gate, within: Slice | None, candidate: Candidate, value: float) -> GateResult:
    """Judge a metric by itself, or by the lower end of its interval."""
    if gate.confidence is None:
        passed = value >= gate.threshold
        text = f"{gate.metric} {value:.5g} {_sign(passed)} {gate.threshold:.5g}{_within(within)}"
        return GateResult(passed, text, value, gate.threshold)
    low, high = candidate.intervals.value(gate.metric, gate.confidence, within) if candidate.intervals else _UNKNOWN
    passed = low >= gate.threshold
    told = f"the {_interval(gate.confidence, low, high)}{_method(candidate)} of {gate.metric} {value:.5g}{_within(within)}"
    return GateResult(
        passed, f"{told} {'begins at or above' if passed else _below(low)} {gate.threshold:.5g}", value, gate.threshold, low, high
    )


def _compared(gate: Gate, within: Slice | None, candidate: Candidate, value: float, rival: float) -> GateResult:
    """Judge a metric against the champion's on the same rows, or by the lower end of the interval of their difference."""
    least = gate.threshold if gate.rule == "better_than_champion_by" else -gate.threshold
    confidence = gate.confidence or DEFAULT_CONFIDENCE
    low, high = candidate.intervals.difference(gate.metric, confidence, within) if candidate.intervals else _UNKNOWN
    rivals = f"the champion has {rival:.5g} on the same rows{_within(within)}"
    shown = (
        "" if math.isnan(low) and gate.confidence is None else f", {_interval(confidence, low, high)} of the difference{_method(candidate)}"
    )
    if gate.confidence is None:
        passed = value >= rival + least
        text = f"{gate.metric} {value:.5g} {_sign(passed)} {rival + least:.5g}: {rivals}{shown}"
    else:
        passed = low >= least
        text = f"{gate.metric} {value:.5g}: {rivals}{shown} {'begins at or above' if passed else _below(low)} {least:.5g}"
    return GateResult(passed, text, value, rival + least, *((low, high) if math.isfinite(low) else (None, None)))


def _every(gate: Gate, column: str, candidate: Candidate) -> GateResult:
    """Judge every value of a column that has enough rows; what is shown is the one furthest below its bound."""
    found = [s for s in candidate.evaluation.slices if s.column == column]
    enough = [s for s in found if s.rows >= gate.min_rows]
    if not enough:
        most = max((s.rows for s in found), default=0)
        return GateResult(passed=False, reason=f"no value of {column} has {gate.min_rows} holdout rows: the most frequent has {most}")
    judged = [(s, _one(gate, (column, s.value), candidate)) for s in enough]
    failed = [(s, result) for s, result in judged if not result.passed]
    worst, result = min(failed or judged, key=lambda each: _margin(each[1]))
    few = f"; {len(found) - len(enough)} with fewer rows are not judged" if len(found) > len(enough) else ""
    head = (
        f"fails in {len(failed)} of {len(judged)} slices by {column}, worst"
        if failed
        else f"holds in all {len(judged)} slices by {column}, least"
    )
    return replace(
        result, reason=f"{head} in {column} {worst.value} ({worst.rows} rows): {result.reason}{few} (of at least {gate.min_rows} rows)"
    )


def _margin(result: GateResult) -> float:
    """Return how far a result is above its bound; undefined is furthest below."""
    if result.value is None:
        return -math.inf
    return result.value - result.threshold if result.threshold is not None else math.inf


def _sign(passed: bool) -> str:  # noqa: FBT001
    return "≥" if passed else "<"


def _below(low: float) -> str:
    return "is undefined, so that nothing shows that it begins at or above" if math.isnan(low) else "begins below"


def _interval(confidence: float, low: float, high: float) -> str:
    return f"{confidence:.4g} interval" + ("" if math.isnan(low) else f" {low:.4g} … {high:.4g}")


def _method(candidate: Candidate) -> str:
    """Return what the interval resamples, in brackets; empty when there is no interval."""
    return f" ({candidate.intervals.method})" if candidate.intervals else ""


def judge_function(gate: GateFunction[..., object], candidate: Candidate, **resources: object) -> GateResult:
    """Judge a candidate by a user's function; an exception or another answer than a GateResult or a bool is not passed.

    Parameters
    ----------
    gate
        The function.
    candidate, resources
        What it receives.
    """
    taken = {p.name: resources.get(p.name, candidate) for p in gate.function.parameters}
    try:
        answer = gate(**taken)
    except Exception as error:  # noqa: BLE001  (whatever a user's gate raises, the candidate has not passed)
        return GateResult(passed=False, reason=f"the gate raised {describe(error, gate.function.function)}")
    if isinstance(answer, GateResult):
        return (
            answer
            if answer.value is None or math.isfinite(answer.value)
            else GateResult(passed=False, reason=f"the gate's value is {answer.value}")
        )
    # numpy's bool is what comparisons of metrics give; anything else that is merely true is no answer.
    if type(answer).__name__ in ("bool", "bool_"):
        return GateResult(passed=bool(answer), reason="holds" if answer else "does not hold")
    return GateResult(passed=False, reason=f"the gate returned {type(answer).__name__}, neither a GateResult nor a bool")


def function_definition(gate: GateFunction[..., object]) -> str:
    """Return the hash of a gate function's source: evidence for another text does not count."""
    return hashlib.sha256(inspect.getsource(gate.function.function).encode()).hexdigest()


def _within(within: Slice | None) -> str:
    return f" where {within[0]} is {within[1]}" if within else ""


def _undefined(gate: Gate, within: Slice | None, evaluation: Evaluation, whose: str) -> str:
    if within and not any((s.column, s.value) == within for s in evaluation.slices):
        return f"no holdout row has {within[0]} {within[1]}, or slices= does not name that column"
    reason = dict(evaluation.problems).get(gate.metric, "it is not a finite number")
    return f"{whose} {gate.metric} is undefined{_within(within)}: {reason}"
