"""How many injected faults drift reports find on natural days of flights, and how many clean days alarm."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from importlib.metadata import version
from typing import Any

import polars as pl

from bench.projects.detection_data import FAULTS, FEATURES, Fault, read_flights
from bench.report import Facts, Report
from mlops_assets.compute.drift.drift_report import measure_drift
from mlops_assets.compute.drift.profile import ASSOCIATIONS, HISTORY, build_profile

RATE = 0.01
MIN_FOUND, MIN_FIRST, MAX_FALSE = 0.9, 0.8, 2 * RATE
DAYS, WEEKS = ("day", 8), ("week", 26)  # the length of a window, and the weeks of its reference
CLOCK_CHANGES = (date(2013, 3, 10), date(2013, 11, 3))
CHANGED = 14  # days after a change of the clock that are left out of the clean windows
NOTES = [
    "Features of the reference project on all landed flights of 2013. A window is a day or a week. Its reference is what a version retrained on that Monday or Tuesday would have: the 8 weeks before for the seven days that follow, the 26 weeks before for a week.",
    f"Stated rate of false alarms: {RATE:.0%} of windows. Found: the faulty column is among the drifted ones. First: it is the most drifted one.",
    "'Distances only' judges the same windows by profiles without statistics of windows and associations.",
    f"`hour` is in UTC and moves with the clock of New York; the {CHANGED} days after each change are no clean windows, and are left out.",
]


@dataclass
class Tally:
    """What reports of one kind of fault found.

    Parameters
    ----------
    windows, found, first
        Windows with the fault, those in which its column drifted, and those in which it was named first.
    """

    windows: int = 0
    found: int = 0
    first: int = 0

    def add(self, drifted: Sequence[str], column: str) -> None:
        """Count one window."""
        self.windows += 1
        self.found += column in drifted
        self.first += drifted[:1] == (column,)


@dataclass
class Detection:
    """The outcome for windows of one length.

    Parameters
    ----------
    faults, distances
        By fault: with all views, and with distances only.
    clean
        By contender: clean windows that alarm, with the columns.
    windows
        The number of clean windows.
    """

    faults: dict[str, Tally] = field(default_factory=dict)
    distances: dict[str, Tally] = field(default_factory=dict)
    clean: dict[str, list[str]] = field(default_factory=lambda: {"all views": [], "distances only": []})
    windows: int = 0


def run(*, full: bool) -> Report:
    """Run the benchmark; ``full`` takes every week of the year, otherwise every second one."""
    rows, step = read_flights(), 1 if full else 2
    days, weeks = (measure_detection(rows, *length, step=step) for length in (DAYS, WEEKS))
    tables = [_list_faults("Faults in days", days), _list_faults("Faults in weeks", weeks), _list_clean(days, weeks)]
    return Report("detection", "Detection of faults by drift reports", tables, {"polars": version("polars"), "numpy": version("numpy")})


def measure_detection(
    rows: pl.DataFrame, length: str, reference_weeks: int, *, step: int = 1, faults: Sequence[Fault] = FAULTS
) -> Detection:
    """Inject each fault into each window and report its drift.

    Parameters
    ----------
    rows
        The result of :func:`read_flights`.
    length
        ``day`` or ``week``.
    reference_weeks
        The weeks of a reference.
    step
        The weeks from one reference to the next.
    faults
        The faults.
    """
    detection = Detection({f.name: Tally() for f in faults}, {f.name: Tally() for f in faults})
    for profile, windows in split_references(rows, length, reference_weeks, step):
        profiles = {"all views": profile, "distances only": _keep_distances(profile)}
        for day, window in windows:
            detection.windows += 1
            for name, each in profiles.items():
                if drifted := _find_drifted(each, window):
                    detection.clean[name].append(f"{day}: {', '.join(drifted)}")
            for fault in faults:
                faulty = fault.inject(window)
                detection.faults[fault.name].add(_find_drifted(profile, faulty), fault.column)
                detection.distances[fault.name].add(_find_drifted(profiles["distances only"], faulty), fault.column)
    return detection


def split_references(
    rows: pl.DataFrame, length: str, reference_weeks: int, step: int
) -> Iterator[tuple[dict[str, Any], list[tuple[date, pl.DataFrame]]]]:
    """Yield the profile of each reference, with the windows of the week that follows."""
    for week in range(reference_weeks, 52, step):
        start = date(2013, 1, 1) + timedelta(weeks=week)
        before = rows.filter(pl.col("day").is_between(start - timedelta(weeks=reference_weeks), start, closed="left"))
        size = timedelta(days=1 if length == "day" else 7)
        profile = json.loads(json.dumps(build_profile(before.select(FEATURES), before["at"], window=size)))
        firsts = [start + size * k for k in range(timedelta(days=7) // size)]
        windows = [(day, rows.filter(pl.col("day").is_between(day, day + size, closed="left"))) for day in firsts]
        yield profile, [(day, window) for day, window in windows if window.height and not _follows_clock_change(day, size)]


def _follows_clock_change(day: date, size: timedelta) -> bool:
    return any(change - size < day < change + timedelta(days=CHANGED) for change in CLOCK_CHANGES)


def _find_drifted(profile: Mapping[str, Any], window: pl.DataFrame) -> tuple[str, ...]:
    return measure_drift(profile, window.select(FEATURES), false_alarm_rate=RATE).drifted


def _keep_distances(profile: Mapping[str, Any]) -> dict[str, Any]:
    columns = {name: {key: value for key, value in column.items() if key != HISTORY} for name, column in profile["columns"].items()}
    return {key: value for key, value in profile.items() if key != ASSOCIATIONS} | {"columns": columns}


def _list_faults(title: str, detection: Detection) -> Facts:
    rows, wrong = [], []
    for name, tally in detection.faults.items():
        before = detection.distances[name]
        found, first = tally.found / tally.windows, tally.first / tally.windows
        rows.append((name, tally.windows, f"{found:.0%}", f"{first:.0%}", f"{before.found / before.windows:.0%}"))
        if found < MIN_FOUND or first < MIN_FIRST:
            wrong.append(
                f"{name} is found in {found:.0%} and named first in {first:.0%}; the target is {MIN_FOUND:.0%} and {MIN_FIRST:.0%}"
            )
    return Facts(title, ("fault: column", "windows", "found", "first", "found by distances only"), rows, NOTES, wrong)


def _list_clean(days: Detection, weeks: Detection) -> Facts:
    rows, wrong = [], []
    for length, detection in (("days", days), ("weeks", weeks)):
        for name, alarms in detection.clean.items():
            rows.append(
                (f"{length}, {name}", detection.windows, len(alarms), f"{len(alarms) / detection.windows:.1%}", "; ".join(alarms[:8]))
            )
        # A handful of weeks cannot show a rate; one alarm is within chance.
        if len(alarms := detection.clean["all views"]) > max(1, MAX_FALSE * detection.windows):
            wrong.append(f"{len(alarms)} of {detection.windows} clean {length} alarm; the target is {MAX_FALSE:.0%}")
    return Facts("Clean windows that alarm", ("windows", "number", "alarms", "rate", "the first ones"), rows, NOTES[:2] + NOTES[3:], wrong)
