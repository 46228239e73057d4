"""The reference profile: distances that follow from counts, against scipy and brute force; windows and thresholds."""

import json
import math
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import jensenshannon

from mlops_assets.compute.drift.binning import CellIndex
from mlops_assets.compute.drift.column_drift import ColumnComparison, evaluate_column
from mlops_assets.compute.drift.distances import Comparison
from mlops_assets.compute.drift.drift_report import measure_drift
from mlops_assets.compute.drift.drift_statistics import deciding_statistics, measure_statistics, min_effects
from mlops_assets.compute.drift.profile import ColumnProfile, build_profile
from mlops_assets.compute.drift.thresholds import (
    DriftCalibration,
    ExponentialTail,
    _correct_for_few_windows,
    calibrate,
    compute_thresholds,
)
from mlops_assets.errors import DataError

RNG = np.random.default_rng(0)
DECIDING = len(deciding_statistics())
SHAPES = {
    "normal": lambda n: RNG.normal(size=n),
    "moved": lambda n: RNG.normal(0.4, 1.3, n),
    "skewed": lambda n: RNG.lognormal(0, 1.2, n),
    "heavy": lambda n: RNG.standard_t(2, n),
    "zero_inflated": lambda n: np.where(RNG.random(n) < 0.9, 0, RNG.exponential(size=n)),
    "hours": lambda n: RNG.integers(0, 24, n).astype(float),
    "two_values": lambda n: RNG.integers(0, 2, n).astype(float),
    "rounded": lambda n: np.round(RNG.normal(size=n), 1),
    "apart": lambda n: np.where(RNG.random(n) < 0.5, RNG.normal(-50, 1, n), RNG.normal(50, 1, n)),
    "between": lambda n: RNG.uniform(-45, 45, n),
    "far_away": lambda n: RNG.normal(1000, 1, n),
    "constant": lambda n: np.full(n, 0.5),
}


def found(reference: np.ndarray, current: np.ndarray) -> dict[str, float | None]:
    """What a monitor says of two columns, through JSON as it is stored."""
    before = ColumnProfile.from_json(json.loads(json.dumps(ColumnProfile.from_series(pl.Series(reference)).as_json(), allow_nan=False)))
    tail = ExponentialTail(1.0, 1.0, 10, 40)
    calibration = DriftCalibration(
        np.ones(DECIDING), (tail,) * DECIDING, 1.0, np.zeros((DECIDING, 0)), np.zeros((DECIDING, 0)), always_filled=True
    )
    comparison = ColumnComparison("x", "feature", before, ColumnProfile.from_series(pl.Series(current), before), calibration)
    return evaluate_column(comparison, np.full(DECIDING, 0.1)).statistics


def shares(values: np.ndarray, edges: np.ndarray, atoms: np.ndarray) -> np.ndarray:
    """Shares by bin, counted one bin at a time."""
    counts = [np.sum(values == atom) for atom in atoms]
    others = values[~np.isin(values, atoms)]
    inner = list(pairwise(edges)) or [(-math.inf, math.inf)]
    for i, (low, high) in enumerate(inner):
        above = others > low if i else np.ones(len(others), dtype=bool)
        below = others <= high if i < len(inner) - 1 else np.ones(len(others), dtype=bool)
        counts.append(np.sum(above & below))
    return np.array(counts) / len(values)


@pytest.mark.parametrize("before", SHAPES)
@pytest.mark.parametrize("rows", [(20_000, 4_000), (500, 7)])
def test_distances_are_scipys(before: str, rows: tuple[int, int]) -> None:
    reference = SHAPES[before](rows[0])
    for after, shape in SHAPES.items():
        current = shape(rows[1])
        ours = found(reference, current)
        assert ours["ks"] == pytest.approx(stats.ks_2samp(reference, current).statistic, abs=0.0011), after
        if reference.std() > 0:
            assert ours["wasserstein"] == pytest.approx(stats.wasserstein_distance(reference, current) / reference.std(), abs=0.001), after
        binning = ColumnProfile.from_series(pl.Series(reference)).binning
        p, q = (shares(values, binning.edges, binning.atoms) for values in (current, reference))
        assert ours["js"] == pytest.approx(jensenshannon(p, q, 2), abs=1e-6), after
        p, q = np.maximum(p, 1e-4), np.maximum(q, 1e-4)
        assert ours["psi"] == pytest.approx(float(((p - q) * np.log(p / q)).sum()), abs=1e-6), after


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.floats(-1e6, 1e6, allow_subnormal=False) | st.sampled_from([0.0, 1.0, 2.0]), min_size=2, max_size=60),
    st.lists(st.floats(-1e6, 1e6, allow_subnormal=False) | st.sampled_from([0.0, 1.0, 2.0]), min_size=1, max_size=60),
)
def test_distances_are_scipys_for_any_few_numbers(reference: list[float], current: list[float]) -> None:
    ours = found(np.array(reference), np.array(current))
    assert ours["ks"] == pytest.approx(stats.ks_2samp(reference, current, method="asymp").statistic, abs=1e-9)
    if np.std(reference) > 1e-3:
        assert ours["wasserstein"] == pytest.approx(stats.wasserstein_distance(reference, current) / np.std(reference), rel=1e-6, abs=1e-6)


def test_categories_are_compared_by_value_with_nulls_as_one() -> None:
    before, after = pl.Series(["a"] * 60 + ["b"] * 30 + [None] * 10), pl.Series(["a"] * 20 + ["c"] * 30)
    reference = ColumnProfile.from_series(before)
    now = ColumnProfile.from_series(after, reference)
    assert now.unseen == ("c",)
    binning = reference.binning
    assert binning.labels() == ["a", "b", "other", "new", "null", "infinite"]
    assert binning.bins(now.counts)[0].tolist() == [20, 0, 0, 30, 0, 0]
    js = measure_statistics(Comparison(binning, now.counts, reference.counts, 0.0))["js"][0]
    assert js == pytest.approx(jensenshannon([0.6, 0.3, 0, 0.1], [0.4, 0, 0.6, 0], 2))


def test_a_zero_inflated_column_has_a_zero_bin_and_deciles_of_the_rest() -> None:
    binning = ColumnProfile.from_series(pl.Series(SHAPES["zero_inflated"](5000))).binning
    assert binning.atoms.tolist() == [0.0]
    assert len(binning.edges) == 11
    assert (np.diff(binning.edges) > 0).all()
    assert ColumnProfile.from_series(pl.Series([3.0] * 50 + [4.0] * 50)).binning.atoms.tolist() == [3.0, 4.0]


def test_many_categories_are_the_top_hundred_and_others() -> None:
    names = [f"c{i:04d}" for i in range(2000) for _ in range(1 + (i < 150) * 20)]
    reference = ColumnProfile.from_series(pl.Series(names))
    assert (len(reference.binning.values), reference.binning.known) == (100, None)
    assert reference.counts.rows[0] == len(names)
    now = ColumnProfile.from_series(pl.Series(["never seen", "c0001"]), reference)
    assert now.counts.cells[0, -2:].tolist() == [1, 0]  # with so many categories another one is no news
    assert now.unseen == ()


def test_windows_are_counted_as_each_by_itself() -> None:
    column = pl.Series([None, 1.0, 2.5, 2.5, math.inf, math.nan, -3.0, 7.0] * 20)
    window = np.arange(160) % 3
    reference = ColumnProfile.from_series(column)
    together = CellIndex.from_series(reference.binning, column).count_windows(window)
    for i in range(3):
        alone = ColumnProfile.from_series(column.filter(pl.Series(window == i)), reference).counts
        assert (together.cells[i] == alone.cells[0]).all()
        assert together.sums[i] == pytest.approx(alone.sums[0])
        assert (together.nulls[i], together.infinite[i]) == (alone.nulls[0], alone.infinite[0])


def test_a_window_is_compared_with_all_others_and_not_with_itself() -> None:
    values = RNG.normal(size=600) + np.repeat(RNG.normal(size=20), 30)
    window = np.repeat(np.arange(20), 30)
    column = pl.Series(values)
    reference = ColumnProfile.from_series(column)
    found = calibrate(reference.binning, column, reference.spread, window, np.stack([RNG.permutation(window) for _ in range(10)]))
    for i in (0, 7, 19):
        mine, rest = values[window == i], values[window != i]
        assert found.distances[0, i] == pytest.approx(stats.ks_2samp(mine, rest).statistic, abs=0.002)
        assert found.distances[1, i] == pytest.approx(stats.wasserstein_distance(mine, rest) / values.std(), abs=0.01)
        assert found.variances[0, i] == pytest.approx(1 / 30 + 1 / 570)


def test_what_chance_does_is_learned_for_any_number_of_rows() -> None:
    column = pl.Series(RNG.normal(size=20_000))
    reference = ColumnProfile.from_series(column)
    dealt = np.stack([RNG.permutation(np.arange(20_000) % 40) for _ in range(15)])
    found = calibrate(reference.binning, column, reference.spread, None, dealt)
    for n in (200, 5_000):
        size = 1 / n + 1 / 20_000
        limit = found.compute_chance_limits(np.full((DECIDING, 1), size), 0.01)[0, 0]
        # Kolmogorov's own limit at 1 % is 1.63; the other statistics share the rate.
        assert 1.55 < limit / math.sqrt(size) < 2.0


def test_windows_of_time_raise_the_threshold_of_what_differs_between_them() -> None:
    days, rows = 60, 200
    day = np.repeat(np.arange(days), rows)
    X = pl.DataFrame({"weather": RNG.normal(size=days)[day] + 0.1 * RNG.normal(size=days * rows), "iid": RNG.normal(size=days * rows)})
    times = pl.Series([datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=int(d), hours=12) for d in day])
    profile = build_profile(X, times)
    assert profile["windows"] == days
    calibrations = [DriftCalibration.from_json(profile["columns"][name]["calibration"]) for name in X.columns]
    sizes = np.full((2, DECIDING), 1 / rows + 1 / (days * rows))
    limits = compute_thresholds(calibrations, sizes, 0.01, min_effects(0.1)).limits
    assert limits[0, 1] > 2.0  # a day's weather is one draw, standard deviations away
    assert limits[1, 1] < 0.5
    without = build_profile(X)
    assert without["windows"] == 0
    chance = [DriftCalibration.from_json(without["columns"][name]["calibration"]) for name in X.columns]
    assert compute_thresholds(chance, sizes, 0.01, min_effects(0.1)).limits[0, 1] < 0.5


def test_days_are_those_of_the_given_clock() -> None:
    hours = [datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=i) for i in range(24 * 40) for _ in range(4)]
    times = pl.Series(hours).dt.convert_time_zone("America/New_York")
    X = pl.DataFrame({"x": RNG.normal(size=len(hours))})
    # 40 UTC days touch 41 days of New York; the last one has 19 hours, the first one 5 (20 rows: too few).
    assert build_profile(X, times)["windows"] == 40
    assert build_profile(X, pl.Series(hours))["windows"] == 40
    assert {t.astimezone(ZoneInfo("America/New_York")).date() for t in hours} == set(times.dt.date())
    short = build_profile(X, times, window=timedelta(days=30))
    assert short["windows"] >= 20  # shortened, so that there is something to learn from
    assert build_profile(X, pl.Series([hours[0]] * len(hours)))["windows"] == 0


def test_the_same_rows_give_the_same_profile_and_it_is_json() -> None:
    X = pl.DataFrame({"x": [1.0, math.inf, -math.inf, None] * 50, "n": [None] * 200, "b": [True, False] * 100, "s": ["ü", None] * 100})
    first, second = (json.dumps(build_profile(X), allow_nan=False, sort_keys=True) for _ in range(2))
    assert first == second
    assert {name: column["kind"] for name, column in json.loads(first)["columns"].items()} == {
        "x": "numeric",
        "n": "presence",
        "b": "categorical",
        "s": "categorical",
    }
    assert json.loads(first)["columns"]["x"]["infinite"] == 100


def test_columns_have_a_role_and_wrong_rows_are_refused() -> None:
    X = pl.DataFrame({"x": [1.0, 2.0] * 60})
    roles = [build_profile(X, **more)["columns"]["x"]["role"] for more in ({}, {"role": "prediction"})]
    assert roles == ["feature", "prediction"]
    with pytest.raises(DataError, match="has no row"):
        build_profile(X.clear())
    with pytest.raises(DataError, match="120 rows of X, but 60"):
        build_profile(X, pl.Series([datetime(2024, 1, 1, tzinfo=UTC)] * 60))


def test_the_least_effect_is_that_of_a_normal_column_that_moves() -> None:
    ks, wasserstein, js, *_ = min_effects(0.1)
    x = np.linspace(-8, 8, 4001)
    p, q = stats.norm.pdf(x), stats.norm.pdf(x, wasserstein)
    assert ks == pytest.approx(np.abs(stats.norm.cdf(x) - stats.norm.cdf(x, wasserstein)).max(), abs=1e-3)
    assert float(((p - q) * np.log(p / q)).sum() * (x[1] - x[0])) == pytest.approx(0.1, abs=1e-3)
    assert js == pytest.approx(jensenshannon(p, q, 2), abs=0.002)


def test_a_tail_is_extrapolated_with_its_uncertainty() -> None:
    rates = []
    for seed in range(400):
        sample = np.random.default_rng(seed).exponential(size=(91,))
        rates.append(math.exp(-ExponentialTail.fit(sample[:90]).quantile(0.001)))
    assert np.mean(rates) == pytest.approx(0.001, rel=0.35)  # one in a thousand from ninety, on average over samples


def test_correlated_windows_count_as_fewer() -> None:
    steady = np.abs(RNG.normal(size=200))
    alike = np.convolve(RNG.normal(size=219), np.ones(20), "valid")
    assert 1.0 < _correct_for_few_windows(steady) < 1.02
    assert _correct_for_few_windows(np.abs(alike)) > 1.04


@pytest.mark.parametrize("days", [349, 350, 700])
def test_thresholds_know_every_weekday_of_a_long_reference(days: int) -> None:
    number = np.repeat(np.arange(days), 30)
    at = pl.Series([datetime(2023, 1, 1, tzinfo=UTC) + timedelta(days=int(day)) for day in number])
    weekday = pl.DataFrame({"weekday": (number % 7).astype(float)})
    profile = build_profile(weekday, at)

    assert profile["windows"] == 200
    for day in range(7):
        window = pl.DataFrame({"weekday": [float(day)] * 30})
        assert measure_drift(profile, window, min_rows=30).drifted == (), f"weekday {day} counts as drift"
