"""Two classes have a positive one, several have probabilities, and a class without rows is named."""

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score, log_loss, precision_score, recall_score, roc_auc_score

import mlops_assets as ml
from mlops_assets.compute.monitoring.performance import measure_performance
from mlops_assets.compute.training.classes import refuse_unclear_classes
from mlops_assets.compute.training.evaluate import evaluate
from mlops_assets.errors import DataError
from mlops_assets.values.monitoring import CANNOT, Performance

RNG = np.random.default_rng(3)
X = pl.DataFrame({"x": RNG.normal(size=600), "z": RNG.normal(size=600)})
RARE = RNG.random(600) < 1 / (1 + np.exp(1.5 - X["x"].to_numpy()))
THREE = np.array(["a", "b", "c"])[np.clip(np.round(X["x"].to_numpy() + 1), 0, 2).astype(int)]
METRICS = ["f1", "recall", "precision", "average_precision", "roc_auc", "neg_log_loss", "accuracy"]


def split(y: np.ndarray, rows: slice = slice(None)) -> ml.Split:
    return ml.Split(X[rows], y[rows], X[rows])


@pytest.mark.parametrize("names", [("ok", "fraud"), (2, 1), (1, 2), (False, True), (0, 1)])
def test_metrics_are_of_the_positive_class_under_any_name(names) -> None:
    y = np.array(names)[RARE.astype(int)]
    positive = names[1]
    fitted = LogisticRegression().fit(X, y)
    found = dict(evaluate(fitted, split(y), METRICS, positive=positive, train=split(y)).metrics)
    share = fitted.predict_proba(X)[:, fitted.classes_.tolist().index(positive)]
    said = fitted.predict(X)
    assert found["f1"] == pytest.approx(f1_score(y, said, pos_label=positive))
    assert found["recall"] == pytest.approx(recall_score(y, said, pos_label=positive))
    assert found["precision"] == pytest.approx(precision_score(y, said, pos_label=positive))
    assert found["average_precision"] == pytest.approx(average_precision_score(y, share, pos_label=positive))
    assert found["roc_auc"] == pytest.approx(roc_auc_score(y == positive, share))
    assert found["neg_log_loss"] == pytest.approx(-log_loss(y, fitted.predict_proba(X)))
    assert found["accuracy"] == pytest.approx((said == y).mean())


def test_a_class_without_rows_is_passed_to_the_scorer_or_named() -> None:
    fitted = LogisticRegression().fit(X, THREE)
    kept = THREE != "c"
    holdout = ml.Split(X.filter(kept), THREE[kept], X.filter(kept))
    found = evaluate(fitted, holdout, ["neg_log_loss", "roc_auc_ovr"])
    assert found.metric("neg_log_loss") == pytest.approx(-log_loss(holdout.y, fitted.predict_proba(holdout.X), labels=fitted.classes_))
    assert f"none of the {kept.sum()} holdout rows has the label 'c'" in dict(found.problems)["roc_auc_ovr"]


def test_a_label_that_training_did_not_have_is_named() -> None:
    kept = THREE != "c"
    fitted = LogisticRegression().fit(X.filter(kept), THREE[kept])
    found = evaluate(fitted, split(THREE), ["neg_log_loss", "accuracy"])
    assert "the label 'c' of the holdout was not among the training rows" in dict(found.problems)["neg_log_loss"]
    assert found.metric("accuracy") == pytest.approx((fitted.predict(X) == THREE).mean())


@pytest.mark.parametrize(
    ("y", "metrics", "positive", "message"),
    [
        (["ok", "fraud"], ["recall"], None, "the metric 'recall' needs to know which class is the positive one.*'fraud', 'ok'"),
        ([1, 2], ["f1"], None, "the metric 'f1' needs to know"),
        (["a", "b", "c"], ["f1"], None, "the metric 'f1' supports two classes only.*\n.*f1_macro"),
        (["a", "b", "c"], ["roc_auc"], None, "the metric 'roc_auc' supports two classes only.*\n.*roc_auc_ovr"),
        (["ok", "fraud"], ["accuracy"], "Fraud", "positive='Fraud' is not a value of the label"),
        (["a", "b", "c"], ["accuracy"], "a", "positive='a' needs a label with two classes"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_training(y, metrics, positive, message) -> None:
    with pytest.raises(DataError, match=f"(?s)'model/m': {message}"):
        refuse_unclear_classes("'model/m'", "state", [np.array(y)], metrics, positive)


@pytest.mark.parametrize(
    ("y", "metrics", "positive"),
    [
        ([True, False], ["recall"], None),
        ([0, 1], ["f1"], None),
        (["ok", "fraud"], ["recall"], "fraud"),
        (["ok", "fraud"], ["roc_auc", "accuracy", "neg_log_loss"], None),
        (["a", "b", "c"], ["f1_macro", "roc_auc_ovr"], None),
        (np.arange(9) / 2, ["r2"], None),
    ],
)
def test_what_is_clear_is_accepted(y, metrics, positive) -> None:
    refuse_unclear_classes("'model/m'", "state", [np.array(y), np.array(y)[:1]], metrics, positive)


def window(shares: np.ndarray | None = None) -> tuple[pl.DataFrame, pl.DataFrame]:
    fitted = LogisticRegression().fit(X, THREE)
    shares = fitted.predict_proba(X) if shares is None else shares
    struct = pl.DataFrame({name: shares[:, i] for i, name in enumerate("abc")}).to_struct("__probabilities")
    frame = pl.DataFrame({"id": range(600), "__prediction": fitted.predict(X)}).with_columns(struct)
    return frame, pl.DataFrame({"id": range(600), "label": THREE})


def measure(predictions: pl.DataFrame, labels: pl.DataFrame, *metrics: str):
    expected = tuple(Performance(metric, at_least=-2.0) for metric in metrics)
    return measure_performance(predictions, labels, key=["id"], label="label", metrics=[], expectations=expected, classes=["a", "b", "c"])


def test_probabilities_of_several_classes_are_measured_in_a_window() -> None:
    predictions, labels = window()
    found = measure(predictions, labels, "neg_log_loss", "roc_auc_ovr")
    shares = predictions["__probabilities"].struct.unnest().to_numpy()
    assert found.state == "good"
    assert found.metric("neg_log_loss").value == pytest.approx(-log_loss(THREE, shares))
    assert found.metric("roc_auc_ovr").value == pytest.approx(roc_auc_score(THREE, shares, multi_class="ovr"))


def test_what_needs_probabilities_that_were_not_stored_cannot_be_measured() -> None:
    predictions, labels = window()
    found = measure(predictions.drop("__probabilities"), labels, "neg_log_loss")
    assert found.state == CANNOT
    assert found.summary == "cannot be measured: it needs probabilities, and none were stored with these predictions"


def test_rows_without_a_prediction_are_counted_and_the_others_are_judged() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(size=500)
    predicted = truth + rng.normal(size=500) / 2
    labels = pl.DataFrame({"id": range(500), "label": truth})
    for nothing in (float("inf"), float("nan"), None):
        some = pl.DataFrame({"id": range(500), "__prediction": [nothing, *predicted[1:]]})
        found = measure_performance(
            some, labels, key=["id"], label="label", metrics=["r2"], expectations=(Performance("r2", at_least=0.5),)
        )
        whole = measure_performance(some[1:], labels[1:], key=["id"], label="label", metrics=["r2"])
        assert (found.state, found.arrivals.unpredicted, found.arrivals.labelled) == ("good", 1, 499)
        assert found.metric("r2").value == whole.metric("r2").value
        assert found.summary.endswith("; 1 of 500 rows (0.2%) have no prediction")
