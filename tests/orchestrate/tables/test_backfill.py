"""Backfills in chunks: the same rows whatever the chunks, and a kill that costs the chunk that it met."""

import subprocess
from itertools import groupby
from pathlib import Path
from unittest import mock

import dagster as dg
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mlops_assets as ml
from mlops_assets.orchestrate.compiler.build import compiled_projects
from mlops_assets.orchestrate.core import step_context
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.tables import backfill
from mlops_assets.orchestrate.tables.automation import find_stale
from mlops_assets.stores.lake.ducklake import DuckLake
from mlops_assets.stores.lake.verified_reads import read_verified
from mlops_assets.stores.platform.stores import open_stores
from tests.commands import run_mlops
from tests.conftest import ROOT, Runner, clean_environment, metadata, records
from tests.memory_instance import open_memory_instance
from tests.projects import backfill as project
from tests.projects import routes

VIEWS = ("features/by_polars", "features/by_pandas", "features/by_duckdb", "features/by_sql")
WHOLE = f"{routes.DAYS[0]}...{routes.DAYS[-1]}"
COMMIT = "mlops_assets.stores.lake.ducklake:DuckLake._append_records"


def mlops(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return run_mlops([*arguments, "-f", "tests/projects/backfill.py"], cwd=ROOT, env=clean_environment(home, **environment))


def make(home: Path, select: str, **environment: str) -> subprocess.CompletedProcess:
    return mlops(home, "run", "--select", f'key:"{asset_key(select).to_user_string()}"', "--partitions", project.WHOLE, **environment)


def held(home: Path) -> tuple[dict[str, tuple[str, str, int]], list[tuple]]:
    lake = DuckLake.open(home / "lake")
    made = {key: (r.content_hash, r.inputs, r.rows) for key, r in lake.records("features/spending").items()}
    return made, lake.read("features/spending").sort("customer", "at").rows()


def progress(home: Path) -> list[str]:
    """Return what the newest run's log says of the backfill."""
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        newest = instance.get_runs(limit=1)[0].run_id
        return [entry.user_message for entry in instance.all_logs(newest) if entry.user_message.startswith("backfill of")]


@given(keys=st.integers(1, 12_000), first=st.integers(0, 40), length=st.integers(0, 40))
def test_chunks_are_neighbours_and_hold_every_partition_once(keys, first, length) -> None:
    every = [f"{number:05}" for number in range(keys)]
    together = every[first : first + length]
    groups = backfill.split_keys(every, set(together))
    assert sorted(key for group in groups for key in group) == every
    assert not together or groups[0] == together
    for group in groups:
        numbers = [int(key) for key in group]
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        assert group == together or len(group) <= max(31, -(-keys // 100))
    assert len(groups) <= 103


def backfill_views(home: Path, size: int) -> tuple[ml.Platform, dg.ExecuteInProcessResult]:
    """Make all views of a new platform in chunks of a size."""
    platform, world = ml.Platform.at(home), routes.World()
    with open_memory_instance() as instance, mock.patch.object(backfill, "CHUNK_SIZE", size):
        runner = Runner(routes.build(platform, world), instance)
        runner("dataset/trips", partitions=WHOLE)
        result = runner(*VIEWS, partitions=WHOLE)
    assert world.calls == ["by_polars"] * -(-12 // size)
    return platform, result


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[ml.Platform, dg.ExecuteInProcessResult]:
    return backfill_views(tmp_path_factory.mktemp("whole"), 31)


@pytest.mark.parametrize("size", [1, 4, 5])
def test_chunks_of_any_size_give_the_same_content(size, whole, tmp_path) -> None:
    made = [whole, backfill_views(tmp_path, size)]
    for view in VIEWS:
        assert records(made[1][0], view) == records(made[0][0], view)
        inputs = [{k: r.inputs for k, r in open_stores(p).lake.records(view).items()} for p, _ in made]
        assert inputs[0] == inputs[1]
        at_once, chunked = (metadata(result, view) for _, result in made)
        assert chunked.pop("chunks") == f"{-(-12 // size)} made, 0 reused"
        for name in ("lake snapshot", "preview"):  # chunks are states of the lake of their own
            del at_once[name], chunked[name]
        assert chunked == at_once
        events = [result.get_asset_materialization_events() for _, result in made]
        versions = [
            {e.asset_key: e.step_materialization_data.materialization.tags["dagster/data_version"] for e in each} for each in events
        ]
        assert versions[0] == versions[1]


def test_chunks_verify_a_partition_that_both_read_once(run, platform, monkeypatch) -> None:
    monkeypatch.setattr(backfill, "CHUNK_SIZE", 5)
    verified: list[str] = []

    def record(lake, table, partitions, **where):
        verified.extend(partition.key for partition in partitions)
        return read_verified(lake, table, partitions, **where)

    monkeypatch.setattr(step_context, "read_verified", record)

    @ml.dataset(partitions=routes.DAILY, key="trip", event_timestamp="at")
    def trips(window: ml.TimeWindow) -> pl.DataFrame:
        return routes.rows(window)

    @ml.feature_view(
        entity=ml.Entity("origin"),
        event_timestamp="at",
        features={"minutes": float},
        partitions=routes.DAILY,
        partition_mappings={"trips": dg.TimeWindowPartitionMapping(start_offset=-2)},
        call_per="range",
    )
    def latest(window: ml.TimeWindow, trips: pl.LazyFrame) -> pl.LazyFrame:
        inside = trips.filter(pl.col("at").is_between(window.start, window.end, closed="left"))
        return inside.select("origin", "at", pl.col("minutes").cast(pl.Float64))

    runner = run(ml.build_definitions([trips, latest], platform=platform))
    runner("dataset/trips", partitions=WHOLE)
    runner("features/latest", partitions=WHOLE)
    assert verified == list(routes.DAYS)
    runner("features/latest", partitions=f"{routes.DAYS[0]}...{routes.DAYS[1]}")
    assert verified == [*routes.DAYS, *routes.DAYS[:2]]  # another step verifies for itself


def test_a_backfill_over_all_recorded_partitions_replaces_a_type_in_one_transaction(run, platform, monkeypatch) -> None:
    monkeypatch.setattr(backfill, "CHUNK_SIZE", 5)

    @ml.dataset(partitions=routes.DAILY, key="trip", event_timestamp="at")
    def trips(window: ml.TimeWindow) -> pl.DataFrame:
        return routes.rows(window)

    def project(kind: type, dtype: type[pl.DataType]):
        @ml.feature_view(entity=ml.Entity("origin"), event_timestamp="at", features={"minutes": kind}, partitions=routes.DAILY)
        def latest(trips: pl.LazyFrame) -> pl.LazyFrame:
            return trips.select("origin", "at", minutes=pl.col("minutes").cast(dtype))

        return run(ml.build_definitions([trips, latest], platform=platform))

    numbers = project(float, pl.Float64)
    numbers("dataset/trips", partitions=WHOLE)
    numbers("features/latest", partitions=WHOLE)
    lake = open_stores(platform).lake
    before = lake.snapshot()
    texts = project(str, pl.String)
    part = f"{routes.DAYS[0]}...{routes.DAYS[-2]}"
    assert "column 'minutes' is Float64 in the lake and String in the new rows" in texts.error("features/latest", partitions=part)
    assert lake.snapshot() == before
    shown = metadata(texts("features/latest", partitions=WHOLE), "features/latest")
    assert shown["columns changed"] == "column 'minutes' was Float64 and is now String"
    assert lake.schema("features/latest")["minutes"] == pl.String
    assert list(records(platform, "features/latest")) == routes.DAYS
    assert lake.read("features/latest", snapshot=before)["minutes"].dtype == pl.Float64


def test_a_chunk_that_is_refused_keeps_those_before_it(run, platform, monkeypatch) -> None:
    monkeypatch.setattr(backfill, "CHUNK_SIZE", 5)
    bad = [True]

    @ml.dataset(partitions=routes.DAILY, key="trip", event_timestamp="at")
    def trips(window: ml.TimeWindow) -> pl.DataFrame:
        return routes.rows(window)

    @ml.feature_view(entity=ml.Entity("origin"), event_timestamp="at", features={"minutes": float}, partitions=routes.DAILY)
    def latest(trips: pl.LazyFrame) -> pl.LazyFrame:
        rows = trips.select("origin", "at", minutes=pl.col("minutes").cast(pl.Float64))
        eighth = rows.filter(pl.col("at") == routes.START.replace(day=8))
        return pl.concat([rows, eighth.with_columns(minutes=-pl.col("minutes"))]) if bad[0] else rows

    runner = run(ml.build_definitions([trips, latest], platform=platform))
    runner("dataset/trips", partitions=WHOLE)
    message = runner.error("features/latest", partitions=WHOLE)
    assert "partitions '2024-01-06' to '2024-01-10'" in message
    assert "5 of the 12 partitions of this run are committed" in message
    assert list(records(platform, "features/latest")) == routes.DAYS[:5]
    bad[0] = False
    result = runner("features/latest", partitions=WHOLE)
    assert metadata(result, "features/latest")["chunks"] == "2 made, 1 reused"
    assert metadata(result, "features/latest")["dagster/row_count"] == 72


def test_a_damaged_partition_is_rebuilt_and_not_reused(run, platform, monkeypatch) -> None:
    monkeypatch.setattr(backfill, "CHUNK_SIZE", 5)

    @ml.dataset(partitions=routes.DAILY, key="trip", event_timestamp="at")
    def trips(window: ml.TimeWindow) -> pl.DataFrame:
        return routes.rows(window)

    view = ml.FeatureView(name="latest", source=trips, entity=ml.Entity("trip"), event_timestamp="at", features={"minutes": int})
    runner = run(ml.build_definitions([trips, view], platform=platform))
    runner("dataset/trips", partitions=WHOLE)
    runner("features/latest", partitions=WHOLE)
    lake = open_stores(platform).lake
    lake.mark_damaged([lake.records("features/latest")[routes.DAYS[7]]])
    node = compiled_projects()[-1].project.node(view)
    assert list(find_stale(node, platform)) == [routes.DAYS[7]], "automation rebuilds it"
    result = runner("features/latest", partitions=WHOLE)
    assert find_stale(node, platform) == {}
    assert metadata(result, "features/latest")["chunks"] == "1 made, 2 reused"
    assert not lake.records("features/latest")[routes.DAYS[7]].damaged


def test_limits_are_learnt_from_the_whole_reference_first(run, tmp_path, monkeypatch) -> None:
    learnt = {}
    for size in (31, 2):
        monkeypatch.setattr(backfill, "CHUNK_SIZE", size)
        platform = ml.Platform.at(tmp_path / str(size))

        @ml.dataset(partitions=routes.DAILY, key="trip", event_timestamp="at")
        def trips(window: ml.TimeWindow) -> pl.DataFrame:
            return routes.rows(window)

        view = ml.FeatureView(
            name="latest",
            source=trips,
            entity=ml.Entity("trip"),
            event_timestamp="at",
            features={"minutes": int},
            quality=ml.Quality(learn_from=(routes.DAYS[4], routes.DAYS[9])),
        )
        runner = run(ml.build_definitions([trips, view], platform=platform))
        runner("dataset/trips", partitions=WHOLE)
        runner("features/latest", partitions=WHOLE)
        learnt[size] = open_stores(platform).lake.read("quality/latest_features").sort(pl.all()).rows()
        assert learnt[size]
    assert learnt[2] == learnt[31]


def test_what_says_nothing_of_its_partitions_is_made_at_once(run, platform, monkeypatch) -> None:
    monkeypatch.setattr(backfill, "CHUNK_SIZE", 2)

    @ml.dataset(key="trip")
    def trips() -> pl.DataFrame:
        return routes.rows(ml.TimeWindow(routes.START, routes.START.replace(day=13)))

    @ml.feature_view(entity=ml.Entity("trip"), event_timestamp="at", features={"minutes": int}, partitions=routes.DAILY, call_per="range")
    def latest(trips: pl.LazyFrame) -> pl.LazyFrame:
        return trips

    runner = run(ml.build_definitions([trips, latest], platform=platform))
    runner("dataset/trips")
    runner("features/latest", partitions=WHOLE)
    assert list(records(platform, "features/latest")) == routes.DAYS


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    home = tmp_path_factory.mktemp("undisturbed") / "home"
    for select in ("dataset/sales", "features/spending"):
        done = make(home, select)
        assert done.returncode == 0, done.stdout + done.stderr
    counts = [int(line.split()[3]) for line in progress(home)]
    assert counts == [31, 62, 93, 100]
    return held(home)


def test_a_killed_backfill_continues_where_it_stopped(undisturbed, tmp_path) -> None:
    home, calls = tmp_path / "home", tmp_path / "calls"
    assert make(home, "dataset/sales").returncode == 0
    killed = make(home, "features/spending", KILL_AT=f"{COMMIT}:3", CALLS=str(calls))
    assert killed.returncode == -9, killed.stdout + killed.stderr
    assert len(held(home)[0]) == 62
    calls.write_text("")
    again = make(home, "features/spending", CALLS=str(calls))
    assert again.returncode == 0, again.stdout + again.stderr
    assert calls.read_text().split("\n")[:-1] == ["2024-03-03 31", "2024-04-03 7"]
    assert held(home) == undisturbed
    over = [(line.split()[3], "reused" in line) for line in progress(home)]
    assert over == [("31", True), ("62", True), ("93", False), ("100", False)]
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        told = instance.get_materialized_partitions(asset_key("features/spending"))
        assert len(told) == project.DAYS
        assert [r.status.value for r in instance.get_runs()][:2] == ["SUCCESS", "FAILURE"]


def test_a_changed_input_makes_only_the_chunks_that_it_reaches(undisturbed, tmp_path) -> None:
    home, calls = tmp_path / "home", tmp_path / "calls"
    for select in ("dataset/sales", "features/spending"):
        assert make(home, select).returncode == 0
    lake = DuckLake.open(home / "lake")
    last = lake.records("dataset/sales")["2024-02-01"]
    from mlops_assets.stores.lake.protocol import Partition
    from mlops_assets.values.window import window_of

    window = window_of(project.DAILY, last.partition)
    rows = lake.read("dataset/sales", window=window, event_timestamp="at").with_columns(amount=pl.col("amount") + 1)
    lake.write("dataset/sales", rows, [Partition(last.partition, window)], event_timestamp="at", key=("sale",))
    done = make(home, "features/spending", CALLS=str(calls))
    assert done.returncode == 0, done.stdout + done.stderr
    windows = calls.read_text().splitlines()
    assert [key for key, _ in groupby(windows)] == ["2024-02-01 31"]  # it reaches three days: all of them in the second chunk
    assert held(home)[0] != undisturbed[0]
