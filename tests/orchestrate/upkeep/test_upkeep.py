"""Upkeep gives up what nothing pins, and nothing else; what runs meanwhile keeps what it reads."""

import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import mlops_assets as ml
from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.upkeep.upkeep import run_upkeep
from mlops_assets.stores.lake.ducklake import DuckLake
from mlops_assets.stores.platform.pins import collect_pins
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.values.upkeep import Upkeep
from tests.conftest import ROOT, clean_environment, metadata
from tests.projects import positions, routes, visits

NOW = Upkeep(older_than=timedelta(0))
TABLES = ("dataset/visits", "dataset/shares", "features/shop_shares", "training_set/examples")
WHOLE = f"{routes.DAYS[0]}...{routes.DAYS[-1]}"


def snapshots(lake: DuckLake) -> list[int]:
    return [row[0] for row in lake.connections.cursor().execute("SELECT snapshot_id FROM ducklake_snapshots('lake') ORDER BY 1").fetchall()]


def tables(lake: DuckLake, snapshot: int) -> dict[str, pl.DataFrame]:
    return {table: lake.read(table, snapshot=snapshot).sort(pl.all()) for table in TABLES}


def test_every_state_that_a_version_or_a_run_needs_stays_as_it_was(run, platform) -> None:
    world = visits.World()
    runner = run(visits.build(platform, world, upkeep=NOW))
    runner(partitions=visits.MONTH)
    for changed in ({"1-3"}, {"2-4", "5-5"}):
        world.changed = frozenset(changed)
        runner(*TABLES, "model/buys", "version/buys", partitions=visits.MONTH)
    at = open_stores(platform)
    needed = collect_pins(at)
    assert {version.snapshot for version in at.registry.versions()} | {r.snapshot for r in at.tracker.list()} == set(needed)
    assert len(needed) >= 3
    assert "buys@1" in needed[at.registry.versions()[0].snapshot]
    before, held = {snapshot: tables(at.lake, snapshot) for snapshot in needed}, snapshots(at.lake)
    done = metadata(runner("upkeep/lake"), "upkeep/lake")
    left = snapshots(at.lake)
    assert set(left) == {*needed, max(left)}  # and the newest, which merging made
    assert done["snapshots expired"] == len(set(held) - set(left)) > 0
    assert done["snapshots left"] == len(left) == len(needed) + 1
    assert done["files after"] < done["files before"]
    assert done["bytes after"] < done["bytes before"]
    assert done["files after"] == len(list(at.lake.connections.data_path.rglob("*.parquet")))
    assert done["rows of records"] == at.lake.connections.cursor().execute('SELECT count(*) FROM lake."_mlops"."partitions"').fetchone()[0]
    assert "buys@1" in done["pins"]
    for snapshot, frames in before.items():
        for table, frame in tables(at.lake, snapshot).items():
            assert_frame_equal(frame, frames[table])
    again = metadata(runner("upkeep/lake"), "upkeep/lake")
    assert (again["snapshots expired"], again["files before"]) == (0, done["files after"])
    world.changed = frozenset({"3-3"})
    runner(*TABLES, "model/buys", partitions=visits.MONTH)  # and everything goes on


def test_it_is_an_asset_with_a_schedule_only_when_it_is_asked_for(platform) -> None:
    asked = visits.build(platform, visits.World(), upkeep=Upkeep(cron_schedule="30 2 * * 0", cron_timezone="Europe/Berlin"), running=True)
    schedule = next(s for s in asked.schedules if s.name == "upkeep_schedule")
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("30 2 * * 0", "Europe/Berlin")
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    assert asked.resolve_job_def("upkeep")
    plain = visits.build(platform, visits.World())
    assert asset_key("upkeep/lake") not in plain.resolve_asset_graph().get_all_asset_keys()
    with pytest.raises(DefinitionError, match="is a negative duration"):
        Upkeep(older_than=-timedelta(days=1))


def test_a_training_set_that_is_being_made_keeps_the_state_it_reads(run, platform) -> None:
    found = {}

    @ml.dataset(partitions=routes.DAILY, key="trip", event_timestamp="at")
    def trips(window: ml.TimeWindow) -> pl.DataFrame:
        return routes.rows(window)

    view = ml.FeatureView(name="latest", source=trips, entity=ml.Entity("origin"), event_timestamp="at", features={"minutes": int})

    @ml.training_set(features=[view], label="late", event_timestamp="at", split=ml.GroupSplit("trip", validation=0.2, holdout=0.2))
    def delays(trips: pl.LazyFrame) -> pl.LazyFrame:
        """While the rows are collected, the lake goes on and is cleaned, as if this took days."""
        at = open_stores(platform)
        newest = at.lake.snapshot()
        for table, key in (("features/latest", ("origin", "at")), ("dataset/trips", ("trip",))):
            rows = at.lake.read(table).with_columns(minutes=pl.lit(-1, pl.Int64))
            part = [ml_part(day) for day in routes.DAYS]
            at.lake.write(table, rows, part, event_timestamp="at", key=key)
        found["done"] = run_upkeep([Project.from_items([view])], at, older_than=timedelta(0))
        found["leased"] = newest
        return trips.rename({"minutes": "then"}).with_columns(late=pl.col("late").cast(pl.Int64))

    def ml_part(day: str):
        from mlops_assets.stores.lake.protocol import Partition
        from mlops_assets.values.window import window_of

        return Partition(day, window_of(routes.DAILY, day))

    runner = run(ml.build_definitions([trips, view, delays], platform=platform))
    runner("dataset/trips", "features/latest", partitions=WHOLE)
    runner("training_set/delays")
    assert f"process {os.getpid()}" in found["done"].pinned[found["leased"]]
    made = open_stores(platform).lake.read("training_set/delays")
    assert made["minutes"].min() >= 0
    done = run_upkeep([Project.from_items([view])], open_stores(platform), older_than=timedelta(0))
    assert found["leased"] not in done.pinned
    assert found["leased"] not in snapshots(open_stores(platform).lake)


def test_the_lease_of_a_killed_process_holds_nothing(platform, tmp_path) -> None:
    code = (
        "import sys, time; from mlops_assets.stores.lake.ducklake import DuckLake\n"
        "with DuckLake.open(sys.argv[1]).lease_snapshot() as snapshot:\n    print(snapshot, flush=True)\n    time.sleep(600)"
    )
    lake = open_stores(platform).lake
    from mlops_assets.stores.lake.protocol import Partition

    lake.write("dataset/x", pl.DataFrame({"k": [1]}), [Partition("")])
    holder = subprocess.Popen(
        [sys.executable, "-c", code, platform.lake], cwd=ROOT, env=clean_environment(tmp_path), stdout=subprocess.PIPE, text=True
    )
    leased = int(holder.stdout.readline())
    lake.write("dataset/x", pl.DataFrame({"k": [2]}), [Partition("")])
    done = lake.maintain((), older_than=timedelta(0))
    assert done.leased == {leased: (holder.pid,)}
    assert lake.read("dataset/x", snapshot=leased)["k"].to_list() == [1]
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    done = lake.maintain((), older_than=timedelta(0))
    assert (done.leased, leased in snapshots(lake)) == ({}, False)


def test_layouts_and_online_rows_of_undeclared_views_are_removed(run, platform) -> None:
    positions.WORLD[:] = [("a", 1, 1, 1.0, "x")]
    runner = run(positions.project(platform))
    runner("dataset/positions", "features/fixes", partitions="2024-03-01...2024-03-05")
    runner("online/fixes")
    at = open_stores(platform)
    declared = next(iter(_views(positions)))
    at.layouts.load(declared)
    (folder,) = (Path(platform.home) / "layouts").iterdir()
    kept = run_upkeep([_project(declared)], at, older_than=timedelta(0))
    assert (kept.layouts, kept.online, at.online.views()) == (0, (), ["fixes"])
    assert "online/fixes" in str(kept.pinned)
    other = run_upkeep([Project.from_items([])], at, older_than=timedelta(days=1))
    assert (other.online, at.online.views()) == ((), ["fixes"])  # another project may look up rows that have just changed
    gone = run_upkeep([Project.from_items([])], at, older_than=timedelta(0))
    assert (other.layouts, gone.online, at.online.views()) == (1, ("fixes",), [])
    assert not folder.exists()
    assert at.online.state("fixes") is None
    runner("online/fixes")  # declared again, it is made again
    assert at.online.state("fixes").entities == 1
    assert at.layouts.load(declared) is not None


def _views(module) -> list[ml.FeatureView]:
    from mlops_assets.orchestrate.compiler.build import compiled_projects

    assert module is positions
    return list(compiled_projects()[-1].project.select(ml.FeatureView))


def _project(view: ml.FeatureView) -> Project:
    return Project.from_items([view])
