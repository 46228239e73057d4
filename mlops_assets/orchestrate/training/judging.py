"""Candidates before their gates, beside the champion of now."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import dagster as dg
import polars as pl

from mlops_assets.compute.features.on_demand import apply, columns_as_arrays
from mlops_assets.compute.training.classes import as_two_classes, encoded_class, truth_of
from mlops_assets.compute.training.evaluate import evaluate
from mlops_assets.compute.training.gates import function_definition, judge, judge_function
from mlops_assets.compute.training.resampling import PairedIntervals
from mlops_assets.compute.training.responses import Remembered, unsound
from mlops_assets.errors import DataError, MlopsError
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.training.training_run import Trained
from mlops_assets.serving.formats.judged_fit import JudgedFit, judged_fit
from mlops_assets.serving.formats.packaging import unpack
from mlops_assets.serving.predict.batch import model_input
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.stores.registry.records import Evidence, Version
from mlops_assets.stores.registry.registry import open_registry
from mlops_assets.values.evaluation import Candidate, Evaluation, GateResult, Split
from mlops_assets.values.function import Injection
from mlops_assets.values.model import GateFunction, Model
from mlops_assets.values.training import TrainingSet

_BY_JUDGED_FIT = " (by the champion's judged fit: its second fit may have seen these rows)"


def gates_of(model: Model[..., Any], functions: tuple[GateFunction[..., Any], ...]) -> dict[str, str]:
    """Return gate → hash of its definition, as declared now."""
    return {g.name: g.definition for g in model.gates} | {f.name: function_definition(f) for f in functions}


def candidate_of(stores: Stores, model: Model[..., Any], trained: Trained, rival: Version | None) -> Candidate:
    """Return what was trained as its gates see it: evaluated, beside the champion on the same holdout."""
    holdout = trained.splits["holdout"]
    answers = Remembered(trained.estimator, holdout.X)
    if why := unsound(answers.scores, len(holdout.y)):
        raise DataError(
            f"the candidate of '{model.key}' {why} of the holdout of '{model.training_set.key}'",
            hint="look at the features of these rows and at what the estimator does with nulls; nothing was submitted, the champion keeps serving",
        )
    evaluation = evaluate(
        answers, holdout, model.metrics, model.slices, train=trained.splits["train"], least=_least(model), positive=model.positive
    )
    theirs, rivals = None, None
    if rival is not None and _judged_fit(stores, rival).digest == trained.digest:
        theirs, rivals = evaluation, answers
    elif rival is not None:
        theirs, rivals = _rival(stores, model, holdout, rival)
    intervals = intervals_of(model.training_set, answers, rivals, holdout, trained.digest, model.positive)
    return Candidate(model.name, trained.digest, trained.estimator, holdout, evaluation, theirs, intervals)


def intervals_of(  # noqa: PLR0913  (what is compared, and how)
    declared: TrainingSet[..., Any],
    answers: Remembered,
    rivals: Remembered | None,
    holdout: Split,
    seed: str,
    positive: Any = None,  # noqa: ANN401  (any label)
) -> PairedIntervals:
    """Return the intervals of a holdout's metrics: over blocks of time where the training set has event times.

    Parameters
    ----------
    declared
        The training set, with its event time and the declared length of a block.
    answers, rivals
        What the candidate and the champion predict for the holdout.
    holdout, seed
        As in :class:`PairedIntervals`.
    positive
        The positive one of two classes; both models are seen by the same one.
    """
    times = holdout.rows[declared.event_timestamp] if declared.event_timestamp in holdout.rows.columns else None
    encoded = encoded_class(getattr(answers, "classes_", None), holdout.y, positive)
    seen, y = None if rivals is None else as_two_classes(rivals, encoded), truth_of(holdout.y, encoded)
    return PairedIntervals(as_two_classes(answers, encoded), seen, y, holdout.rows, seed, times=times, block_length=declared.block_length)


def _least(model: Model[..., Any]) -> dict[str, int]:
    """Return column → the fewest rows that a gate on each of its values judges."""
    wanted = [g for g in model.gates if isinstance(g.slice, str)]
    return {column: min(g.min_rows for g in wanted if g.slice == column) for column in {g.slice_column for g in wanted}}


def rival_of(stores: Stores, model: str) -> Version | None:
    """Return the champion that a candidate meets: that of its environment, or of the one that the platform names while its own has none."""
    mine, against = stores.registry.champion(model), stores.platform.against
    return mine if mine is not None or not against else open_registry(stores.platform.registry, against).champion(model)


def _judged_fit(stores: Stores, rival: Version) -> JudgedFit:
    """Return the fit of a champion that may be compared on a holdout: its second fit, where it has one, may have been fitted on these rows."""
    return judged_fit(stores.artifacts, rival.artifact, rival.digest)


def _rival(stores: Stores, model: Model[..., Any], holdout: Split, rival: Version) -> tuple[Evaluation, Remembered | None]:
    """Evaluate the champion on the candidate's holdout; what cannot be evaluated is undefined, so that no relative gate passes on it."""
    try:
        bundle = unpack(stores.artifacts, _judged_fit(stores, rival).artifact, model.trusted_types)
        rows = holdout.rows
        for function in bundle.functions:
            made = apply([function], columns_as_arrays(rows, rows.columns))
            rows = rows.with_columns(pl.Series(name, values) for name, values in made.items())
        X = model_input(bundle, rows, f"the holdout of '{model.training_set.key}'")
        answers = Remembered(bundle.estimator, X)
        split = Split(X, holdout.y, holdout.rows)
        return evaluate(answers, split, model.metrics, model.slices, least=_least(model), positive=model.positive), answers
    except MlopsError as error:
        reason = f"champion version {rival.version} cannot be evaluated: {error.message}"
        undefined = tuple((m, float("nan")) for m in model.metrics)
        return Evaluation(len(holdout.y), undefined, problems=tuple((m, reason) for m in model.metrics)), None


def judged(
    step: StepContext, model: Model[..., Any], functions: tuple[GateFunction[..., Any], ...], candidate: Candidate, rival: Version | None
) -> dict[str, GateResult]:
    """Return gate → what it says of the candidate."""
    theirs = None if rival is None else _judged_fit(step.stores, rival)
    declared = {g.name: judge(g, candidate) for g in model.gates}
    compared = {g.name for g in model.gates if g.relative}
    if rival is not None and theirs is not None and theirs.digest == candidate.digest:
        relative = GateResult(passed=True, reason=f"this is the champion, version {rival.version}")
        declared |= dict.fromkeys(compared, relative)
    elif theirs is not None and theirs.refitted:
        declared |= {name: replace(declared[name], reason=declared[name].reason + _BY_JUDGED_FIT) for name in compared}
    resources = {p.name: getattr(step.context.resources, p.name) for f in functions for p in f.function.receiving(Injection.RESOURCE)}
    return declared | {f.name: judge_function(f, candidate, **resources) for f in functions}


def evidence_of(
    results: Mapping[str, GateResult],
    model: Model[..., Any],
    functions: tuple[GateFunction[..., Any], ...],
    candidate: Candidate,
    rival: Version | None,
) -> list[Evidence]:
    """Bind what each gate found to this candidate; a function may have looked at the champion, so its answer counts against that one only."""
    definitions = gates_of(model, functions)
    relative = {g.name for g in model.gates if g.relative} | {f.name for f in functions}
    met = rival.digest if rival else ""
    return [
        Evidence(
            name,
            definitions[name],
            candidate.digest,
            r.passed,
            name in relative,
            met if name in relative else "",
            r.value,
            r.threshold,
            r.reason,
            r.low,
            r.high,
        )
        for name, r in results.items()
    ]


def check_of(model: Model[..., Any], name: str, result: GateResult) -> dg.AssetCheckResult:
    """Return what a gate says as the result of an asset check."""
    figures = {"value": result.value, "threshold": result.threshold, "interval, low": result.low, "interval, high": result.high}
    return dg.AssetCheckResult(
        passed=result.passed,
        asset_key=asset_key(model.key),
        check_name=name,
        description=result.reason,
        metadata={k: float(v) for k, v in figures.items() if v is not None and math.isfinite(v)},
    )
