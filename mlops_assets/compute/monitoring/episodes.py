"""Decide on alerts: from facts about checks and runs to episodes, and from episodes to the messages to send."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mlops_assets.values.alerts.episodes import OPENED, REMINDER, RESOLVED, SEVERITIES, AlertEvent, AlertFact, AlertWindow, Episode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


def apply_facts(episodes: Iterable[Episode], facts: Iterable[AlertFact]) -> dict[str, Episode]:
    """Return subject → its episode after the given facts; a subject that never failed has no episode.

    A subject that passes and fails again within these facts continues its episode, so one call opens at most one episode per subject.

    Parameters
    ----------
    episodes
        The episodes that are not closed, at most one for each subject.
    facts
        In the order in which they happened.
    """
    by_subject = {episode.subject: episode for episode in episodes}
    failing = {subject: _group_by_label(episode) for subject, episode in by_subject.items()}
    for fact in facts:
        known, windows = by_subject.get(fact.subject), failing.setdefault(fact.subject, {})
        if not fact.passed:
            windows.pop(fact.window.label, None)  # the newest failure is the last one
            windows[fact.window.label] = [(fact.window, fact.must_pass)]
            by_subject[fact.subject] = _open_episode(fact) if known is None else _count_failure(known, fact)
        elif known is not None and known.resolved is None:
            _remove_settled(windows, fact.window)
            by_subject[fact.subject] = known if windows else replace(known, resolved=fact.at)
    return {
        subject: replace(episode, failing=tuple(window for pieces in failing[subject].values() for window in pieces))
        for subject, episode in by_subject.items()
    }


def _group_by_label(episode: Episode) -> dict[str, list[tuple[AlertWindow, bool]]]:
    """Return the label of a failed window → the portions of the window that still fail, each with its ``must_pass``."""
    groups: dict[str, list[tuple[AlertWindow, bool]]] = {}
    for window, must_pass in episode.failing:
        groups.setdefault(window.label, []).append((window, must_pass))
    return groups


def _open_episode(fact: AlertFact) -> Episode:
    return Episode(fact.subject, fact.severity, fact.at, (), 1, fact)


def _count_failure(episode: Episode, fact: AlertFact) -> Episode:
    """Return an episode with one more failure; a higher severity than before is announced again."""
    severity = max(episode.severity, fact.severity, key=SEVERITIES.index)
    announced = episode.announced if severity == episode.severity else None
    return replace(episode, severity=severity, failures=episode.failures + 1, latest=fact, announced=announced, resolved=None)


def _remove_settled(failing: dict[str, list[tuple[AlertWindow, bool]]], passed: AlertWindow) -> None:
    """Remove the portions that a passed window covers from the failing windows."""
    failing.pop(passed.label, None)
    first, last = passed.first, passed.last
    touched = [  # of a storm, nearly all windows lie elsewhere
        label
        for label, pieces in failing.items()
        for window, must_pass in pieces
        if not must_pass or None in (first, last, window.first) or (window.first < last and first < window.last)  # type: ignore[operator]
    ]
    for label in dict.fromkeys(touched):
        rest = [(left, must_pass) for window, must_pass in failing[label] for left in _subtract(window, passed, must_pass=must_pass)]
        if rest:
            failing[label] = rest
        else:
            del failing[label]


def _subtract(failed: AlertWindow, passed: AlertWindow, *, must_pass: bool) -> list[AlertWindow]:
    """Return the portions of a failed window that still fail after another window has passed."""
    if not passed.label:
        return []
    if passed.first is None or passed.last is None or failed.first is None or failed.last is None:
        return [failed]  # without an order, only the same partition settles it
    if not must_pass:
        return [failed] if passed.last <= failed.first else []  # of a range, it is not known which partition failed
    before, after = (failed.first, min(failed.last, passed.first)), (max(failed.first, passed.last), failed.last)
    return [replace(failed, first=first, last=last) for first, last in (before, after) if first < last]


def decide_events(
    episodes: Iterable[Episode], now: float, remind_after: float, is_silent: Callable[[str], bool]
) -> tuple[list[Episode], list[AlertEvent]]:
    """Return the updated episodes, and the messages to send.

    Parameters
    ----------
    episodes
        Episodes that are not closed.
    now
        The current time, in seconds since 1970. It may step back: the next reminder then counts from the new time.
    remind_after
        The minimum time between two messages about an open episode, in seconds.
    is_silent
        Whether a subject is silenced now. A silenced episode is decided later; an episode that opens and resolves while silenced is closed.
    """
    decided, events = [], []
    for episode in episodes:
        kind = None if is_silent(episode.subject) else _choose_event(episode, now, remind_after)
        if kind is not None:
            after = replace(episode, announced=now, events=episode.events + 1, closed=kind == RESOLVED)
            events.append(AlertEvent(after, kind))
        elif episode.resolved is not None and episode.announced is None and not episode.events:
            after = replace(episode, closed=True)
        else:
            after = replace(episode, announced=min(episode.announced, now)) if episode.announced is not None else episode
        decided.append(after)
    return decided, events


def _choose_event(episode: Episode, now: float, remind_after: float) -> str | None:
    """Return the kind of the message that is due; None if no message is due."""
    if episode.resolved is not None:
        return RESOLVED
    if episode.announced is None:
        return OPENED
    return REMINDER if now - episode.announced >= remind_after else None


def newest_events(events: Sequence[AlertEvent]) -> list[AlertEvent]:
    """Return the newest event of each episode, sorted by severity (most severe first), then by opening time."""
    newest = {event.episode.number: event for event in sorted(events, key=lambda event: event.episode.events)}
    return sorted(
        newest.values(), key=lambda event: (-SEVERITIES.index(event.episode.severity), event.episode.opened, event.episode.subject)
    )
