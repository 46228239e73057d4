"""A project with a rare label and a decision threshold of its own, so that a class is not the one with the higher probability."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import numpy as np
import polars as pl
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import FixedThresholdClassifier

import mlops_assets as ml

BASE = datetime(2024, 5, 1, tzinfo=UTC)
DAYS = 5
DAILY = dg.DailyPartitionsDefinition("2024-05-01", end_date="2024-05-06")
ALL_DAYS = "2024-05-01...2024-05-05"
ROWS = 400  # payments of a day
SPLIT = ml.TimeSplit(validation=timedelta(days=1), holdout=timedelta(days=1))


def make_payments(day: int) -> pl.DataFrame:
    """Return the payments of one day: one in twenty is a fraud, more often at night and when it is large."""
    rng = np.random.default_rng(day)
    amount, night = rng.normal(size=ROWS), rng.random(ROWS) < 0.3
    rare = rng.random(ROWS) < 1 / (1 + np.exp(4.3 - amount - 1.2 * night))
    return pl.DataFrame(
        {
            "id": [f"{day}-{i}" for i in range(ROWS)],
            "at": [BASE + timedelta(days=day, minutes=3 * i) for i in range(ROWS)],
            "amount": amount,
            "night": night,
            "fraud": rare,
        },
        schema_overrides={"at": pl.Datetime("us", "UTC")},
    )


@ml.dataset(partitions=DAILY, key="id", event_timestamp="at")
def payments(window: ml.TimeWindow) -> pl.DataFrame:
    """Every payment of some days."""
    return pl.concat([make_payments(day) for day in range((window.start - BASE).days, (window.end - BASE).days)])


@ml.training_set(columns=["amount", "night"], label="fraud", event_timestamp="at", split=SPLIT)
def examples(payments: pl.LazyFrame) -> pl.LazyFrame:
    """All payments."""
    return payments


@ml.model(training_set=examples, metrics=["recall", "roc_auc"], gates=[ml.Gate("recall", at_least=0.5)])
def frauds(train: ml.Split) -> object:
    """Fraud from a probability of 6 % on."""
    return FixedThresholdClassifier(LogisticRegression(), threshold=0.06, pos_label=True).fit(train.X, train.y)


frauds_api = ml.Service("frauds_api", model=frauds, workers=1)
frauds_daily = ml.BatchPrediction("frauds_daily", model=frauds, dataset=payments)
frauds_watch = ml.Monitor(
    "frauds_watch", of=frauds_daily, partitions=DAILY, min_rows=50, expectations=(ml.Performance("recall", at_least=0.3),)
)
NOUNS = [payments, examples, frauds, frauds_api, frauds_daily, frauds_watch]
TRAIN = ("training_set/examples", "model/frauds", "version/frauds", "champion/frauds")
