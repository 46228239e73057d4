"""Orders that may arrive late, as a project: a dataset, a feature view, a training set, a gated model, daily partitions."""

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import dagster as dg
import pandera.polars as pa
import polars as pl

import mlops_assets as ml
from bench.projects import project_data as data

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

DAILY = dg.DailyPartitionsDefinition(f"{data.FIRST_DAY:%Y-%m-%d}", end_date=f"{data.end_of_data():%Y-%m-%d}")
NINE_DAYS_BEFORE = dg.TimeWindowPartitionMapping(start_offset=-9, end_offset=-1)
Utc = Annotated[pl.Datetime, "us", "UTC"]


class Order(pa.DataFrameModel):
    """One order."""

    order_id: str = pa.Field(unique=True)
    placed_at: Utc
    delivered_at: Utc
    shop: str
    carrier: str
    zone: str = pa.Field(isin=list(data.ZONES))
    distance: float = pa.Field(ge=0)
    weight: float = pa.Field(ge=0)
    price: float = pa.Field(ge=0)
    queue: float = pa.Field(ge=0)
    rain: float = pa.Field(ge=0)
    delay: float


@ml.dataset(
    schema=Order,
    partitions=DAILY,
    key="order_id",
    event_timestamp="placed_at",
    known_at={"delay": "delivered_at", "delivered_at": "delivered_at"},
    call_per="range",
)
def orders(window: ml.TimeWindow) -> pl.LazyFrame:
    """The orders of some days."""
    return pl.scan_parquet(data.source_file()).filter(pl.col("placed_at").is_between(window.start, window.end, closed="left"))


@ml.feature_view(
    entity=ml.Entity("shop"),
    event_timestamp="as_of",
    ttl=timedelta(days=2),
    features=dict.fromkeys(data.VIEW_FEATURES, float),
    partitions=DAILY,
    partition_mappings={"orders": NINE_DAYS_BEFORE},
    call_per="range",
)
def shop_delays(window: ml.TimeWindow, orders: pl.LazyFrame) -> pl.LazyFrame:
    """What a shop's deliveries of the last seven days were like, as known at midnight."""
    return data.rolling_delays(orders, window.start, window.end)


@ml.training_set(
    features=[shop_delays],
    columns=list(data.COLUMNS),
    label="late",
    label_known_at="delivered_at",
    event_timestamp="placed_at",
    split=ml.TimeSplit(validation=data.SPAN, holdout=data.SPAN),
)
def deliveries(orders: pl.LazyFrame) -> pl.LazyFrame:
    """Every order; late when 15 minutes or more behind."""
    return orders.select("order_id", "placed_at", "delivered_at", "shop", *data.COLUMNS, late=pl.col("delay") > data.LATE)


@ml.model(
    training_set=deliveries,
    metrics=["roc_auc", "neg_log_loss"],
    gates=[ml.Gate("roc_auc", at_least=0.6), ml.Gate("neg_log_loss", no_worse_than_champion_by=0.005)],
    slices=["zone"],
)
def lateness(train: ml.Split) -> "Pipeline":
    """Probability that an order arrives late."""
    return data.make_estimator().fit(train.X, train.y)


defs = ml.build_definitions([orders, shop_delays, deliveries, lateness])
