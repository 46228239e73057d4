"""The visits project over three months, automated from the start; as long as the file that HOLD names exists, writing shares waits."""

import os
import time
from datetime import timedelta
from functools import wraps
from pathlib import Path
from unittest import mock

import dagster as dg

import mlops_assets as ml
from mlops_assets.stores.lake.ducklake import DuckLake
from tests.projects import visits

DAYS = 91
DAILY = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-04-01")


def build(platform: ml.Platform, world: visits.World) -> dg.Definitions:
    world.last_day = DAYS
    with mock.patch.object(visits, "DAILY", DAILY):
        return visits.build(platform, world, running=True, automation_interval=timedelta(seconds=2))


def _hold(file: Path) -> None:
    original = DuckLake.write

    @wraps(original)
    def slow(lake, table, *args, **more):
        if table == "dataset/shares" and file.exists():
            file.with_suffix(".held").write_text(str(os.getpid()), encoding="ascii")
            while file.exists():
                time.sleep(0.1)
        return original(lake, table, *args, **more)

    DuckLake.write = slow


if "HOLD" in os.environ:
    _hold(Path(os.environ["HOLD"]))

defs = build(ml.Platform.from_env(), visits.World())
