"""Summarise the windows of one run: a sentence, and a table below it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlops_assets.orchestrate.core.metadata import to_markdown
from mlops_assets.values.monitoring import BREACH, CANNOT, GOOD, IN_TRAINING, INVERTED, NOT_ENOUGH

if TYPE_CHECKING:
    from collections.abc import Sequence

_WORST_FIRST = (INVERTED, BREACH, CANNOT, NOT_ENOUGH, GOOD, IN_TRAINING)  # of several windows
NEWEST_GOOD = "newest good window"  # metadata of a check: the window that resolves an alert
_DECISIVE_FIRST = (INVERTED, BREACH, GOOD, CANNOT, NOT_ENOUGH, IN_TRAINING)  # of several versions in one window


@dataclass(frozen=True)
class WindowState:
    """The state of one version in one window.

    Parameters
    ----------
    partition
        The window.
    state
        ``good``, ``breach``, ``not enough data``, ``cannot be measured``, ``labels look inverted`` or ``in training data``.
    summary
        The result in words.
    version
        The version that predicted; None when the window has no predictions.
    """

    partition: str
    state: str
    summary: str
    version: int | None = None


def build_summary_facts(windows: Sequence[WindowState], failing: str) -> dict[str, Any]:
    """Return the worst state and the summary of the windows of one run as metadata; with several windows, also a table of them.

    Parameters
    ----------
    windows
        Oldest first; at least one.
    failing
        The verb for a window with a breach, in the past tense: ``drifted``, ``breached``.
    """
    merged = _merge_versions(windows)
    state = next(state for state in _WORST_FIRST if any(w.state == state for w in merged))
    facts: dict[str, Any] = {"state": state, "summary": summarise_windows(merged, failing)}
    if len(windows) > 1:
        shared = len(merged) < len(windows)
        facts["windows"] = to_markdown(
            [{"window": w.partition, **({"version": w.version} if shared else {}), "state": w.state, "summary": w.summary} for w in windows]
        )
    return facts


def build_check_facts(windows: Sequence[WindowState], failing: str) -> dict[str, Any]:
    """Return the metadata of a check that evaluates windows: the worst state, the summary, and the newest good window.

    Parameters
    ----------
    windows
        Oldest first; empty when nothing was predicted.
    failing
        As in :func:`build_summary_facts`.
    """
    if not windows:
        return {"state": NOT_ENOUGH}
    summary = build_summary_facts(windows, failing)
    good = [window.partition for window in _merge_versions(windows) if window.state == GOOD]
    return {"state": summary["state"], "windows": summary["summary"], **({NEWEST_GOOD: good[-1]} if good else {})}


def _merge_versions(windows: Sequence[WindowState]) -> list[WindowState]:
    """Return one state for each window, merged from the states of its versions.

    Inverted labels or else a breach of any version decide; without them, one good version makes the window good.
    """
    by_partition: dict[str, list[WindowState]] = {}
    for window in windows:
        by_partition.setdefault(window.partition, []).append(window)
    return [states[0] if len(states) == 1 else _merge(partition, states) for partition, states in by_partition.items()]


def _merge(partition: str, versions: Sequence[WindowState]) -> WindowState:
    state = next((state for state in _DECISIVE_FIRST if any(v.state == state for v in versions)), versions[0].state)
    return WindowState(partition, state, "; ".join(f"version {v.version}: {v.summary}" for v in versions))


def summarise_windows(windows: Sequence[WindowState], failing: str) -> str:
    """Return text that counts the windows by state, names those that are not good, and ends with the newest breach or inverted labels.

    For a single window, it is that window's own summary.

    Parameters
    ----------
    windows, failing
        As in :func:`build_summary_facts`.
    """
    if len(windows) == 1:
        return windows[0].summary
    words = {
        INVERTED: "have labels that look inverted",
        BREACH: failing,
        CANNOT: CANNOT,
        NOT_ENOUGH: "had not enough data",
        IN_TRAINING: "are in training data",
        GOOD: "are good",
    }
    counts = {state: sum(w.state == state for w in windows) for state in words}
    total = f"of {len(windows)} windows"
    sentences = [
        f"{counts[state]} {total} {word}" + ("" if state == GOOD else f": {_name_windows(windows, state)}")
        for state, word in words.items()
        if counts[state]
    ]
    newest = next((w for w in reversed(windows) if w.state in (BREACH, INVERTED)), None)
    return "; ".join(sentences) + (f". {newest.partition}: {newest.summary}" if newest else "")


def _name_windows(windows: Sequence[WindowState], state: str) -> str:
    """Return the names of the windows in one state; consecutive windows are named as a range."""
    runs: list[list[str]] = []
    for before, window in zip([None, *windows], windows, strict=False):
        if window.state == state:
            if before is not None and before.state == state:
                runs[-1].append(window.partition)
            else:
                runs.append([window.partition])
    return ", ".join(run[0] if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)
