"""A project that leaves every kind of file behind in its home: a lake, a registry, artifacts, a layout and online rows."""

from datetime import UTC, datetime, timedelta

import polars as pl
from sklearn.linear_model import LinearRegression

import mlops_assets as ml

HOURS = [datetime(2024, 3, 1, tzinfo=UTC) + timedelta(hours=hour) for hour in range(200)]


@ml.dataset(key=("ship", "at"), event_timestamp="at")
def positions() -> pl.DataFrame:
    """Ships, hour by hour."""
    return pl.DataFrame({"ship": [f"s{i % 40}" for i in range(200)], "at": HOURS, "speed": [float(i % 7) for i in range(200)]})


fixes = ml.FeatureView(
    name="fixes", source=positions, entity=ml.Entity("ship"), event_timestamp="at", features={"speed": float}, online=True
)


@ml.training_set(features=[fixes], label="arrival", event_timestamp="at", split=ml.GroupSplit("ship", validation=0.2, holdout=0.2))
def voyages(positions: pl.DataFrame) -> pl.DataFrame:
    """The speed decides the arrival, more or less."""
    return positions.select("ship", "at", arrival=2 * pl.col("speed") + pl.int_range(pl.len()) * 7919 % 13)


@ml.model(training_set=voyages, metrics=["neg_mean_absolute_error"])
def arrival(train: ml.Split) -> LinearRegression:
    """Hours to go."""
    return LinearRegression().fit(train.X, train.y)


defs = ml.build_definitions([positions, fixes, voyages, arrival, ml.Service("arrival_api", model=arrival)])
