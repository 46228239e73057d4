"""A run killed at any point, then the same command again, ends as if nothing had happened."""

import subprocess
from pathlib import Path

import dagster as dg
import pytest

from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.stores.lake.ducklake import DuckLake
from mlops_assets.stores.registry.registry import open_registry
from tests.commands import run_mlops
from tests.conftest import ROOT, clean_environment
from tests.projects import visits as project

TABLES = ("dataset/visits", "dataset/shares", "features/shop_shares", "training_set/examples", project.PREDICTIONS)
STORES, ORCHESTRATE = "mlops_assets.stores", "mlops_assets.orchestrate"
POINTS = {
    "between a Parquet file and its commit": f"{STORES}.lake.ducklake:DuckLake._append_records",
    "between deleting and inserting the rows of a later table": f"{STORES}.lake.ducklake:DuckLake._insert_rows:5",
    "between an artifact and the tracker's row": f"{STORES}.tracker.tracker:SqlTracker.write_batch",
    "between the tracker's row and the registry's": f"{STORES}.registry.registry:SqlRegistry.submit",
    "before a version is registered": f"{STORES}.registry.registry:SqlRegistry.register",
    "before a version is promoted": f"{STORES}.registry.registry:SqlRegistry.promote",
    "after the predictions are committed": f"{STORES}.registry.attempts:Attempts.clear:5",
}


def mlops(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return run_mlops([*arguments, "-f", "tests/projects/killable.py"], cwd=ROOT, env=clean_environment(home, **environment))


def run(home: Path, **environment: str) -> subprocess.CompletedProcess:
    return mlops(home, "run", "--partitions", project.MONTH, **environment)


def state(home: Path) -> dict[str, object]:
    lake, registry = DuckLake.open(home / "lake"), open_registry(f"sqlite:///{home / 'registry.sqlite'}")
    contents = {table: {key: (r.content_hash, r.inputs, r.rows) for key, r in lake.records(table).items()} for table in TABLES}
    heights = {table: lake.read(table).height for table in TABLES}
    return {
        "contents": contents,
        "heights": heights,
        "versions": [(v.version, v.digest, v.state) for v in registry.versions("buys")],
        "champion": registry.champion("buys").digest,
        "log": [(e.version, e.previous) for e in registry.history("buys")],
    }


def statuses(home: Path) -> list[dg.DagsterRunStatus]:
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        return [r.status for r in instance.get_runs()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, object]:
    home = tmp_path_factory.mktemp("undisturbed") / "home"
    done = run(home)
    assert done.returncode == 0, done.stdout + done.stderr
    return state(home)


@pytest.mark.parametrize("point", POINTS)
def test_killed_and_run_again_ends_as_if_undisturbed(point, undisturbed, tmp_path) -> None:
    home = tmp_path / "home"
    killed = run(home, KILL_AT=POINTS[point])
    assert killed.returncode == -9, f"it was not killed: {killed.stdout}{killed.stderr}"
    assert statuses(home) == [dg.DagsterRunStatus.STARTED]
    again = run(home)
    assert again.returncode == 0, again.stdout + again.stderr
    assert state(home) == undisturbed
    assert sorted(s.value for s in statuses(home)) == ["FAILURE", "SUCCESS"]


def test_commits_of_a_killed_run_are_reported_to_dagster_once_and_not_made_again(tmp_path) -> None:
    home = tmp_path / "home"
    assert run(home, KILL_AT=POINTS["after the predictions are committed"]).returncode == -9
    key = asset_key(project.PREDICTIONS)
    made = DuckLake.open(home / "lake").records(project.PREDICTIONS)
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        assert instance.get_materialized_partitions(key) == set()
        for _ in range(2):
            assert mlops(home, "status").returncode == 0
            events = instance.fetch_materializations(key, limit=1000).records
            told = {e.partition_key: e.asset_materialization.metadata["content hash"].value for e in events}
            assert told == {partition: record.content_hash for partition, record in made.items()}
            assert len(events) == project.DAYS
        others = [asset_key(table) for table in TABLES if table != project.PREDICTIONS]
        assert [len(instance.fetch_materializations(other, limit=1000).records) for other in others] == [30, 30, 30, 1]
        assert [r.status for r in instance.get_runs()] == [dg.DagsterRunStatus.FAILURE]
    assert DuckLake.open(home / "lake").records(project.PREDICTIONS) == made
