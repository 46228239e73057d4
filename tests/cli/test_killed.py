"""A run killed at any point, then the same command again, ends as if nothing had happened."""

import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from mlops_assets.stores.ducklake import DuckLake
from mlops_assets.stores.registry import open_registry
from tests.conftest import ROOT, clean_environment
from tests.projects import visits as project

TABLES = ("dataset/visits", "dataset/shares", "features/shop_shares", "training_set/examples", project.PREDICTIONS)
STORES, ORCHESTRATE = "mlops_assets.stores", "mlops_assets.orchestrate"
POINTS = {
    "between a Parquet file and its commit": f"{STORES}.ducklake:DuckLake._append",
    "between deleting and inserting the rows of a later table": f"{STORES}.ducklake:DuckLake._insert:5",
    "between an artifact and the tracker's row": f"{STORES}.tracker:SqlTracker.add",
    "between the tracker's row and the registry's": f"{STORES}.registry:SqlRegistry.submit",
    "before a version is registered": f"{STORES}.registry:SqlRegistry.register",
    "before a version is promoted": f"{STORES}.registry:SqlRegistry.promote",
    "after the predictions are committed": f"{STORES}.attempts:Attempts.succeeded:5",
}


def run(home: Path, **environment: str) -> subprocess.CompletedProcess:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "mlops_assets.cli.main",
        "run",
        "-f",
        "tests/projects/killable.py",
        "--partitions",
        project.MONTH,
    ]
    return subprocess.run(command, cwd=ROOT, env=clean_environment(home, **environment), capture_output=True, text=True, check=False)


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
