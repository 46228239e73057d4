"""A drop is decomposed into columns: a broken column explains what it cost, a clean window attributes nothing, and draws are repeatable."""

import json

import numpy as np
import polars as pl
import pytest
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import get_scorer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from mlops_assets.compute.drift.profile import ColumnProfile, build_profile
from mlops_assets.compute.explanation.performance_drop import ColumnEffect, DropExplanation, explain_drop, find_fallen_metric
from mlops_assets.compute.explanation.reference_columns import restore_column
from mlops_assets.compute.monitoring.labels import LabelArrivals
from mlops_assets.compute.monitoring.performance import PerformanceReport
from mlops_assets.compute.monitoring.verdicts import Verdict, WindowMetric
from mlops_assets.values.monitoring import BREACH, GOOD, Performance


def draw_rows(rows: int, seed: int) -> tuple[pl.DataFrame, np.ndarray]:
    """Rows whose label depends on a temperature and on a carrier."""
    random = np.random.default_rng(seed)
    temp, wind = random.normal(10, 5, rows), random.gamma(2, 3, rows)
    carrier = random.choice(["UA", "DL", "AA"], rows, p=[0.6, 0.3, 0.1])
    risk = 0.4 * (temp - 10) + np.where(carrier == "DL", 1.5, 0.0)
    y = random.random(rows) < 1 / (1 + np.exp(-risk))
    return pl.DataFrame({"temp": temp, "wind": wind, "carrier": carrier}), y


def fit() -> tuple[object, dict[str, ColumnProfile]]:
    X, y = draw_rows(6000, 0)
    encode = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["carrier"]), remainder="passthrough")
    model = make_pipeline(encode, LogisticRegression(max_iter=1000)).fit(X, y)
    return model, {name: ColumnProfile.from_json(stored) for name, stored in build_profile(X)["columns"].items()}


MODEL, PROFILES = fit()


def measure(metric: str, X: pl.DataFrame, y: np.ndarray) -> float:
    return float(get_scorer(metric)(MODEL, X, y))


def explain(X: pl.DataFrame, y: np.ndarray, metric: str = "roc_auc") -> DropExplanation:
    """Explain a window; the holdout is 6,000 clean rows."""
    reference, value = measure(metric, *draw_rows(6000, 1)), measure(metric, X, y)
    found = explain_drop(MODEL, X, y, WindowMetric(metric, value, reference=reference), PROFILES)
    json.dumps(found.as_json(), allow_nan=False)
    return found


@pytest.mark.parametrize("metric", ["neg_log_loss", "accuracy"])
def test_a_column_in_another_unit_explains_what_it_costs(metric: str) -> None:
    X, y = draw_rows(2000, 2)
    fahrenheit = X.with_columns(temp=pl.col("temp") * 9 / 5 + 32)
    found = explain(fahrenheit, y, metric)
    cost = measure(metric, X, y) - measure(metric, fahrenheit, y)
    assert [effect.columns for effect in found.causes] == [("temp",)]
    assert found.causes[0].gain == pytest.approx(cost, rel=0.02)
    assert abs(found.remainder) < 0.03


def test_renamed_carriers_explain_what_they_cost() -> None:
    X, y = draw_rows(2000, 4)
    renamed = X.with_columns(pl.col("carrier").replace({"DL": "Delta", "UA": "United"}))
    found = explain(renamed, y)
    cost = measure("roc_auc", X, y) - found.value
    assert [effect.columns for effect in found.causes] == [("carrier",)]
    assert found.causes[0].gain == pytest.approx(cost, abs=0.01)
    assert found.causes[0].low < cost < found.causes[0].high
    text = found.describe("2013-04-01")
    assert text.startswith(
        f"roc_auc fell from {found.reference:.3f} (holdout) to {found.value:.3f} in 2013-04-01; replacing carrier by its reference"
    )


def test_a_window_without_drift_attributes_nothing() -> None:
    for seed in range(10, 14):
        X, y = draw_rows(1500, seed)
        found = explain(X, y)
        assert all(abs(effect.gain) < 0.01 for effect in (*found.columns, *found.groups))
    relabelled = np.random.default_rng(5).permutation(y)  # the relation changed, no column did
    found = explain(X, relabelled)
    assert (found.causes, found.remainder) == ((), pytest.approx(found.reference - found.value))
    assert "; no single column explains a part of it with certainty" in found.describe("May")
    uncertain = DropExplanation("roc_auc", 0.6, 0.7, (ColumnEffect(("temp",), 0.02, -0.01, 0.05),), (), 100, 0.1)
    assert uncertain.describe("May").endswith("with certainty (largest: temp 0.020, 95 % CI −0.010 to 0.050)")


def test_the_same_rows_give_the_same_explanation() -> None:
    X, y = draw_rows(3000, 6)
    X = X.with_columns(temp=pl.col("temp").round(0), carrier=pl.lit("UA"))
    first, again = (explain(X, y) for _ in range(2))
    assert (first.columns, first.groups, first.rows) == (again.columns, again.groups, 2000)


def test_correlated_columns_are_put_back_together_as_well() -> None:
    random = np.random.default_rng(7)
    first = random.normal(size=4000)
    X = pl.DataFrame({"a": first, "b": first + 0.1 * random.normal(size=4000), "c": random.normal(size=4000)})
    y = X["a"].to_numpy() + X["b"].to_numpy() + 0.1 * random.normal(size=4000)
    model = LinearRegression().fit(X, y)
    profiles = {name: ColumnProfile.from_json(stored) for name, stored in build_profile(X)["columns"].items()}
    shifted = X.with_columns(a=pl.col("a") + 1, b=pl.col("b") + 1, c=pl.col("c") * 2)
    metric = WindowMetric("neg_mean_absolute_error", -0.5, reference=-0.08)
    found = explain_drop(model, shifted, y, metric, profiles)
    cost = np.abs(y - model.predict(shifted)).mean() - np.abs(y - model.predict(shifted.with_columns(X["a"], X["b"]))).mean()
    assert [effect.columns for effect in found.groups] == [("a", "b"), ("a", "b", "c")]
    assert found.groups[0].gain == pytest.approx(cost, abs=0.02)
    assert found.columns[0].gain == pytest.approx(cost / 2, abs=0.1)


def test_numbers_take_the_quantiles_of_the_reference_and_its_share_of_nulls() -> None:
    random = np.random.default_rng(8)
    reference = pl.Series("x", np.where(random.random(5000) < 0.1, np.nan, random.exponential(2, 5000))).fill_nan(None)
    profile = ColumnProfile.from_series(reference)
    window = pl.Series("x", np.where(random.random(1000) < 0.4, None, random.normal(50, 1, 1000)).astype(float))
    found = restore_column(window, profile, np.random.default_rng(0))
    assert found.null_count() == pytest.approx(0.1 * 1000, abs=15)
    for share in (0.1, 0.5, 0.9):
        assert found.quantile(share) == pytest.approx(reference.quantile(share), rel=0.1)
    kept = (window.is_not_nan() & found.is_not_null()).to_numpy()
    before, after = window.to_numpy()[kept], found.to_numpy()[kept]
    assert (np.diff(after[np.argsort(before)]) >= 0).all()


@pytest.mark.parametrize("dtype", [pl.Int32, pl.Boolean, pl.Categorical, pl.Enum(["a", "b", "c"]), pl.Null])
def test_a_column_keeps_its_type(dtype: pl.DataType) -> None:
    values = [True, False] if dtype == pl.Boolean else [1, 2, 3] if dtype == pl.Int32 else [None] if dtype == pl.Null else ["a", "b", "c"]
    window = pl.Series("x", (values[:1] * 90 + values * 10)[:100], dtype=dtype)
    reference = pl.Series("x", values * 100, dtype=dtype) if dtype != pl.Null else pl.Series("x", [1, 2] * 100)
    found = restore_column(window, ColumnProfile.from_series(reference), np.random.default_rng(0))
    assert found.dtype == (dtype if dtype != pl.Null else pl.Int64)
    assert len(found) == len(window)
    assert found.value_counts()["count"].min() >= 32 if dtype != pl.Null else set(found) == {1, 2}


def test_dates_and_references_without_values_are_not_put_back() -> None:
    dates = pl.Series("at", [0, 1, 2]).cast(pl.Date)
    assert restore_column(dates, ColumnProfile.from_series(dates), np.random.default_rng(0)) is None
    empty = ColumnProfile.from_series(pl.Series("x", [None, None], dtype=pl.Float64))
    assert restore_column(pl.Series("x", [1.0, 2.0]), empty, np.random.default_rng(0)) is None


def test_rare_categories_stay_as_they_are() -> None:
    names = [f"airport {i:03}" for i in range(300)]
    reference = ColumnProfile.from_series(pl.Series("x", names * 3))
    window = pl.Series("x", names)
    found = restore_column(window, reference, np.random.default_rng(0))
    assert (found == window).mean() > 0.95
    new = restore_column(pl.Series("x", ["elsewhere"] * 300), reference, np.random.default_rng(0))
    assert set(new) <= set(names)
    assert new.n_unique() > 150


def test_only_a_metric_that_breached_or_significantly_fell_is_explained() -> None:
    arrivals, expectation = LabelArrivals(100, 100), Performance("roc_auc", at_least=0.7)
    fell = WindowMetric("roc_auc", 0.66, 0.6, 0.73, 0.72)

    def report(state: str, *metrics: WindowMetric, **more) -> PerformanceReport:
        return PerformanceReport(arrivals, metrics, (Verdict(expectation.name, state, 0.66, 0.7, "r"),), **more)

    assert find_fallen_metric(report(BREACH, fell), [expectation]) is fell
    assert find_fallen_metric(report(GOOD, fell), [expectation]) is None
    other = WindowMetric("accuracy", 0.8, 0.79, 0.81, 0.9)
    assert find_fallen_metric(report(GOOD, fell, other), [expectation]) is other
    assert find_fallen_metric(report(BREACH, fell, inverted=True), [expectation]) is None
