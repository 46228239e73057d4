"""Decide when a model is retrained: pure functions of recorded facts, which sensors and replays call alike.

A breach opens one decision. A decision starts one training, and another one after a crash. No function reads the wall clock:
:attr:`LoopFacts.now` is the end of the newest data, and the argument ``clock`` the time at which a run would start.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops_assets.compute.monitoring.due import explain_due
from mlops_assets.values.decisions import (
    CRASHED,
    DRIFT,
    PERFORMANCE,
    PROMOTED,
    REJECTED,
    RUNNING,
    WAITING,
    Decision,
    Hold,
    Launch,
    Training,
    WindowReport,
)
from mlops_assets.values.monitoring import BREACH, GOOD, INVERTED

if TYPE_CHECKING:
    from datetime import datetime

    from mlops_assets.values.decisions import Retrain

_ORDER = (RUNNING, WAITING, CRASHED, REJECTED, PROMOTED)  # of a run with several recorded states, the last one in this order counts


@dataclass(frozen=True)
class LoopFacts:
    """The recorded facts of one model; order and duplicates do not matter.

    Parameters
    ----------
    model
        The name of the model.
    serving
        The serving version; None when no version serves.
    policy
        The monitor's ``on_failure``.
    now
        The end of the newest data (aware).
    reports, decisions, trainings
        The recorded window reports, decisions and training runs.
    data_start
        The beginning of the oldest data (aware); None when it is unknown.
    rolling
        Whether the serving version was trained on the newest rows only.
    """

    model: str
    serving: int | None
    policy: Retrain
    now: datetime
    reports: tuple[WindowReport, ...] = ()
    decisions: tuple[Decision, ...] = ()
    trainings: tuple[Training, ...] = ()
    data_start: datetime | None = None
    rolling: bool = False

    @property
    def latest_reports(self) -> list[WindowReport]:
        """The latest report of each window, version and kind, oldest window first; in each window, the serving version's reports last."""
        latest: dict[tuple[str, int, str], WindowReport] = {}
        for report in sorted(self.reports, key=lambda r: (r.recorded, r.state)):
            latest[report.partition, report.version, report.kind] = report
        return sorted(latest.values(), key=lambda r: (r.end, r.partition, r.version == self.serving, r.version))

    @property
    def runs(self) -> list[Training]:
        """Each training run once with its latest state, in the order of ``as_of``."""
        latest = {t.run_id: t for t in sorted(self.trainings, key=lambda t: _ORDER.index(t.state))}
        return sorted(latest.values(), key=lambda t: (t.as_of, t.run_id))

    @property
    def last_training(self) -> Training | None:
        """The last training that did not crash; None if there is no such training."""
        return next((training for training in reversed(self.runs) if training.state != CRASHED), None)

    @property
    def all_decisions(self) -> list[Decision]:
        """Each decision once, oldest first; a record that closes it replaces the record that opened it."""
        recorded = {d.id: d for d in sorted(self.decisions, key=lambda d: d.closed)}
        return sorted(recorded.values(), key=lambda d: (d.opened, d.id))

    @property
    def open_decisions(self) -> list[Decision]:
        """Decisions that :func:`explain_settlement` finds open, oldest first."""
        return [decision for decision in self.all_decisions if not explain_settlement(decision, self)]

    @property
    def settled_decisions(self) -> list[Decision]:
        """Decisions about the serving version that :func:`explain_settlement` finds closed, oldest first."""
        return [decision for decision in self.all_decisions if decision.version == self.serving and explain_settlement(decision, self)]


def decide(facts: LoopFacts) -> Decision | Hold:
    """Return the decision to record now, or the reason why no decision is made.

    Parameters
    ----------
    facts
        The recorded facts.

    Returns
    -------
    Decision or Hold

    Notes
    -----
    Only windows of the serving version count. Its newest windows must be consecutive breaches, as many as the policy requires. Each
    must end after the data of the last training, and after every settled decision about this version was opened. A window without
    enough data neither counts nor interrupts. Drift never opens a decision. With ``every`` or ``max_age``, time opens a decision without a
    breach. No decision is made while another one is open, while a training runs or waits for approval, while the labels of a window look
    inverted, and during the cooldown.
    """
    if facts.serving is None:
        return Hold(f"no version of {facts.model} serves{_describe_other_version(facts)}")
    if facts.open_decisions:
        standing = facts.open_decisions[0]
        return Hold(f"decision {standing.id} about {standing.partition} is open")
    streak, due = _find_streak(facts), explain_due(facts)
    short = _explain_short_streak(facts, streak)
    if wait := _explain_pending_training(facts) or explain_inverted_labels(facts) or ("" if due else short) or _explain_cooldown(facts):
        return _hold_with_breach(facts, wait)
    if short:
        return _decide_by_time(facts, facts.serving, due)
    first, last = streak[0], streak[-1]
    return Decision(
        compute_decision_id(facts.model, facts.serving, first.partition),
        facts.model,
        facts.serving,
        first.partition,
        last.end,
        f"{_format_windows(len(streak))} in a row, {first.partition} to {last.partition}: {last.reason}"
        if len(streak) > 1
        else f"{first.partition}: {first.reason}",
        tuple(report.partition for report in streak),
    )


def _decide_by_time(facts: LoopFacts, serving: int, reason: str) -> Decision:
    """Return the decision for a training that is due by time."""
    day = _format_day(facts.now)
    return Decision(compute_decision_id(facts.model, serving, f"due {day}"), facts.model, serving, day, facts.now, reason, ())


def next_action(facts: LoopFacts, clock: datetime) -> Launch | Hold:
    """Return the training to start now, or the reason why no training starts.

    Parameters
    ----------
    facts
        The recorded facts.
    clock
        The time at which a run would start (aware). After a crash, no run starts before the backoff is over, which doubles with each crash.

    Returns
    -------
    Launch or Hold
    """
    if busy := _explain_pending_training(facts):
        return _hold_with_breach(facts, busy)
    if not facts.open_decisions:
        outcome = decide(facts)
        return outcome if isinstance(outcome, Hold) else Hold(f"decision {outcome.id} is not recorded yet")
    decision = facts.open_decisions[0]
    crashed = _list_crashes(decision, facts)
    if wait := explain_inverted_labels(facts) or _explain_cooldown(facts):
        return _hold_with_breach(facts, wait)
    if crashed:
        ready = max(t.ended or t.as_of for t in crashed) + facts.policy.backoff * 2 ** (len(crashed) - 1)
        if clock < ready:
            return _hold_with_breach(facts, f"attempt {len(crashed)} crashed; the next one starts at {ready.isoformat(timespec='minutes')}")
    attempt = len(crashed) + 1
    return Launch(f"{decision.id}#{attempt}", decision, attempt)


def explain_settlement(decision: Decision, facts: LoopFacts) -> str:
    """Return why a decision is closed; empty when it is open.

    Parameters
    ----------
    decision
        The decision.
    facts
        The recorded facts.
    """
    if decision.closed:
        return decision.closed
    if decision.version != facts.serving:
        return f"version {decision.version} no longer serves, {_name_serving_version(facts)}"
    answers = [t for t in facts.runs if t.state in (REJECTED, PROMOTED) and (t.decision == decision.id or t.as_of >= decision.opened)]
    if answers:
        return f"training run {answers[0].run_id} answered it: {answers[0].state}"
    if len(_list_crashes(decision, facts)) >= facts.policy.max_attempts:
        return f"gave up after {facts.policy.max_attempts} attempts that crashed"
    started = any(t.decision == decision.id for t in facts.runs)
    states = {report.partition: report.state for report in _list_decisive_reports(facts)}
    if decision.evidence and not started and all(states.get(partition, BREACH) == GOOD for partition in decision.evidence):
        return f"the breach is gone: {', '.join(decision.evidence)} reported again as good"
    return ""


def list_closings(facts: LoopFacts) -> list[tuple[str, str]]:
    """Return id and reason of each decision that is settled and not yet recorded as closed.

    Parameters
    ----------
    facts
        The recorded facts.
    """
    return [(decision.id, why) for decision in facts.all_decisions if not decision.closed and (why := explain_settlement(decision, facts))]


def compute_decision_id(model: str, version: int, partition: str) -> str:
    """Return the id of the decision about a version and its first window with a breach.

    Parameters
    ----------
    model, version, partition
        The model's name, its version, and the partition key of the first window.
    """
    return hashlib.sha256(f"{model}\n{version}\n{partition}".encode()).hexdigest()[:12]


def explain_inverted_labels(facts: LoopFacts) -> str:
    """Return why retraining waits: labels that arrived after the last training look inverted. Empty otherwise.

    The hold ends when the window is reported again with other labels, or when a person trains.

    Parameters
    ----------
    facts
        The recorded facts.
    """
    last = facts.last_training
    inverted = [
        report
        for report in facts.latest_reports
        if (report.kind, report.version, report.state) == (PERFORMANCE, facts.serving, INVERTED)
        and (last is None or report.end > last.as_of)
    ]
    if not inverted:
        return ""
    return f"the labels of {inverted[-1].partition} look inverted: correct them, or train by hand if they are right"


def _hold_with_breach(facts: LoopFacts, reason: str) -> Hold:
    """Return a Hold whose reason also names the waiting decision or breach, or why the newest breach needs no training."""
    standing, streak = facts.open_decisions[:1], _find_streak(facts)
    if standing:
        return Hold(f"{reason}; this holds decision {standing[0].id} about {standing[0].partition}")
    if streak:
        return Hold(f"{reason}; this holds the breach of {streak[-1].partition}")
    return Hold(f"{reason}{_explain_settled_breach(facts)}")


def _explain_settled_breach(facts: LoopFacts) -> str:
    """Return a clause why the newest breach needs no training: it is over, answered, or about a version that does not serve.

    The clause is empty when there is no breach or nothing explains it.
    """
    evaluated = _list_decisive_reports(facts)
    breach = next((report for report in reversed(evaluated) if report.state == BREACH), None)
    if breach is None:
        return _describe_other_version(facts)
    if evaluated[-1] is not breach:
        return f"; the breach of {breach.partition} is over: {evaluated[-1].partition} is good"
    last = facts.last_training
    if last is not None and breach.end <= last.as_of:
        return f"; the breach of {breach.partition} is answered: training run {last.run_id[:8]} had data until {_format_day(last.as_of)}"
    done = next((d for d in reversed(facts.settled_decisions) if breach.end <= d.opened), None)
    return f"; the breach of {breach.partition} is answered by decision {done.id}: {explain_settlement(done, facts)}" if done else ""


def _describe_other_version(facts: LoopFacts) -> str:
    """Return a clause about the newest evaluated window when it is a breach; empty otherwise.

    Callers make sure that the serving version has no breach, so that the breach is of another version.
    """
    evaluated = [r for r in facts.latest_reports if r.kind == PERFORMANCE and r.state in (GOOD, BREACH)]
    if not evaluated or evaluated[-1].state != BREACH:
        return ""
    return f"; the breach of {evaluated[-1].partition} is about version {evaluated[-1].version}, which does not serve: {_name_serving_version(facts)}"


def _list_decisive_reports(facts: LoopFacts) -> list[WindowReport]:
    """Return the serving version's reports that can start a training and are good or a breach, one per window, oldest first.

    A report with labels takes precedence over an estimate.
    """
    evaluated: dict[str, WindowReport] = {}
    for report in facts.latest_reports:
        counts = report.kind in facts.policy.on and report.version == facts.serving and report.state in (GOOD, BREACH)
        if counts and (report.kind == PERFORMANCE or report.partition not in evaluated):
            evaluated[report.partition] = report
    return list(evaluated.values())


def _explain_pending_training(facts: LoopFacts) -> str:
    """Return a reason to wait: a training is running, or the candidate of the last training waits for approval; empty otherwise."""
    running = next((t for t in facts.runs if t.state == RUNNING), None)
    if running:
        return f"waits: training run {running.run_id[:8]} is in flight"
    last = facts.last_training
    return f"waits: the candidate of training run {last.run_id[:8]} waits for approval" if last and last.state == WAITING else ""


def _list_settled_times(facts: LoopFacts) -> list[datetime]:
    """Return the times until which breaches need no new decision: the end of the last training's data, and the breach of each settled decision."""
    last = facts.last_training
    return [*(decision.opened for decision in facts.settled_decisions), *([last.as_of] if last else [])]


def _find_streak(facts: LoopFacts) -> list[WindowReport]:
    """Return the newest consecutive breaches that no training and no settled decision answered, oldest first."""
    until = max(_list_settled_times(facts), default=None)
    streak: list[WindowReport] = []
    for report in reversed(_list_decisive_reports(facts)):
        if report.state != BREACH or (until is not None and report.end <= until):
            break
        streak.insert(0, report)
    return streak


def _explain_short_streak(facts: LoopFacts, streak: list[WindowReport]) -> str:
    """Return why the breaches are too few for a decision; empty if there are enough. A rejection or crashes raise the required number."""
    last, refused = facts.last_training, ""
    if last and last.state == REJECTED:
        refused = f"candidate rejected on {_format_day(last.as_of)}"
    gave_up = [
        d
        for d in facts.settled_decisions
        if len(_list_crashes(d, facts)) >= facts.policy.max_attempts and (last is None or d.opened >= last.as_of)
    ]
    if gave_up:
        refused = f"gave up on decision {gave_up[-1].id} after {facts.policy.max_attempts} crashes"
    needed = facts.policy.after_rejection if refused else facts.policy.after
    if len(streak) >= needed:
        return ""
    if refused:
        return f"{refused}; waits for {needed} further {_format_bad_windows(needed)}, has {len(streak)}"
    if streak:
        return f"waits for {needed} {_format_bad_windows(needed)} in a row, has {len(streak)}"
    drifted = [r for r in facts.latest_reports if r.kind == DRIFT and r.version == facts.serving and r.state == BREACH]
    drift_note = f"; drift on {drifted[-1].partition} warns, it does not retrain" if drifted else ""
    return f"no open breach of the serving version {facts.serving}{drift_note}"


def _explain_cooldown(facts: LoopFacts) -> str:
    """Return the end of the cooldown after the last retraining, in words; empty when it is over or there was no retraining."""
    last = next((t for t in reversed(facts.runs) if t.state != CRASHED and t.decision is not None), None)
    if last is None or facts.now >= last.as_of + facts.policy.cooldown:
        return ""
    return (
        f"cooldown until {_format_day(last.as_of + facts.policy.cooldown)}: training run {last.run_id[:8]} was on {_format_day(last.as_of)}"
    )


def _list_crashes(decision: Decision, facts: LoopFacts) -> list[Training]:
    return [t for t in facts.runs if t.decision == decision.id and t.state == CRASHED]


def _name_serving_version(facts: LoopFacts) -> str:
    return f"version {facts.serving} serves" if facts.serving is not None else "no version serves"


def _format_windows(count: int) -> str:
    return f"{count} {_format_bad_windows(count)}"


def _format_bad_windows(count: int) -> str:
    return "bad windows" if count != 1 else "bad window"


def _format_day(time: datetime) -> str:
    return f"{time:%Y-%m-%d}" if time.hour == time.minute == 0 else f"{time:%Y-%m-%d %H:%M}"
