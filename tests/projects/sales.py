"""A second whole project: made-up monthly sales on real measurements; regression, monthly partitions, a raw file that the test writes."""

import os
from datetime import timedelta
from pathlib import Path

import dagster as dg
import polars as pl
from sklearn.ensemble import HistGradientBoostingRegressor

import mlops_assets as ml

MONTHLY = dg.MonthlyPartitionsDefinition("2024-01-01", end_date="2025-01-01")


@ml.dataset(partitions=MONTHLY, key="sale", event_timestamp="sold_at", known_at={"price": "booked_at"})
def sales(window: ml.TimeWindow) -> pl.LazyFrame:
    """Every sale of a month."""
    file = Path(os.environ["SALES_FILE"])
    rows = pl.read_csv(file).with_columns(pl.col("sold_at", "booked_at").str.to_datetime(time_unit="us", time_zone="UTC"))
    return rows.filter(pl.col("sold_at").is_between(window.start, window.end, closed="left")).lazy()


@ml.dataset(
    partitions=MONTHLY,
    key=("region", "month"),
    event_timestamp="month",
    allow_empty=True,
    partition_mappings={"sales": dg.TimeWindowPartitionMapping(-1, -1)},
)
def prices(window: ml.TimeWindow, sales: pl.DataFrame) -> pl.DataFrame:
    """The mean price of a region in the month before."""
    months = pl.datetime_range(window.start, window.end, "1mo", closed="left", eager=True).dt.cast_time_unit("us").alias("month").to_frame()
    before = sales.with_columns(month=pl.col("sold_at").dt.truncate("1mo").dt.offset_by("1mo"))
    return (
        months.join(before, on="month")
        .group_by("region", "month")
        .agg(pl.col("price").mean().alias("mean_price_1m"))
        .sort("region", "month")
    )


region_prices = ml.FeatureView(
    name="region_prices",
    source=prices,
    entity=ml.Entity("region"),
    event_timestamp="month",
    ttl=timedelta(days=31),
    features={"mean_price_1m": float},
)


@ml.training_set(
    features=[region_prices],
    columns=["rooms", "age"],
    label="price",
    label_known_at="booked_at",
    event_timestamp="sold_at",
    split=ml.TimeSplit(validation=timedelta(days=30), holdout=timedelta(days=60)),
)
def sold(sales: pl.LazyFrame) -> pl.LazyFrame:
    return sales


@ml.model(
    training_set=sold,
    metrics=["r2", "neg_mean_absolute_error"],
    gates=[ml.Gate("r2", at_least=0.1), ml.Gate("neg_mean_absolute_error", better_than_champion_by=-0.2)],
)
def price(train: ml.Split, validation: ml.Split) -> HistGradientBoostingRegressor:
    """Price of a house, in units of 100,000 dollars."""
    return HistGradientBoostingRegressor(max_iter=60, random_state=0).fit(train.X, train.y)


price_estimates = ml.BatchPrediction("price_estimates", model=price, dataset=sales)
defs = ml.build_definitions([sales, prices, region_prices, sold, price, price_estimates])
