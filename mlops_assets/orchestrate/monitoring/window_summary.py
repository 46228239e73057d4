"""What a run found of several windows, in one headline that agrees with the table under it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlops_assets.orchestrate.core.metadata import markdown
from mlops_assets.values.monitoring import BREACH, GOOD, IN_TRAINING, NOT_ENOUGH

if TYPE_CHECKING:
    from collections.abc import Sequence

_WORST_FIRST = (BREACH, NOT_ENOUGH, GOOD, IN_TRAINING)


@dataclass(frozen=True)
class WindowState:
    """What a report says of one window.

    Parameters
    ----------
    partition
        The window.
    state
        ``good``, ``breach``, ``not enough data`` or ``in training data``.
    summary
        In words.
    """

    partition: str
    state: str
    summary: str


def summary_facts(windows: Sequence[WindowState], failing: str) -> dict[str, Any]:
    """Return state, summary and table of the windows of one run, as metadata.

    Parameters
    ----------
    windows
        Oldest first; at least one.
    failing
        What a window with a breach does, in the past tense: ``drifted``, ``breached``.
    """
    state = next(state for state in _WORST_FIRST if any(w.state == state for w in windows))
    facts: dict[str, Any] = {"state": state, "summary": summarize_windows(windows, failing)}
    if len(windows) > 1:
        facts["windows"] = markdown([{"window": w.partition, "state": w.state, "summary": w.summary} for w in windows])
    return facts


def summarize_windows(windows: Sequence[WindowState], failing: str) -> str:
    """Return one sentence that counts and names every window that is not good.

    Parameters
    ----------
    windows, failing
        As in :func:`summary_facts`.
    """
    if len(windows) == 1:
        return windows[0].summary
    words = {BREACH: failing, NOT_ENOUGH: "had not enough data", IN_TRAINING: "are in training data", GOOD: "are good"}
    counts = {state: sum(w.state == state for w in windows) for state in words}
    total = f"of {len(windows)} windows"
    told = [
        f"{counts[state]} {total} {word}" + ("" if state == GOOD else f": {_name_windows(windows, state)}")
        for state, word in words.items()
        if counts[state]
    ]
    newest = next((w for w in reversed(windows) if w.state == BREACH), None)
    return "; ".join(told) + (f". {newest.partition}: {newest.summary}" if newest else "")


def _name_windows(windows: Sequence[WindowState], state: str) -> str:
    """Return the windows of one state, neighbours as a range."""
    runs: list[list[str]] = []
    for before, window in zip([None, *windows], windows, strict=False):
        if window.state == state:
            if before is not None and before.state == state:
                runs[-1].append(window.partition)
            else:
                runs.append([window.partition])
    return ", ".join(run[0] if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)
