"""Intervals of errors that follow each other in time: they cover the truth as often as they say, and they say what they resample."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from scipy import stats
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.metrics import get_scorer_names

from mlops_assets.compute.monitoring.performance import measure_performance
from mlops_assets.compute.tables.own_columns import PREDICTION
from mlops_assets.compute.training.classes import class_to_encode, encode_labels, wrap_two_classes
from mlops_assets.compute.training.metric_range import clip_interval, metric_range
from mlops_assets.compute.training.resampling import PairedIntervals
from mlops_assets.compute.training.responses import CachedPredictor
from mlops_assets.compute.training.time_blocks import find_blocks, measure_block_rows, prediction_errors

BASE = datetime(2024, 1, 1, tzinfo=UTC)
HOURS = 720


class Predicts:
    """A regressor that predicts what it was given."""

    def __init__(self, predictions: np.ndarray) -> None:
        self.predictions = predictions

    def predict(self, _X: pl.DataFrame) -> np.ndarray:
        return self.predictions

    def __sklearn_tags__(self):
        return LinearRegression().__sklearn_tags__()


def hours(rows: int = HOURS) -> pl.Series:
    return pl.Series("at", [BASE + timedelta(hours=h) for h in range(rows)])


def errors(rng, correlation: float, rows: int = HOURS) -> np.ndarray:
    """Return AR(1) errors of variance 1."""
    from scipy.signal import lfilter

    noise = rng.normal(size=rows + 200) * np.sqrt(1 - correlation**2)
    return lfilter([1.0], [1.0, -correlation], noise)[200:]


def intervals(found: np.ndarray, champion: np.ndarray | None = None, times: pl.Series | None = None, y: np.ndarray | None = None, **more):
    y = np.zeros(len(found)) if y is None else y
    X = pl.DataFrame({"x": y})
    models = [CachedPredictor(Predicts(y - e), X) for e in (found, champion) if e is not None]
    return PairedIntervals(models[0], models[1] if len(models) == 2 else None, y, X, "d", times=times, **more)


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.69, 0.9])
def test_an_interval_of_95_percent_covers_the_truth_when_errors_are_ar1(correlation) -> None:
    rng, truth, rounds = np.random.default_rng(7), -np.sqrt(2 / np.pi), 150
    covered, rows_alone = 0, 0
    for _ in range(rounds):
        found = errors(rng, correlation)
        low, high = intervals(found, times=hours()).value("neg_mean_absolute_error")
        covered += low <= truth <= high
        low, high = intervals(found).value("neg_mean_absolute_error")
        rows_alone += low <= truth <= high
    print(f"AR(1) {correlation}: blocks cover {covered} of {rounds}, rows {rows_alone}")
    # What 30 days say of strongly dependent errors is little: 90 % is asked for there, in place of the nominal 95 %.
    assert covered >= stats.binom.ppf(0.001, rounds, 0.95 if correlation < 0.5 else 0.9)
    if correlation > 0.5:
        assert rows_alone < covered - 0.05 * rounds


@pytest.mark.parametrize(("metric", "rounds"), [("r2", 40), ("neg_root_mean_squared_error", 40), ("neg_median_absolute_error", 8)])
def test_resampled_metrics_are_as_sure_as_means_are(metric, rounds) -> None:
    """A metric with a form, a mean under a root, and a scorer that is asked again: each interval is wider by blocks, and covers."""
    rng, inside = np.random.default_rng(3), 0
    truth = {"r2": 0.5, "neg_root_mean_squared_error": -1.0, "neg_median_absolute_error": -stats.norm.ppf(0.75)}[metric]
    wider = 0
    for _ in range(rounds):
        found = errors(rng, 0.69)
        y = errors(rng, 0.3) * np.sqrt(2)  # of which half the variance is explained
        low, high = intervals(found, times=hours(), y=y).value(metric)
        alone = intervals(found, y=y).value(metric)
        inside += low <= truth <= high
        wider += high - low > alone[1] - alone[0]
    assert inside >= stats.binom.ppf(0.001, rounds, 0.9)
    assert wider >= 0.9 * rounds


def test_the_difference_of_two_models_is_resampled_by_the_same_blocks() -> None:
    rng = np.random.default_rng(5)
    shared, mine, champion = errors(rng, 0.8), errors(rng, 0.8), errors(rng, 0.8)
    found = intervals(shared + mine / 2, shared + champion / 2, times=hours())
    alone = intervals(shared + mine / 2, shared + champion / 2)
    for metric in ("neg_mean_squared_error", "neg_root_mean_squared_error", "neg_median_absolute_error"):
        by_blocks, by_rows = (np.subtract(*each.difference(metric)[::-1]) for each in (found, alone))
        assert by_blocks > 1.2 * by_rows, metric
    assert found.method.endswith("estimated from the errors")
    assert alone.method == "independent rows"


@pytest.mark.parametrize("seed", range(5))
def test_independent_rows_stay_rows_and_their_interval_is_unchanged(seed) -> None:
    found = errors(np.random.default_rng(seed), 0.0)
    with_times, without = intervals(found, times=hours()), intervals(found)
    assert with_times.method == "independent rows"
    for metric in ("neg_mean_absolute_error", "neg_root_mean_squared_error"):
        assert with_times.value(metric) == without.value(metric)


def test_a_declared_length_decides_and_zero_declares_independent_rows() -> None:
    found = errors(np.random.default_rng(1), 0.69)
    days = intervals(found, times=hours(), block_length=timedelta(days=1))
    assert days.method == "30 blocks of 1 day, as declared"
    assert intervals(found, times=hours(), block_length=timedelta(0)).method == "independent rows"
    sums = np.abs(found).reshape(30, 24).mean(axis=1)
    width = stats.t.ppf(0.975, 29) * sums.std(ddof=1) / np.sqrt(30)
    assert days.value("neg_mean_absolute_error") == pytest.approx((-sums.mean() - width, -sums.mean() + width))
    month = intervals(found, times=hours(), block_length=timedelta(days=90))
    assert np.isnan(month.value("neg_mean_absolute_error")).all(), "one block says nothing of how blocks differ"


def test_rows_of_one_moment_have_no_order_that_could_look_like_dependence() -> None:
    """Rows are stored sorted by their values: within a day the errors rise, but days are alike."""
    rng = np.random.default_rng(2)
    sorted_by_value = np.concatenate([np.sort(rng.normal(size=50)) for _ in range(40)])
    times = pl.Series([BASE + timedelta(days=day) for day in range(40) for _ in range(50)])
    assert measure_block_rows(sorted_by_value) > 1
    assert find_blocks(times, [sorted_by_value]) is None
    shocks = np.repeat(rng.normal(size=40), 50)  # a day that is bad is bad in all its rows
    found = find_blocks(times, [rng.normal(size=2000) * 2 + shocks])
    assert found is not None
    assert found.length >= timedelta(days=1)


def test_a_slice_keeps_the_blocks_of_time() -> None:
    rng = np.random.default_rng(4)
    e = errors(rng, 0.9)
    X = pl.DataFrame({"g": ["a", "b"] * (HOURS // 2)})
    model = CachedPredictor(Predicts(-e), X)
    found = PairedIntervals(model, None, np.zeros(HOURS), X, "d", times=hours(), block_length=timedelta(days=1))
    days = [np.abs(e).reshape(30, 24)[:, start::2].mean(axis=1) for start in (0, 1)]
    for name, means in zip("ab", days, strict=True):
        low, high = found.value("neg_mean_absolute_error", within=("g", name))
        assert high - low == pytest.approx(2 * stats.t.ppf(0.975, 29) * means.std(ddof=1) / np.sqrt(30))


def test_a_window_of_a_monitor_leaves_out_blocks_of_time() -> None:
    rng, truth = np.random.default_rng(6), -np.sqrt(2 / np.pi)
    inside = {"at": 0, None: 0}
    for _ in range(25):
        e = errors(rng, 0.69)
        predictions = pl.DataFrame({"id": range(HOURS), "at": hours(), PREDICTION: -e})
        labels = pl.DataFrame({"id": range(HOURS), "y": np.zeros(HOURS)})
        for time in inside:
            report = measure_performance(
                predictions, labels, key=["id"], label="y", metrics=["neg_mean_absolute_error"], event_timestamp=time
            )
            metric = report.metric("neg_mean_absolute_error")
            inside[time] += metric.low <= truth <= metric.high
            assert ("blocks of" in report.intervals) is (time == "at")
    assert inside["at"] >= stats.binom.ppf(0.001, 25, 0.9)
    assert inside[None] <= inside["at"] - 2


def test_no_interval_leaves_the_range_of_its_metric() -> None:
    rng = np.random.default_rng(8)
    y = errors(rng, 0.5, 40)
    nearly = intervals(rng.standard_t(2, 40) * 0.02, times=hours(40), y=y, block_length=timedelta(hours=10))
    assert nearly.value("r2")[1] <= 1
    assert clip_interval("r2", 0.99, 1.001) == (0.99, 1.0)
    assert clip_interval("roc_auc", -0.1, 1.1) == (0.0, 1.0)
    assert clip_interval("neg_log_loss", -0.4, 0.1) == (-0.4, 0.0)
    assert clip_interval("accuracy", -1.5, 1.5, is_difference=True) == (-1.0, 1.0)
    assert clip_interval("r2", -3.0, 3.0, is_difference=True) == (-3.0, 3.0)
    assert np.isnan(clip_interval("r2", np.nan, np.nan)).all()


def test_every_scorer_of_scikit_learn_has_a_range() -> None:
    assert {name: metric_range(name) for name in get_scorer_names() if metric_range(name)[1] not in (0.0, 1.0)} == {
        "mutual_info_score": (0.0, np.inf),
        "positive_likelihood_ratio": (0.0, np.inf),
    }


@pytest.mark.parametrize("positive", ["late", "on time"])
@pytest.mark.parametrize("estimator", [LogisticRegression(C=1e6), RidgeClassifier()])
def test_the_errors_of_a_classifier_are_those_of_its_encoded_labels(estimator, positive) -> None:
    X, y = pl.DataFrame({"x": [-2.0, -1.0, 1.0, 2.0]}), np.array(["late", "late", "on time", "on time"])
    predictor = CachedPredictor(estimator.fit(X, y), X)
    encoded = class_to_encode(predictor.classes_, y, positive)
    for errors_of_rows in prediction_errors([wrap_two_classes(predictor, encoded)], encode_labels(y, encoded)):
        assert np.abs(errors_of_rows).max() < 0.1
