"""A monitor with a domain classifier: its report names the columns, and a version that was trained before says so."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import numpy as np
import polars as pl
from sklearn.linear_model import LinearRegression

import mlops_assets as ml
from mlops_assets.compute.drift import profile
from mlops_assets.orchestrate.monitoring.reports import build_page_path
from tests.conftest import Runner, metadata

BASE, ROWS, DRIFT = datetime(2024, 1, 1, tzinfo=UTC), 300, "drift_report/watch"
DAILY = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-02-01")


def draw_day(day: int) -> pl.DataFrame:
    """Two independent columns, whose dependence begins on the 20th day."""
    rng = np.random.default_rng(day)
    a, b = rng.normal(size=(2, ROWS))
    at = [BASE + timedelta(days=day, minutes=n) for n in range(ROWS)]
    b = np.abs(b) * np.sign(a) if day >= 19 else b
    return pl.DataFrame({"id": [f"{day}-{n}" for n in range(ROWS)], "at": at, "a": a, "b": b, "y": a + rng.normal(size=ROWS)})


def declare(expected: ml.Drift) -> list:
    @ml.dataset(partitions=DAILY, key="id", event_timestamp="at")
    def points(window: ml.TimeWindow) -> pl.DataFrame:
        days = pl.concat(draw_day(day) for day in range((window.start - BASE).days, (window.end - BASE).days))
        return days.with_columns(pl.col("at").cast(pl.Datetime("us", "UTC")))

    @ml.training_set(columns=["a", "b"], label="y", event_timestamp="at", split=ml.TimeSplit(holdout=timedelta(days=4)))
    def examples(points: pl.LazyFrame) -> pl.LazyFrame:
        return points

    @ml.model(training_set=examples, metrics=["r2"])
    def guess(train: ml.Split) -> LinearRegression:
        return LinearRegression().fit(train.X, train.y)

    scores = ml.BatchPrediction("scores", model=guess, dataset=points)
    return [points, examples, guess, scores, ml.Monitor("watch", of=scores, expectations=expected, min_rows=50)]


def summarize(runner: Runner, partition: str) -> str:
    return str(metadata(runner(DRIFT, partitions=partition), DRIFT)["summary"])


def test_a_new_dependence_of_two_columns_is_named(platform, instance) -> None:
    train = ("training_set/examples", "model/guess", "version/guess", "champion/guess")
    expected = ml.Drift(classifier=ml.monitoring.DomainClassifier(max_rows=ROWS), false_alarm_rate=0.05)
    runner = Runner(ml.build_definitions(declare(ml.Drift()), platform=platform), instance)
    runner("dataset/points", partitions="2024-01-01...2024-01-16")
    runner(*train)
    later = Runner(ml.build_definitions(declare(expected), platform=platform), instance)
    later("dataset/points", "predictions/scores", partitions="2024-01-18")
    assert summarize(later, "2024-01-18").endswith("or the log of its training has a warning; train again")

    later(*train)
    later("dataset/points", "predictions/scores", partitions="2024-01-19...2024-01-20")
    assert summarize(later, "2024-01-19").startswith("no drift in 2 columns; domain classifier AUC ")
    summary = summarize(later, "2024-01-20")
    assert summary.startswith("drift in 2 of 2 columns. a: its values together with b separate the window from the reference; AUC ")
    assert "; domain classifier AUC" in build_page_path(platform.home, "watch", "2024-01-20").read_text()


def test_a_classifier_that_cannot_be_built_does_not_fail_the_training(platform, instance, monkeypatch) -> None:
    def fail(*_arguments: object) -> None:
        raise ValueError("this reference cannot be classified")

    monkeypatch.setattr(profile, "build_reference", fail)
    runner = Runner(ml.build_definitions(declare(ml.Drift(classifier=True)), platform=platform), instance)
    runner("dataset/points", partitions="2024-01-01...2024-01-16")
    trained = runner("training_set/examples", "model/guess", "version/guess", "champion/guess")
    warning = "no domain classifier is stored with the reference of drift: ValueError: this reference cannot be classified"
    assert any(warning in entry.user_message for entry in instance.all_logs(trained.run_id))
    runner("dataset/points", "predictions/scores", partitions="2024-01-18")
    assert "no drift in 2 columns; domain classifier not evaluated: the version stores none" in summarize(runner, "2024-01-18")
