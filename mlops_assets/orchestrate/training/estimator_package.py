"""Store a fitted estimator with everything that a service and a monitor need."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import polars as pl

from mlops_assets.compute.drift.prediction_drift import PREDICTION_PROFILE, select_predictions
from mlops_assets.compute.drift.reference_profile import ProfileOptions, build_reference_profile
from mlops_assets.compute.estimation.estimator import ESTIMATOR_PROBLEM, PERFORMANCE_ESTIMATOR, PerformanceEstimator, fit_estimator
from mlops_assets.compute.features.request import describe_request_fields, example_row, serving_steps
from mlops_assets.compute.training.classes import class_names, positive_class
from mlops_assets.compute.training.environment import installed_distributions
from mlops_assets.compute.training.responses import CachedPredictor
from mlops_assets.errors import DataError
from mlops_assets.orchestrate.core.partitions import partition_length
from mlops_assets.orchestrate.core.project import Project, row_key
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
    options, warn = list_profile_options(step.project, training_set), step.context.log.warning
    reference = [fitted_on] if REFIT in facts else list(splits.values())
    predictions = None if REFIT in facts else profile_predictions(options, model, predictor, splits["holdout"], warn)
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
            "profile": artifacts.put(build_reference_profile(options, training_set.event_timestamp, reference, warn)),
            **({} if REFIT in facts else _store_performance_estimator(step, model, predictor, splits["holdout"])),
            **({} if predictions is None else {PREDICTION_PROFILE: artifacts.put(predictions)}),
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


def positive_fact(model: Model[..., Any]) -> dict[str, Any]:
    """Return the declared positive class as an entry of a record or manifest; an empty dict if none is declared."""
    return {} if model.positive is None else {POSITIVE: model.positive}


def list_profile_options(project: Project, training_set: TrainingSet[..., Any]) -> ProfileOptions:
    """Return how profiles are calibrated: on windows as long as the data's partitions, then on those of each drift monitor."""
    monitors = [m for m in project.select(Monitor) if m.drift and m.model.training_set.key == training_set.key]
    partitions = next((ref.partitions for ref in list_source_tables(project, training_set) if ref.partitions is not None), None)
    length = partition_length(partitions)
    others = {partition_length(m.partitions) for m in monitors} - {length}
    timezone = getattr(partitions, "timezone", None) or "UTC"
    return ProfileOptions((length, *sorted(others)), timezone, tuple(_list_classifiers(monitors).items()))


def _list_classifiers(monitors: Sequence[Monitor]) -> dict[tuple[str, ...], int]:
    """Return columns → maximum rows of each domain classifier that monitors declare; no columns for all of ``X``."""
    declared = [(m.drift.columns or (), m.drift.classifier.max_rows) for m in monitors if m.drift and m.drift.classifier]
    return {columns: max(rows for other, rows in declared if other == columns) for columns, _ in declared}


def profile_predictions(
    options: ProfileOptions, model: Model[..., Any], predictor: CachedPredictor, holdout: Split, warn: Callable[[str], object]
) -> bytes | None:
    """Return the profile of a version's predictions for the holdout as JSON; None when a monitor cannot compare them.

    Parameters
    ----------
    options
        From :func:`list_profile_options`.
    model
        The model's declaration.
    predictor, holdout
        The cached predictions for the holdout, and the holdout.
    warn
        Called with an unexpected error: the profile serves monitors only, so it must not fail the training.
    """
    try:
        shares = predictor.predict_all("predict_proba") if hasattr(predictor, "predict_proba") else None
        classes = list_classes(predictor.estimator)
        logged = frame_predictions(predictor.predict_all("predict"), shares, classes, model.positive)
        if logged is None:
            return None
        compared = select_predictions(logged, classes, model.positive)
        return build_reference_profile(options, model.training_set.event_timestamp, [holdout], warn, compared)
    except Exception as error:  # noqa: BLE001  (predictions may be anything)
        warn(f"no profile of predictions is stored with '{model.key}': {type(error).__name__}: {error}")
        return None


def list_classes(estimator: Any) -> list[Any]:  # noqa: ANN401  (any estimator)
    """Return the classes of an estimator in its order, as Python values; empty for a regressor."""
    return list(np.asarray(getattr(estimator, "classes_", [])).tolist())


def frame_predictions(
    predicted: np.ndarray,
    shares: np.ndarray | None,
    classes: Sequence[Any],
    positive: Any,  # noqa: ANN401  (any label)
) -> pl.DataFrame | None:
    """Return predictions in the columns that a log has; None when each row has several numbers, which monitors cannot compare.

    Parameters
    ----------
    predicted
        Predicted numbers or classes, shape (rows,).
    shares
        Probabilities, shape (rows, classes); None without any.
    classes, positive
        From :func:`list_classes`, and the declared positive class.
    """
    predictions = pl.Series(predicted)
    if isinstance(predictions.dtype, pl.Array):
        return None
    names = [] if shares is None else class_names(classes)
    structs = make_probability_structs(names, shares) if names and shares is not None else None
    chosen = positive_class(classes, positive)
    kind = PredictionKind(str(predictions.dtype), tuple(names), "" if chosen is None else str(chosen))
    return kind.to_frame(predictions, structs)


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
