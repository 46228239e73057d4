"""The scikit-learn estimator as a kind of candidate."""

import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mlops_assets.compute.training.evaluate import evaluate
from mlops_assets.compute.training.fitted_rows import FITTED, FittedRows
from mlops_assets.compute.training.importance import PermutationImportance, permutation_importance
from mlops_assets.compute.training.responses import CachedPredictor
from mlops_assets.compute.training.seeds import seed_globals
from mlops_assets.compute.training.split import merge_parts
from mlops_assets.errors import DataError
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.training.candidate_kind import Retraining, StoredFit, TrainedModel, TrainingInputs
from mlops_assets.orchestrate.training.card_measurements import CardMeasurements, find_leaks, list_sources, measure_sections
from mlops_assets.orchestrate.training.estimator_package import store_fit
from mlops_assets.orchestrate.training.evaluation import build_intervals, compare_with_champion, evaluate_holdout
from mlops_assets.orchestrate.training.recorded_function import call_recorded
from mlops_assets.orchestrate.training.run_facts import collect_training_facts, result_facts
from mlops_assets.orchestrate.training.search import run_search
from mlops_assets.orchestrate.training.training_log import autolog, record_fit, record_training_run, warn_of_unrecorded
from mlops_assets.serving.formats.argmax import predict_labels
from mlops_assets.serving.formats.estimator_bytes import SKOPS
from mlops_assets.serving.formats.packaging import POSITIVE, compute_responses, read_manifest, unpack
from mlops_assets.serving.formats.serialisation import load_as_served, refuse_unavailable_format
from mlops_assets.serving.formats.trusted_types import refuse_lambdas, refuse_unknown_types
from mlops_assets.stores.platform.run_log import start_run
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.stores.registry.records import Version
from mlops_assets.values.evaluation import Candidate, Evaluation, Intervals, Split
from mlops_assets.values.features import select_on_demand
from mlops_assets.values.function import Injection
from mlops_assets.values.model import ESTIMATOR, Model
from mlops_assets.values.platform import Platform
from mlops_assets.values.training import TrainingSet


class EstimatorKind:
    """The kind whose function returns a fitted estimator with ``predict``; it is stored as skops, native file, ONNX or pickle."""

    name = ESTIMATOR

    def train(self, step: StepContext, model: Model[..., Any], inputs: TrainingInputs) -> TrainedModel:
        """Call the model's function, after a search if the model declares one, and store and record the estimator."""
        refuse_unavailable_format(model.format)
        refuse_unknown_types(model.trusted_types, f"'{model.key}'")
        refuse_lambdas(model.function.function, f"'{model.key}'")
        splits, fingerprint = inputs.splits, inputs.fingerprint
        with record_training_run(step, model, inputs.deciding_facts, fingerprint) as active:
            chosen = run_search(step, model, splits, active, fingerprint)
            arguments = {p.name: splits[p.name] for p in model.function.parameters_for(Injection.SPLIT)}
            with seed_globals(fingerprint) as draws:
                estimator = chosen.call(model.function, **arguments)
            unrecorded = warn_of_unrecorded(chosen, model)
            refuse_without_predict(model, estimator)
            autolog(chosen, active, estimator)
            fitted_rows = _describe_fitted_rows(model.training_set, splits, tuple(arguments))
            fit = self.package(chosen, model, estimator, splits["train"], splits, fingerprint, {FITTED: fitted_rows.as_json()})
            # Evaluate the stored form: the champion that it is compared with is stored too.
            predictor = fit.predictor or CachedPredictor(fit.fitted, splits["holdout"].X)
            evaluation = evaluate_holdout(model, predictor, splits, model.positive)
            intervals = build_intervals(model.training_set, predictor, None, splits["holdout"], fit.digest, model.positive)
            deciding_facts = {**inputs.deciding_facts, "params": chosen.config}
            facts = collect_training_facts(chosen, model, inputs.rows, splits, estimator, draws, deciding_facts, fingerprint)
            importance = _measure_importance(chosen, model, fit, splits["holdout"])
            measured = (
                None if importance is None else _measure_for_card(chosen, model, inputs, predictor, evaluation, intervals, importance)
            )
            run = record_fit(active, chosen, inputs, fit, dict(evaluation.metrics), facts, importance, measured, dict(evaluation.baseline))
        return TrainedModel(
            run,
            fit.fitted,
            splits,
            reused=False,
            unrecorded=unrecorded,
            holdout_predictor=predictor,
            evaluation=evaluation,
            intervals=intervals,
        )

    def package(  # noqa: PLR0913  (everything a manifest holds)
        self,
        step: StepContext,
        model: Model[..., Any],
        fitted: Any,  # noqa: ANN401  (any estimator)
        fitted_on: Split,
        splits: Mapping[str, Split],
        identity: str,
        facts: Mapping[str, Any],
    ) -> StoredFit:
        """Store an estimator in the format that the model declares."""
        return store_fit(step, model, fitted, fitted_on, splits, identity, facts)

    def open(self, stores: Stores, model: Model[..., Any], artifact: str) -> Any:  # noqa: ANN401  (any estimator)
        """Return the stored estimator, verified; raise ArtifactError if it is damaged or predicts differently from when it was stored."""
        return unpack(stores.artifacts, artifact, model.trusted_types).estimator

    def compare(self, stores: Stores, model: Model[..., Any], trained: TrainedModel, champion: Version | None) -> Candidate:
        """Evaluate the estimator and the champion on the same holdout, with slices and paired intervals."""
        return compare_with_champion(stores, model, trained, champion)

    def reproduce(self, stores: Stores, retraining: Retraining) -> tuple[dict[str, Any], dict[str, Any]]:
        """Repeat the fit, and the refit on all rows if there was one; return the stored results, then the new results.

        Both hold ``predictions`` and a classifier's ``labels`` for the probe rows, and those of a refit under ``refit``. The new
        results also hold the holdout's ``metrics``, and seeds, packages, threads and hardware.
        """
        manifest, reads = read_manifest(stores.artifacts, retraining.artifact), retraining.facts["reads"]
        refit_manifest = None if retraining.refit_artifact is None else read_manifest(stores.artifacts, retraining.refit_artifact)
        estimator = _repeat_fit(retraining, retraining.splits)
        all_rows = {"train": merge_parts(retraining.refit_rows, reads["X"], reads["label"])}
        refit = None if refit_manifest is None else _repeat_fit(retraining, all_rows)
        served = load_as_served(estimator, manifest.get("form", SKOPS), retraining.splits["train"].X)
        stored = _read_stored_predictions(manifest)
        current = {**result_facts(estimator, retraining.source), **_predict_probe(estimator, stores, manifest)}
        if refit_manifest is not None:
            stored["refit"], current["refit"] = _read_stored_predictions(refit_manifest), _predict_probe(refit, stores, refit_manifest)
        evaluation = evaluate(served, retraining.splits["holdout"], reads["metrics"], positive=manifest.get(POSITIVE))
        return stored, current | {"metrics": dict(evaluation.metrics)}


def _measure_importance(step: StepContext, model: Model[..., Any], fit: StoredFit, holdout: Split) -> PermutationImportance | None:
    """Return the permutation importance of the columns of ``X`` for the first metric; None without columns or after an error.

    An error is logged as a warning: the importance is only displayed, so it must not fail the training.
    """
    if not holdout.X.width:
        return None
    try:
        return permutation_importance(fit.fitted, holdout.X, holdout.y, model.metrics[0], fit.digest, positive=model.positive)
    except Exception as error:  # noqa: BLE001  (an estimator may raise anything for shuffled rows)
        step.context.log.warning(f"the importance of the columns of '{model.key}' is not recorded: {type(error).__name__}: {error}")
        return None


def _measure_for_card(  # noqa: PLR0913  (what is measured, and on what)
    step: StepContext,
    model: Model[..., Any],
    inputs: TrainingInputs,
    predictor: CachedPredictor,
    evaluation: Evaluation,
    intervals: Intervals,
    importance: PermutationImportance,
) -> str | None:
    """Store the measurements for the model card, and return the sha256 of their artifact; None after an error.

    An error is logged as a warning and does not fail the training: the card is then measured when it is built.
    """
    declared, X = model.training_set, inputs.splits["train"].X.columns
    reads = {"table": declared.key, "label": declared.label, "event_timestamp": declared.event_timestamp}
    try:
        measured = CardMeasurements(
            *measure_sections(reads, predictor, inputs.splits, evaluation, intervals, model.positive),
            importance,
            list_sources(declared, [features.function for features in select_on_demand(declared.features)], inputs.rows),
            find_leaks(step.project, step.stores.lake, declared, inputs.rows, X, step.snapshot),
        )
    except Exception as error:  # noqa: BLE001  (labels and predictions may be anything)
        step.context.log.warning(f"'{model.key}' is not measured for its card: {type(error).__name__}: {error}")
        return None
    return step.stores.artifacts.put(measured.to_bytes())


def refuse_without_predict(model: Model[..., Any], estimator: Any) -> None:  # noqa: ANN401  (any object)
    """Raise DataError if a model's function returned an object without ``predict``."""
    if not hasattr(estimator, "predict"):
        raise DataError(
            f"'{model.key}' returned {type(estimator).__name__}, which cannot predict",
            hint="return the fitted estimator: `return pipeline.fit(train.X, train.y)`",
        )


def _describe_fitted_rows(training_set: TrainingSet[..., Any], splits: Mapping[str, Split], received: tuple[str, ...]) -> FittedRows:
    """Describe the rows that the model's function received; a function without split parameters counts as fitted on ``train``."""
    parts = received or ("train",)
    return FittedRows.from_rows(pl.concat([splits[part].rows for part in parts]), parts, training_set)


def _repeat_fit(retraining: Retraining, splits: Mapping[str, Split]) -> Any:  # noqa: ANN401  (any estimator)
    """Return the result of the recorded function, with the seeds of the first training; its logs go to a temporary tracker."""
    with (
        tempfile.TemporaryDirectory() as folder,
        start_run("reproduction", platform=Platform.at(Path(folder))),
        seed_globals(retraining.facts["fingerprint"]),
    ):
        return call_recorded(retraining.function, splits, retraining.params)


def _read_stored_predictions(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stored ``predictions`` of the probe rows; for a classifier also their predicted classes, as ``labels``."""
    labels = {"labels": manifest["probe_labels"]} if manifest["classes"] and "probe_labels" in manifest else {}
    return {"predictions": manifest["probe_predictions"], **labels}


def _predict_probe(estimator: Any, stores: Stores, manifest: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ANN401  (any estimator)
    """Return the ``predictions`` and ``labels`` of an estimator for the stored probe rows."""
    rows = pl.read_ipc(io.BytesIO(stores.artifacts.get(manifest["probe"])))
    return {"predictions": np.asarray(compute_responses(estimator, rows)).tolist(), "labels": predict_labels(estimator, rows).tolist()}
