"""The reference of the same weeks of earlier years: which training rows are in it, and their profile."""

from __future__ import annotations

import math
from datetime import datetime, time, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from mlops_assets.compute.drift.profile import MIN_REFERENCE_ROWS, MIN_WINDOWS, build_profile
from mlops_assets.compute.drift.statistic_changes import MIN_HISTORY
from mlops_assets.compute.text import describe_span

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import polars as pl

    from mlops_assets.values.drift import SameWeeks
    from mlops_assets.values.window import TimeWindow

_THURSDAY = 3  # the middle of a week


def find_same_weeks(window: TimeWindow, reference: SameWeeks, timezone: str) -> tuple[tuple[datetime, datetime], ...]:
    """Return the spans of a window's reference, earliest first; windows with their middle in the same week have the same spans.

    Parameters
    ----------
    window
        The window to compare.
    reference
        How many years to look back, and how many weeks of each are taken. A longer window takes as many days as it has.
    timezone
        The time zone in which weeks begin.

    Returns
    -------
    tuple
        Start and end of each span as naive local times; the end is excluded.
    """
    start, end = (edge.astimezone(ZoneInfo(timezone)).replace(tzinfo=None) for edge in (window.start, window.end))
    middle = (start + (end - start) / 2).date()
    middle += timedelta(days=_THURSDAY - middle.weekday())
    days = max(7 * reference.weeks, math.ceil((end - start) / timedelta(days=1)))
    spans = []
    for years in range(reference.years, 0, -1):
        is_leap_day = (middle.month, middle.day) == (2, 29)
        centre = middle.replace(year=middle.year - years, day=28 if is_leap_day else middle.day)
        first = datetime.combine(centre - timedelta(days=days // 2), time())
        spans.append((first, first + timedelta(days=days)))
    return tuple(spans)


def profile_same_weeks(
    X: pl.DataFrame, times: pl.Series, spans: Sequence[tuple[datetime, datetime]], length: timedelta
) -> tuple[Mapping[str, Any] | None, str]:
    """Return the profile of the training rows in some spans, and a note that says what the window is compared with.

    Parameters
    ----------
    X
        The training rows of a version.
    times
        The local time of each row, shape (rows,).
    spans
        From :func:`find_same_weeks`.
    length
        The length of the windows.

    Returns
    -------
    tuple
        The profile is None with fewer than 100 rows, fewer than 8 windows with 30 rows or more, or weeks so short that thresholds would be
        calibrated on shorter windows than those of the monitor.
    """
    clock = times.dt.replace_time_zone(None)
    inside = clock.is_between(*spans[0], closed="left")
    for start, end in spans[1:]:
        inside |= clock.is_between(start, end, closed="left")
    chosen = X.filter(inside)
    dates = " and ".join(f"{start:%Y-%m-%d} to {end - timedelta(days=1):%Y-%m-%d}" for start, end in spans)
    profile = build_profile(chosen, times.filter(inside), window=length) if chosen.height >= MIN_REFERENCE_ROWS else None
    windows = 0 if profile is None else profile["windows"]
    if windows < MIN_HISTORY:
        return None, (
            f"compared with all training rows: those of the same weeks ({dates}) are {chosen.height:,} in {windows} windows, "
            f"{MIN_REFERENCE_ROWS} in {MIN_HISTORY} windows are needed"
        )
    if profile is not None and profile["window_seconds"] < length.total_seconds():
        return None, (
            f"compared with all training rows: the same weeks ({dates}) are shorter than {MIN_WINDOWS} windows of {describe_span(length)}, "
            "which thresholds need; declare more weeks or years"
        )
    return profile, f"compared with the same weeks of earlier years: {chosen.height:,} training rows of {dates}"
