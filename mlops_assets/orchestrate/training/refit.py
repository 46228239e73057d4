"""Refit a model on every row after its gates have passed: gates judge the first fit, services use the refit."""

import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from mlops_assets.compute.tables.own_columns import SPLIT
from mlops_assets.compute.training.fitted_rows import FITTED, FittedRows
from mlops_assets.compute.training.responses import CachedPredictor, find_unusable_predictions
from mlops_assets.compute.training.seeds import seed_globals
from mlops_assets.compute.training.split import GAP, SPLIT_NAMES, choose_refit_rows, merge_parts
from mlops_assets.errors import ArtifactError, DataError
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.training.candidate_kind import TrainedModel
from mlops_assets.orchestrate.training.estimator_kind import refuse_without_predict
from mlops_assets.orchestrate.training.kinds import find_kind
from mlops_assets.orchestrate.training.run_facts import result_facts
from mlops_assets.orchestrate.training.training_log import autolog
from mlops_assets.orchestrate.training.training_run import read_training_rows
from mlops_assets.orchestrate.training.training_set import list_x_columns
from mlops_assets.serving.formats.judged_fit import REFIT, JudgedFit
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.stores.tracker.active_run import record_run
from mlops_assets.stores.tracker.tracker import Run
from mlops_assets.values.evaluation import Split
from mlops_assets.values.model import Model

RUN_KIND = "refit"  # kind of the run of a refit, a child of the run of the first fit


@dataclass(frozen=True)
class Submission:
    """The fit that is submitted to the registry: the refit if there is one, else the judged fit.

    Parameters
    ----------
    artifact, digest
        The artifact and the digest of the fit that will serve.
    run
        The run of the refit; None without a refit.
    """

    artifact: str
    digest: str
    run: Run | None = None


def refit_after_gates(step: StepContext, model: Model[..., Any], trained: TrainedModel) -> Submission:
    """Refit a model on all rows of its training set; a refit that is already stored and intact is returned instead.

    Parameters
    ----------
    step, model
        The step of the model, and the model's declaration.
    trained
        The first fit, which has passed every gate.

    Raises
    ------
    DataError
        The refitted model cannot predict, or its predictions are all the same or not finite.
    """
    earlier = find_refit(step.stores, trained.run.id)
    if earlier is not None and _can_open(step, model, earlier):
        return _to_submission(earlier)
    return _to_submission(_refit(step, model, trained))


def find_refit(stores: Stores, training: str, artifact: str = "") -> Run | None:
    """Return the finished run of the refit of a training; None if there is none.

    Parameters
    ----------
    stores
        The stores of the platform.
    training
        The id of the run of the first fit.
    artifact
        The sha256 of the manifest of the refit; when empty, the newest refit is returned.
    """
    runs = stores.tracker.search(f"kind = '{RUN_KIND}' and parent = '{training}' and status = 'finished'", limit=100)
    return next((run for run in runs if not artifact or run.record["artifact"] == artifact), None)


def _to_submission(run: Run) -> Submission:
    return Submission(str(run.record["artifact"]), str(run.record["digest"]), run)


def _can_open(step: StepContext, model: Model[..., Any], run: Run) -> bool:
    """Return True if the stored refit of a run can be opened; otherwise log a warning."""
    try:
        find_kind(model.kind).open(step.stores, model, str(run.record["artifact"]))
    except ArtifactError as error:
        step.context.log.warning(f"the stored refit cannot be used, so the model is refitted: {error.message}")
        return False
    return True


def _refit(step: StepContext, model: Model[..., Any], trained: TrainedModel) -> Run:
    """Refit a model on all rows with the hyperparameters of the first fit; store and record the refit, and return its run."""
    training_set, fingerprint = model.training_set, trained.run.fingerprint
    refitted = step.with_params(trained.run.record["facts"]["params"])
    reads = trained.run.record["facts"]["reads"]
    rows = choose_refit_rows(read_training_rows(step, training_set), training_set.event_timestamp, reads)
    all_rows = merge_parts(rows, list_x_columns(training_set, rows), training_set.label)
    with record_run(_build_run(step, trained), step.stores.tracker, step.stores.artifacts) as active:
        with seed_globals(fingerprint) as draws:
            estimator = refitted.call(model.function, train=all_rows)
        refuse_without_predict(model, estimator)
        autolog(step, active, estimator)
        parts = [part for part in (*SPLIT_NAMES, GAP) if part in rows[SPLIT]]
        fitted = FittedRows.from_rows(all_rows.rows, parts, training_set)
        facts = {"fingerprint": fingerprint, FITTED: fitted.as_json(), REFIT: JudgedFit(trained.artifact, trained.digest).as_json()}
        fit = find_kind(model.kind).package(refitted, model, estimator, all_rows, trained.splits, trained.digest, facts)
        _refuse_unusable(model, fit.fitted, trained.splits["holdout"])
        record = {
            "digest": fit.digest,
            "artifact": fit.artifact,
            "judged": trained.digest,
            FITTED: fitted.as_json(),
            "outside": refitted.outside_reads.hashes(),
            "facts": {**result_facts(estimator, {"modules": {}}), "drawn": list(draws.drawn)},
        }
        run = active.close(metrics={}, record=record)
    step.context.log.info(f"'{model.key}' passed its gates and was refitted on {fitted.rows} rows; this refit will serve")
    return run


def _build_run(step: StepContext, trained: TrainedModel) -> Run:
    """Return the initial record of a refit: a child of the run of the first fit."""
    training = trained.run
    return replace(
        training,
        id=uuid.uuid4().hex,
        dagster_run_id=step.context.run.run_id,
        started_at=datetime.now(UTC),
        ended_at=None,
        snapshot=step.snapshot,
        params=dict(training.record["facts"]["params"]),
        metrics={},
        record={},
        environment=step.stores.platform.environment,
        kind=RUN_KIND,
        name=f"refit of {training.id[:8]}",
        parent_id=training.id,
        tags={},
    )


def _refuse_unusable(model: Model[..., Any], estimator: Any, holdout: Split) -> None:  # noqa: ANN401  (any estimator)
    if problem := find_unusable_predictions(CachedPredictor(estimator, holdout.X).scores, len(holdout.y)):
        raise DataError(
            f"the refit of '{model.key}' {problem} of the holdout of '{model.training_set.key}'",
            hint="its function received all rows as `train`; nothing was submitted, the champion keeps serving",
        )
