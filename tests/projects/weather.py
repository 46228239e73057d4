"""Hourly weather at JFK in 2013: the temperature of tomorrow at the same hour, a regression on hourly partitions."""

from datetime import timedelta

import dagster as dg
import polars as pl
from sklearn.base import RegressorMixin
from sklearn.ensemble import HistGradientBoostingRegressor

import flights_data
import mlops_assets as ml

HOURLY = dg.HourlyPartitionsDefinition("2013-01-01-00:00", end_date="2013-05-01-00:00")
DAY = timedelta(days=1)


@ml.dataset(partitions=HOURLY, key="observed_at", event_timestamp="observed_at", allow_empty=True, call_per="range")
def weather(window: ml.TimeWindow) -> pl.LazyFrame:
    """Every observation at JFK."""
    return flights_data.observations(window).filter(pl.col("origin") == "JFK").select("observed_at", "temp", "wind_speed", "pressure")


@ml.training_set(
    columns=["temp", "wind_speed", "pressure", "hour"],
    features=[],
    label="tomorrow",
    label_known_at="known_at",
    event_timestamp="observed_at",
    split=ml.TimeSplit(holdout=timedelta(days=7)),
)
def hours(weather: pl.LazyFrame) -> pl.LazyFrame:
    """Every hour whose next day was observed too."""
    next_day = weather.select(pl.col("observed_at") - DAY, tomorrow="temp").drop_nulls()
    return weather.join(next_day, on="observed_at").with_columns(hour=pl.col("observed_at").dt.hour(), known_at=pl.col("observed_at") + DAY)


@ml.model(training_set=hours, metrics=["neg_mean_absolute_error"], gates=[])
def tomorrows_temperature(train: ml.Split) -> RegressorMixin:
    """Degrees Fahrenheit of the same hour tomorrow."""
    return HistGradientBoostingRegressor(max_iter=30, random_state=0).fit(train.X, train.y)


ITEMS = [weather, hours, tomorrows_temperature]
