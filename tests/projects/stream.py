"""A feature view whose rows are pushed, and a service that looks it up."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import dagster as dg
import pandera.polars as pa
import polars as pl

import mlops_assets as ml

BASE = datetime(2024, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAILY = dg.DailyPartitionsDefinition("2024-03-01", end_date="2024-03-11")
Utc = Annotated[pl.Datetime, "us", "UTC"]


class Position(pa.DataFrameModel):
    """Where a ship is."""

    ship: str = pa.Field(str_length={"min_value": 1})
    at: Utc
    heard_at: Utc
    speed: float = pa.Field(nullable=True, le=60)
    port: str = pa.Field(nullable=True, isin=["x", "y"])


class Project:
    """Everything that is declared, on one platform."""

    def __init__(self, platform: ml.Platform, *, partitions: dg.PartitionsDefinition | None = DAILY) -> None:
        self.platform = platform
        self.source = ml.PushSource(
            "positions",
            schema=Position,
            partitions=partitions,
            key=("ship", "at"),
            event_timestamp="at",
            created_timestamp="heard_at",
        )
        shared = {"source": self.source, "entity": ml.Entity("ship"), "event_timestamp": "at", "created_timestamp": "heard_at"}
        self.fixes = ml.FeatureView(name="fixes", ttl=timedelta(days=2), features={"speed": float, "port": str}, online=True, **shared)
        self.speeds = ml.FeatureView(name="speeds", features={"speed": float}, online=True, **shared)
        self.definitions = ml.build_definitions([self.source, self.fixes, self.speeds], platform=platform)

    def push(self, rows, **more):
        return ml.push(self.source, rows, platform=self.platform, **more)


def row(ship: str, at: float, heard: float | None = None, speed: float | None = 1.0, port: str | None = "x") -> dict:
    """Return one row; hours count from the beginning of March 2024."""
    heard_at = {} if heard is None else {"heard_at": BASE + heard * HOUR}
    return {"ship": ship, "at": BASE + at * HOUR, **heard_at, "speed": speed, "port": port}
