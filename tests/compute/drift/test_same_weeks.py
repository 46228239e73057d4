"""The same weeks of earlier years as a reference: calm in winter, and not blind for a fault that looks like another season."""

from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
import polars as pl
import pytest
from scipy import stats

from mlops_assets.compute.drift.drift_report import DriftReport, measure_drift
from mlops_assets.compute.drift.profile import build_profile
from mlops_assets.compute.drift.same_weeks import find_same_weeks, profile_same_weeks
from mlops_assets.errors import DefinitionError
from mlops_assets.values.drift import SameWeeks
from mlops_assets.values.window import TimeWindow

DAY, ROWS, YEARS = timedelta(days=1), 80, 2
START = datetime(2022, 1, 1, tzinfo=UTC)
TRAINED = (datetime(2024, 1, 1, tzinfo=UTC) - START).days
WINTER = range(TRAINED, TRAINED + 60)  # January and February 2024
FAHRENHEIT = pl.col("temp") * 9 / 5 + 32


@cache
def weather(seed: int = 1) -> tuple[pl.DataFrame, pl.Series]:
    """Return 26 months of the temperature of the day in °C: −8 in January, 22 in July, with fronts that last some days."""
    rng, count = np.random.default_rng(seed), TRAINED + 60
    fronts = np.zeros(count)
    for day in range(1, count):
        fronts[day] = 0.5 * fronts[day - 1] + rng.normal(0, 1.5)
    season = 7 - 15 * np.cos(2 * np.pi * (np.arange(count) - 15) / 365.25)
    days = np.repeat(np.arange(count), ROWS)
    temp = season[days] + fronts[days]
    at = pl.Series([START + DAY * int(day) for day in days], dtype=pl.Datetime("us", "UTC"))
    return pl.DataFrame({"temp": temp, "day": days}), at


def window(day: int) -> TimeWindow:
    return TimeWindow(START + DAY * day, START + DAY * (day + 1))


def rows(day: int, seed: int = 1) -> pl.DataFrame:
    return weather(seed)[0].filter(pl.col("day") == day).select("temp")


def known(seed: int = 1) -> tuple[pl.DataFrame, pl.Series]:
    """Return the two years of training rows, with their times."""
    frame, at = weather(seed)
    inside = frame["day"] < TRAINED
    return frame.filter(inside).select("temp"), at.filter(inside)


@cache
def same_weeks(spans: tuple, seed: int) -> dict:
    profile, note = profile_same_weeks(*known(seed), spans, DAY)
    assert note.startswith(f"compared with the same weeks of earlier years: {21 * ROWS:,} training rows of 202")
    return profile


def compare(current: pl.DataFrame, day: int, seed: int = 1) -> DriftReport:
    return measure_drift(same_weeks(find_same_weeks(window(day), SameWeeks(), "UTC"), seed), current, min_rows=ROWS)


def test_a_unit_error_that_looks_like_spring_is_found_by_the_same_weeks_where_all_rows_are_blind() -> None:
    whole, faulty = build_profile(*known()), {day: rows(day).with_columns(FAHRENHEIT) for day in WINTER}
    assert not any(measure_drift(whole, current, min_rows=ROWS).drifted for current in faulty.values())
    assert sum(compare(current, day).drifted == ("temp",) for day, current in faulty.items()) >= 0.9 * len(WINTER)


def test_the_same_weeks_alarm_in_clean_winters_as_often_as_stated() -> None:
    clean = [compare(rows(day, seed), day, seed) for seed in range(1, 5) for day in WINTER]
    assert sum(bool(report.drifted) for report in clean) <= stats.binom(len(clean), 0.02).ppf(0.99)


def test_windows_of_one_week_share_their_weeks() -> None:
    monday = datetime(2024, 1, 8, tzinfo=UTC)
    spans = {find_same_weeks(TimeWindow(monday + DAY * n, monday + DAY * (n + 1)), SameWeeks(years=2), "UTC") for n in range(7)}
    assert spans == {((datetime(2022, 1, 1), datetime(2022, 1, 22)), (datetime(2023, 1, 1), datetime(2023, 1, 22)))}
    (span,) = find_same_weeks(TimeWindow(monday, monday + 31 * DAY), SameWeeks(weeks=1), "UTC")
    assert span[1] - span[0] == 31 * DAY  # a long window takes as many days as it has
    leap = datetime(2024, 2, 29, tzinfo=UTC)  # a Thursday
    ((first, _),) = find_same_weeks(TimeWindow(leap, leap + DAY), SameWeeks(weeks=1), "UTC")
    assert first == datetime(2023, 2, 25)
    late = TimeWindow(datetime(2024, 1, 7, 23, tzinfo=UTC), datetime(2024, 1, 8, tzinfo=UTC))  # Monday in Berlin
    assert find_same_weeks(late, SameWeeks(), "Europe/Berlin") != find_same_weeks(late, SameWeeks(), "UTC")


@pytest.mark.parametrize(("first", "found"), [(0, f"{4 * ROWS} in 4 windows"), (30, "0 in 0 windows")])
def test_too_few_rows_of_the_same_weeks_are_named_and_not_used(first: int, found: str) -> None:
    frame, at = weather()
    spans = find_same_weeks(window(TRAINED + 10), SameWeeks(), "UTC")
    inside = frame["day"].is_between(365 + first + 17, TRAINED - 1)  # from 18 January 2023 on, or later
    profile, note = profile_same_weeks(frame.filter(inside).select("temp"), at.filter(inside), spans, DAY)
    assert profile is None
    assert note.startswith("compared with all training rows: those of the same weeks (2023-01-01 to 2023-01-21) are ")
    assert note.endswith(f"{found}, 100 in 8 windows are needed")


@pytest.mark.parametrize(("weeks", "length"), [(2, DAY), (3, 7 * DAY)])
def test_weeks_too_short_for_windows_of_the_monitor_are_not_used(weeks: int, length: timedelta) -> None:
    spans = find_same_weeks(TimeWindow(window(TRAINED).start, window(TRAINED).start + length), SameWeeks(weeks=weeks), "UTC")
    profile, note = profile_same_weeks(*known(), spans, length)
    assert profile is None
    assert note.endswith(
        f"shorter than 20 windows of {length.days} day{'s' * (length > DAY)}, which thresholds need; declare more weeks or years"
    )


@pytest.mark.parametrize("wrong", [{"years": 0}, {"weeks": 0}, {"weeks": 27}])
def test_impossible_weeks_are_refused(wrong: dict) -> None:
    with pytest.raises(DefinitionError, match="is not 1 year or more and 1 to 26 weeks"):
        SameWeeks(**wrong)
