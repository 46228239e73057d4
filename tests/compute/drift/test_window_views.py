"""Statistics of windows and associations: what distances of rows cannot show is found, and clean windows stay quiet."""

import json
import math
from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
import polars as pl
import pytest
from scipy import stats

from mlops_assets.compute.drift.associations import MAX_WINDOW_ROWS
from mlops_assets.compute.drift.binning import bin_numbers
from mlops_assets.compute.drift.column_values import ColumnValues
from mlops_assets.compute.drift.dependencies import Dependency, blame_columns, encode_values
from mlops_assets.compute.drift.drift_report import DriftReport, measure_drift
from mlops_assets.compute.drift.profile import ColumnProfile, build_profile
from mlops_assets.compute.drift.statistic_changes import StatisticWindows, compare_with_past
from mlops_assets.compute.drift.window_statistics import StatisticHistory
from mlops_assets.values.drift import PSI
from tests.compute.drift.test_drift_statistics import without_views

DAYS, ROWS = 60, 400
ROUTES = {"UA": ("EWR", 700), "DL": ("LGA", 900), "B6": ("JFK", 1100), "AA": ("JFK", 1300)}


def days(rng: np.random.Generator, count: int, rows: int = ROWS) -> tuple[pl.DataFrame, pl.Series]:
    """Days of flights: carriers keep to their airport and distance; punctuality is one number a day; some waits are zero."""
    n = count * rows
    carrier = rng.choice(list(ROUTES), n, p=[0.17, 0.14, 0.4, 0.29])
    origin, distance = (np.array([ROUTES[c][k] for c in carrier]) for k in (0, 1))
    frame = pl.DataFrame(
        {
            "carrier": carrier,
            "origin": np.where(rng.random(n) < 0.8, origin, rng.choice(["EWR", "LGA", "JFK"], n)),
            "distance": distance.astype(int) + rng.integers(0, 4, n) * 50,
            "punctuality": np.repeat(rng.normal(0.8, 0.05, count), rows),
            "knots": rng.integers(0, 30, n) * 1.15,
            "wait": np.where(rng.random(n) < np.repeat(rng.uniform(0, 0.02, count), rows), 0.0, rng.exponential(10, n) + 1),
        }
    )
    return frame, pl.Series([datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=int(d)) for d in np.repeat(np.arange(count), rows)])


@cache
def reference() -> dict:
    frame, at = days(np.random.default_rng(1), DAYS)
    return json.loads(json.dumps(build_profile(frame, at), allow_nan=False))


def day(seed: int, rows: int = ROWS) -> pl.DataFrame:
    return days(np.random.default_rng(seed), 1, rows)[0]


def named_first(report: DriftReport) -> tuple[str, str]:
    return report.columns[0].name, report.columns[0].statistic


def state_truth(name: str, column: pl.Series, past: pl.Series) -> float:
    """Compute one statistic of a window with numpy, from its rows."""
    rows = [None if isinstance(value, float) and not math.isfinite(value) else value for value in column.to_list()]
    known = [value for value in rows if value is not None]
    if name.startswith("share of "):
        return sum(str(value).lower() == name.removeprefix("share of ").lower() for value in known) / len(rows)
    if name in ("zero rate", "rate of new values"):
        levels = [value for value in past.drop_nulls().unique().to_list() if not isinstance(value, float) or math.isfinite(value)]
        inner = known if isinstance(known[0], (str, bool)) else [value for value in known if min(levels) < value < max(levels)]
        return (
            sum(value == 0 for value in known) / len(rows)
            if name == "zero rate"
            else sum(value not in levels for value in inner) / len(rows)
        )
    if name == "spread":
        return math.log(np.std(known, ddof=1))
    return float(np.mean(known)) if name == "mean" else float(np.quantile(known, {"10 % quantile": 0.1, "median": 0.5}.get(name, 0.9)))


WINDOWS = {
    "with nulls, NaN and infinite values": ([1.5, None, math.nan, math.inf, 0.0, 2.5, 2.5, 7.0], [0.0, 1.5, 9.0, 2.5]),
    "whole numbers": ([3, 0, 0, 12, 5, None, 7], [0, 5, 12, 40]),
    "text": (["a", "b", None, "z", "a"], ["a", "a", "b", "c"]),
    "booleans": ([True, False, None, True], [True, False, True, True]),
}


@pytest.mark.parametrize("window", WINDOWS)
def test_statistics_of_a_window_are_those_of_numpy(window: str) -> None:
    column, past = (pl.Series("x", values, strict=False) for values in WINDOWS[window])
    binning = ColumnProfile.from_series(past).binning
    history = StatisticHistory.from_series(past, np.array([0, 0, 1, 1]), binning, 1.0)
    measured = dict(zip(history.names, history.measure(ColumnValues.from_series(column, binning.kind)), strict=True))
    assert measured
    for name, value in measured.items():
        assert value == pytest.approx(state_truth(name, column, past), abs=1e-12), name


@pytest.mark.parametrize("values", [[2.0, 2.0, 2.0], [None, None], [4.0]])
def test_a_constant_or_empty_window_has_no_spread(values: list[float | None]) -> None:
    history = StatisticHistory.from_series(
        pl.Series("x", [1.0, 2.0, 3.0, 4.0]), np.array([0, 0, 1, 1]), bin_numbers(np.arange(1.0, 5)), 1.0
    )
    measured = dict(zip(history.names, history.measure(ColumnValues.from_series(pl.Series("x", values, dtype=pl.Float64))), strict=True))
    assert math.isnan(measured["spread"])
    assert measured["median"] == pytest.approx(values[0] if values[0] is not None else math.nan, nan_ok=True)
    assert measured["zero rate"] == 0


def test_clean_windows_alarm_as_often_as_stated() -> None:
    rng = np.random.default_rng(2)
    windows = [days(rng, 1, rows)[0] for rows in (150, 400, 1200) for _ in range(50)]
    alarms = sum(bool(measure_drift(reference(), window, false_alarm_rate=0.02).drifted) for window in windows)
    assert alarms <= stats.binom(len(windows), 0.04).ppf(0.99)


FAULTS = {
    "a feature of the day moves": (pl.col("punctuality") - 0.5, "wasserstein"),
    "one row in ten is zero": (pl.when(pl.int_range(pl.len()) % 10 == 0).then(0.0).otherwise("wait").alias("wait"), "zero rate"),
    "one row in twenty is null": (pl.when(pl.int_range(pl.len()) % 20 == 0).then(None).otherwise("wait").alias("wait"), "null_rate"),
    "metres per second for knots": (pl.col("knots") * 0.5144, "rate of new values"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_moves_few_rows_is_named_first(fault: str) -> None:
    change, statistic = FAULTS[fault]
    reports = [measure_drift(reference(), day(seed).with_columns(change)) for seed in range(10)]
    column = change.meta.output_name()
    assert all(report.columns[0].name == column and report.columns[0].drifted for report in reports)
    assert statistic in {report.columns[0].statistic for report in reports}
    worst = next(report.columns[0] for report in reports if report.columns[0].statistic == statistic)
    assert worst.value > worst.threshold
    assert worst.severity == pytest.approx(worst.value / worst.threshold)
    assert "in the reference" in worst.why or "in its windows" in worst.why
    assert len(worst.reference_values) == DAYS


def test_two_swapped_carriers_are_found_by_their_airports_and_distances() -> None:
    swap = pl.col("carrier").replace({"UA": "DL", "DL": "UA"})
    for seed in range(10):
        report = measure_drift(reference(), day(seed).with_columns(swap))
        assert report.drifted == ("carrier",)
        assert report.columns[0].statistic.startswith("association with ")
        assert "do not fit those of" in report.columns[0].why
        # Without associations, the carrier shows nothing: the shares are nearly the same.
        assert "carrier" not in measure_drift(without_views(reference()), day(seed).with_columns(swap)).drifted


def test_a_column_that_has_drifted_explains_its_broken_associations() -> None:
    report = measure_drift(reference(), day(3).with_columns(pl.col("carrier").str.to_lowercase()))
    assert report.drifted == ("carrier",)


def test_only_judged_columns_are_compared() -> None:
    swapped = day(4).with_columns(pl.col("carrier").replace({"UA": "DL", "DL": "UA"}))
    assert measure_drift(reference(), swapped, columns=["carrier", "wait"]).drifted == ()
    assert measure_drift(reference(), swapped, fixed={"carrier": PSI(0.2)}).drifted in ((), ("distance",), ("origin",))


def test_a_profile_from_before_these_views_opens_without_them() -> None:
    old = without_views(reference())
    report = measure_drift(old, day(5))
    assert {column.statistic for column in report.columns} <= {"ks", "wasserstein", "js", "null_rate"}


def test_of_a_large_window_a_sample_is_compared_and_lazy_frames_give_the_same() -> None:
    large = day(6, MAX_WINDOW_ROWS * 2 + 7)
    report = measure_drift(reference(), large)
    assert report.rows == large.height
    assert measure_drift(reference(), large.lazy()) == report


def test_the_limit_of_a_statistic_is_exceeded_as_often_as_stated() -> None:
    rng = np.random.default_rng(7)
    exceeded = 0
    for _ in range(300):
        past, current = rng.normal(size=(50, 5)), rng.normal(size=5)
        changes = compare_with_past(
            StatisticWindows(past, current, *(np.full(s, 1e-6) for s in ((50, 5), 5, 5)), np.zeros(5, dtype=bool)), 0.05
        )
        exceeded += bool((changes.severities > 1).any())
    assert exceeded <= stats.binom(300, 0.05).ppf(0.99)
    assert exceeded >= 2


def test_a_statistic_that_was_never_defined_is_not_judged() -> None:
    past = np.full((20, 2), np.nan)
    past[:, 0] = np.random.default_rng(0).normal(size=20)
    windows = StatisticWindows(past, np.array([50.0, 50.0]), np.zeros((20, 2)), np.zeros(2), np.zeros(2), np.zeros(2, dtype=bool))
    changes = compare_with_past(windows, 0.01)
    assert changes.severities[0] > 1
    assert changes.severities[1] == -1


def join_readings(seed: int, count: int) -> tuple[pl.DataFrame, pl.Series]:
    """Visits of three sites; all visits of a site in an hour have one reading of the wind, which is calm in a third of the hours."""
    rng = np.random.default_rng(seed)
    n = count * ROWS
    day, site, hour = np.repeat(np.arange(count), ROWS), rng.integers(0, 3, n), rng.integers(6, 22, n)
    wind = np.where(rng.random((count, 3, 24)) < 0.33, 0.0, rng.integers(3, 25, (count, 3, 24)) * 1.15)
    frame = {
        "site": np.array(["north", "south", "west"])[site],
        "hour": hour,
        "wind": wind[day, site, hour],
        "wait": rng.exponential(10, n),
    }
    return pl.DataFrame(frame), pl.Series([datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=int(d)) for d in day])


@cache
def joined_reference() -> dict:
    return json.loads(json.dumps(build_profile(*join_readings(1, DAYS)), allow_nan=False))


EVERY_TENTH = pl.int_range(pl.len()) * 7919 % 10 == 0


def test_zeros_that_are_as_usual_as_others_contradict_the_rows_of_the_same_reading() -> None:
    assert joined_reference()["associations"]["dependencies"] == [{"column": "wind", "on": ["hour", "site"], "exceptions": 0.0}]
    clean = [join_readings(seed, 1)[0] for seed in range(50, 60)]
    assert not any(measure_drift(joined_reference(), window).drifted for window in clean)
    reports = [measure_drift(joined_reference(), w.with_columns(wind=pl.when(~EVERY_TENTH).then("wind").otherwise(0.0))) for w in clean]
    assert {named_first(report) for report in reports} == {("wind", "dependency on hour and site")}
    worst = reports[0].columns[0]
    assert worst.drifted
    assert worst.severity == pytest.approx(worst.value / worst.threshold)
    assert "rows with equal hour and site differ in wind: " in worst.why
    assert "of the rows, in the reference windows 0.0% at most; threshold 3.6%" in worst.why


def test_a_column_that_drifted_explains_the_dependencies_on_it() -> None:
    window = join_readings(70, 1)[0].with_columns(site=pl.when(~EVERY_TENTH).then("site").otherwise(pl.lit("nowhere")))
    assert measure_drift(joined_reference(), window).drifted == ("site",)


def test_nulls_contradict_nothing_and_a_profile_without_dependencies_opens() -> None:
    window = join_readings(71, 1)[0]
    holes = window.with_columns(wind=pl.when(~EVERY_TENTH).then("wind"))
    assert named_first(measure_drift(joined_reference(), holes)) == ("wind", "null_rate")
    older = json.loads(json.dumps(joined_reference()))
    del older["associations"]["dependencies"]
    wrong = window.with_columns(wind=pl.when(~EVERY_TENTH).then("wind").otherwise(0.0))
    assert not measure_drift(older, wrong).drifted


@pytest.mark.parametrize(
    ("values", "codes"),
    [
        (pl.Series([True, None, False, True]), [2, 0, 1, 2]),
        (pl.Series(["b", "a", None, "b"], dtype=pl.Categorical), [2, 1, 0, 2]),
        (pl.Series([0.5, math.nan, None, 0.5]), [1, 2, 0, 1]),
        (pl.Series([None, None, None, None]), [0, 0, 0, 0]),
    ],
)
def test_equal_values_have_one_number_in_columns_of_any_type(values: pl.Series, codes: list[int]) -> None:
    assert encode_values(values).tolist() == codes


def test_columns_that_are_never_known_together_have_no_dependencies() -> None:
    frame, at = join_readings(1, 30)
    odd = pl.int_range(pl.len()) % 2 == 0
    frame = frame.with_columns(pl.when(odd).then("hour").alias("hour"), pl.when(~odd).then("site").alias("site"))
    assert build_profile(frame, at)["associations"]["dependencies"] == []
    lost = frame.with_columns(wind=pl.lit(None))
    assert "wind" in measure_drift(joined_reference(), lost.head(ROWS)).drifted


KNOWN = [Dependency("wind", ("hour", "site")), Dependency("temp", ("hour", "site")), Dependency("rain", ("hour", "site"))]


@pytest.mark.parametrize(("broken", "blamed"), [(KNOWN[:1], {"wind"}), (KNOWN, {"site"}), (KNOWN[1:2], {"temp"})])
def test_the_fewest_columns_explain_broken_dependencies(broken: list[Dependency], blamed: set[str]) -> None:
    assert set(blame_columns(KNOWN, broken, dict.fromkeys(KNOWN, 0.1))) == blamed
