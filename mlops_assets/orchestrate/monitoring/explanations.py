"""Explain windows in which a metric fell: load the version that predicted, and score its rows with columns put back to the reference."""

from collections.abc import Sequence
from typing import Any

from mlops_assets.compute.drift.profile import FEATURE, MEASURES, ColumnProfile
from mlops_assets.compute.explanation.performance_drop import DropExplanation, explain_drop, find_fallen_metric
from mlops_assets.compute.monitoring.labels import join_labels
from mlops_assets.compute.monitoring.verdicts import WindowMetric
from mlops_assets.compute.monitoring.windows import LabelTable, WindowMeasurement, measure_window
from mlops_assets.orchestrate.core.metadata import to_markdown
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.serving.formats.packaging import unpack
from mlops_assets.serving.predict.batch import select_input
from mlops_assets.values.monitoring import Monitor

MAX_EXPLAINED_WINDOWS = 3  # the newest of one step: a backfill of a year costs little more than one window


def explain_windows(
    step: StepContext, monitor: Monitor, measurements: Sequence[WindowMeasurement], labels: LabelTable
) -> list[DropExplanation | None]:
    """Return the explanation of each measurement; None where no metric fell, and for all but the newest three windows where one did.

    An error is logged as a warning: a report never fails because it cannot be explained.

    Parameters
    ----------
    measurements
        The measured windows, in order of time.
    labels
        The labels that have arrived.
    """
    fallen = [None if m.performance is None else find_fallen_metric(m.performance, monitor.performance) for m in measurements]
    newest = [i for i, metric in enumerate(fallen) if metric is not None and measurements[i].window.version][-MAX_EXPLAINED_WINDOWS:]
    explanations: list[DropExplanation | None] = [None] * len(measurements)
    for i in newest:
        metric, measured = fallen[i], measurements[i]
        try:
            explanations[i] = None if metric is None else _explain(step, monitor, measured, metric, labels)
        except Exception as error:  # noqa: BLE001  (any error of a model)
            step.context.log.warning(
                f"the drop of {metric.name if metric else 'a metric'} in {measured.window.title} cannot be explained: "
                f"{type(error).__name__}: {error}"
            )
    return explanations


def list_explanation_facts(measurements: Sequence[WindowMeasurement], explanations: Sequence[DropExplanation | None]) -> dict[str, Any]:
    """Return the verdicts on the windows in which a metric fell, and the gain of each column in the newest of them."""
    explained = [(measured.window, found) for measured, found in zip(measurements, explanations, strict=True) if found is not None]
    if not explained:
        return {}
    rows = [
        {"column": effect.columns[0], "explains": effect.gain, "from": effect.low, "to": effect.high} for effect in explained[-1][1].columns
    ]
    verdicts = ". ".join(found.describe(window.title) for window, found in explained)
    return {"explanation": verdicts, "explained by column": to_markdown(rows)}


def _explain(
    step: StepContext, monitor: Monitor, measured: WindowMeasurement, metric: WindowMetric, labels: LabelTable
) -> DropExplanation | None:
    window, declared = measured.window, monitor.model.training_set
    version = next(v for v in step.stores.registry.versions(monitor.model.name) if v.version == window.version)
    reference = measured.reference
    if reference.profile is None:
        return None
    drift = measured.drift or measure_window(monitor, window, reference).drift
    bundle = unpack(step.stores.artifacts, version.artifact, monitor.model.trusted_types)
    labelled, _ = join_labels(
        window.unseen, labels.rows, labels.key, declared.label, classes=reference.classes, known_at=declared.label_known_at
    )
    X = select_input(bundle, labelled.rows, f"'{monitor.predictions_key}'")
    stored = reference.profile["columns"]
    return explain_drop(
        bundle.estimator,
        X,
        labelled.y,
        metric,
        {name: ColumnProfile.from_json(stored[name]) for name in X.columns if name in stored and MEASURES not in stored[name]},
        columns=[column.name for column in drift.columns if column.role == FEATURE] if drift and drift.columns else None,
        positive=reference.positive,
    )
