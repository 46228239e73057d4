"""One process of the lake benchmark: makes rows, writes and reads partitions of one kind of store.

Runs in the environment of that store, so that each imports only its own libraries. ``python -m bench.lake_stores KIND
FOLDER`` answers questions (:mod:`bench.worker`); with a question as JSON behind it, answers that one and ends (cold).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import polars as pl

from bench.worker import serve

if TYPE_CHECKING:
    from deltalake import DeltaTable

    from mlops_assets.stores.lake.ducklake import DuckLake

BEGIN = datetime(2024, 1, 1, tzinfo=UTC)
CARRIERS = np.array(["AA", "B6", "DL", "EV", "MQ", "UA", "US", "WN"])


def rows_of(day: int, rows: int, variant: int = 0) -> pl.DataFrame:
    """Return one day's rows, the same in every process; each ``variant`` has other values under the same keys."""
    rng = np.random.default_rng((day, variant))
    begin = BEGIN + timedelta(days=day)
    offsets = np.sort(rng.integers(0, 86_400_000_000, rows))
    return pl.DataFrame(
        {
            "id": np.arange(rows, dtype=np.int64) + day * rows,
            "at": pl.Series(offsets + int(begin.timestamp()) * 1_000_000, dtype=pl.Int64).cast(pl.Datetime("us", "UTC")),
            "day": pl.Series([begin.date().isoformat()]).new_from_index(0, rows),
            "carrier": CARRIERS[rng.integers(0, len(CARRIERS), rows)],
            "count": rng.integers(0, 1000, rows),
            "distance": rng.normal(1000.0, 300.0, rows),
            "delay": rng.exponential(20.0, rows),
            "late": rng.random(rows) > 0.7,
        }
    )


def digest(frame: pl.DataFrame) -> str:
    """Return a hash of rows in any order."""
    frame = frame.sort("id")
    parts = [frame[name].cast(pl.String).str.join("|")[0] for name in ("day", "carrier")] if frame.height else []
    numbers = [frame[name].cast(pl.Float64).to_numpy().tobytes() for name in ("id", "count", "distance", "delay", "late")]
    times = frame["at"].dt.epoch("us").to_numpy().tobytes()
    return hashlib.sha256("".join(parts).encode() + b"".join(numbers) + times).hexdigest()


class Store(Protocol):
    """What is measured."""

    def write(self, table: str, day: int, frame: pl.DataFrame) -> None:
        """Put one partition in place of what it held."""
        ...

    def read(self, table: str, day: int | None) -> pl.DataFrame:
        """Return one partition, or all."""
        ...

    def attach(self, tables: int) -> None:
        """Do what a new process must do before it can ask for anything."""
        ...

    def tidy(self) -> None:
        """Merge small files and delete what is superseded."""
        ...


class Ours:
    """The lake of this package: verified against nothing here, but hashed, recorded and committed in one transaction."""

    def __init__(self, folder: Path) -> None:
        from mlops_assets.stores.lake.ducklake import DuckLake

        self.lake: DuckLake = DuckLake.open(folder)

    def write(self, table: str, day: int, frame: pl.DataFrame) -> None:
        """Commit one partition."""
        from mlops_assets.stores.lake.protocol import Partition

        begin = BEGIN + timedelta(days=day)
        self.lake.write(
            f"dataset/{table}", frame, [Partition(begin.date().isoformat(), self._window(day))], event_timestamp="at", key=("id",)
        )

    def backfill(self, table: str, days: int, rows: int) -> None:
        """Commit many partitions at once, as ``mlops run --partitions A...B`` does."""
        frame = pl.concat([rows_of(day, rows) for day in range(days)])
        self.lake.write(f"dataset/{table}", frame, self._parts(days), event_timestamp="at", key=("id",))

    def scatter(self, table: str, days: int, rows: int) -> None:
        """Leave one file for each partition, as many commits would, in a short time."""
        self.write(table, 0, rows_of(0, rows))
        cursor = self.lake.connections.cursor()
        with self.lake.lock():
            cursor.execute("BEGIN")
            for day in range(1, days):
                cursor.register("bench_rows", rows_of(day, rows).to_arrow())
                cursor.execute(f'INSERT INTO lake."dataset"."{table}" BY NAME SELECT * FROM bench_rows')
            cursor.execute("COMMIT")
        self.lake.record(f"dataset/{table}", self._parts(days), event_timestamp="at", key=("id",))

    def read(self, table: str, day: int | None) -> pl.DataFrame:
        """Read through the catalog."""
        if day is None:
            return self.lake.read(f"dataset/{table}")
        return self.lake.read(f"dataset/{table}", window=self._window(day), event_timestamp="at")

    def attach(self, tables: int) -> None:  # noqa: ARG002  (one catalog holds them all)
        """Connect, load the extensions and attach."""
        self.lake.snapshot()

    def tidy(self) -> None:
        """Merge, expire and clean; nobody else is at work, so nothing is too young."""
        self.lake.maintain((), older_than=timedelta(0))

    def _parts(self, days: int) -> list[Any]:
        from mlops_assets.stores.lake.protocol import Partition

        return [Partition((BEGIN + timedelta(days=day)).date().isoformat(), self._window(day)) for day in range(days)]

    @staticmethod
    def _window(day: int) -> Any:
        from mlops_assets.values.window import TimeWindow

        begin = BEGIN + timedelta(days=day)
        return TimeWindow(begin, begin + timedelta(days=1))


class PlainParquet:
    """A file for each partition, renamed into place: a reader sees whole files, and that is all that is promised."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, table: str, day: int, frame: pl.DataFrame) -> None:
        """Write beside, then rename."""
        target = self._file(table, day)
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_suffix(f".{os.getpid()}")
        frame.write_parquet(beside)
        beside.replace(target)

    def read(self, table: str, day: int | None) -> pl.DataFrame:
        """Read one file, or all."""
        return pl.read_parquet(self._file(table, day) if day is not None else self.folder / table / "*.parquet")

    def attach(self, tables: int) -> None:
        """List the files."""
        for table in range(tables):
            list((self.folder / f"t{table}").glob("*.parquet"))

    def tidy(self) -> None:
        """Leave everything as it is: there is no upkeep."""

    def _file(self, table: str, day: int) -> Path:
        return self.folder / table / f"{(BEGIN + timedelta(days=day)).date().isoformat()}.parquet"


class Delta:
    """Delta tables partitioned by day; ``replaceWhere`` is the documented way to put a partition in place of another."""

    locked = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, DeltaTable] = {}

    def write(self, table: str, day: int, frame: pl.DataFrame) -> None:
        """Commit one partition."""
        from deltalake import write_deltalake

        with self._alone():
            known = self._table(table)
            if known is None:
                write_deltalake(str(self.folder / table), frame.to_arrow(), partition_by=["day"])
            else:
                predicate = f"day = '{(BEGIN + timedelta(days=day)).date().isoformat()}'"
                write_deltalake(known, frame.to_arrow(), mode="overwrite", predicate=predicate)

    def read(self, table: str, day: int | None) -> pl.DataFrame:
        """Read with polars' own reader."""
        known = self._table(table)
        assert known is not None
        scan = pl.scan_delta(known)
        if day is not None:
            scan = scan.filter(pl.col("day") == (BEGIN + timedelta(days=day)).date().isoformat())
        return scan.collect()

    def attach(self, tables: int) -> None:
        """Open every table: each has its own log."""
        for table in range(tables):
            self._table(f"t{table}")

    def tidy(self) -> None:
        """Compact, checkpoint and vacuum each table; nobody else is at work, so nothing is too young."""
        for folder in sorted(self.folder.glob("t*")):
            known = self._table(folder.name)
            assert known is not None
            known.optimize.compact()
            known.create_checkpoint()
            known.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)

    def _table(self, table: str) -> DeltaTable | None:
        """Return a table as it is now; reading only what is new in its log is faster than opening it again."""
        from deltalake import DeltaTable

        if table in self._known:
            self._known[table].update_incremental()
        elif (self.folder / table / "_delta_log").exists():
            self._known[table] = DeltaTable(str(self.folder / table))
        return self._known.get(table)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.folder / "lock").open("a") as file:
            if self.locked:
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


class UnlockedDelta(Delta):
    """Delta as it comes: writers that meet resolve it by its own protocol."""

    locked = False


KINDS = {"ours": Ours, "parquet": PlainParquet, "delta": Delta, "delta-unlocked": UnlockedDelta}


class Process:
    """Answers questions about one store."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.store: Any = KINDS[kind](folder)

    def write(self, days: list[int], rows: int, variant: int = 0, table: str = "t0") -> dict[str, Any]:
        """Write partitions one after the other; making their rows does not count."""
        frames = [(day, rows_of(day, rows, variant)) for day in days]
        begun = time.perf_counter()
        for day, frame in frames:
            self.store.write(table, day, frame)
        return {"seconds": time.perf_counter() - begun}

    def spread(self, day: int, rows: int, tables: int) -> dict[str, Any]:
        """Write the same day of many tables, one commit each."""
        frame, each = rows_of(day, rows), []
        for table in range(tables):
            begun = time.perf_counter()
            self.store.write(f"t{table}", day, frame)
            each.append(time.perf_counter() - begun)
        return {"each": each}

    def backfill(self, days: int, rows: int, tables: int) -> dict[str, Any]:
        """Write all days of many tables, one commit a table."""
        begun = time.perf_counter()
        for table in range(tables):
            self.store.backfill(f"t{table}", days, rows)
        return {"seconds": time.perf_counter() - begun}

    def scatter(self, days: int, rows: int, tables: int) -> dict[str, Any]:
        """Make all days of many tables, a file each."""
        for table in range(tables):
            self.store.scatter(f"t{table}", days, rows)
        return {}

    def read(self, day: int | None, rows: int, table: str = "t0") -> dict[str, Any]:
        """Read one partition or all; its rows are counted and summed, outside of the time."""
        begun = time.perf_counter()
        frame = self.store.read(table, day)
        seconds = time.perf_counter() - begun
        if day is not None and (frame.height != rows or int(frame["id"].sum()) != int(rows_of(day, rows)["id"].sum())):
            raise ValueError(f"day {day} has other rows than were written")
        return {"seconds": seconds, "rows": frame.height}

    def attach(self, tables: int) -> dict[str, Any]:
        """Time what comes before the first question."""
        begun = time.perf_counter()
        self.store.attach(tables)
        return {"seconds": time.perf_counter() - begun}

    def tidy(self) -> dict[str, Any]:
        """Time the upkeep."""
        begun = time.perf_counter()
        self.store.tidy()
        return {"seconds": time.perf_counter() - begun}

    def check(self, table: str = "t0") -> dict[str, Any]:
        """Return the hash of everything in a table."""
        return {"digest": digest(self.store.read(table, None))}

    @staticmethod
    def expected(days: dict[str, int], rows: int) -> dict[str, Any]:
        """Return the hash of what should be there, made anew: for each day its variant."""
        return {"digest": digest(pl.concat([rows_of(int(day), rows, variant) for day, variant in days.items()]))}


def main(kind: str, folder: str, *question: str) -> None:
    """Answer one question, or serve."""
    process = Process(kind, Path(folder))
    names = ("write", "spread", "backfill", "scatter", "read", "attach", "tidy", "check", "expected")
    handlers = {name: getattr(process, name) for name in names}
    if question:
        asked = json.loads(question[0])
        print(json.dumps(handlers[asked.pop("do")](**asked)))
    else:
        serve(handlers)


if __name__ == "__main__":
    main(*sys.argv[1:])
