"""Performance estimated without labels: equal to the average over labels drawn many times, and near the truth when inputs change."""

import json
import math

import numpy as np
import polars as pl
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    f1_score,
    log_loss,
    precision_score,
    recall_score,
    roc_auc_score,
)
from sklearn.svm import LinearSVC

from mlops_assets.compute.estimation.calibration_map import calibrate_classes, fit_calibration
from mlops_assets.compute.estimation.estimator import PerformanceEstimator, fit_estimator
from mlops_assets.compute.estimation.loss_tree import fit_loss_tree
from mlops_assets.compute.training.responses import CachedPredictor
from mlops_assets.errors import DataError
from mlops_assets.values.evaluation import Split

ORACLES = {
    "accuracy": lambda y, p: accuracy_score(y, p > 0.5),
    "average_precision": average_precision_score,
    "f1": lambda y, p: f1_score(y, p > 0.5),
    "neg_brier_score": lambda y, p: -brier_score_loss(y, p),
    "neg_log_loss": lambda y, p: -log_loss(y, p),
    "precision": lambda y, p: precision_score(y, p > 0.5),
    "recall": lambda y, p: recall_score(y, p > 0.5),
    "roc_auc": roc_auc_score,
}


def split(rows: int, seed: int, shift: float = 0.0, names: tuple | None = None) -> Split:
    """Rows of which a logistic function of x decides the label; the shift moves x."""
    rng = np.random.default_rng(seed)
    x = rng.normal(shift, 1, rows)
    y = (rng.random(rows) < 1 / (1 + np.exp(-(x**3 / 3 + x) / 1.5))).astype(int)
    frame = pl.DataFrame({"x": x, "z": rng.normal(size=rows)})
    return Split(frame, y if names is None else np.array(names)[y], frame)


def fitted(**more) -> LogisticRegression:
    train = split(2000, 0, **more)
    return LogisticRegression().fit(train.X, train.y)


def stored(estimator: PerformanceEstimator) -> PerformanceEstimator:
    return PerformanceEstimator.from_json(json.loads(json.dumps(estimator.as_json(), allow_nan=False)))


@pytest.mark.parametrize("metric", ORACLES)
def test_an_estimate_is_the_average_over_labels_drawn_many_times(metric: str) -> None:
    model, holdout, window = fitted(), split(3000, 1), split(700, 2, shift=0.5)
    estimator = stored(fit_estimator(CachedPredictor(model, holdout.X), holdout))
    found = estimator.estimate(metric, CachedPredictor(model, window.X), window.X, 0.95)
    shares = model.predict_proba(window.X)[:, 1]
    chances = estimator.maps[0](shares)
    rng = np.random.default_rng(3)
    draws = [ORACLES[metric](rng.random(700) < chances, shares) for _ in range(1500)]
    sampling = np.std(draws) / math.sqrt(len(draws))
    assert found.value == pytest.approx(np.mean(draws), abs=4 * sampling + 5e-4)
    chance = np.std(draws) * math.sqrt(1 + 700 / 3000)
    assert (found.high - found.low) / (2 * 1.96 * chance) == pytest.approx(1, abs=0.25)


def test_expected_accuracy_is_that_of_calibrated_probabilities_to_four_digits() -> None:
    model, holdout, window = fitted(), split(3000, 1), split(900, 2)
    estimator = fit_estimator(CachedPredictor(model, holdout.X), holdout)
    found = estimator.estimate("accuracy", CachedPredictor(model, window.X), window.X, 0.95)
    shares = model.predict_proba(window.X)[:, 1]
    chances = estimator.maps[0](shares)
    assert found.value == pytest.approx(np.where(shares > 0.5, chances, 1 - chances).mean(), abs=1e-6)


def test_the_interval_holds_the_metric_of_the_labels_that_arrive_later() -> None:
    model, holdout = fitted(), split(3000, 1)
    estimator = fit_estimator(CachedPredictor(model, holdout.X), holdout)
    for shift in (0.0, 0.7):
        inside, differences = 0, []
        for seed in range(60):
            window = split(500, 100 + seed, shift)
            found = estimator.estimate("roc_auc", CachedPredictor(model, window.X), window.X, 0.95)
            truth = roc_auc_score(window.y, model.predict_proba(window.X)[:, 1])
            inside += found.low <= truth <= found.high
            differences.append(truth - found.value)
        assert inside >= 52
        assert abs(np.mean(differences)) < 0.02


@pytest.mark.parametrize("positive", ["yes", "no"])
def test_named_classes_are_estimated_for_the_declared_positive_one(positive: str) -> None:
    names = ("no", "yes")
    model, holdout, window = fitted(names=names), split(3000, 1, names=names), split(20_000, 2, shift=0.5, names=names)
    estimator = stored(fit_estimator(CachedPredictor(model, holdout.X), holdout, positive))
    found = estimator.estimate("precision", CachedPredictor(model, window.X), window.X, 0.95, positive)
    assert found.value == pytest.approx(precision_score(window.y, model.predict(window.X), pos_label=positive), abs=0.03)


def test_several_classes_are_calibrated_together() -> None:
    rng = np.random.default_rng(0)

    def kinds(rows: int) -> Split:
        X = pl.DataFrame({"a": rng.normal(size=rows), "b": rng.normal(size=rows)})
        y = np.array(["p", "q", "r"])[(X["a"] + rng.normal(size=rows) > 0).to_numpy().astype(int) + (X["b"] > 0.5).to_numpy()]
        return Split(X, y, X)

    train, holdout, window = kinds(2000), kinds(3000), kinds(3000)
    model = LogisticRegression().fit(train.X, train.y)
    estimator = stored(fit_estimator(CachedPredictor(model, holdout.X), holdout))
    shares = calibrate_classes(estimator.maps, model.predict_proba(window.X))
    assert shares.sum(axis=1) == pytest.approx(1)
    found = estimator.estimate("accuracy", CachedPredictor(model, window.X), window.X, 0.95)
    assert found.low < accuracy_score(window.y, model.predict(window.X)) < found.high


def numbers(rows: int, seed: int, share_b: float) -> Split:
    """A regression with three times the error for shop b."""
    rng = np.random.default_rng(seed)
    shop = np.where(rng.random(rows) < share_b, "b", "a")
    x = pl.Series(rng.normal(size=rows))
    X = pl.DataFrame({"x": pl.select(pl.when(rng.random(rows) < 0.95).then(x)).to_series(), "shop": shop})
    y = x.to_numpy() * 2 + rng.normal(size=rows) * np.where(shop == "b", 3.0, 1.0)
    return Split(X, y, X)


class Line:
    """Predicts from the known x."""

    _estimator_type = "regressor"

    def predict(self, X: pl.DataFrame) -> np.ndarray:
        return X["x"].fill_null(0.0).to_numpy() * 2


@pytest.mark.parametrize(
    ("metric", "truth"),
    [
        ("neg_mean_absolute_error", lambda e: -np.abs(e).mean()),
        ("neg_mean_squared_error", lambda e: -(e**2).mean()),
        ("neg_root_mean_squared_error", lambda e: -math.sqrt((e**2).mean())),
    ],
)
def test_losses_of_a_regressor_follow_its_inputs(metric: str, truth) -> None:
    model, holdout = Line(), numbers(4000, 1, 0.2)
    estimator = stored(fit_estimator(CachedPredictor(model, holdout.X), holdout))
    inside, errors, constant = 0, [], []
    for seed in range(40):
        window = numbers(600, 50 + seed, seed / 40)
        found = estimator.estimate(metric, CachedPredictor(model, window.X), window.X, 0.95)
        known = truth(window.y - model.predict(window.X))
        inside += found.low <= known <= found.high
        errors.append(abs(found.value - known))
        constant.append(abs(truth(holdout.y - model.predict(holdout.X)) - known))
    assert inside >= 34
    assert np.mean(errors) < np.mean(constant) / 3


def test_a_window_may_lack_columns_and_have_new_values() -> None:
    model, holdout = Line(), numbers(4000, 1, 0.2)
    estimator = stored(fit_estimator(CachedPredictor(model, holdout.X), holdout))
    window = numbers(500, 2, 0.2).X
    predictor = CachedPredictor(model, window)
    for changed in (window.drop("shop"), window.with_columns(shop=pl.lit("new")), window.with_columns(shop=None)):
        found = estimator.estimate("neg_mean_absolute_error", predictor, changed, 0.95)
        assert -2.0 < found.value < -1.0
    assert "can be estimated" in estimator.estimate("r2", predictor, window, 0.95).problem


def test_times_widen_the_interval_when_neighbours_err_alike() -> None:
    rng = np.random.default_rng(0)
    X = pl.DataFrame({"x": rng.normal(size=4000)})
    errors = np.repeat(rng.normal(size=200), 20) + 0.3 * rng.normal(size=4000)
    holdout = Split(X, X["x"].to_numpy() * 2 + errors, X)
    times = (
        pl.Series(range(4000)).cast(pl.Datetime("us")) + pl.duration(hours=0)
        if False
        else pl.Series(np.arange(4000)).cast(pl.Datetime("us", "UTC"))
    )
    alone = fit_estimator(CachedPredictor(Line(), X), holdout)
    together = fit_estimator(CachedPredictor(Line(), X), holdout, times=times)
    assert (alone.dependence, together.dependence > 4) == (1.0, True)


def test_a_map_is_isotonic_with_half_a_row_of_each_class_added_to_each_block() -> None:
    found = fit_calibration(np.array([0.1, 0.1, 0.2, 0.3, 0.4, 0.9, 0.9, 0.9]), np.array([0, 0, 0, 1, 0, 1, 1, 1]))
    assert found.predicted.tolist() == [0.1, 0.2, 0.3, 0.4, 0.9]
    assert found.rows.tolist() == [4, 4, 3, 3, 4]
    assert found.observed == pytest.approx([0.5 / 4, 0.5 / 4, 1.5 / 3, 1.5 / 3, 3.5 / 4])
    rng = np.random.default_rng(0)
    shares = rng.random(5000)
    outcomes = (rng.random(5000) < shares**2).astype(float)
    plain = IsotonicRegression().fit(shares, outcomes).predict(shares)
    smooth = fit_calibration(shares, outcomes)
    assert np.abs(smooth(shares) - plain).mean() < 0.01
    assert (np.diff(smooth.observed) >= 0).all()
    assert 0 < smooth.observed.min() < smooth.observed.max() < 1
    drawn = np.stack([smooth.sample(rng)(shares) for _ in range(300)])
    assert drawn.mean(axis=0) == pytest.approx(smooth(shares), abs=0.06)


@pytest.mark.parametrize("kind", ["sure", "rare"])
def test_intervals_hold_with_few_rows_of_the_holdout(kind: str) -> None:
    rng = np.random.default_rng(0)
    draw = {"sure": lambda rows: rng.beta(0.1, 0.1, rows), "rare": lambda rows: rng.beta(0.5, 50, rows)}[kind]
    inside = dict.fromkeys(("accuracy", "neg_log_loss"), 0)
    for _ in range(100):
        known, window = draw(200), draw(1000)
        estimator = PerformanceEstimator(200, 1.0, (fit_calibration(known, (rng.random(200) < known).astype(float)),))
        y = rng.random(1000) < window
        X = pl.DataFrame({"share": window})
        predictor = CachedPredictor(Honest().fit(X, y), X)
        for metric in inside:
            found = estimator.estimate(metric, predictor, X, 0.95)
            inside[metric] += found.low <= ORACLES[metric](y, window) <= found.high
    assert min(inside.values()) >= 88  # of 100; 95 are expected


class Honest(ClassifierMixin, BaseEstimator):
    """Predicts the share that it is given."""

    def fit(self, _X: pl.DataFrame, _y: np.ndarray) -> "Honest":
        self.classes_ = np.array([0, 1])
        return self

    def predict(self, X: pl.DataFrame) -> np.ndarray:
        return (X["share"].to_numpy() > 0.5).astype(int)

    def predict_proba(self, X: pl.DataFrame) -> np.ndarray:
        return np.column_stack([1 - X["share"].to_numpy(), X["share"].to_numpy()])


@pytest.mark.parametrize("error", [0.0, 0.1, 5.0, 1e37, 1e200])
def test_constant_and_large_errors_have_a_loss_tree(error: float) -> None:
    X = pl.DataFrame({"x": np.r_[1e39, -1e300, np.arange(198.0)]})
    tree = fit_loss_tree(X, np.zeros(200), np.full(200, error))
    found = tree.predict(X, np.full(200, 1e300))
    assert np.isfinite(found).all()
    assert found[:, 0] == pytest.approx(min(error, float(np.finfo(np.float32).max)))
    json.dumps(tree.as_json(), allow_nan=False)


def test_what_cannot_be_estimated_has_no_estimator_or_says_why() -> None:
    train = split(2000, 0)
    with pytest.raises(DataError, match="the holdout has 99 rows, 100 are needed"):
        fit_estimator(CachedPredictor(fitted(), split(99, 1).X), split(99, 1))
    with pytest.raises(DataError, match="no probabilities"):
        fit_estimator(CachedPredictor(LinearSVC().fit(train.X, train.y), train.X), train)
    single = Split(train.X, np.zeros(2000, dtype=int), train.X)
    with pytest.raises(DataError, match="trained on one class only, 0"):
        fit_estimator(CachedPredictor(DummyClassifier().fit(single.X, single.y), single.X), single)
    two = HistGradientBoostingRegressor().fit(train.X, train.y)
    two.predict = lambda X: np.zeros((len(X), 2))
    with pytest.raises(DataError, match="several numbers"):
        fit_estimator(CachedPredictor(two, train.X), train)
    holdout = split(3000, 1)
    estimator = fit_estimator(CachedPredictor(fitted(), holdout.X), holdout)
    hard = CachedPredictor(LinearSVC().fit(train.X, train.y), train.X)
    assert estimator.estimate("accuracy", hard, train.X, 0.95).problem == "the predictions have no probabilities"
    one = CachedPredictor(DummyClassifier().fit(train.X, train.y), train.X)
    assert math.isfinite(estimator.estimate("accuracy", one, train.X, 0.95).value)
    assert "matthews" not in estimator.estimate("roc_auc", CachedPredictor(fitted(), holdout.X), holdout.X, 0.95).problem
