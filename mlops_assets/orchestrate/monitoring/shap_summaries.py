"""Explain what the predictions of alarming windows depended on, with the fitted estimator of the version that predicted."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from mlops_assets.compute.explanation.performance_drop import find_fallen_metric
from mlops_assets.compute.explanation.shap_summary import MAX_SUMMARY_ROWS, ShapSummary, name_output, summarise_columns
from mlops_assets.compute.monitoring.windows import WindowMeasurement
from mlops_assets.errors import MissingExtraError
from mlops_assets.orchestrate.core.metadata import to_markdown
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.monitoring.explanations import MAX_EXPLAINED_WINDOWS
from mlops_assets.serving.formats.packaging import ModelBundle, unpack
from mlops_assets.serving.predict.batch import select_input
from mlops_assets.serving.predict.explainer import MAX_EXPLAINED_ROWS, ShapExplainer, ShapValues, import_shap, load_explainer
from mlops_assets.serving.predict.predictor import list_columns
from mlops_assets.serving.predict.request_schema import RequestError
from mlops_assets.values.monitoring import BREACH, Monitor

MAX_SECONDS = 10.0  # of CPU for the rows of one window: a slow model explains fewer rows


def summarise_shap_values(step: StepContext, monitor: Monitor, measurements: Sequence[WindowMeasurement]) -> list[ShapSummary | None]:
    """Return what the predictions of each measured window depended on.

    It is None for windows without a breach, without drift and without a fallen metric, and for all but the newest three others. An error
    is logged as a warning: a report never fails because its predictions cannot be explained.

    Parameters
    ----------
    measurements
        The measured windows, in order of time.
    """
    alarming = [(i, m.window) for i, m in enumerate(measurements) if _is_alarming(m, monitor)]
    summaries: list[ShapSummary | None] = [None] * len(measurements)
    versions = _ExplainedVersions(step, monitor)
    for i, window in alarming[-MAX_EXPLAINED_WINDOWS:]:
        try:
            import_shap()
            summaries[i] = None if window.version is None else versions.summarise(window.version, window.unseen)
        except MissingExtraError as error:
            summaries[i] = ShapSummary(problem=f"{error.message}: {error.hint}")
        except RequestError as error:
            summaries[i] = ShapSummary(problem=error.message)
        except Exception as error:  # noqa: BLE001  (any error of a model)
            step.context.log.warning(f"the predictions of {window.title} cannot be explained: {type(error).__name__}: {error}")
    return summaries


def list_dependence_facts(summaries: Sequence[ShapSummary | None]) -> dict[str, Any]:
    """Return metadata of the newest explained window: the columns that its predictions depended on; empty without one."""
    found = next((summary for summary in reversed(summaries) if summary is not None and summary.columns), None)
    if found is None:
        return {}
    rows = [
        {"column": c.name, "mean |SHAP|": c.size, "in the reference": c.reference, "effect": c.effect, "direction": c.direction_text}
        for c in found.shown
    ]
    return {"predictions depended on": to_markdown(rows)}


def _is_alarming(measured: WindowMeasurement, monitor: Monitor) -> bool:
    if measured.window.version is None:
        return False
    reports = (measured.drift, measured.performance, measured.estimate)
    if any(report is not None and report.state == BREACH for report in reports):
        return True
    return measured.performance is not None and find_fallen_metric(measured.performance, monitor.performance) is not None


@dataclass(frozen=True, eq=False)
class _ExplainedVersion:
    """A loaded version with its explainer, and the SHAP values of its reference rows."""

    bundle: ModelBundle
    explainer: ShapExplainer
    reference: ShapValues


class _ExplainedVersions:
    """The versions that predicted in the windows of a step; each is loaded once."""

    def __init__(self, step: StepContext, monitor: Monitor) -> None:
        self._step, self._monitor = step, monitor
        self._loaded: dict[int, _ExplainedVersion] = {}

    def summarise(self, version: int, rows: pl.DataFrame) -> ShapSummary:
        """Explain random rows of a window; the seed is fixed, so that the same window gives the same rows."""
        began = time.perf_counter()
        loaded = self._load(version)
        X = select_input(loaded.bundle, rows, f"'{self._monitor.predictions_key}'")
        chosen = X[np.random.default_rng(0).permutation(X.height)[:MAX_SUMMARY_ROWS]]
        found = _explain_rows(loaded.explainer, chosen)
        explained, classes = chosen.head(len(found.outputs)), found.classes
        return ShapSummary(
            name_output(classes),
            explained.height,
            X.height,
            len(loaded.reference.outputs),
            float(found.outputs.mean()),
            float(found.bases.mean()),
            summarise_columns(explained, found.values, loaded.reference.values, directed=classes is None or len(set(classes)) == 1),
            time.perf_counter() - began,
        )

    def _load(self, version: int) -> _ExplainedVersion:
        if version not in self._loaded:
            stores = self._step.stores
            stored = next(v for v in stores.registry.versions(self._monitor.model.name) if v.version == version)
            bundle = unpack(stores.artifacts, stored.artifact, self._monitor.model.trusted_types)
            explainer = load_explainer(bundle, stores.artifacts)
            explainer.check_rows(1)
            self._loaded[version] = _ExplainedVersion(bundle, explainer, _explain_rows(explainer, explainer.probe))
        return self._loaded[version]


def _explain_rows(explainer: ShapExplainer, X: pl.DataFrame) -> ShapValues:
    """Explain rows in their order, batch by batch, until the time is over; the first batch is explained in any case."""
    began, parts = time.thread_time(), list[ShapValues]()  # of CPU, so that a busy machine explains as many rows
    for rows in X.iter_slices(MAX_EXPLAINED_ROWS):
        parts.append(explainer(list_columns(rows), rows.height, permutations=1))
        if time.thread_time() - began > MAX_SECONDS:
            break
    return ShapValues.join(parts)
