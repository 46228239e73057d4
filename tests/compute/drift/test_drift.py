"""Drift: clean windows are quiet, real shifts are found, a corrupted feature is named first, odd columns have defined answers."""

import json
import math
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest
from scipy import stats

import flights_data
from mlops_assets.compute.drift.distances import Comparison
from mlops_assets.compute.drift.drift_report import DriftReport, measure_drift
from mlops_assets.compute.drift.drift_statistics import max_values, measure_statistics, min_effects
from mlops_assets.compute.drift.profile import ColumnProfile, build_profile
from mlops_assets.compute.drift.thresholds import DriftCalibration, compute_thresholds
from mlops_assets.errors import DataError
from mlops_assets.values.drift import PSI, DriftThreshold, JensenShannon, KolmogorovSmirnov, Wasserstein
from mlops_assets.values.window import TimeWindow
from tests.compute.drift.test_drift_statistics import without_views

NEW_YORK = ZoneInfo("America/New_York")
FEATURES = ["carrier", "origin", "distance", "hour", "temp", "wind_speed", "precip", "pressure", "visib"]


def stored(profile: dict) -> dict:
    return json.loads(json.dumps(profile, allow_nan=False))


def rows(rng: np.random.Generator, n: int, move: float = 0.0) -> pl.DataFrame:
    """Ten independent columns; the first one may move."""
    return pl.DataFrame(
        {
            "moving": rng.normal(move, 1, n),
            "normal": rng.normal(size=n),
            "skewed": rng.lognormal(0, 1, n),
            "heavy": rng.standard_t(3, n),
            "zero_inflated": np.where(rng.random(n) < 0.9, 0, rng.exponential(size=n)),
            "hour": rng.integers(0, 24, n),
            "nulls": pl.Series(rng.normal(size=n)).set(pl.Series(rng.random(n) < 0.1), None),
            "few": np.array(["a", "b", "c"])[rng.choice(3, n, p=[0.7, 0.2, 0.1])],
            "many": rng.zipf(1.5, n).clip(1, 5000).astype(str),
            "flag": rng.random(n) < 0.3,
        }
    )


@cache
def reference() -> tuple[pl.DataFrame, dict]:
    frame = rows(np.random.default_rng(1), 20_000)
    return frame, stored(build_profile(frame))


@pytest.mark.parametrize(("n", "windows"), [(500, 120), (2_000, 100), (10_000, 60)])
def test_windows_without_drift_alarm_no_more_than_stated(n: int, windows: int) -> None:
    rng = np.random.default_rng(n)
    alarms = dict.fromkeys((0.0, 0.1), 0)
    for _ in range(windows):
        current = rows(rng, n)
        for psi in alarms:
            alarms[psi] += bool(measure_drift(reference()[1], current, min_psi=psi, false_alarm_rate=0.05).drifted)
    # Twice what is stated, and what chance adds to so few windows (99 %).
    assert alarms[0.0] <= stats.binom(windows, 0.10).ppf(0.99)
    assert alarms[0.1] <= stats.binom(windows, 0.05).ppf(0.99)


@pytest.mark.parametrize(("n", "move"), [(500, 0.24), (2_000, 0.12), (10_000, 0.06)])
def test_real_shifts_are_found_as_often_as_by_tests_on_the_raw_data(n: int, move: float) -> None:
    frame, profile = reference()
    rng = np.random.default_rng(n)
    ours, theirs = 0, 0
    for _ in range(40):
        current = rows(rng, n, move)
        ours += "moving" in measure_drift(profile, current, min_psi=0.0, false_alarm_rate=0.01).drifted
        # Benjamini and Hochberg's first step at the same rate: one column of ten moves.
        theirs += stats.ks_2samp(frame["moving"].to_numpy(), current["moving"].to_numpy(), method="asymp").pvalue < 0.01 / 10
    assert theirs > 15
    assert ours >= theirs - 4


def test_days_that_differ_by_themselves_are_no_drift() -> None:
    rng = np.random.default_rng(0)
    days, n = 120, 300

    def day_of_weather(count: int) -> pl.DataFrame:
        level = np.repeat(rng.normal(size=count), n)
        rain = np.repeat(np.where(rng.random(count) < 0.3, rng.exponential(size=count), 0), n)
        return pl.DataFrame({"temp": level + 0.3 * rng.normal(size=count * n), "rain": rain, "x": rng.normal(size=count * n)})

    at = pl.Series([datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=i // n) for i in range(days * n)])
    X = day_of_weather(days)
    profile, blind = stored(build_profile(X, at)), stored(build_profile(X))
    fresh = [day_of_weather(1) for _ in range(60)]
    assert sum(bool(measure_drift(profile, day, false_alarm_rate=0.05).drifted) for day in fresh) <= stats.binom(60, 0.10).ppf(0.99)
    assert all(measure_drift(blind, day).drifted for day in fresh)  # what tests that suppose independent rows say
    broken = fresh[0].with_columns(pl.col("x") + 1)
    assert measure_drift(profile, broken).drifted == ("x",)


# Odd columns.


def columns(report: DriftReport) -> dict:
    return {column.name: column for column in report.columns}


def one(before: pl.Series, after: pl.Series, **more):
    """The only column of a report; everything in it is JSON."""
    report = measure_drift(stored(build_profile(before.alias("x").to_frame())), after.alias("x").to_frame(), min_rows=1, **more)
    json.dumps(report.as_json(), allow_nan=False)
    return report.columns[0]


def test_a_constant_column_stays_quiet_until_it_changes() -> None:
    constant = pl.Series([0.1] * 300)
    assert one(constant, constant).severity == 0
    changed = one(constant, pl.Series([0.1] * 100 + [0.3] * 100))
    assert (changed.drifted, changed.statistics["ks"], changed.statistics["wasserstein"]) == (True, 0.5, None)
    assert one(pl.Series(np.arange(300.0)), pl.Series([150.0] * 200)).drifted
    assert not one(pl.Series(["a"] * 300), pl.Series(["a"] * 200)).drifted
    assert one(pl.Series(["a"] * 300), pl.Series(["b"] * 200)).new_rate == 1


def test_an_empty_column_is_drift_only_where_there_used_to_be_values() -> None:
    full, empty = pl.Series(np.random.default_rng(0).normal(size=300)), pl.Series([None] * 300, dtype=pl.Float64)
    lost = one(full, empty)
    assert (lost.drifted, lost.severity, lost.null_rate, lost.statistics["ks"]) == (True, math.inf, 1.0, None)
    assert "no row has a value" in lost.why
    assert one(full, pl.Series([None] * 300)).severity == math.inf  # a column of nulls has no type
    assert one(full, pl.Series([math.nan] * 300)).null_rate == 1.0
    assert not one(empty, empty).drifted
    appeared = one(empty, full)
    assert appeared.drifted
    assert "null in 0.00% of the rows, in the reference in 100.00%" in appeared.why
    assert one(pl.Series([None] * 300), full).drifted
    assert one(pl.Series(["a"] * 300), pl.Series([None] * 300, dtype=pl.String)).severity == math.inf


def test_more_nulls_are_drift() -> None:
    rng = np.random.default_rng(0)
    before, after = pl.Series(rng.normal(size=3000)), pl.Series(rng.normal(size=1000)).set(pl.Series(np.arange(1000) % 10 == 0), None)
    found = one(before, after)
    assert (found.drifted, found.null_rate, found.reference_null_rate) == (True, 0.1, 0.0)
    assert "null in 10.00% of the rows" in found.why


def test_infinite_values_are_counted_and_do_no_harm() -> None:
    rng = np.random.default_rng(0)
    before = pl.Series(rng.normal(size=2000))
    after = pl.Series(np.where(np.arange(1000) % 4 == 0, math.inf, rng.normal(size=1000)))
    found = one(before, after)
    assert found.drifted
    assert [bar.current for bar in found.bars if bar.label == "infinite"] == [0.25]
    assert not one(pl.Series(np.append(before.to_numpy(), [math.inf, -math.inf])), before).drifted
    huge = one(pl.Series([1e308, -1e308] * 100), pl.Series([1e308, -1e308] * 100))
    assert not huge.drifted


@pytest.mark.parametrize("name", ["x", "null", "infinite", "other", "new", "below", "above"])
def test_a_category_may_have_the_name_of_another_bar(name: str) -> None:
    before, after = pl.Series([name] * 990 + ["a"] * 10), pl.Series([name] * 990 + ["b"] * 10)
    found, plain = one(before, after), one(before.replace(name, "x"), after.replace(name, "x"))
    assert not plain.drifted
    assert found.as_json() | {"bars": None, "why": ""} == plain.as_json() | {"bars": None, "why": ""}
    label = name if name in ("x", "below", "above") else f"'{name}'"
    assert [(bar.label, bar.reference, bar.current) for bar in found.bars] == [(label, 0.99, 0.99), ("a", 0.01, 0.0), ("new", 0.0, 0.01)]


def test_a_category_named_null_is_told_from_rows_without_a_value() -> None:
    before = pl.Series(["null", None, "other"] * 500 + [f"rare {i}" for i in range(10)])
    found = one(before, pl.Series(["null"] * 500 + [None] * 500))
    shares = {bar.label: (round(bar.reference, 2), bar.current) for bar in found.bars}
    assert shares == {"'null'": (0.33, 0.5), "'other'": (0.33, 0.0), "other": (0.01, 0.0), "null": (0.33, 0.5)}
    assert one(before, pl.Series(["null"] * 500)).why.startswith("every value is 'null'; no window of the reference had one value only")


def test_a_missing_column_or_another_type_is_drift() -> None:
    X = pl.DataFrame({"x": np.arange(300.0), "b": [True, False, True] * 100, "s": ["a", "b", "c"] * 100})
    profile = stored(build_profile(X))
    found = columns(measure_drift(profile, X.select("s", pl.col("x").cast(pl.String), b=pl.lit("true"))))
    assert found["x"].why == "the column's type is String, but Float64 in the reference"
    assert found["b"].why == "the column's type is String, but Boolean in the reference"
    assert all(found[name].severity == math.inf for name in ("x", "b"))
    assert not found["s"].drifted
    gone = measure_drift(profile, X.drop("b"))
    assert (gone.drifted, gone.columns[0].why) == (("b",), "the column is missing")
    assert not measure_drift(profile, X.with_columns(pl.col("x").cast(pl.Int64), pl.col("s").cast(pl.Categorical))).drifted


def test_too_little_is_an_answer() -> None:
    frame, profile = reference()
    for current, said in (
        (frame.head(99), "99 rows, 100 are needed"),
        (frame.clear(), "0 rows"),
        (frame.head(50).with_columns(moving=9.0), "50 rows"),
    ):
        report = measure_drift(profile, current)
        assert (report.enough, report.drifted, report.columns) == (False, (), ())
        assert said in report.summary
    small = stored(build_profile(frame.head(99)))
    assert measure_drift(small, frame).summary == "not enough data: the reference has 99 rows, 100 are needed"
    assert measure_drift(profile, frame.head(10), min_rows=1).enough


def test_chosen_columns_and_predictions() -> None:
    frame, _ = reference()
    profile = stored(build_profile(frame.select("normal", "few")))
    assert list(columns(measure_drift(profile, frame))) in (["normal", "few"], ["few", "normal"])
    predictions = stored(build_profile(frame.select("normal", "few"), role="prediction"))
    assert list(columns(measure_drift(predictions, frame.drop("few")))) == ["normal"]  # a probability that a window lacks is not missed
    assert list(columns(measure_drift(profile, frame, columns=["few"]))) == ["few"]
    with pytest.raises(DataError, match=r"no column 'norma'\n.*did you mean 'normal'"):
        measure_drift(profile, frame, columns=["norma"])
    with pytest.raises(DataError, match="stored in format 9"):
        measure_drift({**profile, "format": 9}, frame)


def test_a_lazy_frame_gives_the_same_report() -> None:
    frame, profile = reference()
    current = frame.head(1000)
    assert measure_drift(profile, current.lazy()) == measure_drift(profile, current)


# The flights.


@cache
def flights() -> pl.DataFrame:
    window = TimeWindow(datetime(2013, 1, 1, tzinfo=NEW_YORK).astimezone(UTC), datetime(2013, 5, 1, tzinfo=NEW_YORK).astimezone(UTC))
    weather = flights_data.observations(window).collect().sort("published_at").drop("wind_gust")
    departures = flights_data.departures(window).collect().drop_nulls("arr_delay").sort("scheduled_at")
    joined = departures.join_asof(weather, left_on="scheduled_at", right_on="published_at", by="origin", check_sortedness=False)
    local = pl.col("scheduled_at").dt.convert_time_zone("America/New_York")
    return joined.with_columns(local.alias("at"), hour=local.dt.hour())


@cache
def winter() -> dict:
    train = flights().filter(pl.col("at").dt.month() < 4)
    return stored(build_profile(train.select(FEATURES), train["at"]))


@pytest.mark.parametrize(
    ("column", "threshold", "statistic"),
    [
        ("normal", KolmogorovSmirnov(0.1), "ks"),
        ("normal", Wasserstein(0.2), "wasserstein"),
        ("normal", PSI(0.1), "psi"),
        ("few", PSI(0.1), "psi"),
        ("few", JensenShannon(0.1), "js"),
    ],
)
def test_a_fixed_threshold_decides_alone_and_is_reported(column: str, threshold: DriftThreshold, statistic: str) -> None:
    frame, profile = reference()
    moved = frame.head(2_000).with_columns(
        pl.col("normal") + 0.4, pl.when(pl.int_range(2_000) % 3 == 0).then(pl.lit("c")).otherwise("few").alias("few")
    )
    found = columns(measure_drift(profile, moved, fixed={column: threshold}))[column]
    assert found.drifted
    assert (found.statistic, found.threshold, found.capped) == (statistic, threshold.value, False)
    assert found.value == found.statistics[statistic] > threshold.value
    assert f"threshold {threshold.value:.3g}" in found.why
    higher = replace(threshold, value=min(found.value + 0.01, 0.99))
    assert not columns(measure_drift(profile, moved, fixed={column: higher}))[column].drifted


def test_a_fixed_threshold_leaves_the_other_columns_to_the_calibrated_ones() -> None:
    frame, profile = reference()
    moved = frame.head(2_000).with_columns(pl.col("normal") + 1, pl.col("skewed") * 3)
    assert set(measure_drift(profile, moved, fixed={"normal": PSI(50)}).drifted) == {"skewed"}
    assert measure_drift(profile, moved, columns=["normal"], fixed={"normal": PSI(50)}).drifted == ()


def test_a_statistic_that_a_column_does_not_have_is_refused() -> None:
    frame, profile = reference()
    with pytest.raises(DataError, match="drift of 'few' is tested by KolmogorovSmirnov, but the column is categorical") as refused:
        measure_drift(profile, frame, fixed={"few": KolmogorovSmirnov(0.1)})
    assert "Jensen–Shannon" in refused.value.hint


def day(number: int) -> pl.DataFrame:
    return flights().filter(pl.col("at").dt.date() == date(2013, 4, number)).select(FEATURES)


def test_the_days_after_training_are_quiet() -> None:
    reports = {number: measure_drift(winter(), day(number)) for number in range(1, 31)}
    assert winter()["windows"] == 90
    loud = {number: report.drifted for number, report in reports.items() if report.drifted}
    assert not any(loud.get(number) for number in range(1, 8))
    # The ninth of April was 80 °F, which no day of winter was.
    assert set(loud) <= {9, 19}
    assert all(names == ("temp",) for names in loud.values())


CORRUPTIONS = {
    "temp": (pl.col("temp") - 32) / 1.8,  # Celsius
    "carrier": pl.col("carrier").str.to_lowercase(),
    "pressure": pl.lit(None, dtype=pl.Float64).alias("pressure"),
    "distance": pl.col("distance") * 1000,
    "origin": pl.lit("JFK").alias("origin"),
    "hour": (pl.col("hour") + 8) % 24,  # another time zone
    "precip": pl.col("precip") * 25.4 + 1,  # an offset where there was none
    "wind_speed": pl.when(pl.int_range(pl.len()) % 5 == 0).then(None).otherwise("wind_speed").alias("wind_speed"),
    "visib": pl.col("visib") * 1609,  # metres
}


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("number", [2, 3, 12])
def test_a_corrupted_feature_is_named_first(name: str, number: int) -> None:
    report = measure_drift(winter(), day(number).with_columns(CORRUPTIONS[name]))
    assert report.drifted == (name,)
    assert report.columns[0].name == name
    assert report.summary.startswith(f"drift in 1 of 9 columns. {name}: ")
    assert measure_drift(winter(), day(number - 1)).drifted == ()


# Few windows: a year of monthly partitions.


def months(rng: np.random.Generator, count: int, rows: int = 300) -> tuple[pl.DataFrame, pl.Series]:
    """Months whose level differs: a temperature, a flow that no value limits, and a category that follows the temperature."""
    level = np.repeat(rng.normal(size=count), rows)
    temp, flow = level + rng.normal(size=count * rows), np.exp(np.repeat(rng.normal(size=count), rows) + rng.normal(size=count * rows))
    kind = np.array(list("abcd"))[np.digitize(level + rng.normal(size=count * rows), [-1, 0, 1])]
    at = pl.Series([datetime(2023, 1, 1, tzinfo=UTC) + timedelta(days=30 * (i // rows)) for i in range(count * rows)])
    return pl.DataFrame({"temp": temp, "flow": flow, "kind": kind}), at


def monthly_profile(frame: pl.DataFrame, at: pl.Series) -> dict:
    return stored(build_profile(frame, at, window=timedelta(days=30)))


@cache
def twenty_months() -> dict:
    return monthly_profile(*months(np.random.default_rng(3), 20))


STUCK = {
    "at zero": {"temp": 0.0},
    "at the median of a skewed column": {"flow": 1.0},
    "at one category": {"kind": "b"},
    "at null": {"temp": None},
    "beyond the reference": {"flow": 1e6},
}


@pytest.mark.parametrize("name", STUCK)
def test_a_column_that_is_stuck_alarms_with_twenty_reference_windows(name: str) -> None:
    frame, _ = months(np.random.default_rng(4), 1)
    ((column, value),) = STUCK[name].items()
    report = measure_drift(twenty_months(), frame.with_columns(pl.lit(value, dtype=frame.schema[column]).alias(column)))
    assert twenty_months()["windows"] == 20
    assert report.columns[0].name == column
    assert report.columns[0].drifted
    assert "no window of the reference had one value only" in report.summary or "no row has a value" in report.summary


def test_a_sensor_that_is_nearly_stuck_alarms_too() -> None:
    frame, _ = months(np.random.default_rng(4), 1)
    noise = np.random.default_rng(5).normal(4.0, 0.001, frame.height)  # a bin that held less than 2 %
    assert "temp" in measure_drift(twenty_months(), frame.with_columns(temp=noise)).drifted


@pytest.mark.parametrize("psi", [0.0, 10.0])
@pytest.mark.parametrize("count", [3, 20])
def test_no_threshold_is_above_what_its_statistic_can_attain(count: int, psi: float) -> None:
    rng = np.random.default_rng(count)
    frame, at = months(rng, count)
    frame = frame.with_columns(temp=pl.when(pl.Series(rng.random(frame.height) < 0.1)).then(None).otherwise("temp"))
    profile = monthly_profile(frame, at)
    before = {name: ColumnProfile.from_json(column) for name, column in profile["columns"].items()}
    calibrations = [DriftCalibration.from_json(column["calibration"]) for column in profile["columns"].values()]
    attainable = np.array([max_values(column.binning, column.counts) for column in before.values()])
    sizes = np.full(attainable.shape, 1 / 300)
    limits = compute_thresholds(calibrations, sizes, 0.001, min_effects(psi), attainable).limits
    assert (limits <= attainable).all()
    assert (attainable[:2, 0] == 1).all()
    # A window in the bin that has fewest rows: what the statistic says of it is what can be attained.
    rarest = pl.Series([frame["temp"].max()] * 300)
    now = ColumnProfile.from_series(rarest, before["temp"])
    found = measure_statistics(Comparison(before["temp"].binning, now.counts, before["temp"].counts, before["temp"].spread))
    assert 0.8 < found["js"][0] <= attainable[0, 2] + 1e-9 < 0.9


def test_a_window_that_shares_no_bar_with_the_reference_always_alarms() -> None:
    rng = np.random.default_rng(0)
    steps = np.repeat(np.arange(20.0), 200)
    frame = pl.DataFrame({"clock": steps + rng.random(4000), "x": rng.normal(size=4000)})
    at = pl.Series([datetime(2023, 1, 1, tzinfo=UTC) + timedelta(days=30 * (i // 200)) for i in range(4000)])
    later = pl.DataFrame({"clock": 20 + rng.random(200), "x": rng.normal(size=200)})
    report = measure_drift(without_views(monthly_profile(frame, at)), later)
    assert report.drifted == ("clock",)
    assert report.columns[0].why.startswith("no value in common with the reference")


def test_a_column_that_is_constant_in_every_window_may_be_constant() -> None:
    month = np.repeat(np.tile(np.arange(5.0), 4), 200)
    at = pl.Series([datetime(2023, 1, 1, tzinfo=UTC) + timedelta(days=30 * (i // 200)) for i in range(4000)])
    profile = monthly_profile(pl.DataFrame({"month": month}), at)
    assert measure_drift(profile, pl.DataFrame({"month": [2.0] * 200})).drifted == ()


def test_too_few_windows_for_the_rate_name_the_rule_that_decides() -> None:
    frame, _ = months(np.random.default_rng(4), 1)
    report = measure_drift(without_views(twenty_months()), frame)
    assert report.capped
    # Statistics of windows judge these columns at the rate, in a reference that has them.
    assert len(measure_drift(twenty_months(), frame).capped) < len(report.capped)
    assert "cannot be tested at 0.01: 20 reference windows, " in report.summary
    assert f"{report.needed} needed" in report.summary
    assert report.needed >= 99
    assert measure_drift(reference()[1], rows(np.random.default_rng(8), 500)).capped == ()


def test_few_windows_alarm_no_more_often_than_stated() -> None:
    rng = np.random.default_rng(6)
    alarms = 0
    for _ in range(6):
        profile = monthly_profile(*months(rng, 20, rows=100))
        alarms += sum(bool(measure_drift(profile, months(rng, 1, rows=100)[0]).drifted) for _ in range(12))
    # A quarter of one in 21 windows for each of two independent columns and one that follows, and what chance adds (99 %).
    assert alarms <= stats.binom(72, 3 / 4 / 21).ppf(0.99)
