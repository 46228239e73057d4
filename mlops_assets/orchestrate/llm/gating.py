"""Evaluate the gates of a prompt, and submit it to the registry with the results."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl

from mlops_assets.compute.llm_evaluation.comparison import MIN_PAIRS
from mlops_assets.compute.tables.verify import Outcome
from mlops_assets.compute.training.gates import judge
from mlops_assets.orchestrate.llm.gate_hashes import hash_evaluation_gates
from mlops_assets.orchestrate.llm.measurement import PromptIntervals, list_gate_slices, measure_evaluation, pair_results, withhold_metrics
from mlops_assets.orchestrate.llm.wins import evaluate_win_gate
from mlops_assets.stores.registry.records import CandidateRecord, Evidence
from mlops_assets.stores.tracker.tracker import Run
from mlops_assets.values.evaluation import Candidate, GateResult, Split
from mlops_assets.values.gates.gate import Gate
from mlops_assets.values.llm.prompt_evaluation import COMPLETE
from mlops_assets.values.model import KIND, PROMPT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mlops_assets.orchestrate.core.step_context import StepContext
    from mlops_assets.orchestrate.llm.evaluation_results import EvaluationResults
    from mlops_assets.stores.registry.records import Version
    from mlops_assets.values.llm.prompt_evaluation import PromptEvaluation


def evaluate_gates(
    results: EvaluationResults, production_results: EvaluationResults | None, production: Version | None, refused: Mapping[str, str]
) -> dict[str, GateResult]:
    """Evaluate each gate. Relative gates pass when there is no production version, or when the candidate is that version.

    The scores of a refused judge are withheld: a gate on them fails, and a gate function reads NaN.

    Parameters
    ----------
    results
        The evaluation of the prompt.
    production_results
        The evaluation of the production version on the same cases; None when it failed or is not needed.
    production
        The production version; None when there is none.
    refused
        Judge → why its scores may not decide a gate.
    """
    intervals = PromptIntervals(results, production_results, tuple(refused))
    compared = None if production_results is None else withhold_metrics(measure_evaluation(production_results), refused)
    withheld = [
        column
        for scorer in results.evaluation.scorers
        if scorer.name in refused
        for column in (scorer.name, *getattr(scorer, "verdict_columns", ()))
    ]
    frame = results.to_frame()
    prompt, rows = results.evaluation.prompt, frame.with_columns(pl.lit(None, frame.schema[name]).alias(name) for name in withheld)
    holdout = Split(rows, rows["error"].to_numpy(), results.rows)
    candidate = Candidate(
        prompt.name, results.version, prompt, holdout, withhold_metrics(measure_evaluation(results), refused), compared, intervals
    )
    return {gate.name: _evaluate_gate(gate, candidate, intervals, production, refused) for gate in results.evaluation.gates}


def _evaluate_gate(
    gate: Any,  # noqa: ANN401  (any gate)
    candidate: Candidate,
    intervals: PromptIntervals,
    production: Version | None,
    refused: Mapping[str, str],
) -> GateResult:
    if isinstance(gate, Gate) and gate.metric in refused:
        return GateResult(passed=False, reason=refused[gate.metric], threshold=gate.threshold)
    is_compared = intervals.own.evaluation.compares(gate)
    if not is_compared or (production is None and gate.relative):
        return judge(gate, candidate)
    if production is None:
        return GateResult(passed=True, reason=f"no champion yet to compare with; {gate.metric} is not measured")
    if production.digest == candidate.digest:
        return GateResult(passed=True, reason=f"this is the production version {production.version}")
    production_results = intervals.production
    if production_results is None:
        return GateResult(passed=False, reason=f"the production version {production.version} could not be evaluated on these cases")
    return _evaluate_comparison_gate(gate, candidate, intervals, production_results, refused)


def _evaluate_comparison_gate(
    gate: Any,  # noqa: ANN401  (any gate)
    candidate: Candidate,
    intervals: PromptIntervals,
    production_results: EvaluationResults,
    refused: Mapping[str, str],
) -> GateResult:
    if not isinstance(gate, Gate):
        return judge(gate, candidate)
    if not gate.relative:
        return evaluate_win_gate(gate, candidate, intervals.own)
    return _evaluate_paired_gate(gate, candidate, intervals, production_results, refused)


def _evaluate_paired_gate(
    gate: Gate, candidate: Candidate, intervals: PromptIntervals, production_results: EvaluationResults, refused: Mapping[str, str]
) -> GateResult:
    """Evaluate a relative gate on the cases that have a score on both sides."""
    if refusal := _explain_unpaired(gate, intervals):
        return GateResult(passed=False, reason=refusal, threshold=gate.threshold)
    own, other = (withhold_metrics(measure_evaluation(each), refused) for each in pair_results(intervals.own, production_results))
    return judge(gate, replace(candidate, evaluation=own, champion=other))


def _explain_unpaired(gate: Gate, intervals: PromptIntervals) -> str:
    """Return why a relative gate has too few comparable cases, in all cases or in a slice; empty when it has enough."""
    results = intervals.own
    min_pairs = 2 if gate.confidence is None else MIN_PAIRS
    for within in list_gate_slices(gate, results):
        compared = intervals.compare(gate.metric, within=within)
        if compared is not None and (refusal := compared.explain_refusal(results.evaluation.max_error_rate, min_pairs)):
            return refusal if within is None else f"{within[0]} {within[1]}: {refusal}"
    return ""


def list_outcomes(results: Mapping[str, GateResult], evaluation: PromptEvaluation) -> Iterator[Outcome]:
    """Yield the results of gates as outcomes of checks; a failure does not block the commit of rows.

    Parameters
    ----------
    results
        Gate → result.
    evaluation
        The evaluation that declares the gates.
    """
    for name, result in results.items():
        figures = {"value": result.value, "threshold": result.threshold, "interval, low": result.low, "interval, high": result.high}
        yield Outcome(
            name,
            passed=result.passed,
            message=result.reason,
            hint=f"change '{evaluation.prompt.key}' and materialise '{evaluation.key}' again; production is unchanged",
            blocking=False,
            serious=True,
            facts={label: float(value) for label, value in figures.items() if value is not None},
            reason=result.reason,
        )


def submit_prompt(
    step: StepContext, results: EvaluationResults, gate_results: Mapping[str, GateResult], production: Version | None, artifact: str
) -> None:
    """Record the evaluation as a run, and submit the prompt to the registry with the results of this evaluation's gates.

    Parameters
    ----------
    step
        The step of the evaluation.
    results
        The scored cases.
    gate_results
        Gate → result.
    production
        The production version that the prompt was compared with; None when there was none.
    artifact
        The stored prompt.
    """
    evaluation, prompt = results.evaluation, results.evaluation.prompt
    maximum = evaluation.max_error_rate
    complete = GateResult(
        results.error_rate <= maximum, f"error rate {results.error_rate:.1%}, maximum {maximum:.1%}", results.error_rate, maximum
    )
    definitions = hash_evaluation_gates(step.project, evaluation, step.stores.lake, step.snapshot)
    relative = {gate.name: evaluation.compares(gate) for gate in evaluation.gates}
    evidence = [
        _build_evidence(f"{evaluation.name}.{name}", definitions, results.version, result, production, relative=relative.get(name, False))
        for name, result in {COMPLETE: complete, **gate_results}.items()
    ]
    run = _build_run(step, results, definitions, artifact)
    step.stores.tracker.add(run)
    record = CandidateRecord(prompt.name, results.version, run.id, artifact, step.snapshot, datetime.now(UTC))
    step.stores.registry.submit(record, evidence, replace=list(definitions))


def _build_evidence(  # noqa: PLR0913  (one row)
    name: str, definitions: Mapping[str, str], digest: str, result: GateResult, production: Version | None, *, relative: bool
) -> Evidence:
    return Evidence(
        name,
        definitions[name],
        digest,
        result.passed,
        relative,
        production.digest if relative and production else "",
        result.value,
        result.threshold,
        result.reason,
        result.low,
        result.high,
    )


def _build_run(step: StepContext, results: EvaluationResults, definitions: Mapping[str, str], artifact: str) -> Run:
    """Return the tracker's run of an evaluation; equal results have the same id, so that repeating an evaluation adds no run."""
    evaluation = results.evaluation
    model, now = evaluation.prompt.model, datetime.now(UTC)
    measured = dict(measure_evaluation(results).metrics)
    deciding = [
        evaluation.key,
        results.version,
        definitions,
        results.to_frame().drop("cached", "seconds", "seconds_to_first_token").hash_rows().to_list(),
    ]
    fingerprint = hashlib.sha256(json.dumps(deciding).encode()).hexdigest()
    return Run(
        id=fingerprint[:32],
        model=evaluation.prompt.name,
        fingerprint=fingerprint,
        dagster_run_id=step.context.run.run_id,
        started_at=now,
        ended_at=now,
        snapshot=None,
        params={"evaluation": evaluation.name, "model": model.model, "pin": model.pin, **model.request_parameters},
        metrics={name: value for name, value in measured.items() if value == value},  # noqa: PLR0124  (NaN is no metric)
        record={KIND: PROMPT, "digest": results.version, "artifact": artifact, "evaluation": evaluation.key},
        environment=step.stores.platform.environment,
        kind="evaluation",
        name=evaluation.name,
    )
