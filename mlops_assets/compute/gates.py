"""Judging a candidate: a gate passes only on evidence, and everything undefined is not passed."""

from __future__ import annotations

import hashlib
import inspect
import math
from typing import TYPE_CHECKING

from mlops_assets.values.evaluation import GateResult

if TYPE_CHECKING:
    from mlops_assets.values.evaluation import Candidate, Evaluation
    from mlops_assets.values.gate import Gate
    from mlops_assets.values.model import GateFunction


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
    value = candidate.evaluation.metric(gate.metric, gate.slice)
    if not math.isfinite(value):
        return GateResult(passed=False, reason=_undefined(gate, candidate.evaluation, "the candidate's"), threshold=gate.threshold)
    if not gate.relative:
        passed = value >= gate.threshold
        return GateResult(
            passed, f"{gate.metric} {value:.5g} {'≥' if passed else '<'} {gate.threshold:.5g}{_within(gate)}", value, gate.threshold
        )
    if candidate.champion is None:
        return GateResult(passed=True, reason=f"no champion yet to compare with; {gate.metric} is {value:.5g}{_within(gate)}", value=value)
    rival = candidate.champion.metric(gate.metric, gate.slice)
    if not math.isfinite(rival):
        return GateResult(passed=False, reason=_undefined(gate, candidate.champion, "the champion's"), value=value)
    bound = rival + gate.threshold if gate.rule == "better_than_champion_by" else rival - gate.threshold
    passed = value >= bound
    return GateResult(
        passed,
        f"{gate.metric} {value:.5g} {'≥' if passed else '<'} {bound:.5g}: the champion has {rival:.5g} on the same rows{_within(gate)}",
        value,
        bound,
    )


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
        return GateResult(passed=False, reason=f"the gate raised {type(error).__name__}: {error}")
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


def _within(gate: Gate) -> str:
    return f" where {gate.slice[0]} is {gate.slice[1]}" if gate.slice else ""


def _undefined(gate: Gate, evaluation: Evaluation, whose: str) -> str:
    if gate.slice and not any((s.column, s.value) == gate.slice for s in evaluation.slices):
        return f"no holdout row has {gate.slice[0]} {gate.slice[1]}, or slices= does not name that column"
    reason = dict(evaluation.problems).get(gate.metric, "it is not a finite number")
    return f"{whose} {gate.metric} is undefined{_within(gate)}: {reason}"
