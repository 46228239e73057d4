"""Store a fitted estimator with everything that a service and a monitor need."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import polars as pl

from mlops_assets.compute.drift.prediction_drift import PREDICTION_PROFILE, select_predictions
from mlops_assets.compute.drift.profile import BY_WINDOW, FEATURE, PREDICTION, WINDOW_LENGTH, build_profile
from mlops_assets.compute.estimation.estimator import ESTIMATOR_PROBLEM, PERFORMANCE_ESTIMATOR, PerformanceEstimator, fit_estimator
from mlops_assets.compute.features.request import describe_request_fields, example_row, serving_steps
from mlops_assets.compute.training.classes import class_names, positive_class
from mlops_assets.compute.training.environment import installed_distributions
from mlops_assets.compute.training.responses import CachedPredictor
from mlops_assets.errors import DataError
from mlops_assets.orchestrate.core.partitions import partition_length
from mlops_assets.orchestrate.core.project import row_key
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.training.candidate_kind import StoredFit
from mlops_assets.orchestrate.training.training_record import list_source_tables
from mlops_assets.serving.formats.estimator_bytes import SKOPS
from mlops_assets.serving.formats.judged_fit import REFIT
from mlops_assets.serving.formats.packaging import POSITIVE, OnDemandSource, pack, read_manifest, unpack
from mlops_assets.serving.formats.prediction_columns import PredictionKind, make_probability_structs
from mlops_assets.values.evaluation import Split
from mlops_assets.values.features import select_on_demand
from mlops_assets.values.model import KIND, Model
from mlops_assets.values.monitoring import Monitor
from mlops_assets.values.training import TrainingSet

_MAX_REASON = 300  # characters of an unexpected error
_UNEXPECTED = "no performance estimator could be fitted on the holdout"


def store_fit(  # noqa: PLR0913  (everything a manifest holds)
    step: StepContext,
    model: Model[..., Any],
    estimator: Any,  # noqa: ANN401  (any estimator)
    fitted_on: Split,
    splits: Mapping[str, Split],
    identity: str,
    facts: Mapping[str, Any],
) -> StoredFit:
    """Store an estimator with everything that a service and a monitor need; return it in the form that will serve.

    Parameters
    ----------
    step, model
        The step of the training, and the model's declaration.
    estimator
        The fitted estimator that the model's function returned.
    fitted_on
        The rows that it was fitted on. The probe rows, whose predictions are stored for comparison, are a sample of them.
    splits
        The parts of the training set.
    identity
        Identifies the inputs of the fit. Fits with the same identity share a digest if and only if they predict the same for the probe.
    facts
        Additional entries of the manifest.
    """
    training_set, artifacts = model.training_set, step.stores.artifacts
    predictor = CachedPredictor(estimator, splits["holdout"].X)
    fields = describe_request_fields(training_set, fitted_on.rows, row_key(step.project, model))
    artifact = pack(
        artifacts,
        estimator,
        X=fitted_on.X,
        holdout=predictor,
        modules=[OnDemandSource(f.module_source, f.name) for f in select_on_demand(training_set.features)],
        trusted_types=model.trusted_types,
        requested_format=model.format,
        facts={
            KIND: model.kind,
            "model": model.name,
            "fingerprint": identity,
            "label": training_set.label,
            **positive_fact(model),
            "libraries": dict(training_libraries()),
            "event_timestamp": training_set.event_timestamp,
            "request": fields,
            "example": example_row(fields, fitted_on.rows),
            "steps": serving_steps(training_set),
            "profile": artifacts.put(_build_reference_profile(step, training_set, list(splits.values()))),
            **({} if REFIT in facts else _store_performance_estimator(step, model, predictor, splits["holdout"])),
            **({} if REFIT in facts else _store_prediction_profile(step, model, predictor, splits["holdout"])),
            **facts,
        },
    )
    manifest = read_manifest(artifacts, artifact)
    digest = hashlib.sha256(f"{identity}:{manifest['probe_predictions']}:{manifest['probe_labels']}".encode()).hexdigest()
    if model.format == SKOPS:
        return StoredFit(estimator, artifact, digest, predictor)
    served = unpack(artifacts, artifact, model.trusted_types).estimator
    return StoredFit(served, artifact, digest, CachedPredictor(served, splits["holdout"].X))


def _store_performance_estimator(step: StepContext, model: Model[..., Any], predictor: CachedPredictor, holdout: Split) -> dict[str, str]:
    """Fit a performance estimator on the holdout and store it; return the manifest's entry: its artifact, or why there is none.

    An unexpected error is logged as a warning: the estimate serves monitors only, so it must not fail the training.
    """
    fitted, problem = fit_version_estimator(model, predictor, holdout)
    if fitted is not None:
        return {PERFORMANCE_ESTIMATOR: step.stores.artifacts.put(json.dumps(fitted.as_json()).encode())}
    if problem.startswith(_UNEXPECTED):
        step.context.log.warning(f"no performance estimator is stored with '{model.key}': {problem}")
    return {ESTIMATOR_PROBLEM: problem}


def fit_version_estimator(model: Model[..., Any], predictor: CachedPredictor, holdout: Split) -> tuple[PerformanceEstimator | None, str]:
    """Return the performance estimator of a version, and an empty text; or None, and why there is none.

    Parameters
    ----------
    model
        The model's declaration.
    predictor
        The cached predictions of the judged fit for the holdout.
    holdout
        The holdout.
    """
    declared = model.training_set
    times = holdout.rows[declared.event_timestamp] if declared.event_timestamp else None
    try:
        fitted = fit_estimator(predictor, holdout, model.positive, times, declared.block_length)
        json.dumps(fitted.as_json(), allow_nan=False)  # infinite labels give numbers that cannot be stored
    except DataError as error:
        return None, error.message
    except Exception as error:  # noqa: BLE001  (labels and predictions may be anything)
        reason = f"{type(error).__name__}: {error}"
        return None, f"{_UNEXPECTED}: {reason[:_MAX_REASON]}"
    return fitted, ""


def _store_prediction_profile(step: StepContext, model: Model[..., Any], predictor: CachedPredictor, holdout: Split) -> dict[str, str]:
    """Store the profile of the predictions for the holdout and return the manifest's entry; empty when a monitor cannot compare them.

    An unexpected error is logged as a warning, as in :func:`_store_performance_estimator`.
    """
    try:
        predictions = pl.Series(predictor.predict_all("predict"))
        if isinstance(predictions.dtype, pl.Array):  # several numbers for a row
            return {}
        classes = np.asarray(getattr(predictor.estimator, "classes_", [])).tolist()
        names = class_names(classes) if hasattr(predictor, "predict_proba") else []
        shares = make_probability_structs(names, predictor.predict_all("predict_proba")) if names else None
        positive = positive_class(classes, model.positive)
        kind = PredictionKind(str(predictions.dtype), tuple(names), "" if positive is None else str(positive))
        logged = select_predictions(kind.to_frame(predictions, shares), classes, model.positive)
        return {PREDICTION_PROFILE: step.stores.artifacts.put(_build_reference_profile(step, model.training_set, [holdout], logged))}
    except Exception as error:  # noqa: BLE001  (predictions may be anything)
        step.context.log.warning(f"no profile of predictions is stored with '{model.key}': {type(error).__name__}: {error}")
        return {}


def positive_fact(model: Model[..., Any]) -> dict[str, Any]:
    """Return the declared positive class as an entry of a record or manifest; an empty dict if none is declared."""
    return {} if model.positive is None else {POSITIVE: model.positive}


def _build_reference_profile(
    step: StepContext, training_set: TrainingSet[..., Any], splits: Sequence[Split], predictions: pl.DataFrame | None = None
) -> bytes:
    """Return the profile of the rows of some splits, or of their predictions, as JSON; monitors compare their windows with it.

    It is calibrated on windows as long as the data's partitions (one day without partitions), and again for each other window length of a
    drift monitor. Without event times, it is calibrated on random groups of rows, so thresholds allow for chance alone. Fewer than 100
    rows are not calibrated.
    """
    rows, role = (pl.concat([split.X for split in splits]), FEATURE) if predictions is None else (predictions, PREDICTION)
    monitors = [m for m in step.project.select(Monitor) if m.drift and m.model.training_set.key == training_set.key]
    build = partial(_build_profile, step, _list_classifiers(monitors) if predictions is None else {}, rows, role=role)
    if training_set.event_timestamp is None:
        return json.dumps(build(), sort_keys=True).encode()
    partitions = next((ref.partitions for ref in list_source_tables(step.project, training_set) if ref.partitions is not None), None)
    times = pl.concat([split.rows[training_set.event_timestamp] for split in splits])
    local = times.dt.convert_time_zone(getattr(partitions, "timezone", None) or "UTC")
    profile = build(local, window=partition_length(partitions))
    other_lengths = {partition_length(m.partitions) for m in monitors} - {partition_length(partitions)}
    if other_lengths:
        profile[BY_WINDOW] = {
            str(int(length.total_seconds())): build(local, window=length) | {WINDOW_LENGTH: length.total_seconds()}
            for length in sorted(other_lengths)
        }
    return json.dumps(profile, sort_keys=True).encode()


def _build_profile(
    step: StepContext,
    classifiers: Mapping[tuple[str, ...], int],
    rows: pl.DataFrame,
    times: pl.Series | None = None,
    **options: Any,  # noqa: ANN401  (those of build_profile)
) -> dict[str, Any]:
    """Return a profile; one without classifiers if they cannot be built: they serve monitors only, so they must not fail the training."""
    if classifiers:
        try:
            return build_profile(rows, times, classifiers=classifiers, **options)
        except Exception as error:  # noqa: BLE001  (columns may hold anything)
            reason = f"{type(error).__name__}: {error}"
            step.context.log.warning(f"no domain classifier is stored with the reference of drift: {reason[:_MAX_REASON]}")
    return build_profile(rows, times, **options)


def _list_classifiers(monitors: Sequence[Monitor]) -> dict[tuple[str, ...], int]:
    """Return columns → maximum rows of each domain classifier that monitors declare; no columns for all of ``X``."""
    declared = [(m.drift.columns or (), m.drift.classifier.max_rows) for m in monitors if m.drift and m.drift.classifier]
    return {columns: max(rows for other, rows in declared if other == columns) for columns, _ in declared}


@cache
def training_libraries() -> tuple[tuple[str, str], ...]:
    """Return (library, version) pairs for the installed libraries that decide the result of a training."""
    versions = installed_distributions() | {"mlops_assets": installed_distributions().get("mlops-assets", "")}
    names = (
        "numpy",
        "polars",
        "pandas",
        "scikit-learn",
        "scipy",
        "skops",
        "lightgbm",
        "xgboost",
        "xgboost-cpu",
        "catboost",
        "mlops_assets",
    )
    return tuple((name, versions[name]) for name in names if versions.get(name))
