"""A level that drifts: a fit on every row is closer to the newest day than the fit that was judged."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import numpy as np
import polars as pl
from sklearn.linear_model import LinearRegression

import mlops_assets as ml

BASE = datetime(2024, 1, 1, tzinfo=UTC)
DAILY = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-03-01")
ROWS = 40


def day(number: int) -> str:
    """Return a partition."""
    return f"{BASE + timedelta(days=number):%Y-%m-%d}"


@ml.dataset(partitions=DAILY, key="id", event_timestamp="at")
def events(window: ml.TimeWindow) -> pl.DataFrame:
    """Forty events a day; the slope grows by a tenth each day."""
    number = (window.start - BASE).days
    rng = np.random.default_rng(number)
    x = rng.normal(size=ROWS)
    y = x * (1 + number / 10) + rng.normal(0, 0.1, ROWS)
    at = pl.Series([BASE + timedelta(days=number, minutes=30 * i) for i in range(ROWS)], dtype=pl.Datetime("us", "UTC"))
    return pl.DataFrame({"id": [f"{number}-{i}" for i in range(ROWS)], "at": at, "x": x, "y": y})


@ml.training_set(
    columns=["x"], label="y", event_timestamp="at", split=ml.TimeSplit(validation=timedelta(days=2), holdout=timedelta(days=4))
)
def examples(events: pl.LazyFrame) -> pl.LazyFrame:
    """All of them."""
    return events


class Shape(dg.Config):
    power: int = 1


@ml.model(
    training_set=examples,
    metrics=["neg_mean_absolute_error"],
    gates=[ml.Gate("neg_mean_absolute_error", at_least=-5.0), ml.Gate("neg_mean_absolute_error", no_worse_than_champion_by=0.0)],
    refit="after_gates",
)
def level(train: ml.Split, params: Shape) -> LinearRegression:
    """The level of y."""
    return LinearRegression().fit(train.X, train.y * 1.0**params.power)


NOUNS = [events, examples, level]
