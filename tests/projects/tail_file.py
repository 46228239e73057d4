"""A growing file of JSON lines, tailed by a plain Dagster sensor: each whole line that is new is pushed."""

import json
import os
from datetime import datetime
from pathlib import Path

import dagster as dg

import mlops_assets as ml
from tests.projects.stream import Position

positions = ml.PushSource("positions", schema=Position, key=("ship", "at"), event_timestamp="at", created_timestamp="heard_at")
fixes = ml.FeatureView(
    name="fixes",
    source=positions,
    entity=ml.Entity("ship"),
    event_timestamp="at",
    created_timestamp="heard_at",
    features={"speed": float},
    online=True,
)
MOST = 2**20  # bytes of one tick


def parsed(line: bytes) -> dict:
    row = json.loads(line)
    return row | {name: datetime.fromisoformat(row[name]) for name in ("at", "heard_at")}


@dg.sensor(minimum_interval_seconds=5)
def new_positions(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Push the lines that were appended since the last tick.

    Lines say when they became known, so that a tick that dies before its cursor is kept may push them again: that changes nothing.
    """
    path, start = Path(os.environ["POSITIONS_FILE"]), int(context.cursor or 0)
    with path.open("rb") as file:
        file.seek(start)
        data = file.read(MOST)
    whole = data[: data.rfind(b"\n") + 1]  # a line that is still being written is for the next tick
    if whole:
        ml.push(positions, [parsed(line) for line in whole.splitlines()])
        context.update_cursor(str(start + len(whole)))
    return dg.SkipReason(f"pushed {len(whole.splitlines())} lines")


defs = dg.Definitions.merge(ml.build_definitions([positions, fixes]), dg.Definitions(sensors=[new_positions]))
