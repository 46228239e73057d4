"""What the processes of the lake's stress test do; each opens the lake cold, and may be killed at any time."""

import argparse
import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import duckdb

from mlops_assets.orchestrate.features.dbt_project import PARSE_WINDOW, DbtFolder, find_mlops_dbt
from mlops_assets.stores.lake.ducklake import DuckLake
from mlops_assets.stores.lake.protocol import Partition
from mlops_assets.stores.lake.rows import sql_name
from mlops_assets.stores.lake.write_plan import WritePlan
from mlops_assets.values.platform import Platform
from tests.stress.lake_facts import DAILY, DAYS, PARTITIONED, SOURCE, WHOLE, Ledger, attempt, facts, state, tables

KEPT = timedelta(seconds=3)  # how old snapshots and files are when upkeep takes them
FAULTY_DAY = 0  # written by planted faults only, so that nobody mends what they broke before the oracle looks
DBT = {
    "dbt_project.yml": """
name: stress
version: "1.0.0"
profile: mlops_lake
models: {stress: {+database: lake, +materialized: incremental, +incremental_strategy: delete+insert}}
flags: {send_anonymous_usage_stats: false}
""",
    "models/schema.yml": """
version: 2
sources: [{name: dataset, database: lake, schema: dataset, tables: [{name: visits}]}]
models: [{name: daily, columns: [{name: day, data_tests: [not_null, unique]}]}]
""",
    "models/daily.sql": """
{{ config(unique_key='day') }}
select strftime("at", '%Y-%m-%d') as day, token, count(*) as n, sum(value)::bigint as total
from {{ source('dataset', 'visits') }} group by day, token
""",
}


def write(folder: Path, ledger: Ledger, rng: random.Random) -> None:
    lake = DuckLake.open(folder / "lake")
    for i in range(3):
        table = rng.choice((*PARTITIONED, WHOLE))
        first = rng.randrange(FAULTY_DAY + 1, DAYS)
        days = [first] if table == WHOLE else range(first, min(DAYS, first + rng.randint(1, 4)))
        empty = table not in {SOURCE, WHOLE} and rng.random() < 0.1  # dbt's delete+insert keeps a day that became empty
        attempt(lake, ledger, f"{ledger.name}.{i}", table, {day: 0 if empty else rng.randint(1, 200) for day in days})


def read(folder: Path, ledger: Ledger, rng: random.Random) -> None:
    lake = DuckLake.open(folder / "lake")
    with lake.lock():  # a snapshot that is not pinned yet may expire
        snapshot = lake.snapshot()
        ledger.say("pin", snapshot=snapshot, tables={table: state(lake, table, snapshot) for table in tables(lake)})
    for _ in range(12):
        pin = rng.choice(facts(folder, "pin"))
        for table, then in pin["tables"].items():
            now = _patiently(lambda table=table, pin=pin: state(lake, table, pin["snapshot"]))
            assert now == then, f"{table} at the pinned snapshot {pin['snapshot']} was {then} and is {now}"
            ledger.say("read")


def _patiently(look: Callable[[], list]) -> list:
    """Look again when a file went away in the middle: upkeep takes merged files that are seconds old here, not hours."""
    for _ in range(5):
        try:
            return look()
        except duckdb.Error:
            time.sleep(0.2)
    return look()


def upkeep(folder: Path, ledger: Ledger, rng: random.Random) -> None:
    lake = DuckLake.open(folder / "lake")
    for _ in range(2):
        time.sleep(2 * rng.random())
        with lake.lock():
            report = lake.maintain({pin["snapshot"] for pin in facts(folder, "pin")}, older_than=KEPT)
        ledger.say("upkeep", **dataclasses.asdict(report))


def dbt(folder: Path, ledger: Ledger, rng: random.Random) -> None:
    """Build with dbt, then record what it wrote, as the dbt step does."""
    lake = DuckLake.open(folder / "lake")
    if SOURCE not in tables(lake):
        attempt(lake, ledger, f"{ledger.name}.first", SOURCE, {1: 10})
    ledger.say("building", name=ledger.name)
    since, project = lake.snapshot(), DbtFolder(str(folder / "dbt_project"), Platform.at(folder))
    project.prepare()
    arguments = [
        "--project-dir",
        project.source,
        "--profiles-dir",
        project.work,
        "--target-path",
        project.target,
        "--log-path",
        project.target,
    ]
    subprocess.run(
        [find_mlops_dbt(), "--no-use-colors", "build", *arguments], env=dict(os.environ) | PARSE_WINDOW, check=True, stdout=sys.stderr
    )
    ledger.say("built", since=since)
    lake.record(DAILY, [Partition("")], key=["day"], run_id=ledger.name)
    ledger.say("recorded", name=ledger.name)


def write_dbt_project(folder: Path) -> None:
    for name, text in DBT.items():
        path = folder / "dbt_project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.lstrip(), encoding="utf-8")


# Planted faults: what no writer of ours does, beside others that go on as always.


class Unlocked(DuckLake):
    """Commits the delete and the insert in two transactions, and is killed between the two."""

    def _insert_rows(self, *_given) -> None:
        self._cursor.execute("COMMIT")
        os.kill(os.getpid(), signal.SIGKILL)


class Doubled(DuckLake):
    """Inserts without deleting what was there."""

    def _replace_rows(self, plan: WritePlan) -> None:
        self._insert_rows(sql_name(plan.table), plan.frame)


class Lost(DuckLake):
    """Acknowledges what it has not committed."""

    def _append_records(self, *_given) -> None:
        self._cursor.execute("ROLLBACK")
        self._cursor.execute("BEGIN")


FAULTS = {"unlocked": Unlocked, "doubled": Doubled, "lost": Lost, "expire": DuckLake}


def fault(folder: Path, ledger: Ledger, kind: str) -> None:
    lake = FAULTS[kind](DuckLake.open(folder / "lake").connections)
    attempt(DuckLake(lake.connections), ledger, f"{ledger.name}.good", SOURCE, {FAULTY_DAY: 50})
    if kind == "expire":
        with lake.lock():
            snapshot = lake.snapshot()
            ledger.say("pin", snapshot=snapshot, tables={SOURCE: state(lake, SOURCE, snapshot)})
            attempt(lake, ledger, f"{ledger.name}.later", SOURCE, {FAULTY_DAY: 60})
            lake.maintain((), older_than=timedelta(0))
    else:
        attempt(lake, ledger, f"{ledger.name}.bad", SOURCE, {FAULTY_DAY: 40})


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, kind in {"folder": Path, "role": str, "name": str, "seed": int}.items():
        parser.add_argument(name, type=kind)
    given = parser.parse_args()
    ledger = Ledger(given.folder, given.name)
    if given.role in FAULTS:
        fault(given.folder, ledger, given.role)
    else:
        {"write": write, "read": read, "upkeep": upkeep, "dbt": dbt}[given.role](given.folder, ledger, random.Random(given.seed))


if __name__ == "__main__":
    main()
