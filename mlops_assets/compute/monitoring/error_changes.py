"""The error of a version's labelled predictions over its windows, and the verdict on a window when it has increased."""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mlops_assets.compute.monitoring.adwin import FIELDS, NO_CHUNKS, Adwin, Chunks, split_losses
from mlops_assets.compute.monitoring.verdicts import Verdict
from mlops_assets.values.monitoring import BREACH, CANNOT, GOOD, IN_TRAINING, NOT_ENOUGH

if TYPE_CHECKING:
    from datetime import datetime

    import polars as pl

    from mlops_assets.compute.estimation.estimator import PerformanceEstimator
    from mlops_assets.compute.monitoring.labels import LabelArrivals, LabelledPredictions
    from mlops_assets.compute.monitoring.performance import PerformanceReport
    from mlops_assets.values.expectations.error_change import ErrorChange

MAX_WINDOW_CHUNKS = 16
_TINY = 1e-300  # in place of a scale of zero


@dataclass(frozen=True, eq=False)
class WindowErrors:
    """The errors of a window's labelled predictions.

    Parameters
    ----------
    chunks
        Sums over the errors in the order of time, at most 16; none with a problem.
    problem
        The reason why the errors are not known; empty when they are.
    final
        Whether the problem stays when more labels arrive.
    loss
        How an error is computed: from a ``number``, a ``class`` or a ``probability``; empty when it was not stored.
    """

    chunks: Chunks = NO_CHUNKS
    problem: str = ""
    final: bool = False
    loss: str = ""

    @property
    def as_text(self) -> str | None:
        """The chunks and the loss as JSON; None with a problem."""
        return None if self.problem else json.dumps({name: getattr(self.chunks, name).tolist() for name in FIELDS} | {"loss": self.loss})


def read_errors(text: str) -> WindowErrors:
    """Return the errors that :attr:`WindowErrors.as_text` wrote."""
    stored = json.loads(text)
    kinds = dict.fromkeys(FIELDS, np.int64) | {"sums": np.float64, "squares": np.float64}
    chunks = Chunks(*(np.asarray(stored[name], dtype=kinds[name]) for name in FIELDS))
    return WindowErrors(chunks, loss=stored.get("loss", ""))


def measure_errors(
    expectation: ErrorChange,
    labelled: LabelledPredictions,
    arrivals: LabelArrivals,
    times: pl.Series | None,
    estimator: PerformanceEstimator | None,
) -> WindowErrors:
    """Measure the error of each labelled prediction.

    Parameters
    ----------
    expectation
        The expectation, with the minimum coverage.
    labelled, arrivals
        The labelled predictions, and the number of all.
    times
        The time of each labelled prediction; None without any.
    estimator
        What the version's holdout says about the errors of a regressor; None when none is stored.
    """
    if arrivals.coverage < expectation.min_coverage:
        needed = f"{expectation.min_coverage:.1%} are needed"
        return WindowErrors(problem=f"{arrivals.coverage:.1%} of {arrivals.predicted} predictions {arrivals.predicate}, {needed}")
    if times is None:
        return WindowErrors(problem="the predictions have no time", final=True)
    losses = _compute_losses(labelled, None if estimator is None else estimator.scale)
    if losses is None:
        why = (
            "train again, on a holdout of 100 rows or more" if estimator is None else "it was trained before versions had one, train again"
        )
        return WindowErrors(problem=f"no scale of errors is stored with the version: {why}", final=True)
    loss = "number" if labelled.classes is None else "class" if labelled.probabilities is None else "probability"
    return WindowErrors(split_losses(losses, times.dt.epoch("us").to_numpy(), MAX_WINDOW_CHUNKS), loss=loss)


def _compute_losses(labelled: LabelledPredictions, scale: float | None) -> np.ndarray | None:
    """Return the error of each row, from 0 to 1, shape (rows,); None for a regressor without a scale."""
    y = labelled.y
    if labelled.classes is None:
        if scale is None:
            return None
        losses = np.abs(y - labelled.prediction.astype(float)) / max(scale, _TINY)
    elif labelled.probabilities is None:
        losses = (labelled.prediction != y).astype(float)
    else:
        losses = 1 - (labelled.probabilities * (np.asarray(y)[:, None] == np.asarray(labelled.classes)[None, :])).sum(axis=1)
    clipped: np.ndarray = np.clip(losses, 0.0, 1.0)
    return clipped


class ErrorStream:
    """The errors of one version by window. The verdict on a window uses this and all earlier windows, by their latest reports.

    The detector starts again at a window whose errors are computed in another way, e.g. the first one with probabilities.

    Parameters
    ----------
    delta
        As in :class:`~mlops_assets.values.expectations.error_change.ErrorChange`.
    """

    def __init__(self, delta: float) -> None:
        self._delta = delta
        self._starts: list[datetime] = []
        self._errors: list[WindowErrors] = []
        self._states: list[tuple[Adwin, str]] = []  # after each of the first windows, with the loss; may be shorter than the windows

    def record(self, start: datetime, errors: WindowErrors) -> None:
        """Record the errors of the window that begins at ``start``; they replace earlier ones of the same window."""
        position = bisect_left(self._starts, start)
        del self._states[position:]
        if position < len(self._starts) and self._starts[position] == start:
            self._errors[position] = errors
        else:
            self._starts.insert(position, start)
            self._errors.insert(position, errors)

    def find_state(self, start: datetime) -> Adwin:
        """Return the state of the detector after the window that begins at ``start``."""
        count = bisect_right(self._starts, start)
        while len(self._states) < count:
            state, loss = self._states[-1] if self._states else (Adwin(self._delta), "")
            errors = self._errors[len(self._states)]
            if loss and errors.loss and errors.loss != loss:
                state = Adwin(self._delta)
            self._states.append((state.advance(errors.chunks), errors.loss or loss))
        return self._states[count - 1][0] if count else Adwin(self._delta)


def add_error_verdict(report: PerformanceReport, expectation: ErrorChange, start: datetime, stream: ErrorStream) -> PerformanceReport:
    """Record the errors of a window in the stream of its version, and return the report with the verdict on them.

    Parameters
    ----------
    report, start
        The report of the window with its errors, and the window's beginning.
    expectation
        The expectation.
    stream
        The errors of the version's windows; later windows are not used.
    """
    if report.errors is None:
        stream.record(start, WindowErrors())
        verdict = Verdict(expectation.name, IN_TRAINING if report.state == IN_TRAINING else NOT_ENOUGH, None, None, report.problem)
    else:
        stream.record(start, report.errors)
        verdict = _build_verdict(report.errors, expectation.name, stream.find_state(start))
    return replace(report, verdicts=(*report.verdicts, verdict))


def _build_verdict(errors: WindowErrors, name: str, found: Adwin) -> Verdict:
    if errors.problem:
        return Verdict(name, CANNOT if errors.final else NOT_ENOUGH, None, None, errors.problem)
    window, before = found.window, found.before
    if before is None or not found.increased:
        reason = f"mean error {window.mean:.3g} of {window.rows} predictions since {window.start:%Y-%m-%d %H:%M}, without an increase"
        return Verdict(name, GOOD, window.mean, None, reason)
    since = "after" if window.start == before.until else f"since {window.start:%Y-%m-%d %H:%M}"
    reason = f"mean error {before.mean:.3g} before {before.until:%Y-%m-%d %H:%M}, {window.mean:.3g} {since}"
    return Verdict(name, BREACH, window.mean, before.mean, reason)
