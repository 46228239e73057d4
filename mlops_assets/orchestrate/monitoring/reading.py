"""Read what a monitor measures: predictions by window and version, the reference of each version, and labels."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from mlops_assets.compute.drift.prediction_drift import PREDICTION_PROFILE
from mlops_assets.compute.drift.profile import BY_WINDOW, WINDOW_LENGTH
from mlops_assets.compute.estimation.estimator import ESTIMATOR_PROBLEM, FORMAT, PERFORMANCE_ESTIMATOR, PerformanceEstimator
from mlops_assets.compute.monitoring.windows import LabelTable, PredictionWindow, VersionReference, split_windows
from mlops_assets.compute.tables.own_columns import MODEL_VERSION, PREDICTION_COLUMNS, rename_from_table
from mlops_assets.errors import ArtifactError
from mlops_assets.orchestrate.core.graph import Edge
from mlops_assets.orchestrate.core.monitor_windows import build_report_mapping, predicted_partitions
from mlops_assets.orchestrate.core.partitions import list_partition_keys, map_partitions, partition_length
from mlops_assets.orchestrate.core.project import Project, TableRef, row_key
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.predictions.fitted_rows import mark_fitted_rows
from mlops_assets.serving.formats.judged_fit import parse_judged_fit
from mlops_assets.serving.formats.packaging import POSITIVE, read_manifest
from mlops_assets.serving.formats.prediction_columns import merge_typed_columns
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.values.monitoring import Monitor

PROFILE = "profile"  # in the manifest of a version: the profile of its training rows
MAX_NAMED = 5  # windows without predictions in a message


def read_windows(step: StepContext, monitor: Monitor) -> list[PredictionWindow]:
    """Return the predictions of this step's windows, by window and version."""
    ref = step.project.by_key[monitor.predictions_key]
    time = ref.event_timestamp or ""
    table = step.read(TableRef(ref.key, ref.partitions, ref.event_timestamp))
    rows, spans = rename_from_table(table, PREDICTION_COLUMNS), [(partition, span) for partition, span in step.windows if span is not None]
    fitted = _mark_fitted(step, monitor, rows, time)
    return [replace(window, rows=merge_typed_columns(window.rows)) for window in split_windows(rows, table[time], fitted, spans, time)]


def _mark_fitted(step: StepContext, monitor: Monitor, rows: pl.DataFrame, time: str) -> pl.Series:
    """Return for each row whether the version that predicted the row was fitted on it."""
    fitted = pl.Series([False] * rows.height, dtype=pl.Boolean)
    predicted = set(rows[MODEL_VERSION].unique()) if rows.height else set()
    for version in step.stores.registry.versions(monitor.model.name):
        if version.version in predicted:
            by_version = rows[MODEL_VERSION] == version.version
            fitted |= by_version & mark_fitted_rows(step.stores, step.project, monitor.model, version, rows, time)
    return fitted


def read_references(stores: Stores, project: Project, monitor: Monitor, versions: set[int]) -> dict[int, VersionReference]:
    """Return version → its stored reference data; versions that are not registered are left out."""
    registered = (version for version in stores.registry.versions(monitor.model.name) if version.version in versions)
    references = {}
    for version in registered:
        manifest = read_manifest(stores.artifacts, version.artifact)
        run, profile = stores.tracker.get(version.run_id), _read_profile(stores, monitor, manifest, PROFILE)
        references[version.version] = VersionReference(
            profile,
            run.metrics if run else None,
            manifest.get("classes") or None,
            manifest.get(POSITIVE),
            "" if profile is None else _explain_other_length(project, monitor, profile),
            *_read_estimator(stores, manifest),
            _read_profile(stores, monitor, manifest, PREDICTION_PROFILE),
        )
    return references


def _read_estimator(stores: Stores, manifest: Mapping[str, Any]) -> tuple[PerformanceEstimator | None, str]:
    """Return the performance estimator of a version, and why it has none; for a refitted version, that of the fit that gates judged."""
    judged = parse_judged_fit(manifest)
    try:
        source = manifest if judged is None else read_manifest(stores.artifacts, judged.artifact)
        stored = json.loads(stores.artifacts.get(source[PERFORMANCE_ESTIMATOR])) if PERFORMANCE_ESTIMATOR in source else {}
    except ArtifactError:  # `mlops status` names the damage; drift and performance need no estimator
        return None, ""
    return PerformanceEstimator.from_json(stored) if stored.get("format") == FORMAT else None, source.get(ESTIMATOR_PROBLEM, "")


def _read_profile(stores: Stores, monitor: Monitor, manifest: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """Return a version's profile by its name in the manifest, calibrated on windows of the monitor's length; None when the version stored none.

    A version that was trained before the monitor was declared has only its default profile, which is returned instead.
    """
    if not (stored := manifest.get(name)):
        return None
    profile: dict[str, Any] = json.loads(stores.artifacts.get(stored))
    calibrated: Mapping[str, Any] = profile.get(BY_WINDOW, {}).get(str(int(partition_length(monitor.partitions).total_seconds())), profile)
    return calibrated


def _explain_other_length(project: Project, monitor: Monitor, profile: Mapping[str, Any]) -> str:
    """Return a note when a version's thresholds are calibrated on windows of another length than the monitor's; empty otherwise."""
    length, partitions = partition_length(monitor.partitions), predicted_partitions(project, monitor)
    if partitions is None or length == partition_length(partitions) or profile.get(WINDOW_LENGTH) == length.total_seconds():
        return ""
    return f"its limits are calibrated on windows of {partition_length(partitions)}, not of {length}: train again"


def list_missing_windows(stores: Stores, project: Project, monitor: Monitor) -> list[str]:
    """Return the windows without recorded predictions between the first window and the newest one that have some, oldest first."""
    partitions = predicted_partitions(project, monitor)
    edge = Edge(monitor.predictions_key, partitions, build_report_mapping(partitions, monitor))
    recorded, windows = set(stores.lake.records(monitor.predictions_key)), list_partition_keys(monitor.partitions)
    mapped = map_partitions(edge, monitor.partitions, windows)
    present = [not recorded.isdisjoint(mapped.get(window, ())) for window in windows]
    if True not in present:
        return []
    first, last = present.index(True), len(present) - 1 - present[::-1].index(True)
    return [window for window, found in zip(windows[first:last], present[first:last], strict=True) if not found]


def describe_missing_windows(windows: Sequence[str]) -> str:
    """Return text that names the newest windows without predictions; empty without any."""
    more = f" and {len(windows) - MAX_NAMED} earlier windows" if len(windows) > MAX_NAMED else ""
    return f"no predictions are recorded for {', '.join(windows[-MAX_NAMED:])}{more}" if windows else ""


def read_labels(step: StepContext, monitor: Monitor) -> LabelTable:
    """Return the labels that have arrived, as rows of the model's training set function."""
    return LabelTable(step.call_for_frame(monitor.model.training_set.function), row_key(step.project, monitor.model))
