"""A model that reads embeddings: its monitor is quiet on others alike, and names the column that moved."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import numpy as np
import polars as pl
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer

import mlops_assets as ml
from mlops_assets.orchestrate.monitoring.reports import build_page_path
from tests.conftest import metadata

BASE, ROWS, SIZE, DRIFT = datetime(2024, 1, 1, tzinfo=UTC), 120, 8, "drift_report/watch"
DAILY = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-02-01")


def write_day(day: int) -> pl.DataFrame:
    """Pictures as embeddings; from the 20th day on, all are moved by one standard deviation in the last dimension."""
    rng = np.random.default_rng(day)
    pictures = rng.normal(size=(ROWS, SIZE)) * np.linspace(2, 1, SIZE)
    liked = pictures[:, 0] + rng.normal(size=ROWS) > 0
    pictures[:, -1] += 1.0 * (day >= 19)
    at = [BASE + timedelta(days=day, minutes=n) for n in range(ROWS)]
    return pl.DataFrame(
        {
            "id": [f"{day}-{n}" for n in range(ROWS)],
            "at": at,
            "picture": pictures.tolist(),
            "stars": rng.integers(1, 6, ROWS),
            "liked": liked.astype(int),
        }
    )


def stack(X: pl.DataFrame) -> np.ndarray:
    """Return the embeddings, shape (rows, 8)."""
    return np.vstack(X["picture"])


def test_a_moved_embedding_is_named_and_others_are_quiet(run, platform) -> None:
    @ml.dataset(partitions=DAILY, key="id", event_timestamp="at")
    def posts(window: ml.TimeWindow) -> pl.DataFrame:
        days = pl.concat(write_day(day) for day in range((window.start - BASE).days, (window.end - BASE).days))
        return days.with_columns(pl.col("at").cast(pl.Datetime("us", "UTC")))

    @ml.training_set(columns=["picture", "stars"], label="liked", event_timestamp="at", split=ml.TimeSplit(holdout=timedelta(days=4)))
    def examples(posts: pl.LazyFrame) -> pl.LazyFrame:
        return posts

    @ml.model(training_set=examples, metrics=["roc_auc"], trusted_types=[f"{__name__}.stack"])
    def liking(train: ml.Split) -> Pipeline:
        return make_pipeline(FunctionTransformer(stack), LogisticRegression()).fit(train.X, train.y)

    scores = ml.BatchPrediction("scores", model=liking, dataset=posts)
    monitor = ml.Monitor("watch", of=scores, expectations=(ml.Drift(),), min_rows=50)
    runner = run(ml.build_definitions([posts, examples, liking, scores, monitor], platform=platform))
    runner("dataset/posts", partitions="2024-01-01...2024-01-16")
    runner("training_set/examples", "model/liking", "version/liking", "champion/liking")
    runner("dataset/posts", "predictions/scores", partitions="2024-01-18...2024-01-21")
    runner(DRIFT, partitions="2024-01-18")

    assert "No drift" in build_page_path(platform.home, "watch", "2024-01-18").read_text()
    summary = metadata(runner(DRIFT, partitions="2024-01-21"), DRIFT)["summary"]
    assert summary.startswith("drift in 1 of 2 columns. picture: ")
    assert "picture" in build_page_path(platform.home, "watch", "2024-01-21").read_text()
