"""A feature view over a hundred days as a file for commands; each call of its function is written down in the file CALLS."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl

import mlops_assets as ml
from tests.projects import deadly

DAYS = 100
START = datetime(2024, 1, 1, tzinfo=UTC)
DAILY = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-04-10")
LAST = "2024-04-09"
WHOLE = f"2024-01-01...{LAST}"
TIMES = pl.Datetime("us", "UTC")

deadly.obey()


@ml.dataset(partitions=DAILY, key="sale", event_timestamp="at", call_per="range")
def sales(window: ml.TimeWindow) -> pl.DataFrame:
    """Three sales on each day."""
    days = range((window.start - START).days, (window.end - START).days)
    made = [
        {"sale": f"{d}-{i}", "customer": f"c{(d + i) % 7}", "at": START + timedelta(days=d, hours=i), "amount": float(d * i)}
        for d in days
        for i in range(3)
    ]
    return pl.DataFrame(made, schema_overrides={"at": TIMES})


@ml.feature_view(
    entity=ml.Entity("customer"),
    event_timestamp="at",
    partitions=DAILY,
    partition_mappings={"sales": dg.TimeWindowPartitionMapping(start_offset=-2, end_offset=0)},
    features={"spent": float},
    call_per="range",
)
def spending(sales: pl.LazyFrame, window: ml.TimeWindow) -> pl.LazyFrame:
    """What a customer has spent in the three days that end with the sale's."""
    if "CALLS" in os.environ:
        with Path(os.environ["CALLS"]).open("a", encoding="utf-8") as calls:
            calls.write(f"{window.start:%Y-%m-%d} {(window.end - window.start).days}\n")
    factor = float(os.environ.get("FACTOR", "1"))
    day = pl.col("at").dt.truncate("1d")
    today = sales.filter(pl.col("at").is_between(window.start, window.end, closed="left"))
    pairs = today.select("customer", "at").unique().join(sales.rename({"at": "then"}), on="customer", how="inner")
    near = pairs.filter((pl.col("then") <= pl.col("at")) & (pl.col("then") >= day - timedelta(days=2)))
    return near.group_by("customer", "at").agg(spent=pl.col("amount").sum() * factor)


defs = ml.build_definitions([sales, spending], platform=ml.Platform.from_env())
