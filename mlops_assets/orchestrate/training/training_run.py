"""One training: what decides its result, the estimator, what is recorded of it."""

import hashlib
import json
import platform as machine
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import polars as pl

from mlops_assets.compute.features.request import example_row, request_fields, serving_steps
from mlops_assets.compute.monitoring.profile import BY_WINDOW, WINDOW_LENGTH, build_profile
from mlops_assets.compute.training.classes import refuse_unclear_classes
from mlops_assets.compute.training.environment import installed
from mlops_assets.compute.training.evaluate import evaluate
from mlops_assets.compute.training.fitted_rows import FITTED, FittedRows
from mlops_assets.compute.training.label_copies import refuse_label_copies
from mlops_assets.compute.training.seeds import seeded
from mlops_assets.compute.training.split import in_canonical_order, parts_of
from mlops_assets.compute.user_code.outside_reads import differing, hash_outside
from mlops_assets.compute.user_code.source_code import find_unrecorded, source_hash
from mlops_assets.errors import ArtifactError, DataError
from mlops_assets.orchestrate.core.partitions import step_of
from mlops_assets.orchestrate.core.project import Project, row_key
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.training.loop import sources
from mlops_assets.orchestrate.training.run_facts import run_facts
from mlops_assets.orchestrate.training.search import searched
from mlops_assets.orchestrate.training.training_log import autolog, training_run
from mlops_assets.orchestrate.training.training_set import x_columns
from mlops_assets.serving.formats.formats import refuse_unready
from mlops_assets.serving.formats.packaging import POSITIVE, Bundle, Module, manifest_of, pack, unpack
from mlops_assets.serving.formats.trusted_types import refuse_lambdas, refuse_unknown_types
from mlops_assets.serving.formats.written import SKOPS
from mlops_assets.stores.tracker.active_run import ActiveRun
from mlops_assets.stores.tracker.tracker import Run
from mlops_assets.values.evaluation import Split
from mlops_assets.values.features import on_demand
from mlops_assets.values.function import Injection
from mlops_assets.values.model import Model
from mlops_assets.values.monitoring import Monitor
from mlops_assets.values.training import TimeSplit, TrainingSet


@dataclass(frozen=True, eq=False)
class Trained:
    """A candidate that is stored and recorded."""

    run: Run
    estimator: Any
    splits: Mapping[str, Split]
    reused: bool
    unrecorded: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Identifies the candidate: what it was trained on and what it predicts."""
        return str(self.run.record["digest"])

    @property
    def snapshot(self) -> int:
        """The state of the lake that a training always reads."""
        return cast("int", self.run.snapshot)

    @property
    def artifact(self) -> str:
        """The sha256 of its manifest."""
        return str(self.run.record["artifact"])


def trained_by(step: StepContext, model: Model[..., Any]) -> Trained:
    """Train, or take the stored result of the same data, code, parameters and libraries."""
    declared, lake = model.training_set, step.stores.lake
    rows = training_rows(step, declared)
    content = lake.records(declared.key, snapshot=step.snapshot)[""].content_hash
    columns = x_columns(declared, rows)
    splits = parts_of(rows, columns, declared.label)
    refuse_unclear_classes(
        f"'{model.key}'", declared.label, [part.y for part in splits.values()], _metrics(step.project, model), model.positive
    )
    holdout = splits["holdout"]
    refuse_label_copies(
        holdout.X,
        holdout.rows[declared.label],
        allowed=declared.label_copies,
        what=f"the holdout of '{declared.key}', so that '{model.key}' is not trained",
    )
    decides = {
        "training_set": content,
        "X": list(columns),
        "params": step.config,
        "code": source_hash(model.function.function),
        "on_demand": [source_hash(f.function) for f in on_demand(declared.features)],
        "steps": serving_steps(declared),
        "key": list(row_key(step.project, model)),
        "trusted_types": list(model.trusted_types),
        "libraries": dict(libraries()),
        **({"search": repr(model.search)} if model.search else {}),
        **({"format": model.format} if model.format != SKOPS else {}),
        **_positive(model),
        **({"refit": model.refit} if model.refit else {}),
    }
    decides, fingerprint, known = _with_outside(step, model, decides)
    if known is not None and (bundle := _stored(step, model, str(known.record["artifact"]))) is not None:
        step.context.log.info(
            f"nothing that decides the result has changed since run {known.id[:8]}: its candidate is judged again, not trained again"
        )
        return Trained(known, bundle.estimator, splits, reused=True, unrecorded=_warn_of_unrecorded(step, model))
    refuse_unready(model.format)
    refuse_unknown_types(model.trusted_types, f"'{model.key}'")
    refuse_lambdas(model.function.function, f"'{model.key}'")
    with training_run(step, model, decides, fingerprint) as active:
        chosen = searched(step, model, splits, active, fingerprint)
        return _train(chosen, model, rows, splits, decides | {"params": chosen.config}, fingerprint, active)


def training_rows(step: StepContext, declared: TrainingSet[..., Any]) -> pl.DataFrame:
    """Return the rows of a training set in the order in which they are fitted."""
    return in_canonical_order(step.read(step.project.by_key[declared.key]), declared.event_timestamp)


def _with_outside(step: StepContext, model: Model[..., Any], decides: Mapping[str, Any]) -> tuple[dict[str, Any], str, Run | None]:
    """Return what decides a training, its fingerprint, and the earlier training that it would repeat.

    What a function reads besides its arguments is known only from the training before: where that has changed, it is a part of what
    decides this one.
    """
    now, seen = dict(decides), set[str]()
    while True:
        fingerprint = hashlib.sha256(json.dumps(now, sort_keys=True, default=str).encode()).hexdigest()
        known = step.stores.tracker.find(model.name, fingerprint)
        if known is None or fingerprint in seen:
            return now, fingerprint, None
        seen.add(fingerprint)
        recorded: Mapping[str, str] = known.record.get("outside", {})
        changed = differing(recorded)
        if not changed:
            return now, fingerprint, known
        step.context.log.info(f"trained again: {', '.join(changed)} since run {known.id[:8]}")
        now["outside"] = hash_outside(list(recorded))


def _warn_of_unrecorded(step: StepContext, model: Model[..., Any]) -> tuple[str, ...]:
    """Warn of everything that decides the fit and is not in its record; return it with its consequence."""
    copied = ["the whole environment"] if step.outside.whole_environment else []
    names = [*find_unrecorded(model.function.function), *copied]
    for name in names:
        step.context.log.warning(
            f"'{model.key}' uses {name}, which its record does not hold: after a change of it, it is not trained again"
        )
    return tuple(f"{name}: after a change of it, the model is not trained again" for name in names)


def _metrics(project: Project, model: Model[..., Any]) -> list[str]:
    """Return what a model is measured by: its own metrics, and those that its monitors expect."""
    watched = [e.metric for monitor in project.every(Monitor) if monitor.model.name == model.name for e in monitor.performance]
    return list(dict.fromkeys([*model.metrics, *watched]))


def _positive(model: Model[..., Any]) -> dict[str, Any]:
    return {} if model.positive is None else {POSITIVE: model.positive}


def refuse_unable(model: Model[..., Any], estimator: Any) -> None:  # noqa: ANN401  (whatever a function returned)
    """Raise DataError when a model's function returned something that cannot predict."""
    if not hasattr(estimator, "predict"):
        raise DataError(
            f"'{model.key}' returned {type(estimator).__name__}, which cannot predict",
            hint="return the fitted estimator: `return pipeline.fit(train.X, train.y)`",
        )


def training_lock(step: StepContext, model: Model[..., Any]) -> Path:
    """Return the lock file of a model's trainings."""
    folder = Path(step.stores.platform.home) / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"train_{model.name}"


def _stored(step: StepContext, model: Model[..., Any], artifact: str) -> Bundle | None:
    try:
        return unpack(step.stores.artifacts, artifact, model.trusted_types)
    except ArtifactError as error:
        step.context.log.warning(f"the stored candidate cannot be used, so it is trained again: {error.message}")
        return None


def _train(  # noqa: PLR0913  (what decides it)
    step: StepContext,
    model: Model[..., Any],
    rows: pl.DataFrame,
    splits: Mapping[str, Split],
    decides: Mapping[str, Any],
    fingerprint: str,
    active: ActiveRun,
) -> Trained:
    wanted = {p.name: splits[p.name] for p in model.function.receiving(Injection.SPLIT)}
    with seeded(fingerprint) as draws:
        estimator = step.call(model.function, **wanted)
    unrecorded = _warn_of_unrecorded(step, model)
    refuse_unable(model, estimator)
    autolog(step, active, estimator)
    fit = store_fit(
        step,
        model,
        estimator,
        splits["train"],
        splits,
        fingerprint,
        {FITTED: _fitted_rows(model.training_set, splits, tuple(wanted)).as_json()},
    )
    # The stored form is judged: the champion that it is compared with has been stored as well.
    evaluation = evaluate(fit.estimator, splits["holdout"], model.metrics, positive=model.positive)
    run = active.close(
        metrics=dict(evaluation.metrics),
        record={
            "digest": fit.digest,
            "artifact": fit.artifact,
            "python": machine.python_version(),
            "rows": {p: len(s.y) for p, s in splits.items()},
            "outside": step.outside.hashes(),
            "facts": run_facts(step, model, rows, splits, estimator, draws, decides, fingerprint),
        },
    )
    return Trained(run, fit.estimator, splits, reused=False, unrecorded=unrecorded)


@dataclass(frozen=True, eq=False)
class StoredFit:
    """A fitted estimator in the form in which it is stored.

    Parameters
    ----------
    estimator
        As it predicts when it is read back.
    artifact
        The sha256 of its manifest.
    digest
        Identifies what it was fitted on and what it predicts.
    """

    estimator: Any
    artifact: str
    digest: str


def store_fit(  # noqa: PLR0913  (what a manifest holds)
    step: StepContext,
    model: Model[..., Any],
    estimator: Any,  # noqa: ANN401  (any estimator)
    fitted: Split,
    splits: Mapping[str, Split],
    identity: str,
    facts: Mapping[str, Any],
) -> StoredFit:
    """Store an estimator with all that a service and a monitor need of it.

    Parameters
    ----------
    step, model
        Of the training.
    estimator
        As the model's function returned it.
    fitted
        The rows that it was fitted on; the probe is taken from them.
    splits
        The parts of the training set.
    identity
        What decided the fit: two fits of one identity are the same exactly when they predict the same.
    facts
        More for the manifest.
    """
    declared, artifacts = model.training_set, step.stores.artifacts
    fields = request_fields(declared, fitted.rows, row_key(step.project, model))
    artifact = pack(
        artifacts,
        estimator,
        X=fitted.X,
        holdout=splits["holdout"].X,
        modules=[Module(f.module_source, f.name) for f in on_demand(declared.features)],
        trusted_types=model.trusted_types,
        form=model.format,
        facts={
            "model": model.name,
            "fingerprint": identity,
            "label": declared.label,
            **_positive(model),
            "libraries": dict(libraries()),
            "event_timestamp": declared.event_timestamp,
            "request": fields,
            "example": example_row(fields, fitted.rows),
            "steps": serving_steps(declared),
            "profile": artifacts.put(_profile(step, splits, declared)),
            **facts,
        },
    )
    stored = manifest_of(artifacts, artifact)
    digest = hashlib.sha256(f"{identity}:{stored['probe_predictions']}:{stored['probe_labels']}".encode()).hexdigest()
    served = estimator if model.format == SKOPS else unpack(artifacts, artifact, model.trusted_types).estimator
    return StoredFit(served, artifact, digest)


def _fitted_rows(declared: TrainingSet[..., Any], splits: Mapping[str, Split], received: tuple[str, ...]) -> FittedRows:
    """Return the rows that a fit received: the one place that says what a version was fitted on."""
    return FittedRows.of(splits, received or ("train",), declared.event_timestamp, by_time=isinstance(declared.split, TimeSplit))


def _profile(step: StepContext, splits: Mapping[str, Split], declared: TrainingSet[..., Any]) -> bytes:
    """Return the reference that monitors compare with: every row that was known when the version was trained.

    It is calibrated on windows of the data's own partitions, and once more for each monitor with longer windows.
    """
    X = pl.concat([split.X for split in splits.values()])
    if declared.event_timestamp is None:
        return json.dumps(build_profile(X), sort_keys=True).encode()
    partitions = next((ref.partitions for ref in sources(step.project, declared) if ref.partitions is not None), None)
    times = pl.concat([split.rows[declared.event_timestamp] for split in splits.values()])
    local = times.dt.convert_time_zone(getattr(partitions, "timezone", None) or "UTC")
    profile = build_profile(X, local, window=step_of(partitions))
    watching = [m for m in step.project.every(Monitor) if m.drift and m.model.training_set.key == declared.key]
    longer = {step_of(m.partitions) for m in watching} - {step_of(partitions)}
    if longer:
        profile[BY_WINDOW] = {
            str(int(step.total_seconds())): build_profile(X, local, window=step) | {WINDOW_LENGTH: step.total_seconds()}
            for step in sorted(longer)
        }
    return json.dumps(profile, sort_keys=True).encode()


@cache
def libraries() -> tuple[tuple[str, str], ...]:
    """Return the versions of the libraries that decide what a training gives."""
    known = installed() | {"mlops_assets": installed().get("mlops-assets", "")}
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
