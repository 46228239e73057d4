"""Train a model, unless an earlier run has trained it from the same inputs."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl

from mlops_assets.compute.features.request import serving_steps
from mlops_assets.compute.training.classes import refuse_unclear_classes
from mlops_assets.compute.training.label_copies import refuse_label_copies
from mlops_assets.compute.training.split import choose_refit_rows, sort_canonically, split_rows
from mlops_assets.compute.user_code.outside_reads import describe_changes, hash_outside
from mlops_assets.compute.user_code.source_code import source_hash
from mlops_assets.errors import ArtifactError
from mlops_assets.orchestrate.core.project import Project, row_key
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.training.candidate_kind import TrainedModel, TrainingInputs
from mlops_assets.orchestrate.training.estimator_package import positive_fact, training_libraries
from mlops_assets.orchestrate.training.kinds import find_kind
from mlops_assets.orchestrate.training.train_windows import choose_candidate_rows, needs_refit
from mlops_assets.orchestrate.training.training_log import warn_of_unrecorded
from mlops_assets.orchestrate.training.training_set import list_x_columns
from mlops_assets.serving.formats.estimator_bytes import SKOPS
from mlops_assets.stores.tracker.tracker import Run
from mlops_assets.values.features import select_on_demand
from mlops_assets.values.model import ESTIMATOR, KIND, Model
from mlops_assets.values.monitoring import Monitor
from mlops_assets.values.training import TrainingSet


def train_model(step: StepContext, model: Model[..., Any], window: timedelta | None = None) -> TrainedModel:
    """Train a model, or open the stored result of the same data, code, parameters and libraries.

    Parameters
    ----------
    step, model
        The step of the model's asset, and the declaration.
    window
        The span of the newest training rows; None for every row.

    Raises
    ------
    DataError
        The labels or the holdout do not allow a valid evaluation, or the function returned an object that cannot predict.
    DefinitionError
        ``label_copies`` of the training set names no column of ``X``, or on-demand features read a missing column.
    """
    kind, training_set = find_kind(model.kind), model.training_set
    stored = read_training_rows(step, training_set)
    rows, chosen = choose_candidate_rows(step.project, model, stored, window)
    columns = list_x_columns(training_set, rows)
    splits = split_rows(rows, columns, training_set.label)
    refit_rows = choose_refit_rows(stored, training_set.event_timestamp, chosen) if needs_refit(step.project, model) else None
    labels = [part.y for part in splits.values()] + ([] if refit_rows is None else [refit_rows[training_set.label].to_numpy()])
    refuse_unclear_classes(f"'{model.key}'", training_set.label, labels, list_metrics(step.project, model), model.positive)
    holdout = splits["holdout"]
    refuse_label_copies(
        holdout.X,
        holdout.rows[training_set.label],
        allowed=training_set.label_copies,
        what=f"the holdout of '{training_set.key}', so that '{model.key}' is not trained",
    )
    deciding_facts, fingerprint, earlier = find_earlier_run(step, model, gather_deciding_facts(step, model, columns) | chosen)
    if earlier is not None and (fitted := _open_earlier_fit(step, model, earlier)) is not None:
        step.context.log.info(
            f"nothing that decides the result has changed since run {earlier.id[:8]}: its candidate is judged again, not trained again"
        )
        return TrainedModel(earlier, fitted, splits, reused=True, unrecorded=warn_of_unrecorded(step, model))
    return kind.train(step, model, TrainingInputs(rows, splits, deciding_facts, fingerprint))


def gather_deciding_facts(step: StepContext, model: Model[..., Any], columns: Sequence[str]) -> dict[str, Any]:
    """Return the hashes and values that determine the result of a training, except the files and variables that its function reads.

    Parameters
    ----------
    step, model
        The step of the model's asset, and the declaration.
    columns
        The columns of ``X``.
    """
    training_set = model.training_set
    return {
        "training_set": step.stores.lake.records(training_set.key, snapshot=step.snapshot)[""].content_hash,
        "X": list(columns),
        "params": step.config,
        "code": source_hash(model.function.function),
        "on_demand": [source_hash(f.function) for f in select_on_demand(training_set.features)],
        "steps": serving_steps(training_set),
        "key": list(row_key(step.project, model)),
        "trusted_types": list(model.trusted_types),
        "libraries": dict(training_libraries()),
        **({"search": repr(model.search)} if model.search else {}),
        **({"format": model.format} if model.format != SKOPS else {}),
        **positive_fact(model),
        **({"refit": "after_gates"} if needs_refit(step.project, model) else {}),
        **({KIND: model.kind} if model.kind != ESTIMATOR else {}),
    }


def read_training_rows(step: StepContext, training_set: TrainingSet[..., Any]) -> pl.DataFrame:
    """Return the rows of a training set in the canonical order, in which they are fitted."""
    return sort_canonically(step.read(step.project.by_key[training_set.key]), training_set.event_timestamp)


def find_earlier_run(
    step: StepContext, model: Model[..., Any], deciding_facts: Mapping[str, Any]
) -> tuple[dict[str, Any], str, Run | None]:
    """Return the facts that determine a training's result, their fingerprint, and an earlier run with this fingerprint or None.

    Only the record of an earlier run names the files and variables that the function reads. If they have changed since, their current
    hashes become deciding facts of this training, the change is logged, and the new fingerprint is looked up.
    """
    current, seen = dict(deciding_facts), set[str]()
    while True:
        fingerprint = hashlib.sha256(json.dumps(current, sort_keys=True, default=str).encode()).hexdigest()
        earlier = step.stores.tracker.find(model.name, fingerprint)
        if earlier is None or fingerprint in seen:
            return current, fingerprint, None
        seen.add(fingerprint)
        recorded: Mapping[str, str] = earlier.record.get("outside", {})
        changed = describe_changes(recorded)
        if not changed:
            return current, fingerprint, earlier
        step.context.log.info(f"trained again: {', '.join(changed)} since run {earlier.id[:8]}")
        current["outside"] = hash_outside(list(recorded))


def list_metrics(project: Project, model: Model[..., Any]) -> list[str]:
    """Return the metrics that the model declares, then those that only its monitors evaluate."""
    watched = [e.metric for monitor in project.select(Monitor) if monitor.model.name == model.name for e in monitor.performance]
    return list(dict.fromkeys([*model.metrics, *watched]))


def training_lock(step: StepContext, model: Model[..., Any]) -> Path:
    """Return the lock file of a model's trainings, and create its folder."""
    folder = Path(step.stores.platform.home) / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"train_{model.name}"


def _open_earlier_fit(step: StepContext, model: Model[..., Any], run: Run) -> Any:  # noqa: ANN401  (what this kind trains)
    """Return the stored fit of an earlier run; None, with a warning in the log, if it cannot be used."""
    try:
        return find_kind(model.kind).open(step.stores, model, str(run.record["artifact"]))
    except ArtifactError as error:
        step.context.log.warning(f"the stored candidate cannot be used, so it is trained again: {error.message}")
        return None
