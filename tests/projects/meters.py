"""Readings of meters by the day, as a file writes them: what a test puts into WORLD is what the function reads."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import dagster as dg
import pandera.polars as pa
import polars as pl

import mlops_assets as ml
from tests.projects import deadly

BASE = datetime(2024, 1, 1, tzinfo=UTC)
DAYS, HOURS = 10, 24
DAILY = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-01-11")
ALL = "2024-01-01...2024-01-10"
QUALITY = ml.Quality(learn_from=3, margin=0.25)
Utc = Annotated[pl.Datetime, "us", "UTC"]


class Reading(pa.DataFrameModel):
    reading: str
    at: Utc
    meter: str = pa.Field(isin=["north", "south", "east"])
    value: float = pa.Field(nullable=True, ge=0)


def day_of(number: int) -> str:
    return f"{BASE + timedelta(days=number):%Y-%m-%d}"


def good(day: int) -> list[dict]:
    """Return the readings of a day: values between 0 and 23."""
    return [
        {"reading": f"{day}-{i}", "at": BASE + timedelta(days=day, hours=i), "meter": ["north", "south"][i % 2], "value": float(i)}
        for i in range(HOURS)
    ]


def as_frame(rows: list[dict]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={"reading": pl.String, "at": pl.Datetime("us", "UTC"), "meter": pl.String, "value": pl.Float64})


class World:
    """The readings of each day that is not as usual."""

    def __init__(self) -> None:
        self.days: dict[int, list[dict]] = {}

    @classmethod
    def read(cls, file: Path) -> "World":
        world = cls()
        for day, rows in (json.loads(file.read_text()) if file.exists() else {}).items():
            world.days[int(day)] = [{**row, "at": datetime.fromisoformat(row["at"])} for row in rows]
        return world

    def write(self, file: Path) -> None:
        file.write_text(json.dumps({day: [{**row, "at": row["at"].isoformat()} for row in rows] for day, rows in self.days.items()}))

    def spoil(self, day: int, number: int, **change) -> None:
        """Change one reading of a day."""
        rows = self.days.setdefault(day, good(day))
        rows[number] = {**rows[number], **change}


def nouns(world: World, **more) -> list:
    @ml.dataset(**{"schema": Reading, "partitions": DAILY, "key": "reading", "event_timestamp": "at"} | more)
    def readings(window: ml.TimeWindow) -> pl.DataFrame:
        """Every reading of a day."""
        days = range((window.start - BASE).days, (window.end - BASE).days)
        return as_frame([row for day in days for row in world.days.get(day, good(day))])

    return [readings]


def build(platform: ml.Platform, world: World, extra=(), **more) -> dg.Definitions:
    return ml.build_definitions([*nouns(world, **more), *extra], platform=platform)


if "METERS_WORLD" in os.environ:  # the project as a file for commands
    deadly.obey()
    defs = build(ml.Platform.from_env(), World.read(Path(os.environ["METERS_WORLD"])), quarantine=True)
