"""The step of a model: train a candidate, judge it, submit it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from mlops_assets.compute.training.classes import positive_class
from mlops_assets.compute.training.evaluate import tabulate_metrics
from mlops_assets.compute.training.fitted_rows import FITTED
from mlops_assets.compute.training.importance import IMPORTANCE, PermutationImportance
from mlops_assets.compute.training.plots import plot_model
from mlops_assets.compute.training.split import TRAIN_FROM
from mlops_assets.orchestrate.core.metadata import draw_safely, to_images, to_markdown, to_table
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.tables.unrecorded import build_unrecorded_metadata
from mlops_assets.orchestrate.training.candidate_kind import TrainedModel
from mlops_assets.orchestrate.training.evaluation import find_champion
from mlops_assets.orchestrate.training.gates import bind_evidence, judge_candidate, to_gate_check_result
from mlops_assets.orchestrate.training.kinds import find_kind
from mlops_assets.orchestrate.training.mlflow_mirror import mirror_to_mlflow
from mlops_assets.orchestrate.training.refit import Submission, refit_after_gates
from mlops_assets.orchestrate.training.search import describe_search
from mlops_assets.orchestrate.training.train_windows import choose_window, find_serving_window, list_train_windows, needs_refit
from mlops_assets.orchestrate.training.training_log import logged_metadata
from mlops_assets.orchestrate.training.training_record import build_training_record
from mlops_assets.orchestrate.training.training_run import train_model, training_lock
from mlops_assets.orchestrate.training.unchanged import JUDGED_FROM, find_last_result, hash_step_inputs
from mlops_assets.serving.formats.packaging import describe_format, read_manifest
from mlops_assets.stores.base.lock import hold_lock
from mlops_assets.stores.registry.decisions import PASSED, REJECTED, STARTED
from mlops_assets.stores.registry.records import CandidateRecord, Version
from mlops_assets.values.evaluation import Candidate, GateResult
from mlops_assets.values.gates.gate import GateLike
from mlops_assets.values.model import ESTIMATOR, Model

_MAX_SLICES = 200  # slices in the UI; gates judge all slices


def list_model_checks(model: Model[..., Any], gates: Sequence[GateLike]) -> list[dg.AssetCheckSpec]:
    """Return the declarations of a model's gates as asset checks."""
    return [dg.AssetCheckSpec(gate.name, asset=asset_key(model.key), blocking=True, description=gate.text or None) for gate in gates]


def model_body(model: Model[..., Any], gates: Sequence[GateLike]) -> Callable[[StepContext], Iterator[object]]:
    """Return the body of a model's step: train, judge and submit, or repeat the last result if nothing that decides it has changed."""

    def body(step: StepContext) -> Iterator[object]:
        record = build_training_record(step, model, STARTED)
        step.stores.decisions.record_training(record)
        champion = find_champion(step.stores, model.name)
        if (last := find_last_result(step, model, gates, champion)) is not None:
            step.context.log.info("nothing that decides the result has changed: the last result stands, nothing is trained or judged again")
            if last.is_promoted:
                step.stores.registry.submit(last.candidate, last.evidence)
            step.stores.decisions.record_training(replace(record, outcome=PASSED if last.passed else REJECTED))
            mirror_to_mlflow(step)  # an earlier mirror may have failed
            yield last.repeat(model, gates)
            return
        trained, candidate = _train_candidate(step, model, champion)
        results = judge_candidate(step, gates, candidate, champion, model.training_set.event_timestamp)
        submission = _choose_submission(step, model, trained, results)
        evidence = bind_evidence(results, gates, submission.digest, champion)
        step.stores.registry.submit(_candidate_record(model, trained, submission), evidence)
        step.stores.decisions.record_training(replace(record, outcome=PASSED if all(r.passed for r in results.values()) else REJECTED))
        mirror_to_mlflow(step)
        yield dg.MaterializeResult(
            asset_key(model.key),
            check_results=[to_gate_check_result(model, name, result) for name, result in results.items()],
            metadata=_training_metadata(trained, candidate)
            | {"candidate": submission.digest, JUDGED_FROM: hash_step_inputs(step, model, gates, str(trained.run.fingerprint), champion)}
            | _estimator_metadata(step, model, trained, submission)
            | _refit_metadata(submission, refitted=needs_refit(step.project, model))
            | draw_safely("logged", lambda: logged_metadata(step, trained.run, model.metrics), step.context.log.warning)
            | draw_safely("search", lambda: describe_search(step, model, trained.run), step.context.log.warning),
            data_version=dg.DataVersion(submission.digest),
        )

    return body


def _train_candidate(step: StepContext, model: Model[..., Any], champion: Version | None) -> tuple[TrainedModel, Candidate]:
    """Train one candidate for each training window, and return the best one with its evaluation."""
    windows = list_train_windows(step.project, model)
    with hold_lock(training_lock(step, model)):  # two steps at once would train the same model twice
        fits = {window: train_model(step, model, window) for window in windows}
    chosen = windows[0]
    if len(windows) > 1:
        predictors = {window: fit.predictor for window, fit in fits.items()}
        chosen = choose_window(model, predictors, fits[chosen].splits["holdout"], find_serving_window(step.stores, champion))
    return fits[chosen], find_kind(model.kind).compare(step.stores, model, fits[chosen], champion)


def _choose_submission(step: StepContext, model: Model[..., Any], trained: TrainedModel, results: Mapping[str, GateResult]) -> Submission:
    """Return the fit to submit: a refit when one is declared and every gate passed, else the judged fit."""
    if not needs_refit(step.project, model) or not all(result.passed for result in results.values()):
        return Submission(trained.artifact, trained.digest)
    with hold_lock(training_lock(step, model)):
        return refit_after_gates(step, model, trained)


def _candidate_record(model: Model[..., Any], trained: TrainedModel, submission: Submission) -> CandidateRecord:
    return CandidateRecord(model.name, submission.digest, trained.run.id, submission.artifact, trained.snapshot, datetime.now(UTC))


def _refit_metadata(submission: Submission, *, refitted: bool) -> dict[str, Any]:
    if not refitted:
        return {}
    if submission.run is None:
        return {"refit": "no: a gate did not pass"}
    fitted = submission.run.record[FITTED]
    return {"refit": f"refitted on {fitted['rows']:,} rows after the gates", "refit run": submission.run.id}


def _estimator_metadata(step: StepContext, model: Model[..., Any], trained: TrainedModel, submission: Submission) -> dict[str, Any]:
    """Return an estimator's format, positive class (of two classes) and plots as metadata. For other kinds, return only their name."""
    if model.kind != ESTIMATOR:
        return {"kind of candidate": model.kind}
    positive = positive_class(getattr(trained.fitted, "classes_", ()), model.positive)
    stored = trained.run.record.get(IMPORTANCE)
    importance = PermutationImportance.from_json(stored) if stored else None
    holdout, metric = trained.splits["holdout"], model.metrics[0]
    plots = plot_model(trained.predictor, holdout, metric, trained.digest, positive=model.positive, importance=importance)
    return {
        "format": describe_format(read_manifest(step.stores.artifacts, submission.artifact)),
        **({} if positive is None else {"positive class": str(positive)}),
        **to_images(plots),
    }


def _training_metadata(trained: TrainedModel, candidate: Candidate) -> dict[str, Any]:
    evaluation = candidate.evaluation
    slices = [{"slice": f"{s.column} = {s.value}", "rows": s.rows, **dict(s.metrics)} for s in evaluation.slices[:_MAX_SLICES]]
    outside: dict[str, str] = dict(trained.run.record.get("outside", {}))
    headline = {name: value for name, value in evaluation.metrics if value == value}  # noqa: PLR0124  (NaN has no place in a chart)
    return {
        **headline,
        "metrics": to_table(tabulate_metrics(candidate)),
        **({"intervals": candidate.intervals.method} if candidate.intervals else {}),
        **({"slices": to_markdown(slices)} if slices else {}),
        **({"undefined": to_markdown([{"metric": m, "why": why} for m, why in evaluation.problems])} if evaluation.problems else {}),
        "candidate": trained.digest,
        "run": trained.run.id,
        "trained": "no: the same data, code, parameters and libraries as before" if trained.reused else "yes",
        "train rows": len(trained.splits["train"].y),
        **({"trained on rows from": first} if (first := trained.run.record.get("facts", {}).get("reads", {}).get(TRAIN_FROM)) else {}),
        "holdout rows": len(trained.splits["holdout"].y),
        "read besides the data": to_markdown([{"what": name, "sha256": digest} for name, digest in outside.items()])
        if outside
        else "nothing",
        "params": dict(trained.run.record.get("config", trained.run.params)),
        "lake snapshot": trained.snapshot,
        **build_unrecorded_metadata(trained.unrecorded),
    }
