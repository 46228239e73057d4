"""Drift of predictions: found where no input shows it, at the stated rate of the whole report, against honest predictions only."""

import json
from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
import polars as pl
import pytest
from scipy import stats

from mlops_assets.compute.drift.drift_report import DriftReport, measure_drift
from mlops_assets.compute.drift.prediction_drift import (
    PREDICTION_SHARE,
    add_prediction_drift,
    explain_missing_reference,
    select_predictions,
)
from mlops_assets.compute.drift.profile import ASSOCIATIONS, HISTORY, build_profile
from mlops_assets.values.drift import Drift

SENSORS, ROWS, DAYS, HOLDOUT = [f"sensor_{n}" for n in range(12)], 600, 40, 30
EXPECTED = Drift(predictions=True, false_alarm_rate=0.04)
KINDS = ("regressor", "classifier")


def sensors(rng: np.random.Generator, count: int) -> pl.DataFrame:
    """Return days of readings; the weather of a day moves all of them a little."""
    weather = np.repeat(rng.normal(0, 0.02, count), ROWS)
    return pl.DataFrame({name: rng.normal(size=count * ROWS) + weather for name in SENSORS})


def predict(X: pl.DataFrame, kind: str) -> pl.DataFrame:
    """Return what a service logs about a model that adds up the readings."""
    score = X.sum_horizontal().to_numpy() / np.sqrt(len(SENSORS))
    if kind == "regressor":
        return pl.DataFrame({"__prediction": score, "__probability": pl.Series([None] * len(score), dtype=pl.Float64)})
    return pl.DataFrame({"__prediction": (score > 0).astype(int), "__probability": 1 / (1 + np.exp(-score))})


def select(X: pl.DataFrame, kind: str) -> pl.DataFrame:
    return select_predictions(predict(X, kind), [0, 1] if kind == "classifier" else None)


@cache
def references(kind: str) -> tuple[dict, dict]:
    """Return the profile of the inputs, and that of the predictions for the last days."""
    X = sensors(np.random.default_rng(1), DAYS)
    at = pl.Series([datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=int(day)) for day in np.repeat(np.arange(DAYS), ROWS)])
    first = (DAYS - HOLDOUT) * ROWS
    profiles = build_profile(X, at), build_profile(select(X[first:], kind), at[first:], role="prediction")
    inputs, predictions = (json.loads(json.dumps(profile, allow_nan=False)) for profile in profiles)
    return inputs, predictions


def measure(X: pl.DataFrame, kind: str) -> DriftReport:
    inputs, predictions = references(kind)
    report = measure_drift(inputs, X, false_alarm_rate=EXPECTED.false_alarm_rate * (1 - PREDICTION_SHARE))
    return add_prediction_drift(report, predictions, select(X, kind), EXPECTED, 100)


@pytest.mark.parametrize("kind", KINDS)
def test_a_shift_that_no_single_input_shows_is_found_in_the_predictions(kind: str) -> None:
    for seed in range(8):
        moved = sensors(np.random.default_rng(seed), 1) + 0.13  # in standard deviations: less than half of the minimum effect
        assert measure_drift(references(kind)[0], moved).drifted == ()
        report = measure(moved, kind)
        assert report.drifted
        assert {column.role for column in report.columns if column.drifted} == {"prediction"}
        assert report.summary.startswith(f"drift in {len(report.drifted)} of {len(report.columns)} columns, predictions included. pr")
    names = {"prediction", *(["probability of 1"] if kind == "classifier" else [])}
    assert {column.name for column in report.columns if column.role == "prediction"} == names


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_and_predictions_together_alarm_as_often_as_stated(kind: str) -> None:
    rng = np.random.default_rng(2)
    reports = [measure(sensors(rng, 1), kind) for _ in range(150)]
    assert sum(report.state == "breach" for report in reports) <= stats.binom(len(reports), 2 * EXPECTED.false_alarm_rate).ppf(0.99)
    assert {report.false_alarm_rate for report in reports} == {EXPECTED.false_alarm_rate}


def test_predictions_that_are_lost_or_constant_are_found() -> None:
    X = sensors(np.random.default_rng(3), 1)
    lost = pl.when(pl.int_range(pl.len()) % 5 == 0).then(None).otherwise("prediction").alias("prediction")
    inputs, predictions = references("regressor")
    report = measure_drift(inputs, X)
    for change, why in ((lost, "null in 20.00%"), (pl.lit(0.3).alias("prediction"), "every value is 0.3")):
        found = add_prediction_drift(report, predictions, select(X, "regressor").with_columns(change), EXPECTED, 100)
        assert found.drifted == ("prediction",)
        assert why in found.columns[0].why


def test_an_input_and_an_output_of_one_name_have_different_names_in_the_report() -> None:
    X = sensors(np.random.default_rng(4), 1)
    inputs, predictions = references("classifier")
    renamed = inputs["columns"] | {"prediction": inputs["columns"]["sensor_0"]}
    report = measure_drift(inputs | {"columns": renamed}, X.with_columns(prediction="sensor_0"))
    found = add_prediction_drift(report, predictions, select(X, "classifier"), EXPECTED, 100)
    roles = {column.name: column.role for column in found.columns if not column.name.startswith("sensor")}
    assert roles == {"prediction": "feature", "prediction (output)": "prediction", "probability of 1": "prediction"}
    assert len(found.columns) == len(SENSORS) + 3


def test_the_stored_predictions_have_a_history_but_no_associations() -> None:
    profile = references("classifier")[1]
    assert all(HISTORY in column and column["role"] == "prediction" for column in profile["columns"].values())
    assert ASSOCIATIONS not in profile


def test_a_classifier_is_compared_by_class_and_by_the_probabilities_that_are_logged() -> None:
    of = {"a": [0.5, 0.2], "b": [0.25, 0.7], "c": [0.25, 0.1]}
    rows = pl.DataFrame({"__prediction": ["a", "b"], "__probability": [None, None], "__probabilities": pl.DataFrame(of).to_struct()})
    assert select_predictions(rows, ["a", "b", "c"]).columns == ["prediction", *(f"probability of {name}" for name in "abc")]
    assert select_predictions(rows.drop("__probabilities"), ["a", "b", "c"]).columns == ["prediction"]
    assert select_predictions(rows, [str(n) for n in range(30)]).columns == ["prediction"]
    two = pl.DataFrame({"__prediction": [True, False], "__probability": [0.123456789, 0.9]})
    assert select_predictions(two, [False, True], False).to_dict(as_series=False) == {
        "prediction": ["true", "false"],
        "probability of False": [0.12346, 0.9],
    }
    assert select_predictions(two.with_columns(__probability=pl.lit(None)), [False, True]).columns == ["prediction"]
    assert select_predictions(pl.DataFrame({"__prediction": [1.5, None]})).to_series().to_list() == [1.5, None]


def test_a_version_without_honest_predictions_says_so() -> None:
    assert explain_missing_reference(references("regressor")[1]) == ""
    assert "the version stores none" in explain_missing_reference(None)
    small = build_profile(pl.DataFrame({"prediction": [1.0] * 99}), role="prediction")
    assert explain_missing_reference(small) == "predictions are not compared: the holdout has 99 rows, 100 are needed"
