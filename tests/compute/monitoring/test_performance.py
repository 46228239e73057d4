"""Performance: labels join as they arrive, what is too little is said, what is bad is a breach with its uncertainty."""

import json
import math

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import f1_score, log_loss, mean_absolute_error, roc_auc_score

from mlops_assets.compute.monitoring.performance import PerformanceReport, measure_performance
from mlops_assets.compute.tables.own_columns import PREDICTION, PROBABILITY
from mlops_assets.compute.training.calibration import compute_calibration_curve
from mlops_assets.errors import DataError, DefinitionError
from mlops_assets.values.monitoring import BREACH, GOOD, IN_TRAINING, INVERTED, NOT_ENOUGH, Performance

AUC = Performance("roc_auc", at_least=0.62)


def window(rows: int = 600, seed: int = 0, slope: float = 1.0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Predictions with honest probabilities when the slope is 1, and their labels."""
    rng = np.random.default_rng(seed)
    score = rng.normal(size=rows)
    late = rng.random(rows) < 1 / (1 + np.exp(-slope * score))
    shares = 1 / (1 + np.exp(-score))
    predictions = pl.DataFrame(
        {"id": np.arange(rows), "origin": rng.choice(["EWR", "JFK"], rows), "__prediction": shares > 0.5, "__probability": shares}
    )
    return predictions, pl.DataFrame({"id": np.arange(rows), "late": late})


def report(predictions: pl.DataFrame, labels: pl.DataFrame, *expectations: Performance, **more):
    given = {"key": ["id"], "label": "late", "metrics": [], "expectations": expectations or (AUC,), **more}
    found = measure_performance(predictions, labels, **given)
    json.dumps(found.as_json(), allow_nan=False)
    return found


def test_metrics_are_scikit_learns_on_what_was_predicted() -> None:
    predictions, labels = window()
    found = report(predictions, labels, AUC, metrics=["neg_log_loss", "f1", "roc_auc"], slices=["origin"])
    y, shares = labels["late"].to_numpy(), predictions["__probability"].to_numpy()
    assert [metric.name for metric in found.metrics] == ["roc_auc", "neg_log_loss", "f1"]
    assert found.metric("roc_auc").value == pytest.approx(roc_auc_score(y, shares))
    assert found.metric("neg_log_loss").value == pytest.approx(-log_loss(y, shares))
    assert found.metric("f1").value == pytest.approx(f1_score(y, shares > 0.5))
    mask = (predictions["origin"] == "JFK").to_numpy()
    jfk = next(s for s in found.slices if s.value == "JFK")
    assert (jfk.rows, dict(jfk.metrics)["roc_auc"]) == (mask.sum(), pytest.approx(roc_auc_score(y[mask], shares[mask])))
    assert (found.state, found.arrivals.coverage, found.metric("recall")) == (GOOD, 1.0, None)


def test_the_interval_holds_the_true_value_as_often_as_it_says() -> None:
    predictions, labels = window(200_000, seed=1)
    truth = roc_auc_score(labels["late"], predictions["__probability"])
    inside = 0
    for i in range(40):
        part = predictions[i * 400 : (i + 1) * 400], labels[i * 400 : (i + 1) * 400]
        metric = report(*part).metric("roc_auc")
        inside += metric.low <= truth <= metric.high
        assert 0.03 < metric.high - metric.value < 0.08  # 400 rows: two standard errors of 0.024
    assert inside >= 34
    many = report(*(frame.head(40_000) for frame in (predictions, labels))).metric("roc_auc")
    assert 0.003 < many.high - many.value < 0.008  # measured on 20,000 rows, said of 40,000


def test_a_breach_says_how_sure_it_is() -> None:
    found = report(*window(slope=0.1))
    assert (found.state, found.verdicts[0].bound) == (BREACH, 0.62)
    assert "< 0.62 on 600 labelled of 600 predictions" in found.summary
    close = report(*window(slope=0.62, seed=3), Performance("roc_auc", at_least=0.68))
    assert close.metric("roc_auc").value < 0.68 < close.metric("roc_auc").high
    assert "it may be chance" in close.summary
    sure = report(*window(slope=0.62, seed=3), Performance("roc_auc", at_least=0.68, significant=True))
    assert (sure.state, close.state) == (GOOD, BREACH)
    assert "may be chance" in sure.summary


def test_a_relative_bound_is_below_the_reference() -> None:
    relative = Performance("roc_auc", no_worse_than_reference_by=0.05)
    predictions, labels = window()
    value = report(predictions, labels).metric("roc_auc").value
    assert report(predictions, labels, relative, reference={"roc_auc": value + 0.04}).state == GOOD
    worse = report(predictions, labels, relative, reference={"roc_auc": value + 0.06})
    assert worse.state == BREACH
    assert "on the holdout − 0.05)" in worse.summary
    for unknown in ({}, {"roc_auc": math.nan}):
        found = report(predictions, labels, relative, reference=unknown)
        assert (found.state, "on its holdout is not known" in found.summary) == (NOT_ENOUGH, True)


def test_inverted_labels_are_a_breach_that_says_so() -> None:
    predictions, labels = window()
    found = report(predictions, labels.with_columns(~pl.col("late")), Performance("neg_log_loss", at_least=-0.65))
    assert (found.state, found.inverted, found.verdicts[0].state) == (INVERTED, True, BREACH)
    assert found.metric("roc_auc").high < 0.5
    assert "the labels look inverted" in found.verdicts[0].reason
    assert found.summary.startswith("labels look inverted: roc_auc 0.2")
    few = report(predictions.head(120), labels.head(120).with_columns(~pl.col("late")))
    assert (few.state, few.inverted) == (NOT_ENOUGH, True)  # too few labels to judge anything
    assert not report(*window(slope=0.0)).inverted  # no better than chance is not inverted


def test_late_labels_lower_the_coverage_and_then_arrive() -> None:
    predictions, labels = window()
    early = report(predictions, labels.with_columns(pl.when(pl.col("id") < 250).then("late")))
    assert (early.state, early.arrivals.labelled, round(early.arrivals.coverage, 3)) == (NOT_ENOUGH, 250, 0.417)
    assert early.summary == "not enough data: 41.7% of 600 predictions have a label, 50.0% are needed"
    assert early.metric("roc_auc").value is not None  # shown, not judged
    assert report(predictions, labels.head(300)).state == GOOD
    few = report(*(frame.head(150) for frame in (predictions, labels)))
    assert few.summary == "not enough data: 150 predictions have a label, 200 are needed"
    assert report(predictions, labels.head(250), Performance("roc_auc", at_least=0.6, min_coverage=0.4)).state == GOOD


@pytest.mark.parametrize("only", [True, False])
def test_a_single_class_leaves_only_what_needs_both_classes_undefined(only: bool) -> None:
    predictions, labels = window()
    found = report(predictions, labels.with_columns(late=only), metrics=["accuracy"])
    assert (found.state, found.metric("roc_auc").value) == (NOT_ENOUGH, None)
    assert f"every label is {only}" in found.summary
    assert found.metric("accuracy").value == pytest.approx((predictions[PREDICTION] == only).mean())
    assert found.calibration is not None


def test_a_window_of_one_class_is_judged_by_what_is_defined_there() -> None:
    shares = np.where(np.arange(300) % 2, 0.8, 0.3)
    predictions = pl.DataFrame({"id": np.arange(300), PREDICTION: (shares > 0.5).astype(int), PROBABILITY: shares})
    labels = pl.DataFrame({"id": np.arange(300), "late": np.zeros(300, dtype=int)})
    expected = [
        Performance("accuracy", at_least=0.7),
        Performance("neg_brier_score", at_least=-0.2),
        Performance("f1", at_least=0.5),
        Performance("roc_auc", at_least=0.6),
        Performance("recall", at_least=0.6),
    ]
    found = report(predictions, labels, *expected, classes=[0, 1])
    assert [verdict.state for verdict in found.verdicts] == [BREACH, BREACH, BREACH, NOT_ENOUGH, NOT_ENOUGH]
    assert [round(found.metric(name).value, 4) for name in ("accuracy", "neg_brier_score", "f1")] == [0.5, -0.365, 0.0]
    assert found.metric("roc_auc").problem == "every label is 0: roc_auc needs both classes"
    assert found.metric("recall").problem == "every label is 0: recall needs positive labels"
    assert found.metric("accuracy").problem == ""
    assert (found.state, found.problem) == (BREACH, "")


@pytest.mark.parametrize("labels", [np.zeros(300, dtype=int), (np.arange(300) % 3 == 0).astype(int)], ids=["one class", "both classes"])
def test_precision_of_no_positive_prediction_cannot_be_measured(labels) -> None:
    predictions = pl.DataFrame({"id": np.arange(300), PREDICTION: np.zeros(300, dtype=int), PROBABILITY: np.full(300, 0.1)})
    told = pl.DataFrame({"id": np.arange(300), "late": labels})
    found = report(predictions, told, Performance("precision", at_least=0.3), metrics=["accuracy"], classes=[0, 1])
    assert (found.metric("precision").value, found.metric("precision").problem) == (None, "no prediction is 1: precision needs one")
    assert found.state != BREACH
    one = predictions.with_columns(pl.when(pl.col("id") == 1).then(1).otherwise(0).alias(PREDICTION))
    assert report(one, told, Performance("precision", at_least=0.3), classes=[0, 1]).metric("precision").value == 0.0


def test_a_quiet_window_in_which_nothing_positive_happens_is_no_breach() -> None:
    predictions = pl.DataFrame({"id": np.arange(300), PREDICTION: np.zeros(300, dtype=int), PROBABILITY: np.full(300, 0.1)})
    labels = pl.DataFrame({"id": np.arange(300), "late": np.zeros(300, dtype=int)})
    found = report(predictions, labels, Performance("f1", at_least=0.5), Performance("accuracy", at_least=0.9), classes=[0, 1])
    assert [verdict.state for verdict in found.verdicts] == [NOT_ENOUGH, GOOD]
    assert "every label and every prediction is 0" in found.verdicts[0].reason


def test_a_table_without_predictions_may_lack_every_column() -> None:
    _, labels = window()
    found = report(pl.DataFrame({"predicted_at": []}), labels, AUC, slices=["origin"])
    assert (found.state, found.problem) == (NOT_ENOUGH, "nothing was predicted")
    assert found.arrivals.predicted == 0


def test_a_window_of_fitted_rows_is_in_training_data() -> None:
    predictions, labels = window()
    found = report(predictions.clear(), labels, AUC, rows_in_training=600)
    assert (found.state, found.verdicts[0].state) == (IN_TRAINING, IN_TRAINING)
    assert found.summary == "in training data: the version was fitted on all 600 rows of the window"
    rest = report(predictions.head(300), labels, AUC, rows_in_training=300)
    assert (rest.state, rest.arrivals.predicted, rest.rows_in_training) == (GOOD, 300, 300)


def test_an_empty_window_is_an_answer() -> None:
    predictions, labels = window()
    assert report(predictions.clear(), labels).summary == "not enough data: nothing was predicted"
    assert report(predictions, labels.clear()).summary == "not enough data: none of 600 predictions has a label yet"
    assert report(predictions.clear(), labels.clear()).arrivals.coverage == 0


def test_predictions_that_are_not_finite_are_no_missing_labels() -> None:
    labels = pl.DataFrame({"id": [1, 2, 3], "y": [1.0] * 3})

    def measure(values: list[float | None], arrived: pl.DataFrame = labels, **expected: float) -> PerformanceReport:
        expectation = Performance("neg_mean_absolute_error", at_least=-1.0, **expected)
        predictions = pl.DataFrame({"id": [1, 2, 3], PREDICTION: values}, schema_overrides={PREDICTION: pl.Float64})
        return measure_performance(predictions, arrived, key=["id"], label="y", metrics=[], expectations=[expectation])

    none = "not enough data: none of 3 predictions is finite; 3 of 3 rows (100.0%) have no prediction"
    assert [measure([value] * 3).summary for value in (math.nan, math.inf, None)] == [none] * 3
    some = measure([math.nan, math.nan, 1.0], labels.head(2))
    assert some.summary.startswith("not enough data: none of 1 finite predictions has a label yet; 2 of 3 rows")
    few = measure([math.nan, math.nan, 1.0], min_coverage=0.5)
    assert few.summary.startswith("not enough data: 33.3% of 3 predictions are finite and have a label, 50.0% are needed; 2 of 3 rows")
    assert measure([1.0, 1.0, math.nan], min_coverage=0.5, min_labels=3).verdicts[0].reason == (
        "2 predictions are finite and have a label, 3 are needed"
    )


def test_duplicates() -> None:
    predictions, labels = window()
    again = report(predictions, pl.concat([labels, labels.head(5)]))
    assert (again.arrivals.repeated, again.arrivals.labelled) == (5, 600)
    with pytest.raises(DataError, match=r"the key \{'id': 0\} has several labels: (True|False) and (True|False)\nHint: keep one label"):
        report(predictions, pl.concat([labels, labels.head(1).with_columns(~pl.col("late"))]))
    twice = report(pl.concat([predictions, predictions.head(100)]), labels)
    assert (twice.arrivals.predicted, twice.arrivals.labelled) == (700, 700)  # each prediction counts


def test_keys_that_are_missing_or_of_another_type() -> None:
    predictions, labels = window()
    half = report(predictions.with_columns(pl.when(pl.col("id") % 2 == 0).then("id").alias("id")), labels)
    assert (half.arrivals.keyless, half.arrivals.labelled) == (300, 300)
    none = report(predictions.with_columns(id=None), labels)
    assert (none.arrivals.keyless, none.state) == (600, NOT_ENOUGH)
    assert report(predictions.with_columns(pl.col("id").cast(pl.Int32)), labels).state == GOOD
    with pytest.raises(DataError, match="the key 'id' is String in the predictions and Int64 in the labels"):
        report(predictions.with_columns(pl.col("id").cast(pl.String)), labels)
    with pytest.raises(DataError, match=r"the labels lack the column 'late'\n.*did you mean 'lat'"):
        report(predictions, labels.rename({"late": "lat"}))
    with pytest.raises(DataError, match=r"lack the column 'orign' to slice by\n.*did you mean 'origin'"):
        report(predictions, labels, slices=["orign"])


def test_numbers_are_measured_too() -> None:
    rng = np.random.default_rng(0)
    predicted = rng.normal(10, 3, 500)
    truth = predicted + rng.normal(1, 1, 500)
    predictions = pl.DataFrame(
        {"id": np.arange(500), "__prediction": predicted, "__probability": pl.Series([None] * 500, dtype=pl.Float64)}
    )
    found = report(
        predictions,
        pl.DataFrame({"id": np.arange(500), "late": truth}),
        Performance("neg_mean_absolute_error", at_least=-1),
        metrics=["r2"],
    )
    metric = found.metrics[0]
    assert metric.value == pytest.approx(-mean_absolute_error(truth, predicted))
    assert metric.low < metric.value < metric.high
    assert (found.state, found.inverted) == (BREACH, False)
    assert found.calibration.error == pytest.approx(1, abs=0.15)  # one too low, in the label's own unit
    missing = pl.DataFrame({"id": np.arange(500), "late": np.where(np.arange(500) < 300, truth, np.nan)})
    assert report(predictions, missing, Performance("r2", at_least=0.1)).arrivals.labelled == 300
    with pytest.raises(DataError, match="the predictions are numbers, but the labels are String"):
        report(predictions, pl.DataFrame({"id": np.arange(500), "late": ["x"] * 500}))


def test_several_classes_and_classes_of_several_types() -> None:
    rng = np.random.default_rng(0)
    truth = rng.choice(["a", "b", "c"], 400)
    predictions = pl.DataFrame({"id": np.arange(400), "__prediction": np.where(rng.random(400) < 0.8, truth, "a")})
    labels = pl.DataFrame({"id": np.arange(400), "late": truth})
    found = report(predictions, labels, Performance("f1_macro", at_least=0.5), metrics=["roc_auc_ovr"])
    assert found.state == GOOD
    assert "cannot be measured: it needs probabilities" in found.metric("roc_auc_ovr").problem
    binary, late = window()
    as_numbers = report(binary.with_columns(pl.col("__prediction").cast(pl.Int64)), late)
    assert as_numbers.metric("roc_auc") == report(binary, late).metric("roc_auc")
    with pytest.raises(DataError, match="the predictions are Boolean, but the labels are String"):
        report(binary, late.with_columns(pl.lit("x").alias("late")))
    # When every prediction is the same class, the classes of the estimator say which is the second.
    sure = binary.with_columns(prediction=False)
    assert report(sure, late, classes=[False, True]).metric("roc_auc").value == report(binary, late).metric("roc_auc").value


def test_calibration_is_the_distance_of_prediction_and_truth() -> None:
    rng = np.random.default_rng(0)
    shares = rng.random(20_000)
    honest = compute_calibration_curve(shares, (rng.random(20_000) < shares).astype(float))
    assert honest.error < 0.01
    assert [one.rows for one in honest.bins] == [2000] * 10
    boasting = compute_calibration_curve(np.clip(shares + 0.2, 0, 1), (rng.random(20_000) < shares).astype(float))
    assert boasting.error == pytest.approx(0.18, abs=0.02)
    assert compute_calibration_curve(np.full(50, 0.3), np.ones(50)).error == pytest.approx(0.7)
    assert compute_calibration_curve(np.zeros(0), np.zeros(0)).bins == ()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "has 0 rules"),
        ({"at_least": 0.5, "no_worse_than_reference_by": 0.1}, "has 2 rules"),
        ({"at_least": math.nan}, "has the bound nan"),
        ({"no_worse_than_reference_by": -0.1}, "give a distance of 0 or more"),
        ({"at_least": 0.5, "min_labels": 0}, "min_labels=0"),
        ({"at_least": 0.5, "min_coverage": 1.5}, "min_coverage=1.5"),
        ({"at_least": 0.5, "confidence": 1.0}, "confidence=1.0"),
    ],
)
def test_expectations_that_cannot_be_are_refused(arguments: dict, said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        Performance("roc_auc", **arguments)
