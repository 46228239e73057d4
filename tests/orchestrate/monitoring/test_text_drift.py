"""A model that reads texts: its monitor is quiet on other texts, and names what changed in them."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import numpy as np
import polars as pl
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

import mlops_assets as ml
from mlops_assets.orchestrate.monitoring.reports import build_page_path
from tests.conftest import metadata

BASE, ROWS, DRIFT = datetime(2024, 1, 1, tzinfo=UTC), 120, "drift_report/watch"
DAILY = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-02-01")
THINGS, GOOD, BAD = ["jacket", "shoes", "lamp", "chair", "phone"], ["good", "fine", "great", "sturdy"], ["broken", "poor", "late", "flimsy"]


def write_day(day: int) -> pl.DataFrame:
    """Reviews of things; from the 20th day on, they are of a new thing, and say nothing."""
    rng = np.random.default_rng(day)
    liked = rng.random(ROWS) < 0.6
    texts = [
        " ".join(
            [f"my {'blender' if day >= 19 else rng.choice(THINGS)} is", *rng.choice(GOOD if like else BAD, rng.integers(2, 9)), "I say"]
        )
        for like in (liked if day < 19 else rng.permutation(liked))
    ]
    at = [BASE + timedelta(days=day, minutes=n) for n in range(ROWS)]
    return pl.DataFrame({"id": [f"{day}-{n}" for n in range(ROWS)], "at": at, "review": texts, "liked": liked.astype(int)})


def test_new_words_are_named_and_other_texts_are_quiet(run, platform) -> None:
    @ml.dataset(partitions=DAILY, key="id", event_timestamp="at")
    def reviews(window: ml.TimeWindow) -> pl.DataFrame:
        days = pl.concat(write_day(day) for day in range((window.start - BASE).days, (window.end - BASE).days))
        return days.with_columns(pl.col("at").cast(pl.Datetime("us", "UTC")))

    @ml.training_set(columns=["review"], label="liked", event_timestamp="at", split=ml.TimeSplit(holdout=timedelta(days=4)))
    def examples(reviews: pl.LazyFrame) -> pl.LazyFrame:
        return reviews

    @ml.model(training_set=examples, metrics=["roc_auc"])
    def liking(train: ml.Split) -> Pipeline:
        return make_pipeline(ColumnTransformer([("words", TfidfVectorizer(), "review")]), LogisticRegression()).fit(train.X, train.y)

    scores = ml.BatchPrediction("scores", model=liking, dataset=reviews)
    expected = (ml.Drift(), ml.Performance("roc_auc", no_worse_than_reference_by=0.1, min_labels=10))
    monitor = ml.Monitor("watch", of=scores, expectations=expected, min_rows=50)
    runner = run(ml.build_definitions([reviews, examples, liking, scores, monitor], platform=platform))
    runner("dataset/reviews", partitions="2024-01-01...2024-01-16")
    runner("training_set/examples", "model/liking", "version/liking", "champion/liking")
    runner("dataset/reviews", "predictions/scores", partitions="2024-01-18...2024-01-21")
    runner(DRIFT, partitions="2024-01-18")
    assert "No drift" in build_page_path(platform.home, "watch", "2024-01-18").read_text()
    summary = metadata(runner(DRIFT, partitions="2024-01-21"), DRIFT)["summary"]
    assert summary.startswith(
        "drift in 1 of 1 columns. review: words not in the reference, %: no value in common with the reference; median "
    )
    assert "words not in the reference, %" in build_page_path(platform.home, "watch", "2024-01-21").read_text()

    # A text has no distribution to put back: the drop is reported without an explanation by this column.
    report = runner("performance_report/watch", partitions="2024-01-21")
    assert metadata(report, "performance_report/watch")["state"] == "breach"
