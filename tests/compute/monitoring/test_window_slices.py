"""Slices and calibration of a window with intervals: what is significantly bad is named, and chance is not."""

import numpy as np
import polars as pl
import pytest

from mlops_assets.compute.estimation.calibration_map import fit_calibration
from mlops_assets.compute.estimation.estimator import PerformanceEstimator
from mlops_assets.compute.monitoring.window_calibration import measure_calibration
from mlops_assets.compute.monitoring.window_intervals import WindowJackknife
from mlops_assets.compute.training.responses import CachedPredictor
from mlops_assets.values.monitoring import Performance
from tests.compute.monitoring.test_performance import report


class Nothing:
    """A model of which nothing is asked."""


def sliced(rows: int, seed: int, slopes: dict[str, float]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Predictions that are as good in each slice as its slope says."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(list(slopes), rows)
    score = rng.normal(size=rows)
    late = rng.random(rows) < 1 / (1 + np.exp(-np.array([slopes[k] for k in kind]) * score))
    shares = 1 / (1 + np.exp(-score))
    frame = pl.DataFrame({"id": np.arange(rows), "kind": kind, "__prediction": shares > 0.5, "__probability": shares, "late": late})
    return frame.drop("late"), frame.select("id", "late")


def test_the_slice_that_is_significantly_below_the_whole_comes_first() -> None:
    found = report(*sliced(2000, 0, {"a": 2.0, "b": 2.0, "c": 0.0, "d": 2.0}), metrics=["neg_log_loss"], slices=["kind"])
    assert [s.value for s in found.worst_slices] == ["c"]
    assert found.slices[0].value == "c"
    assert set(found.slices[0].below) == {"roc_auc", "neg_log_loss"}
    for one in found.slices:
        low, high = one.interval("roc_auc")
        assert low < dict(one.metrics)["roc_auc"] < high
    assert found.slices[0].interval("roc_auc")[1] < found.metric("roc_auc").low
    assert found.as_json()["slices"][0]["below"] == ("roc_auc", "neg_log_loss")


def test_slices_that_are_alike_are_rarely_named() -> None:
    kinds = {str(n): 1.0 for n in range(12)}
    named = [bool(report(*sliced(1200, seed, kinds), slices=["kind"]).worst_slices) for seed in range(60)]
    assert sum(named) <= 6  # of 60 windows, 1.5 are expected: the level of 5 % is two-sided, for all slices together


def test_the_interval_of_a_slice_holds_its_true_value() -> None:
    predictions, labels = sliced(120_000, 1, {"a": 1.0, "b": 1.0, "c": 1.0})
    truth = report(predictions, labels).metric("roc_auc").value
    inside = 0
    for number in range(80):
        part = predictions[number * 900 : (number + 1) * 900], labels[number * 900 : (number + 1) * 900]
        low, high = next(s for s in report(*part, slices=["kind"]).slices if s.value == "a").interval("roc_auc")
        inside += low <= truth <= high
    assert inside >= 70


def test_a_slice_of_few_rows_and_a_metric_of_many_calls_have_no_interval() -> None:
    few = report(*sliced(300, 0, {"a": 1.0, **{f"rare{n}": 1.0 for n in range(30)}}), slices=["kind"])
    assert all(s.interval("roc_auc") == (None, None) for s in few.slices if s.rows < 30)
    many = report(*sliced(3000, 0, {str(n): 1.0 for n in range(30)}), Performance("average_precision", at_least=0.1), slices=["kind"])
    known = [s for s in many.slices if s.interval("average_precision") != (None, None)]
    assert len(known) == 19
    assert all(s.interval("roc_auc") != (None, None) for s in many.slices)


@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_the_interval_of_the_calibration_error_holds_the_true_error(shift: float) -> None:
    rng, inside = np.random.default_rng(0), 0
    for _ in range(200):
        shares = rng.uniform(0.2, 0.8, 900)
        outcomes = (rng.random(900) < shares - shift).astype(float)
        found = measure_calibration(shares, outcomes, WindowJackknife(CachedPredictor(Nothing(), pl.DataFrame()), outcomes), 0.95)
        inside += found.low <= shift <= found.high
    assert inside >= 184
    assert found.high - found.low < 0.1


@pytest.mark.parametrize(("shift", "most", "fewest"), [(0.0, 8, 0), (0.12, 300, 285)])
def test_calibration_that_differs_from_the_holdout_is_named_and_chance_is_not(shift: float, most: int, fewest: int) -> None:
    rng, drifted = np.random.default_rng(0), 0

    def draw(rows: int, moved: float) -> tuple[np.ndarray, np.ndarray]:
        shares = rng.uniform(0.15, 0.85, rows)
        return shares, (rng.random(rows) < shares**2 + moved).astype(float)

    for _ in range(300):
        shares, outcomes = draw(1500, 0.0)
        holdout = PerformanceEstimator(1500, 1.0, (fit_calibration(shares, outcomes),))
        shares, outcomes = draw(900, shift)
        jackknife = WindowJackknife(CachedPredictor(Nothing(), pl.DataFrame()), outcomes)
        drifted += measure_calibration(shares, outcomes, jackknife, 0.95, holdout).drifted
    assert fewest <= drifted <= most  # 3 of 300 are expected without a shift
    assert measure_calibration(shares, outcomes, jackknife, 0.95).drift is None


def test_a_few_rows_have_a_calibration_without_interval() -> None:
    one = np.array([0.4])
    found = measure_calibration(one, one, WindowJackknife(CachedPredictor(Nothing(), pl.DataFrame()), one), 0.95)
    assert (found.error, found.low) == (0.0, None)
