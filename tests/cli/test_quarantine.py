"""mlops quarantine: rows are listed, shown, tried again; a killed process leaves both tables or neither."""

import json
import subprocess
from pathlib import Path

import pytest

from mlops_assets.stores.lake.ducklake import DuckLake
from tests.commands import run_mlops
from tests.conftest import ROOT, clean_environment
from tests.projects import meters

STORES = "mlops_assets.stores.lake.ducklake:DuckLake"


def mlops(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return run_mlops(
        [*arguments, "-f", "tests/projects/meters.py"],
        cwd=ROOT,
        env=clean_environment(home, METERS_WORLD=str(home.parent / "world.json"), **environment),
    )


def run(home: Path, **environment: str) -> subprocess.CompletedProcess:
    return mlops(home, "run", "--partitions", "2024-01-01...2024-01-04", **environment)


def spoilt() -> meters.World:
    world = meters.World()
    world.spoil(0, 5, value=-3.0)
    world.spoil(2, 7, meter="west")
    return world


def state(home: Path) -> dict[str, list]:
    lake = DuckLake.open(home / "lake")
    return {
        "kept": lake.read("dataset/readings").sort("reading")["reading"].to_list(),
        "refused": lake.read("quarantine/readings").sort("row").select("partition", "row", "reason").rows(),
    }


def test_rows_are_listed_shown_and_tried_again_until_none_is_left(tmp_path) -> None:
    home, world = tmp_path / "home", spoilt()
    world.write(tmp_path / "world.json")
    assert json.loads(mlops(home, "quarantine", "list", "--json", "-").stdout) == []
    done = run(home)
    assert done.returncode == 0, done.stdout + done.stderr
    cells = [[cell.strip() for cell in line.split("│")] for line in done.stdout.splitlines()]
    assert [row[2] for row in cells if row[1:2] == ["quarantine/readings_quarantine"]] == ["2"]  # of the run, not of its last partition
    listed = json.loads(mlops(home, "quarantine", "list", "--json", "-").stdout)
    assert [(row["dataset"], row["partition"], row["rows"]) for row in listed] == [
        ("readings", "2024-01-01", 1),
        ("readings", "2024-01-03", 1),
    ]
    shown = json.loads(mlops(home, "quarantine", "show", "readings", "--partition", "2024-01-03", "--json", "-").stdout)
    assert [json.loads(row["row"])["meter"] for row in shown] == ["west"]
    assert shown[0]["reason"].startswith("schema: meter = 'west' breaks")
    before = state(home)
    same = mlops(home, "quarantine", "replay", "readings")
    assert (same.returncode, state(home)) == (1, before), same.stdout + same.stderr
    assert "readings: 2 row(s) were set aside, 2 are left" in same.stdout
    world.days.pop(0)
    world.write(tmp_path / "world.json")
    half = mlops(home, "quarantine", "replay", "readings", "--partition", "2024-01-01")
    assert half.returncode == 0, half.stdout + half.stderr
    assert "readings: 1 row(s) were set aside, 0 are left" in half.stdout
    assert [row[0] for row in state(home)["refused"]] == ["2024-01-03"]
    world.days.clear()
    world.write(tmp_path / "world.json")
    whole = mlops(home, "quarantine", "replay", "readings")
    assert "readings: 1 row(s) were set aside, 0 are left" in whole.stdout
    assert len(state(home)["kept"]) == 4 * meters.HOURS
    assert state(home)["refused"] == []
    again = mlops(home, "quarantine", "replay", "readings")
    assert (again.returncode, "0 row(s) were set aside, 0 are left" in again.stdout) == (0, True)
    unknown = mlops(home, "quarantine", "show", "reading")
    assert (unknown.returncode, "did you mean 'readings'" in unknown.stderr) == (1, True)


@pytest.mark.parametrize(
    "point",
    {
        "between the rows and the quarantine": f"{STORES}._replace_rows:2",
        "between the quarantine and its record": f"{STORES}._append_records",
        "after the commit, before Dagster hears of it": "mlops_assets.orchestrate.tables.quality:CompanionWrite.report",
    }.values(),
)
def test_killed_between_both_tables_leaves_no_lie_and_the_next_run_ends_as_if_undisturbed(point, tmp_path) -> None:
    world = spoilt()
    for folder in ("killed", "undisturbed"):
        (tmp_path / folder).mkdir()
        world.write(tmp_path / folder / "world.json")
    assert run(tmp_path / "undisturbed" / "home").returncode == 0
    home = tmp_path / "killed" / "home"
    dead = run(home, KILL_AT=point)
    assert dead.returncode == -9, f"it was not killed: {dead.stdout}{dead.stderr}"
    lake = DuckLake.open(home / "lake")
    if lake.records("dataset/readings"):
        assert state(home) == state(tmp_path / "undisturbed" / "home")  # both
    else:
        assert not lake.records("quarantine/readings")  # or neither
    again = run(home)
    assert again.returncode == 0, again.stdout + again.stderr
    assert state(home) == state(tmp_path / "undisturbed" / "home")
