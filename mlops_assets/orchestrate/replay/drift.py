"""The drift of a replay's windows, evaluated with the reference and the code of a monitor of production.

Decisions do not depend on drift. So the windows of a version are evaluated while the simulation continues.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from mlops_assets.compute.drift.profile import FORMAT
from mlops_assets.compute.drift.reference_profile import ProfileOptions, build_reference_profile
from mlops_assets.compute.monitoring.same_weeks import DatedRows, SameWeeksReferences
from mlops_assets.compute.monitoring.windows import PredictionWindow, VersionReference, measure_window_drift
from mlops_assets.compute.replay.result import WindowDrift
from mlops_assets.errors import DataError, MlopsError
from mlops_assets.orchestrate.core.partitions import partition_length
from mlops_assets.orchestrate.replay.fits import Fit, FitCache, FitRequest, load_fit
from mlops_assets.orchestrate.training.estimator_package import (
    frame_predictions,
    list_classes,
    list_profile_options,
    profile_predictions,
)
from mlops_assets.orchestrate.training.train_windows import needs_validation
from mlops_assets.stores.base.files import write_atomically
from mlops_assets.values.drift import Drift
from mlops_assets.values.window import TimeWindow

if TYPE_CHECKING:
    from mlops_assets.orchestrate.core.project import Project
    from mlops_assets.orchestrate.replay.history import History
    from mlops_assets.orchestrate.replay.simulation import ReplayedVersion, Segment
    from mlops_assets.values.model import Model
    from mlops_assets.values.monitoring import Monitor

MAX_WINDOWS = 50  # that one task evaluates


@dataclass(frozen=True)
class DriftPlan:
    """What the drift of a monitor's windows depends on, besides versions and rows.

    Parameters
    ----------
    expected, min_rows
        The expectation, and the minimum number of rows of a window.
    length, timezone
        The length of the monitor's windows, and the time zone in which they begin.
    options
        How the reference of a version is calibrated.
    """

    expected: Drift
    min_rows: int
    length: timedelta
    timezone: str
    options: ProfileOptions


@dataclass(frozen=True)
class _Window:
    """Name and span of a window, and its rows: from ``start`` to before ``stop``."""

    name: str
    span: TimeWindow
    start: int
    stop: int


@dataclass(frozen=True)
class _VersionWindows:
    """Windows of one version, with the requests and the hashes of the fit that the gates tested and of the one that serves."""

    version: int
    gated: FitRequest
    serving: FitRequest
    ids: tuple[str, str]
    windows: tuple[_Window, ...]


def plan_drift(project: Project, monitor: Monitor | None) -> DriftPlan | None:
    """Return what the drift of a monitor's windows depends on; None without an expectation of drift."""
    if monitor is None or monitor.drift is None:
        return None
    expected, length = monitor.drift, partition_length(monitor.partitions)
    options = list_profile_options(project, monitor.model.training_set)
    own = [each for each in options.classifiers if expected.classifier and each[0] == (expected.columns or ())]
    timezone = getattr(monitor.partitions, "timezone", None) or "UTC"
    return DriftPlan(expected, monitor.min_rows, length, timezone, replace(options, windows=(length,), classifiers=tuple(own)))


class DriftWatch:
    """Evaluate the windows of one policy.

    Parameters
    ----------
    plan
        From :func:`plan_drift`.
    fits
        The fits, whose processes evaluate.
    """

    def __init__(self, plan: DriftPlan, fits: FitCache) -> None:
        self._plan, self._fits = plan, fits
        self._threads = ThreadPoolExecutor(fits.processes)
        self._running: list[Future[list[WindowDrift]]] = []
        self._version: ReplayedVersion | None = None
        self._windows: list[_Window] = []

    def add(self, name: str, span: TimeWindow, rows: Segment) -> None:
        """Add a window that a version has predicted, after the earlier ones."""
        if rows.version is not self._version or len(self._windows) == MAX_WINDOWS:
            self._begin()
        self._version = rows.version
        self._windows.append(_Window(name, span, rows.start, rows.stop))

    def collect(self) -> tuple[WindowDrift, ...]:
        """Wait for the reports of all windows and return them, oldest first.

        Raises
        ------
        DataError
            The monitor expects what a reference does not have, such as a statistic that a column does not have.
        """
        self._begin()
        with self._threads:
            return tuple(found for task in self._running for found in task.result())

    def _begin(self) -> None:
        """Begin to evaluate the windows that were added since the last call."""
        if self._version is None or not self._windows:
            return
        gated, serving = self._version.gated_fit, self._version.serving
        task = _VersionWindows(self._version.number, gated.request, serving.request, (gated.id, serving.id), tuple(self._windows))
        what = f"evaluates the drift of version {task.version}"
        self._running.append(self._threads.submit(self._fits.run, evaluate_windows, self._plan, task, self._fits.folder, what=what))
        self._windows = []


def evaluate_windows(history: History, model: Model[..., Any], plan: DriftPlan, task: _VersionWindows, folder: Path) -> list[WindowDrift]:
    """Return the drift of some windows of a version, which is stored for a later replay.

    Parameters
    ----------
    history, model
        The rows, and the model's declaration.
    plan, task
        What is expected, and the windows.
    folder
        The folder in which fits are kept.

    Raises
    ------
    DataError
        The drift cannot be measured.
    """
    key = hashlib.sha256(repr((FORMAT, plan, task.version, task.ids, task.windows)).encode()).hexdigest()[:24]
    path = folder / "drift" / key
    if path.exists():
        return [WindowDrift(**{**stored, "columns": tuple(stored["columns"])}) for stored in json.loads(path.read_bytes())]
    try:
        found = _measure(history, model, plan, task, folder)
    except MlopsError:
        raise
    except Exception as error:
        raise DataError(
            f"the drift of version {task.version} of '{model.key}' from {task.windows[0].name} on cannot be measured: "
            f"{type(error).__name__}: {error}",
            hint="name the columns that can be compared: ml.Drift(columns=…)",
        ) from error
    write_atomically(path, json.dumps([asdict(each) for each in found]).encode())
    return found


def _measure(history: History, model: Model[..., Any], plan: DriftPlan, task: _VersionWindows, folder: Path) -> list[WindowDrift]:
    fit = load_fit(folder / "fits" / task.ids[1], task.serving, history, model) if plan.expected.predictions else None
    reference = _read_reference(history, model, plan, task, folder, fit)

    def read_rows(_version: int) -> DatedRows:
        rows = history.list_stored(task.gated.as_of)
        return rows, rows[model.training_set.event_timestamp or ""]

    same_weeks = SameWeeksReferences(plan.expected.reference, plan.length, plan.timezone, read_rows)
    found = []
    for each in task.windows:
        window = _read_window(history, task.version, each, fit, model.positive)
        report = measure_window_drift(plan.expected, plan.min_rows, window, same_weeks.choose(window, reference))
        found.append(WindowDrift(each.name, task.version, report.state, report.summary, report.drifted))
    return found


def _read_window(
    history: History,
    version: int,
    window: _Window,
    fit: Fit | None,
    positive: Any,  # noqa: ANN401  (any label)
) -> PredictionWindow:
    """Return the inputs of a window, and its predictions where a fit is given. The version was trained on earlier rows only."""
    rows = history.rows[window.start : window.stop].select(history.columns)
    if fit is not None:
        predicted, shares = fit.predict_rows(window.start, window.stop)
        logged = frame_predictions(predicted, shares, list_classes(fit.estimator), positive)
        rows = rows if logged is None else rows.hstack(logged)
    fitted = pl.repeat(value=False, n=rows.height, dtype=pl.Boolean, eager=True)
    return PredictionWindow(window.name, window.span, version, rows, fitted, "")


def _read_reference(  # noqa: PLR0913  (a version)
    history: History, model: Model[..., Any], plan: DriftPlan, task: _VersionWindows, folder: Path, fit: Fit | None
) -> VersionReference:
    """Return the reference that production would store with a version; after a refit, it has no reference of predictions."""
    compared = fit if task.gated == task.serving else None
    key = hashlib.sha256(repr((FORMAT, plan.options, task.ids[1], compared is not None)).encode()).hexdigest()[:24]
    path = folder / "profiles" / key
    if not path.exists():
        write_atomically(path, json.dumps(_build_profiles(history, model, plan, task.serving, compared)).encode())
    profile, predictions = json.loads(path.read_bytes())
    classes = list_classes(fit.estimator) if fit is not None else None
    return VersionReference(profile, classes=classes or None, positive=model.positive, predictions=predictions)


def _build_profiles(
    history: History, model: Model[..., Any], plan: DriftPlan, serving: FitRequest, fit: Fit | None
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return the profile of the rows of a version, and that of a fit's predictions for the holdout; None without a fit."""
    validation = needs_validation(model)
    splits = history.split(serving.as_of, serving.window, serving.rows, judge_on=serving.judge_on, with_validation=validation)
    profile = build_reference_profile(plan.options, model.training_set.event_timestamp, list(splits.values()), _ignore)
    if fit is None:
        return json.loads(profile), None
    holdout = splits["holdout"]
    predictions = profile_predictions(plan.options, model, fit.predict_split(holdout), holdout, _ignore)
    return json.loads(profile), None if predictions is None else json.loads(predictions)


def _ignore(_warning: str) -> None:
    """Ignore a warning: the reports of windows say what could not be compared."""
