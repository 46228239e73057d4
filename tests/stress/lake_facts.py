"""What the processes of the lake's stress test say, and the rows that they write."""

import json
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from mlops_assets.compute.tables.content_hash import content_hash
from mlops_assets.compute.tables.stored_types import normalize
from mlops_assets.stores.lake.ducklake import DuckLake
from mlops_assets.stores.lake.protocol import Partition
from mlops_assets.values.window import TimeWindow

BASE, DAYS = datetime(2024, 1, 1, tzinfo=UTC), 12
SOURCE, WHOLE, DAILY = "dataset/visits", "training_set/examples", "features/daily"
PARTITIONED = (SOURCE, "dataset/orders", "dataset/stock")
KEY = ("at", "id")


class Ledger:
    """Facts of one process, a line each, in a file of its own: a line that a kill cuts short spoils no other."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.path = folder / "ledger" / name
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def say(self, event: str, **fact) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, **fact}) + "\n")


def facts(folder: Path, event: str) -> list[dict]:
    """What every process has said, whole lines only."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((folder / "ledger").glob("*"))]
    lines = [json.loads(line) for text in texts for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [line for line in lines if line["event"] == event]


def part(table: str, day: int) -> Partition:
    if table == WHOLE:
        return Partition("")
    start = BASE + timedelta(days=day)
    return Partition(f"{start:%Y-%m-%d}", TimeWindow(start, start + timedelta(days=1)))


def rows(token: str, table: str, day: int, n: int) -> pl.DataFrame:
    """The rows that one attempt writes into one partition; no other attempt's look like them."""
    values = np.random.default_rng(zlib.crc32(f"{token}/{table}/{day}".encode())).integers(0, 1 << 32, n)
    at = pl.Series([BASE + timedelta(days=day, minutes=i) for i in range(n)], dtype=pl.Datetime("us", "UTC"))
    return pl.DataFrame(
        {"id": pl.Series(range(n), dtype=pl.Int64), "at": at, "token": pl.Series([token] * n, dtype=pl.String), "value": values}
    )


def attempt(lake: DuckLake, ledger: Ledger, token: str, table: str, sizes: dict[int, int]) -> None:
    """Write some days of one table, and say so before and after."""
    ledger.say("attempt", token=token, table=table, sizes={part(table, day).key: (day, n) for day, n in sizes.items()})
    frame = pl.concat([rows(token, table, day, n) for day, n in sizes.items()])
    parts = [part(table, day) for day in sizes]
    done = lake.write(table, frame, parts, event_timestamp=None if table == WHOLE else "at", key=KEY, run_id=token)
    ledger.say("acknowledged", token=token, table=table, snapshot=done.snapshot)


def tables(lake: DuckLake) -> list[str]:
    query = (
        "SELECT schema_name || '/' || table_name FROM duckdb_tables() WHERE database_name = 'lake' AND schema_name <> '_mlops' ORDER BY 1"
    )
    return [row[0] for row in lake.connections.cursor().execute(query).fetchall()]


def state(lake: DuckLake, table: str, snapshot: int | None = None) -> list:
    """How many rows a table has, and their hash."""
    frame = lake.read(table, snapshot=snapshot)
    return [frame.height, content_hash(normalize(frame))]
