"""Store a fitted estimator with everything that a service and a monitor need of it."""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import polars as pl

from mlops_assets.compute.features.request import example_row, request_fields, serving_steps
from mlops_assets.compute.monitoring.profile import BY_WINDOW, WINDOW_LENGTH, build_profile
from mlops_assets.compute.training.environment import installed_distributions
from mlops_assets.orchestrate.core.partitions import partition_length
from mlops_assets.orchestrate.core.project import row_key
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.training.candidate_kind import StoredFit
from mlops_assets.orchestrate.training.training_record import list_source_tables
from mlops_assets.serving.formats.estimator_bytes import SKOPS
from mlops_assets.serving.formats.packaging import POSITIVE, OnDemandSource, pack, read_manifest, unpack
from mlops_assets.values.evaluation import Split
from mlops_assets.values.features import on_demand
from mlops_assets.values.model import KIND, Model
from mlops_assets.values.monitoring import Monitor
from mlops_assets.values.training import TrainingSet


def store_fit(  # noqa: PLR0913  (everything a manifest holds)
    step: StepContext,
    model: Model[..., Any],
    estimator: Any,  # noqa: ANN401  (any estimator)
    fitted_on: Split,
    splits: Mapping[str, Split],
    identity: str,
    facts: Mapping[str, Any],
) -> StoredFit:
    """Store an estimator with everything that a service and a monitor need of it.

    Parameters
    ----------
    step, model
        Of the training.
    estimator
        As the model's function returned it.
    fitted_on
        The rows that it was fitted on; the probe is taken from them.
    splits
        The parts of the training set.
    identity
        The inputs of the fit: two fits of one identity are the same exactly when they predict the same.
    facts
        More for the manifest.
    """
    declared, artifacts = model.training_set, step.stores.artifacts
    fields = request_fields(declared, fitted_on.rows, row_key(step.project, model))
    artifact = pack(
        artifacts,
        estimator,
        X=fitted_on.X,
        holdout=splits["holdout"].X,
        modules=[OnDemandSource(f.module_source, f.name) for f in on_demand(declared.features)],
        trusted_types=model.trusted_types,
        form=model.format,
        facts={
            KIND: model.kind,
            "model": model.name,
            "fingerprint": identity,
            "label": declared.label,
            **positive_fact(model),
            "libraries": dict(training_libraries()),
            "event_timestamp": declared.event_timestamp,
            "request": fields,
            "example": example_row(fields, fitted_on.rows),
            "steps": serving_steps(declared),
            "profile": artifacts.put(_reference_profile(step, splits, declared)),
            **facts,
        },
    )
    stored = read_manifest(artifacts, artifact)
    digest = hashlib.sha256(f"{identity}:{stored['probe_predictions']}:{stored['probe_labels']}".encode()).hexdigest()
    served = estimator if model.format == SKOPS else unpack(artifacts, artifact, model.trusted_types).estimator
    return StoredFit(served, artifact, digest)


def positive_fact(model: Model[..., Any]) -> dict[str, Any]:
    """Return the declared positive class as a record holds it; nothing without one."""
    return {} if model.positive is None else {POSITIVE: model.positive}


def _reference_profile(step: StepContext, splits: Mapping[str, Split], declared: TrainingSet[..., Any]) -> bytes:
    """Return the reference that monitors compare with: every row of the training set.

    It is calibrated on windows of the data's own partitions, and once more for each monitor with longer windows.
    """
    X = pl.concat([split.X for split in splits.values()])
    if declared.event_timestamp is None:
        return json.dumps(build_profile(X), sort_keys=True).encode()
    partitions = next((ref.partitions for ref in list_source_tables(step.project, declared) if ref.partitions is not None), None)
    times = pl.concat([split.rows[declared.event_timestamp] for split in splits.values()])
    local = times.dt.convert_time_zone(getattr(partitions, "timezone", None) or "UTC")
    profile = build_profile(X, local, window=partition_length(partitions))
    watching = [m for m in step.project.select(Monitor) if m.drift and m.model.training_set.key == declared.key]
    longer = {partition_length(m.partitions) for m in watching} - {partition_length(partitions)}
    if longer:
        profile[BY_WINDOW] = {
            str(int(step.total_seconds())): build_profile(X, local, window=step) | {WINDOW_LENGTH: step.total_seconds()}
            for step in sorted(longer)
        }
    return json.dumps(profile, sort_keys=True).encode()


@cache
def training_libraries() -> tuple[tuple[str, str], ...]:
    """Return the versions of the libraries that decide the result of a training."""
    known = installed_distributions() | {"mlops_assets": installed_distributions().get("mlops-assets", "")}
    deciding = (
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
    return tuple((name, known[name]) for name in deciding if known.get(name))
