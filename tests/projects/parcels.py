"""A service whose predictions are brought into the lake by day; a row is identified by text and by a date."""

from datetime import UTC, date, datetime, timedelta

import dagster as dg
import polars as pl
from sklearn.linear_model import LogisticRegression

import mlops_assets as ml

BASE = datetime(2024, 3, 1, tzinfo=UTC)
DAILY = dg.DailyPartitionsDefinition("2024-03-01", end_date="2024-03-05")


def parcels_of(day: int) -> pl.DataFrame:
    hours = [BASE + timedelta(days=day, minutes=20 * i) for i in range(60)]
    return pl.DataFrame(
        {
            "parcel": [f"p{i}" for i in range(60)],
            "sent_on": [date(2024, 3, 1) + timedelta(days=day)] * 60,
            "at": pl.Series(hours, dtype=pl.Datetime("us", "UTC")),
            "weight": [float(i % 10) for i in range(60)],
            "late": [i % 10 > 5 for i in range(60)],
        }
    )


@ml.dataset(partitions=DAILY, key=("parcel", "sent_on"), event_timestamp="at")
def parcels(window: ml.TimeWindow) -> pl.DataFrame:
    """Every parcel of a day."""
    return pl.concat([parcels_of(day) for day in range((window.start - BASE).days, (window.end - BASE).days)])


@ml.training_set(columns=["weight"], label="late", event_timestamp="at", split=ml.GroupSplit("parcel", holdout=0.4))
def deliveries(parcels: pl.LazyFrame) -> pl.LazyFrame:
    """Every parcel."""
    return parcels


@ml.model(training_set=deliveries, metrics=["accuracy"])
def lateness(train: ml.Split) -> LogisticRegression:
    """Whether a parcel is late."""
    return LogisticRegression().fit(train.X, train.y)


parcel_api = ml.Service("parcel_api", model=lateness)
NOUNS = [parcels, deliveries, lateness, parcel_api]
TRAIN = ("dataset/parcels", "training_set/deliveries", "model/lateness", "version/lateness", "champion/lateness")
PREDICTIONS = "predictions/parcel_api"
