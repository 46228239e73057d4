"""Feature views that must be fresh, each in its own way; the days go on."""

import os
from datetime import timedelta

import dagster as dg
import polars as pl

import mlops_assets as ml

ONGOING = dg.DailyPartitionsDefinition("2024-01-01")
ENDED = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-01-11")


def view(name: str, partitions: dg.PartitionsDefinition | None = ONGOING, **more) -> list:
    def rows() -> pl.DataFrame:
        return pl.DataFrame({"shop": ["a"], "at": pl.Series(["2024-01-01"]).str.to_datetime(time_zone="UTC", time_unit="us"), "x": [1.0]})

    rows.__name__ = f"{name}_rows"
    made = ml.dataset(partitions=partitions, key=("shop", "at"), event_timestamp="at")(rows)
    declared = ml.FeatureView(name=name, source=made, entity=ml.Entity("shop"), event_timestamp="at", features={"x": float}, **more)
    return [made, declared]


NOUNS = [
    *view("by_ttl", ttl=timedelta(days=4)),
    *view("by_schedule", freshness="0 6 * * *"),
    *view("of_the_past", ENDED, ttl=timedelta(days=4), freshness="0 6 * * *"),
]
if "MLOPS_HOME" in os.environ:
    defs = ml.build_definitions(NOUNS)
