"""Estimates before labels: a window warns before a label is there, and the estimate is scored when labels arrive."""

import json
import math
from datetime import UTC, datetime, timedelta

import dagster as dg
import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier

import mlops_assets as ml
from mlops_assets.compute.estimation.estimator import PERFORMANCE_ESTIMATOR
from mlops_assets.compute.training.responses import CachedPredictor
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.monitoring.estimates import build_estimate_node
from mlops_assets.orchestrate.monitoring.reports import build_page_path, performance_node
from mlops_assets.orchestrate.monitoring.turn import find_due_reports
from mlops_assets.orchestrate.tables.automation import find_due
from mlops_assets.orchestrate.training.estimator_package import fit_version_estimator
from mlops_assets.serving.formats.packaging import read_manifest
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.values.evaluation import Split
from mlops_assets.values.model import Model
from tests.conftest import Runner, metadata

BASE = datetime(2024, 1, 1, tzinfo=UTC)
DAILY = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-03-01")
TRAIN = ("training_set/examples", "model/guess", "version/guess", "champion/guess")
ROWS, TRAINED = 150, "2024-01-01...2024-01-14"
METRICS = {LinearRegression: "neg_mean_absolute_error", LogisticRegression: "neg_log_loss"}


def rows(window: ml.TimeWindow, kind: type, noisy_from: int = 20) -> pl.DataFrame:
    """A line with noise: from one day on, nearly all rows are of the shop whose labels are noise."""
    parts = []
    for day in range((window.start - BASE).days, (window.end - BASE).days):
        rng = np.random.default_rng(day)
        noisy = rng.random(ROWS) < (0.9 if day >= noisy_from else 0.2)
        x = rng.normal(size=ROWS) * np.where(noisy, 0.1, 3.0)
        y = x + rng.normal(size=ROWS) * np.where(noisy, 4.0, 0.5)
        at = [BASE + timedelta(days=day, minutes=n) for n in range(ROWS)]
        label = y if kind is LinearRegression else (rng.random(ROWS) < 1 / (1 + np.exp(-x))).astype(int)
        parts.append(pl.DataFrame({"id": [f"{day}-{n}" for n in range(ROWS)], "at": at, "x": x, "shop": noisy.astype(int), "y": label}))
    return pl.concat(parts).with_columns(pl.col("at").cast(pl.Datetime("us", "UTC")))


def nouns(kind: type, *expectations: object, inverted_from: int = 99, refit: str | None = None, **more) -> list:
    @ml.dataset(partitions=DAILY, key="id", event_timestamp="at")
    def points(window: ml.TimeWindow) -> pl.DataFrame:
        return rows(window, kind).drop("y")

    @ml.dataset(partitions=DAILY, key="id", event_timestamp="at")
    def outcomes(window: ml.TimeWindow) -> pl.DataFrame:
        inverted = window.start >= BASE + timedelta(days=inverted_from)
        return rows(window, kind).select("id", "at", y=1 - pl.col("y") if inverted else pl.col("y"))

    @ml.training_set(columns=["x", "shop"], label="y", event_timestamp="at", split=ml.TimeSplit(holdout=timedelta(days=6)))
    def examples(points: pl.LazyFrame, outcomes: pl.LazyFrame) -> pl.LazyFrame:
        return points.join(outcomes.select("id", "y"), on="id")

    @ml.model(training_set=examples, metrics=[METRICS[kind]], refit=refit)
    def guess(train: ml.Split) -> object:
        return kind().fit(train.X, train.y)

    scores = ml.BatchPrediction("scores", model=guess, dataset=points)
    metric = METRICS[kind]
    expected = expectations or (
        ml.monitoring.EstimatedPerformance(metric, no_worse_than_reference_by=0.15),
        ml.Performance(metric, no_worse_than_reference_by=0.15, min_labels=10),
    )
    return [points, outcomes, examples, guess, scores, ml.Monitor("watch", of=scores, expectations=expected, min_rows=50, **more)]


@pytest.mark.parametrize("kind", [LinearRegression, LogisticRegression])
def test_a_window_warns_before_its_labels_and_is_scored_with_them(platform, instance, kind: type) -> None:
    declared, metric = nouns(kind), METRICS[kind]
    runner, at = Runner(ml.build_definitions(declared, platform=platform), instance), open_stores(platform)
    runner("dataset/points", "dataset/outcomes", partitions=TRAINED)
    runner(*TRAIN)
    runner("dataset/points", "predictions/scores", partitions="2024-01-15...2024-01-24")
    project, monitor = Project.from_items(declared), declared[-1]
    late = [f"2024-01-{day}" for day in range(15, 25)]
    now = datetime.now(UTC)
    assert find_due(build_estimate_node(project, monitor), platform, now) == late
    assert find_due(performance_node(project, monitor), platform, now) == []  # labels are not there
    assert list(find_due_reports(project, monitor, at)) == ["estimate_report/watch"]

    result = runner("estimate_report/watch", partitions="2024-01-15...2024-01-24")
    check = next(c for c in result.get_asset_check_evaluations() if c.check_name == f"estimated_{metric}_no_worse_than_reference")
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    found = at.lake.read("estimate_report/watch").sort("window_start")
    assert found["state"].to_list() == ["good"] * 6 + ["breach"] * 4
    assert (found["low"] < found["estimate"]).all()
    assert [(r.kind, r.state) for r in at.decisions.reports("watch")][-1] == ("estimated", "breach")
    assert at.decisions.decisions("guess") == ()
    page = build_page_path(platform.home, "watch", "2024-01-24").read_text()
    assert "Estimated performance is too low" in page
    assert "No performance report" in page

    runner("dataset/outcomes", partitions="2024-01-15...2024-01-24")
    assert find_due(performance_node(project, monitor), platform, now) == late
    runner("performance_report/watch", partitions="2024-01-15...2024-01-23")
    scored = runner("performance_report/watch", partitions="2024-01-24")
    sentence = metadata(scored, "performance_report/watch")[f"estimate of {metric}"]
    assert "the labels give" in sentence
    assert "mean absolute error over 10 windows" in sentence
    assert "no better" not in sentence
    table = at.lake.read("performance_report/watch").filter(pl.col("metric") == metric)
    errors = (table["estimate"] - table["value"]).abs().mean(), (table["reference"] - table["value"]).abs().mean()
    assert errors[0] < errors[1] / 2
    assert (
        f"was estimated at {table.sort('window_start')['estimate'][-1]:.4g}"
        in build_page_path(platform.home, "watch", "2024-01-24").read_text()
    )


def test_inverted_labels_fail_the_check_and_hold_the_retraining(platform, instance) -> None:
    expected = ml.Performance("roc_auc", at_least=0.6, min_labels=10)
    declared = nouns(LogisticRegression, expected, inverted_from=15, on_failure=ml.Retrain())
    runner, at = Runner(ml.build_definitions(declared, platform=platform), instance), open_stores(platform)
    runner("dataset/points", "dataset/outcomes", partitions=TRAINED)
    runner(*TRAIN)
    runner("dataset/points", "dataset/outcomes", "predictions/scores", partitions="2024-01-15")
    runner("dataset/points", "dataset/outcomes", "predictions/scores", partitions="2024-01-16")
    result = runner("performance_report/watch", partitions="2024-01-15...2024-01-16")
    (check,) = result.get_asset_check_evaluations()
    assert not check.passed
    assert "the labels look inverted" in check.description
    shown = metadata(result, "performance_report/watch")
    assert shown["state"] == "labels look inverted"
    assert shown["the loop"].startswith("the labels of 2024-01-16 look inverted: correct them")
    assert at.decisions.decisions("guess") == ()
    assert "The labels look inverted" in build_page_path(platform.home, "watch", "2024-01-16").read_text()


def test_a_version_that_was_refitted_uses_what_the_judged_fit_showed(platform, instance) -> None:
    declared = nouns(LinearRegression, refit="after_gates")
    runner, at = Runner(ml.build_definitions(declared, platform=platform), instance), open_stores(platform)
    runner("dataset/points", "dataset/outcomes", partitions=TRAINED)
    runner(*TRAIN)
    champion = at.registry.champion("guess")
    assert PERFORMANCE_ESTIMATOR not in read_manifest(at.artifacts, champion.artifact)  # it was fitted on the holdout
    runner("dataset/points", "predictions/scores", partitions="2024-01-15")
    runner("estimate_report/watch", partitions="2024-01-15")
    (found,) = at.lake.read("estimate_report/watch").to_dicts()
    assert found["low"] < found["reference"] < found["high"]


def test_a_version_without_the_stored_data_cannot_be_estimated(platform, instance) -> None:
    declared = nouns(LinearRegression)
    runner, at = Runner(ml.build_definitions(declared, platform=platform), instance), open_stores(platform)
    runner("dataset/points", "dataset/outcomes", partitions="2024-01-01...2024-01-14")
    runner(*TRAIN)
    runner("dataset/points", "predictions/scores", partitions="2024-01-15")
    champion = at.registry.champion("guess")
    manifest = read_manifest(at.artifacts, champion.artifact)
    assert json.loads(at.artifacts.get(manifest[PERFORMANCE_ESTIMATOR]))["rows"] == 6 * ROWS
    older = at.artifacts.put(json.dumps({k: v for k, v in manifest.items() if k != PERFORMANCE_ESTIMATOR}).encode())
    original = type(at.registry).versions
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(at.registry), "versions", lambda self, name: [_replace(v, older) for v in original(self, name)])
        result = runner("estimate_report/watch", partitions="2024-01-15")
    assert metadata(result, "estimate_report/watch")["summary"].startswith(
        "cannot be measured: cannot be estimated: the version was trained before estimates were stored"
    )
    assert at.lake.read("estimate_report/watch")["estimate"].to_list() == [None]


def test_a_version_that_cannot_be_estimated_stores_the_reason(platform, instance, monkeypatch) -> None:
    monkeypatch.setitem(METRICS, RidgeClassifier, "accuracy")
    declared = nouns(RidgeClassifier, ml.monitoring.EstimatedPerformance("accuracy", at_least=0.5))
    runner = Runner(ml.build_definitions(declared, platform=platform), instance)
    runner("dataset/points", "dataset/outcomes", partitions=TRAINED)
    runner(*TRAIN)
    runner("dataset/points", "predictions/scores", partitions="2024-01-15")
    result = runner("estimate_report/watch", partitions="2024-01-15")
    summary = metadata(result, "estimate_report/watch")["summary"]
    assert summary == "cannot be measured: cannot be estimated: the model predicts no probabilities"


def _replace(version, artifact: str):
    from dataclasses import replace

    return replace(version, artifact=artifact)


def test_labels_that_give_no_number_to_store_give_a_reason_and_fail_no_training() -> None:
    model = next(
        item for item in nouns(LinearRegression, ml.monitoring.EstimatedPerformance("r2", at_least=0.1)) if isinstance(item, Model)
    )
    span = ml.TimeWindow(BASE, BASE + timedelta(days=2))
    holdout = rows(span, LinearRegression).with_columns(y=pl.when(pl.int_range(pl.len()) % 10 == 0).then(math.inf).otherwise("y"))
    X = holdout.select("x", "shop")
    predictor = CachedPredictor(LinearRegression().fit(X, X["x"]), X)
    with np.errstate(all="ignore"):
        fitted, problem = fit_version_estimator(model, predictor, Split(X, holdout["y"].to_numpy(), holdout))
    assert fitted is None
    assert problem.startswith("no performance estimator could be fitted on the holdout: ValueError")
