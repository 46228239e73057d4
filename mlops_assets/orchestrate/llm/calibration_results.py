"""Read the results of calibrations, and check whether the scores of a judge may decide a gate."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mlops_assets.compute.llm_evaluation.calibration import JudgedCase, calibrate_judge
from mlops_assets.compute.prompts.version import hash_judge
from mlops_assets.orchestrate.core.graph import compute_fingerprints
from mlops_assets.orchestrate.llm.pairwise import measure_bias
from mlops_assets.values.asset_names import build_graph_key
from mlops_assets.values.evaluation import GateResult
from mlops_assets.values.llm.pairwise_judge import INCONSISTENT, TIE, PairwiseJudge

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import polars as pl

    from mlops_assets.compute.llm_evaluation.calibration import JudgeCalibration
    from mlops_assets.orchestrate.core.step_context import StepContext
    from mlops_assets.values.llm.calibration import Calibration
    from mlops_assets.values.llm.judge import Judge


def check_calibration(step: StepContext, judge: Judge | PairwiseJudge) -> GateResult:
    """Return whether the scores of a judge may decide a gate.

    Parameters
    ----------
    step
        The step that evaluates the gate; calibrations are read at its snapshot of the lake.
    judge
        The judge.

    Returns
    -------
    GateResult
        Passed when the project declares a calibration of this version of the judge, and each such calibration is up to date with its labels
        and passes. Otherwise not passed, with the reason.
    """
    results = [_read_result(step, calibration) for calibration in step.project.calibrations_of(judge)]
    if not results:
        reason = "the project has no calibration of this version of the judge"
        return GateResult(passed=False, reason=reason)
    return next((result for result in results if not result.passed), results[0])


def list_refused_judges(step: StepContext, judges: Iterable[Judge | PairwiseJudge]) -> dict[str, str]:
    """Return judge → why its scores may not decide a gate, for each judge whose scores are only reported.

    Parameters
    ----------
    step, judges
        The step and its judges.
    """
    found = {judge.name: check_calibration(step, judge) for judge in judges}
    return {name: f"the judge '{name}' may not decide a gate: {result.reason}" for name, result in found.items() if not result.passed}


def _read_result(step: StepContext, calibration: Calibration) -> GateResult:
    """Return the result of a stored calibration; not passed when it is missing, out of date, or of another version of the judge."""
    node, lake, name = step.project.node(calibration), step.stores.lake, f"'{build_graph_key(calibration.key)}'"
    record = lake.records(calibration.key, snapshot=step.snapshot).get("")
    if record is None:
        return GateResult(passed=False, reason=f"{name} has not been materialised")
    if record.inputs != compute_fingerprints(node, [""], lake, snapshot=step.snapshot).get(""):
        return GateResult(passed=False, reason=f"{name} is out of date: its labels or its definition have changed; materialise it again")
    rows = step.read(step.project.by_key[calibration.key])
    if set(rows["judge_version"]) != {hash_judge(calibration.judge)}:
        return GateResult(passed=False, reason=f"{name} is of another version of the judge; materialise it again")
    return check_reliability(calibration, rows)


def check_reliability(calibration: Calibration, rows: pl.DataFrame) -> GateResult:
    """Return whether the scores of a judge may decide a gate: by its kappa, and if it compares two answers, by its position bias.

    Parameters
    ----------
    calibration, rows
        The calibration, and the rows of its table.
    """
    result = measure_agreement(calibration, rows).may_gate(calibration.min_kappa)
    if not result.passed or not isinstance(calibration.judge, PairwiseJudge):
        return result
    refusal = measure_bias(rows["orders"].to_list()).explain_refusal()
    return replace(result, passed=False, reason=refusal) if refusal else result


def measure_agreement(calibration: Calibration, rows: pl.DataFrame) -> JudgeCalibration:
    """Return the agreement of a judge with its labels, computed from the rows of a calibration's table.

    Parameters
    ----------
    calibration
        The calibration.
    rows
        The rows of the calibration's table.
    """
    cases = [
        JudgedCase(str(number), label, _put_first(verdict, repeats))
        for number, (label, verdict, repeats) in enumerate(rows.select("label", "verdict", "repeats").iter_rows())
    ]
    allowed = calibration.judge.allowed
    if not isinstance(calibration.judge, PairwiseJudge):
        return calibrate_judge(cases, allowed, positive=calibration.positive)
    labels = tuple(verdict for verdict in allowed if verdict != TIE or TIE in rows["label"])  # people may never call it a tie
    return calibrate_judge(cases, labels, positive=calibration.positive, unlabelled=(TIE, INCONSISTENT))


def _put_first(verdict: str, repeats: Sequence[str]) -> tuple[str, ...]:
    """Return the verdicts of the repeats, with ``verdict`` first; their order does not change the flip rate."""
    others = list(repeats)
    others.remove(verdict)
    return verdict, *others
