"""Labels that arrive late, twice, corrected or for some predictions only, and what a report says of them."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from mlops_assets.compute.monitoring.label_bias import describe_label_bias
from mlops_assets.compute.monitoring.labels import join_labels
from mlops_assets.errors import DataError
from mlops_assets.values.monitoring import GOOD, Performance
from tests.compute.monitoring.test_performance import AUC, report, window

KNOWN = datetime(2024, 1, 1, tzinfo=UTC)


def dated(labels: pl.DataFrame, days: int) -> pl.DataFrame:
    return labels.with_columns(known=pl.lit(KNOWN + timedelta(days=days)))


def test_a_later_correction_replaces_a_label_and_is_counted() -> None:
    predictions, labels = window()
    wrong = labels.head(40).with_columns(~pl.col("late"))
    for order in ([dated(wrong, 0), dated(labels, 3)], [dated(labels, 3), dated(wrong, 0)]):
        found = report(predictions, pl.concat([*order, dated(labels.head(7), 2)]), label_known_at="known")
        assert (found.arrivals.corrected, found.arrivals.repeated, found.arrivals.labelled) == (40, 7, 600)
        assert found.metric("roc_auc") == report(predictions, labels).metric("roc_auc")
    back = pl.concat([dated(labels, 1), dated(wrong, 2), dated(labels.head(40), 3)])
    assert report(predictions, back, label_known_at="known").metric("roc_auc") == report(predictions, labels).metric("roc_auc")


@pytest.mark.parametrize("known", [KNOWN, None])
def test_two_labels_of_one_time_are_refused(known: datetime | None) -> None:
    predictions, labels = window()
    both = pl.concat([labels, labels.head(1).with_columns(~pl.col("late"))]).with_columns(
        known=pl.lit(known, dtype=pl.Datetime("us", "UTC"))
    )
    with pytest.raises(DataError, match=r"the key \{'id': 0\} has several labels.*\nHint: .*label_known_at="):
        report(predictions, both, label_known_at="known")


def test_predictions_that_repeat_a_key_are_counted() -> None:
    predictions, labels = window()
    found = report(pl.concat([predictions, predictions.head(25), predictions.head(5)]), labels)
    assert (found.arrivals.duplicated, found.arrivals.labelled) == (30, 630)
    assert report(predictions.with_columns(id=None), labels).arrivals.duplicated == 0


def test_labels_of_high_predictions_only_are_named_and_the_metric_is_biased() -> None:
    predictions, labels = window()
    high = predictions["__probability"] > predictions["__probability"].quantile(0.4)
    found = report(predictions, labels.filter(high))
    assert found.arrivals.overrepresented.startswith("predictions above 0.")
    assert "(100% of these have a label, 20% of the others)" in found.arrivals.overrepresented
    assert "labels have arrived mostly for predictions above" in found.verdicts[0].reason
    assert found.summary.count("biased") == 1
    easy = (predictions["__probability"] - 0.5).abs() > 0.2
    both = report(predictions, labels.filter(easy)).arrivals.overrepresented
    assert both.startswith("predictions below")
    assert " or above " in both
    assert report(predictions, labels.filter(np.arange(600) % 2 == 0)).arrivals.overrepresented == ""
    assert "biased" not in report(predictions, labels, AUC).summary


def test_labels_of_one_class_or_of_sure_predictions_are_named_without_probabilities_too() -> None:
    rng = np.random.default_rng(0)
    kinds = pl.Series(rng.choice(["cat", "dog", "cow"], 900))
    only = rng.random(900) < np.where(kinds == "cat", 0.9, 0.3)
    assert describe_label_bias(kinds, only).startswith("predictions of cat (")
    assert describe_label_bias(kinds, rng.random(900) < 0.5) == ""
    shares = rng.dirichlet([1, 1, 1], 900)
    predictions = pl.DataFrame({"id": np.arange(900), "__prediction": np.array(["a", "b", "c"])[shares.argmax(axis=1)]}).with_columns(
        pl.struct(a=pl.Series(shares[:, 0]), b=pl.Series(shares[:, 1]), c=pl.Series(shares[:, 2])).alias("__probabilities")
    )
    labels = pl.DataFrame({"id": np.arange(900), "y": rng.choice(["a", "b", "c"], 900)}).filter(shares.max(axis=1) > 0.6)
    assert join_labels(predictions, labels, ["id"], "y", classes=["a", "b", "c"])[1].overrepresented.startswith("predictions above")


def test_labels_that_arrive_by_chance_are_rarely_called_biased() -> None:
    rng = np.random.default_rng(0)
    numbers = [describe_label_bias(pl.Series(rng.normal(size=200)), rng.random(200) < 0.3) for _ in range(2000)]
    classes = [describe_label_bias(pl.Series(rng.choice(["a", "b", "c"], 200)), rng.random(200) < 0.3) for _ in range(2000)]
    assert max(sum(map(bool, numbers)), sum(map(bool, classes))) <= 8  # 2 are expected at a level of 0.001


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_a_row_without_a_finite_probability_counts_as_unpredicted_and_the_others_are_measured(value: float | None) -> None:
    predictions, labels = window()
    broken = pl.when(pl.col("id") == 7).then(pl.lit(value, dtype=pl.Float64)).otherwise("__probability")
    some = predictions.with_columns(broken.alias("__probability"))
    found = report(some, labels)
    assert (found.state, found.arrivals.unpredicted, found.arrivals.labelled) == (GOOD, 1, 599)
    assert found.metric("roc_auc").value == report(predictions.filter(pl.col("id") != 7), labels).metric("roc_auc").value
    by_class = some.with_columns(pl.struct(no=1 - pl.col("__probability"), yes="__probability").alias("__probabilities")).drop(
        "__probability", "__prediction"
    )
    named = by_class.with_columns(__prediction=pl.lit("yes"))
    arrived = labels.with_columns(late=pl.when("late").then(pl.lit("yes")).otherwise(pl.lit("no")))
    rows, counts = join_labels(named, arrived, ["id"], "late", classes=["no", "yes"])
    assert (counts.unpredicted, rows.probabilities.shape) == (1, (599, 2))
    absent = predictions.with_columns(__probability=pl.lit(None, dtype=pl.Float64))
    assert report(absent, labels, Performance("accuracy", at_least=0.5)).arrivals.unpredicted == 0


@pytest.mark.parametrize(("wide", "narrow"), [(pl.Int64, pl.Int32), (pl.Int64, pl.UInt32), (pl.UInt64, pl.Int8)])
def test_a_key_that_does_not_fit_the_labels_type_has_no_label(wide: type[pl.DataType], narrow: type[pl.DataType]) -> None:
    large = 5_000_000_000
    predictions = pl.DataFrame({"id": pl.Series([1, 2, large], dtype=wide), "__prediction": [1.0, 2.0, 3.0]})
    labels = pl.DataFrame({"id": pl.Series([2, 1], dtype=narrow), "y": [20.0, 10.0]})
    rows, counts = join_labels(predictions, labels, ["id"], "y")
    assert (rows.y.tolist(), counts.labelled, counts.keyless, counts.duplicated) == ([10.0, 20.0], 2, 0, 0)
    assert join_labels(predictions.with_columns(id=pl.Series([-1, 1, 2])), labels, ["id"], "y")[1].labelled == 2


def test_a_bias_of_tied_scores_names_a_range() -> None:
    tied = np.r_[np.full(400, 0.5), np.linspace(0, 0.4, 100)]
    low = np.r_[np.arange(400) % 10 == 0, np.arange(100) < 70]
    assert describe_label_bias(pl.Series(tied), low).startswith("predictions below 0.")
    high = np.r_[np.arange(400) % 10 != 0, np.arange(100) < 20]
    assert describe_label_bias(pl.Series(tied), high).startswith("predictions above 0.")
    assert describe_label_bias(pl.Series(np.repeat([0.1, 0.9], [10, 490])), np.arange(500) >= 50) == ""
    two = np.repeat([0.1, 0.9], [60, 440])
    assert describe_label_bias(pl.Series(two), np.r_[np.ones(60, bool), np.arange(440) % 3 == 0]).startswith("predictions below 0.1 (100%")
