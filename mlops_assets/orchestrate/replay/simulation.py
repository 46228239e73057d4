"""Simulate one policy window by window: predict, report, decide, train, run gates and promote with the functions that production calls.

At the end of each window, only rows and labels that were known then are used. A version that is promoted then predicts from the next
window on.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mlops_assets.compute.monitoring.decide import LoopFacts, decide, list_closings, next_action
from mlops_assets.compute.monitoring.error_changes import ErrorStream, add_error_verdict
from mlops_assets.compute.replay.result import PolicyResult, ReplayAlarm, ReplayEvent
from mlops_assets.compute.text import describe_span
from mlops_assets.orchestrate.replay.candidate_gates import GatedCandidate, run_gates
from mlops_assets.orchestrate.replay.drift import DriftWatch
from mlops_assets.orchestrate.replay.fits import Fit, FitCache, FitRequest
from mlops_assets.orchestrate.replay.window_reports import estimate_predictions, measure_predictions
from mlops_assets.orchestrate.replay.windows import measure_windows
from mlops_assets.values.decisions import (
    CRASHED,
    DRIFT,
    ESTIMATED,
    PERFORMANCE,
    PROMOTED,
    REJECTED,
    Decision,
    Launch,
    Training,
    WindowReport,
)
from mlops_assets.values.monitoring import BREACH, INVERTED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime

    from mlops_assets.compute.monitoring.estimates import EstimateReport
    from mlops_assets.compute.monitoring.performance import PerformanceReport
    from mlops_assets.compute.replay.policies import ReplayPolicy
    from mlops_assets.compute.replay.result import WindowDrift
    from mlops_assets.orchestrate.replay.drift import DriftPlan
    from mlops_assets.orchestrate.replay.history import History
    from mlops_assets.values.decisions import Retrain
    from mlops_assets.values.gates.gate import GateLike
    from mlops_assets.values.model import Model
    from mlops_assets.values.monitoring import Monitor
    from mlops_assets.values.window import TimeWindow

FIRST = "the first training"
_MIN_GROWTH = 1.1  # of the known rows, before a first training that crashed is tried again


@dataclass(frozen=True, eq=False)
class ReplayPlan:
    """What all policies of a replay share.

    Parameters
    ----------
    model, gates
        The model, and the gates that are replayed.
    monitor
        The monitor of the model, with its expectations; None without one.
    history
        The rows of its training set.
    windows
        Name and span of each window after which a policy decides, oldest first.
    units
        Name and span of each window of the result; each spans one or more of ``windows``.
    metrics
        Scikit-learn scorer names of the result.
    data_start
        The beginning of the oldest data (aware); None when it is not known.
    drift
        What the drift of windows depends on; None when the monitor does not expect any.
    """

    model: Model[..., Any]
    gates: tuple[GateLike, ...]
    monitor: Monitor | None
    history: History
    windows: tuple[tuple[str, TimeWindow], ...]
    units: tuple[tuple[str, TimeWindow], ...]
    metrics: tuple[str, ...]
    data_start: datetime | None
    drift: DriftPlan | None = None


@dataclass(frozen=True, eq=False)
class ReplayedVersion:
    """A version of a replay: the fit that serves, and the fit that was tested by the gates.

    Parameters
    ----------
    number
        The number of the version, from 1.
    candidate
        The fit that the gates tested, the fit that serves, which may be the same, and what the holdout showed.
    """

    number: int
    candidate: GatedCandidate

    @property
    def serving(self) -> Fit:
        """The fit that serves."""
        return self.candidate.serving

    @property
    def gated_fit(self) -> Fit:
        """The fit that the gates tested."""
        return self.candidate.fit


@dataclass(frozen=True, eq=False)
class Segment:
    """Consecutive rows, from ``start`` to before ``stop``, that one version predicted."""

    start: int
    stop: int
    version: ReplayedVersion


@dataclass(eq=False)
class _PolicyState:
    """Everything that a policy has recorded so far."""

    versions: list[ReplayedVersion] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    reports: list[WindowReport] = field(default_factory=list)
    pending: list[tuple[str, TimeWindow, Segment, int]] = field(default_factory=list)  # windows whose labels have not all arrived
    errors: dict[int, ErrorStream] = field(default_factory=dict)  # by version
    decisions: list[Decision] = field(default_factory=list)
    trainings: list[Training] = field(default_factory=list)
    events: list[ReplayEvent] = field(default_factory=list)
    alarms: dict[tuple[str, int, str], ReplayAlarm] = field(default_factory=dict)
    fits: dict[str, Fit] = field(default_factory=dict)
    crashed_rows: int = 0  # known rows at the last first training, if it crashed

    @property
    def serving(self) -> ReplayedVersion | None:
        return self.versions[-1] if self.versions else None


def replay_policy(plan: ReplayPlan, policy: ReplayPolicy, fits: FitCache, on_window: Callable[[str, int], None]) -> PolicyResult:
    """Return the result of one policy.

    Parameters
    ----------
    plan, policy
        What is replayed.
    fits
        Fits models; shared with other policies.
    on_window
        Called before each window with its name, and with the rows of all fits so far.
    """
    simulation = _Simulation(plan, policy, fits)
    for name, span in plan.windows:
        on_window(name, sum(fit.facts["rows"] for fit in simulation.state.fits.values()))
        simulation.advance(name, span)
    state = simulation.state
    windows = measure_windows(plan, state.segments)
    seconds = sum(float(fit.facts["seconds"]) for fit in state.fits.values())
    drift = None if simulation.drift is None else simulation.drift.collect()
    alarms = tuple(state.alarms.values()) if drift is None else _merge_alarms(plan, state.alarms.values(), drift)
    return PolicyResult(policy.name, windows, tuple(state.events), alarms, seconds, len(state.fits), drift)


def _merge_alarms(plan: ReplayPlan, alarms: Iterable[ReplayAlarm], drift: Iterable[WindowDrift]) -> tuple[ReplayAlarm, ...]:
    """Return alarms and those of drift, in the order of windows."""
    drifted = [ReplayAlarm(each.window, each.version, each.summary, DRIFT, each.columns) for each in drift if each.state == BREACH]
    position = {name: number for number, (name, _) in enumerate(plan.windows)}
    return tuple(sorted((*alarms, *drifted), key=lambda alarm: position[alarm.window]))


class _Simulation:
    """The simulation of one policy, window by window."""

    def __init__(self, plan: ReplayPlan, policy: ReplayPolicy, fits: FitCache) -> None:
        self.plan, self.policy, self.fits, self.state = plan, policy, fits, _PolicyState()
        self.drift = DriftWatch(plan.drift, fits) if policy.drift and plan.drift is not None else None

    def advance(self, name: str, span: TimeWindow) -> None:
        """Predict a window, and do what the policy does at its end."""
        state, history = self.state, self.plan.history
        if self._needs_first_training(span.start):
            self._train(span.start, FIRST)
        segment = None
        if state.serving is not None:
            segment = Segment(history.count_before(span.start), history.count_before(span.end), state.serving)
        if segment is not None and segment.start < segment.stop:
            state.segments.append(segment)
            if self.drift is not None:
                self.drift.add(name, span, segment)
            if self.policy.retrain is not None:
                self._report(name, span, segment)
            else:  # nothing depends on its reports, so that the last one of each window is enough
                self._measure(name, span, segment, np.arange(segment.start, segment.stop))
        if span == self.plan.windows[-1][1]:
            return  # a version that is promoted now would predict no window
        if self.policy.retrain is not None:
            self._decide(span.end, self.policy.retrain)
        elif self.policy.every is not None and span.end >= state.events[-1].time + self.policy.every:
            self._train(span.end, f"{describe_span(self.policy.every)} after the last one")

    def _needs_first_training(self, now: datetime) -> bool:
        """Return whether no version serves, and a training that crashed would now have some more rows."""
        return self.state.serving is None and self.plan.history.count_before(now) >= _MIN_GROWTH * self.state.crashed_rows

    def _report(self, name: str, span: TimeWindow, segment: Segment) -> None:
        """Measure this window, and earlier ones for which labels have arrived since."""
        state, retrain, monitor = self.state, self.policy.retrain, self.plan.monitor
        if monitor is not None and retrain is not None and ESTIMATED in retrain.on:
            self._record(ESTIMATED, name, span, segment.version, estimate_predictions(self.plan, monitor, segment))
        state.pending.append((name, span, segment, 0))
        waiting = []
        for window, earlier, rows, labelled in state.pending:
            known = self.plan.history.select_labelled(rows.start, rows.stop, span.end)
            if len(known) > labelled or not labelled:
                self._measure(window, earlier, rows, known)
            if len(known) < rows.stop - rows.start:
                waiting.append((window, earlier, rows, len(known)))
        state.pending = waiting

    def _measure(self, window: str, span: TimeWindow, rows: Segment, known: np.ndarray) -> None:
        monitor = self.plan.monitor
        if monitor is None or not monitor.label_expectations:
            return
        report, expected = measure_predictions(self.plan, monitor, rows, known), monitor.error_change
        if expected is not None:
            stream = self.state.errors.setdefault(rows.version.number, ErrorStream(expected.delta))
            report = add_error_verdict(report, expected, span.start, stream)
        self._record(PERFORMANCE, window, span, rows.version, report)

    def _record(
        self, kind: str, window: str, span: TimeWindow, version: ReplayedVersion, report: PerformanceReport | EstimateReport
    ) -> None:
        """Record a report for decisions, and its alarm; a report without a breach removes the alarm of an earlier one."""
        state = self.state
        number = len(state.reports) + 1
        state.reports.append(WindowReport(window, span.end, version.number, report.state, kind, report.summary, number))
        if report.state in (BREACH, INVERTED):
            state.alarms[window, version.number, kind] = ReplayAlarm(window, version.number, report.summary, kind)
        else:
            state.alarms.pop((window, version.number, kind), None)

    def _decide(self, now: datetime, policy: Retrain) -> None:
        """Decide as the sensor of a monitor decides, and train if it would start a run."""
        state = self.state
        for decision_id, why in list_closings(self._collect_facts(now, policy)):
            state.decisions = [replace(d, closed=why) if d.id == decision_id else d for d in state.decisions]
        outcome = decide(self._collect_facts(now, policy))
        if isinstance(outcome, Decision):
            state.decisions.append(outcome)
        action = next_action(self._collect_facts(now, policy), now)
        if isinstance(action, Launch):
            self._train(now, action.decision.reason, action)

    def _collect_facts(self, now: datetime, policy: Retrain) -> LoopFacts:
        state = self.state
        serving = state.serving.number if state.serving else None
        reports = tuple(report for report in state.reports if report.version == serving)
        rolling = state.serving is not None and state.serving.gated_fit.request.window is not None
        return LoopFacts(
            self.plan.model.name,
            serving,
            policy,
            now,
            reports,
            tuple(state.decisions),
            tuple(state.trainings),
            data_start=self.plan.data_start,
            rolling=rolling,
        )

    def _train(self, now: datetime, reason: str, launch: Launch | None = None) -> None:
        """Train a candidate and promote it, or record why it was not promoted."""
        candidate = self._run_gates(now) if self.policy.retrain is not None else self._fit_without_gate(now)
        state = self.state
        if state.serving is None:
            state.crashed_rows = self.plan.history.count_before(now) if candidate.crashed else 0
        number = None
        if candidate.passed:
            number = len(state.versions) + 1
            state.versions.append(ReplayedVersion(number, candidate))
        if number is None and state.serving is None and state.events and state.events[-1].outcome == candidate.outcome:
            return  # still no version, for the same reason
        fitted = candidate.serving.facts["rows"]
        state.events.append(ReplayEvent(now, reason, number, candidate.outcome, fitted, _describe_rows(candidate.serving.request)))
        run, decision = (f"training {len(state.trainings)}", None) if launch is None else (launch.run_key, launch.decision.id)
        outcome = CRASHED if candidate.crashed else PROMOTED if candidate.passed else REJECTED
        state.trainings.append(Training(run, now, outcome, decision, now))

    def _fit(self, request: FitRequest) -> Fit:
        fit = self.fits.fit(request)
        self.state.fits[fit.id] = fit
        return fit

    def _fit_without_gate(self, now: datetime) -> GatedCandidate:
        """Fit on every known row, without a gate."""
        fit = self._fit(FitRequest(now, self.policy.window, "all"))
        return GatedCandidate(fit, fit, not fit.error, fit.error or "promoted without a gate", {}, crashed=bool(fit.error))

    def _run_gates(self, now: datetime) -> GatedCandidate:
        """Fit the candidates, run the gates on the best of them, and refit it on every row if the policy says so."""
        assert self.policy.retrain is not None  # noqa: S101  (for the type checker)
        policy = self.policy.retrain
        fits = self.fits.fit_all([FitRequest(now, window, "judged", policy.judge_on) for window in policy.train_windows])
        self.state.fits.update((fit.id, fit) for fit in fits)
        candidate = run_gates(self.plan, policy, fits, self.state.serving)
        if not candidate.passed or not (policy.refit or self.plan.model.refit):
            return candidate
        second = self._fit(replace(candidate.fit.request, rows="refitted", params=candidate.fit.facts["params"]))
        return replace(
            candidate, serving=second, passed=not second.error, outcome=second.error or candidate.outcome, crashed=bool(second.error)
        )


def _describe_rows(request: FitRequest) -> str:
    span = "all rows" if request.window is None else f"the last {describe_span(request.window)}"
    return f"{span} before the holdout" if request.rows == "judged" else span
