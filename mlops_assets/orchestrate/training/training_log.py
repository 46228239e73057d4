"""Record a training while it runs, and show its log in the Dagster UI."""

import hashlib
import math
import platform
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from mlops_assets.compute.training.autolog import read_training_log
from mlops_assets.compute.training.importance import IMPORTANCE, PermutationImportance
from mlops_assets.compute.training.plots import plot_curves
from mlops_assets.compute.user_code.source_code import find_unrecorded
from mlops_assets.errors import DataError
from mlops_assets.orchestrate.core.metadata import to_image
from mlops_assets.orchestrate.core.partitions import sort_keys
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.training.candidate_kind import StoredFit, TrainingInputs
from mlops_assets.orchestrate.training.card_measurements import MEASURED
from mlops_assets.stores.tracker.active_run import ActiveRun, record_run
from mlops_assets.stores.tracker.tracker import RUNNING, Run
from mlops_assets.stores.tracker.values import to_json_value
from mlops_assets.values.model import KIND, Model

BASELINE = "baseline"  # in the record of a training: metric → value of a model that ignores its input
_MAX_VALUES = 60  # in the metadata of one materialisation


@contextmanager
def record_training_run(
    step: StepContext, model: Model[..., Any], deciding_facts: Mapping[str, Any], fingerprint: str
) -> Iterator[ActiveRun]:
    """Start to record a training, and yield its active run.

    Values that the model's function logs go to this run. An exception ends the run as failed.
    """
    config = to_json_value(step.config, f"the configuration of '{model.key}'")
    run = Run(
        id=uuid.uuid4().hex,
        model=model.name,
        fingerprint=fingerprint,
        dagster_run_id=step.context.run.run_id,
        started_at=datetime.now(UTC),
        ended_at=None,
        snapshot=step.snapshot,
        params=config,
        metrics={},
        record={
            **deciding_facts,
            KIND: model.kind,
            "config": config,
            "judged_by": list(model.metrics),
            "inputs": list(_describe_inputs(step, model)),
        },
        environment=step.stores.platform.environment,
        status=RUNNING,
    )
    with record_run(run, step.stores.tracker, step.stores.artifacts) as active:
        yield active


def record_fit(  # noqa: PLR0913  (everything a record holds)
    active: ActiveRun,
    step: StepContext,
    inputs: TrainingInputs,
    fit: StoredFit,
    metrics: Mapping[str, float],
    facts: Mapping[str, Any],
    importance: PermutationImportance | None = None,
    measured: str | None = None,
    baseline: Mapping[str, float] | None = None,
) -> Run:
    """Complete the record of a training, end its run and return the run.

    Parameters
    ----------
    active, step
        The active run, and the step of the model.
    inputs, fit
        The inputs of the training, and the stored fit.
    metrics
        The metrics on the holdout.
    facts
        The facts that a reproduction needs.
    importance
        The importance of the columns of ``X`` on the holdout, for figures and the card; None if it was not measured.
    measured
        The sha256 of the artifact with the :class:`CardMeasurements`; None if nothing was measured for the card.
    baseline
        The metrics of a model that ignores its input, on the holdout; undefined ones are left out.
    """
    return active.close(
        metrics=dict(metrics),
        record={
            "digest": fit.digest,
            "artifact": fit.artifact,
            "python": platform.python_version(),
            "rows": {part: len(split.y) for part, split in inputs.splits.items()},
            "outside": step.outside_reads.hashes(),
            "facts": dict(facts),
            **({IMPORTANCE: importance.as_json()} if importance else {}),
            **({MEASURED: measured} if measured else {}),
            BASELINE: {name: value for name, value in (baseline or {}).items() if math.isfinite(value)},
        },
    )


def warn_of_unrecorded(step: StepContext, model: Model[..., Any]) -> tuple[str, ...]:
    """Log a warning for each dependency of the fit that its record does not cover, and return a sentence for each."""
    copied = ["the whole environment"] if step.outside_reads.whole_environment else []
    names = [*find_unrecorded(model.function.function), *copied]
    for name in names:
        step.context.log.warning(
            f"'{model.key}' uses {name}, which its record does not contain, so a change of it does not retrain the model"
        )
    return tuple(f"{name}: a change of it does not retrain the model" for name in names)


def autolog(step: StepContext, active: ActiveRun, estimator: Any) -> None:  # noqa: ANN401  (any estimator)
    """Log the parameters, curves and figures that an estimator reports, except names already logged; errors become warnings."""
    try:
        report = read_training_log(estimator)
        for name, value in report.params.items():
            if name not in active.params:
                _log_or_warn(step, lambda name=name, value=value: active.log_params({name: value}))
        curves = {name: values for name, values in report.curves.items() if name not in active.last}
        figures = {name: value for name, value in report.metrics.items() if name not in active.last and name not in curves}
        for name, values in [*curves.items(), *((name, [value]) for name, value in figures.items())]:
            for index, value in enumerate(values):
                _log_or_warn(step, lambda name=name, value=value, index=index: active.log_metric(name, value, index))
    except Exception as error:  # noqa: BLE001  (an estimator may raise anything)
        step.context.log.warning(
            f"the parameters and curves that {type(estimator).__name__} reports cannot be logged: {type(error).__name__}: {error}"
        )


def _log_or_warn(step: StepContext, log: Any) -> None:  # noqa: ANN401
    try:
        log()
    except DataError as error:
        step.context.log.warning(f"not logged: {error.message}")


def _describe_inputs(step: StepContext, model: Model[..., Any]) -> Iterator[dict[str, Any]]:
    """Yield facts of the training set, then of its direct upstream tables: partitions, rows and one hash of the contents."""
    training_set = model.training_set
    for key in (training_set.key, *(edge.parent for edge in step.project.node(training_set).edges)):
        records = step.stores.lake.records(key, snapshot=step.snapshot)
        ref = step.project.by_key.get(key)
        oldest_first = sort_keys(ref.partitions if ref else None, records)
        hashes = [f"{partition}={record.content_hash}" for partition, record in sorted(records.items())]
        content_hash = records[""].content_hash if list(records) == [""] else hashlib.sha256("\n".join(hashes).encode()).hexdigest()
        yield {
            "table": key,
            "partitions": len(records),
            "first": next(iter(oldest_first), ""),
            "last": next(reversed(oldest_first), ""),
            "rows": sum(record.rows for record in records.values()),
            "content_hash": content_hash,
        }


def logged_metadata(step: StepContext, run: Run, metrics: tuple[str, ...]) -> dict[str, Any]:
    """Return the log of a training as the UI shows it: the last values of up to 60 names as numbers, and curves as a picture.

    Parameters
    ----------
    step
        The step of the model.
    run
        The run of the training, from this step or an earlier step.
    metrics
        The metrics that the model declares; their values are left out, because the metadata show them already.
    """
    values = {name: value for name, value in run.metrics.items() if name not in metrics and math.isfinite(value)}
    curves = {name: curve for name, curve in step.stores.tracker.curves(run.id).items() if curve.steps.size > 1}
    figures = {"curves": to_image(plot_curves(curves), "curves")} if curves else {}
    return {f"logged/{name}": value for name, value in list(values.items())[:_MAX_VALUES]} | figures
