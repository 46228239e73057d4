"""Intervals of metrics and of differences: they cover the truth as often as they say, and every form is scikit-learn's own metric."""

import math
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from scipy import stats
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import get_scorer, roc_auc_score
from sklearn.tree import DecisionTreeClassifier

from mlops_assets.compute.training import resampling
from mlops_assets.compute.training.resampling import PairedIntervals
from mlops_assets.compute.training.responses import CachedPredictor, find_unusable_predictions
from mlops_assets.compute.training.score_forms import find_vectorised_form

RNG = np.random.default_rng(5)
ROWS, MANY = 300, resampling.MAX_RESAMPLED_ROWS + 1


class Says:
    """A classifier that says what it was given."""

    classes_ = np.array([0, 1])

    def __init__(self, scores: np.ndarray) -> None:
        self.scores = scores

    def predict_proba(self, _X: pl.DataFrame) -> np.ndarray:
        return np.stack([1 - self.scores, self.scores], axis=1)

    def predict(self, _X: pl.DataFrame) -> np.ndarray:
        return (self.scores > 0.5).astype(int)

    def __sklearn_tags__(self):
        return LogisticRegression().__sklearn_tags__()


def intervals(y: np.ndarray, mine: np.ndarray, champion: np.ndarray | None = None, seed: str = "digest", **columns) -> PairedIntervals:
    rows = pl.DataFrame({"x": np.zeros(len(y)), **columns})
    said = [CachedPredictor(Says(scores), rows) for scores in (mine, champion) if scores is not None]
    return PairedIntervals(said[0], said[1] if len(said) == 2 else None, y, rows, seed)


def world(rng, rows=ROWS):
    """Labels and the scores of two models that share most of their errors; the first is truly better."""
    y = (rng.random(rows) < 0.4).astype(int)
    shared = rng.normal(size=rows)
    logits = [1.3 * y + shared + 0.5 * rng.normal(size=rows), 1.0 * y + shared + 0.5 * rng.normal(size=rows)]
    return y, *(1 / (1 + np.exp(-(value - 1))) for value in logits)


@pytest.mark.parametrize(
    "metric", ["roc_auc", "neg_log_loss", "neg_brier_score", "accuracy", "f1", "recall", "precision", "balanced_accuracy", "jaccard"]
)
def test_a_form_is_the_scorer_of_the_rows_as_often_as_they_are_counted(metric) -> None:
    y, mine, _ = world(RNG)
    mine = np.round(mine, 1)  # ties
    model = CachedPredictor(Says(mine), pl.DataFrame({"x": np.zeros(ROWS)}))
    form = find_vectorised_form(metric, model, np.arange(ROWS), y)
    for _ in range(5):
        drawn = RNG.integers(0, ROWS, ROWS)
        counts = np.bincount(drawn, minlength=ROWS)[None, :].astype(float)
        assert form(counts)[0] == pytest.approx(get_scorer(metric)(model, drawn, y[drawn]), rel=1e-9)


@pytest.mark.parametrize(
    "metric",
    ["r2", "neg_root_mean_squared_error", "neg_mean_absolute_error", "neg_mean_squared_error", "neg_mean_squared_log_error", "neg_mean_absolute_percentage_error"],
)  # fmt: skip
def test_the_same_for_regression(metric) -> None:
    X = pl.DataFrame({"x": RNG.random(ROWS)})
    y = 5 + X["x"].to_numpy() + RNG.normal(size=ROWS) / 2
    model = CachedPredictor(LinearRegression().fit(X, y), X)
    form = find_vectorised_form(metric, model, np.arange(ROWS), y)
    drawn = RNG.integers(0, ROWS, ROWS)
    counts = np.bincount(drawn, minlength=ROWS)[None, :].astype(float)
    assert form(counts)[0] == pytest.approx(get_scorer(metric)(model, drawn, y[drawn]), rel=1e-9)


@pytest.mark.parametrize("metric", ["roc_auc", "neg_log_loss", "accuracy", "neg_brier_score", "f1"])
def test_an_interval_of_95_percent_covers_the_true_difference_about_95_times_of_100(metric) -> None:
    rng = np.random.default_rng(11)
    large = world(np.random.default_rng(1), 1_000_000)
    numbers, none = np.arange(1_000_000), pl.DataFrame()
    better, worse = (float(get_scorer(metric)(CachedPredictor(Says(scores), none), numbers, large[0])) for scores in large[1:])
    truth, covered, zero, rounds = better - worse, 0, 0, 300
    for round_ in range(rounds):
        y, mine, champion = world(rng)
        low, high = intervals(y, mine, champion, str(round_)).difference(metric)
        covered += low <= truth <= high
        zero += low > truth
    print(f"{metric}: {covered} of {rounds} cover the truth, {zero} begin above it")
    # Of 300 rounds at 95 %, 99.9 % of all experiments cover at least 271 and at most 296 times; a bound that is too high is dangerous.
    assert stats.binom.ppf(0.001, rounds, 0.94) <= covered <= rounds, (covered, zero)
    assert zero <= stats.binom.ppf(0.999, rounds, 0.03)


def test_pairing_counts_the_rows_that_both_got_wrong_once() -> None:
    y, mine, _ = world(RNG)
    low, high = intervals(y, mine, np.clip(mine - 1e-6, 0, 1)).difference("roc_auc")
    assert (low, high) == (0.0, 0.0)
    alone = intervals(y, mine).value("roc_auc")
    assert alone[1] - alone[0] > 0.05
    assert alone[0] < roc_auc_score(y, mine) < alone[1]


def test_scipy_gives_nearly_the_same_interval() -> None:
    y, mine, champion = world(RNG)

    def statistic(rows):
        chosen = rows.astype(int)
        return roc_auc_score(y[chosen], mine[chosen]) - roc_auc_score(y[chosen], champion[chosen])

    peer = stats.bootstrap(
        (np.arange(ROWS),), statistic, vectorized=False, n_resamples=1000, method="percentile", rng=np.random.default_rng(1)
    )
    low, high = intervals(y, mine, champion).difference("roc_auc")
    width = peer.confidence_interval.high - peer.confidence_interval.low
    assert abs(low - peer.confidence_interval.low) < 0.15 * width
    assert abs(high - peer.confidence_interval.high) < 0.15 * width


def compare_with_bootstrap(monkeypatch, metric, make) -> None:
    """Assert that an interval without draws ends within a tenth of the bootstrap's width, for the metric and for its difference."""
    found = [make("digest").value(metric), make("digest").difference(metric)]
    assert found == [make("other").value(metric), make("other").difference(metric)]
    monkeypatch.setattr(resampling, "MAX_RESAMPLED_ROWS", MANY)
    monkeypatch.setattr(resampling, "RESAMPLES", 500)
    drawn = [make("digest").value(metric), make("digest").difference(metric)]
    for (low, high), (drawn_low, drawn_high) in zip(found, drawn, strict=True):
        width = drawn_high - drawn_low
        assert 0 < abs(low - drawn_low) < 0.1 * width
        assert 0 < abs(high - drawn_high) < 0.1 * width


@pytest.mark.parametrize("metric", ["roc_auc", "f1", "jaccard", "precision", "recall", "balanced_accuracy"])
def test_a_classifiers_metric_over_many_rows_has_the_bootstraps_interval_without_draws(monkeypatch, metric) -> None:
    y, mine, champion = world(np.random.default_rng(3), MANY)
    mine = np.round(mine, 2)  # ties
    compare_with_bootstrap(monkeypatch, metric, lambda seed: intervals(y, mine, champion, seed))


@pytest.mark.parametrize("metric", ["r2", "neg_root_mean_squared_error"])
@pytest.mark.parametrize("days", [None, 400])
def test_a_regressors_metric_over_many_rows_has_the_bootstraps_interval_without_draws(monkeypatch, metric, days) -> None:
    rng = np.random.default_rng(4)
    X = pl.DataFrame({"x": rng.random(MANY), "z": rng.normal(size=MANY)})
    y = 5 + X["x"].to_numpy() + X["z"].to_numpy() / 4 + rng.gamma(2.0, 0.5, MANY)
    mine, champion = (CachedPredictor(LinearRegression().fit(part, y), part) for part in (X, X.select("x")))
    at = None if days is None else pl.Series(np.arange(MANY) * (days * 86_400_000_000 // MANY)).cast(pl.Datetime("us"))
    length = None if days is None else timedelta(days=1)
    compare_with_bootstrap(monkeypatch, metric, lambda seed: PairedIntervals(mine, champion, y, X, seed, times=at, block_length=length))


@pytest.mark.parametrize("metric", ["f1", "balanced_accuracy", "r2", "neg_root_mean_squared_error"])
def test_a_ratio_or_a_root_that_is_perfect_or_rests_on_few_rows_is_resampled(metric) -> None:
    y = np.zeros(MANY)
    y[:40] = 1
    model = CachedPredictor(Says(y), pl.DataFrame({"x": y}))
    form = find_vectorised_form(metric, model, np.arange(MANY), y)
    assert form is not None
    assert (form.linearize() is None) is (metric != "r2")


def test_an_area_of_few_rows_of_a_class_is_resampled() -> None:
    rows = resampling.MAX_RESAMPLED_ROWS + 1
    _, mine, champion = world(np.random.default_rng(3), rows)
    rare = (np.arange(rows) % 1000 == 0).astype(int)
    model = CachedPredictor(Says(mine), pl.DataFrame({"x": np.zeros(rows)}))
    form = find_vectorised_form("roc_auc", model, np.arange(rows), rare)
    assert form is not None
    assert form.linearize() is None
    assert intervals(rare, mine, champion, "a").difference("roc_auc") != intervals(rare, mine, champion, "b").difference("roc_auc")


def test_the_seed_is_the_candidates_digest() -> None:
    y, mine, champion = world(RNG)
    one, again, other = (intervals(y, mine, champion, seed).difference("roc_auc") for seed in ("a", "a", "b"))
    assert one == again != other


def test_a_scorer_without_a_form_is_asked_again_and_three_classes_are_measured() -> None:
    X = pl.DataFrame({"x": RNG.normal(size=ROWS)})
    y = np.digitize(X["x"].to_numpy() + RNG.normal(size=ROWS) / 2, [-0.5, 0.5])
    good, poor = DecisionTreeClassifier(max_depth=3).fit(X, y), DummyClassifier(strategy="stratified", random_state=0).fit(X, y)
    found = PairedIntervals(CachedPredictor(good, X), CachedPredictor(poor, X), y, X, "d")
    for metric in ("roc_auc_ovr", "matthews_corrcoef"):
        low, high = found.difference(metric)
        assert 0 < low < high, metric


def test_a_slice_has_an_interval_of_its_own_and_what_is_undefined_has_none() -> None:
    y, mine, champion = world(RNG)
    g = ["few"] * 30 + ["many"] * (ROWS - 30)
    found = intervals(y, mine, champion, g=g)
    widths = {name: np.subtract(*found.difference("neg_log_loss", within=("g", name))[::-1]) for name in ("few", "many")}
    assert widths["few"] > 1.5 * widths["many"] > 0
    assert all(math.isnan(bound) for bound in found.difference("roc_auc", within=("g", "nobody")))
    assert all(math.isnan(bound) for bound in intervals(np.ones(ROWS, dtype=int), mine, champion).difference("roc_auc"))
    assert all(math.isnan(bound) for bound in intervals(y, mine).difference("roc_auc"))


@pytest.mark.parametrize(
    ("scores", "why"),
    [
        (np.array([0.1, np.nan, np.inf]), "a number that is not finite for 2 of 3 rows"),
        (np.array([[0.5, 0.5]] * 3), "the same, 0.5, 0.5, for all 3 rows"),
        (np.array(["a", "a", "a"]), "the same, a, for all 3 rows"),
        (np.zeros(2), "2 predictions for 3 rows"),
        (np.array(["a", "b", "a"]), ""),
        (np.array([0.1, 0.2, 0.3]), ""),
    ],
)
def test_unusable_predictions_are_counted(scores, why) -> None:
    assert why in find_unusable_predictions(scores, 3)
    assert bool(find_unusable_predictions(scores, 3)) is bool(why)
