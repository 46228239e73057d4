"""`mlops datasets`: what the lake holds, and dropping a table so that its types can change."""

import json
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from click.testing import CliRunner

import mlops_assets as ml
from mlops_assets.cli.datasets import datasets
from mlops_assets.cli.project import LoadedProject
from mlops_assets.cli.project_target import ProjectTarget
from mlops_assets.orchestrate.compiler.build import compiled_projects
from mlops_assets.orchestrate.upkeep.doctor import Installation, run_checks
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.stores.tracker.tracker import Run

DAILY = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-01-04")
VALUES: list[object] = [1]


@ml.dataset(partitions=DAILY, key="at", event_timestamp="at")
def readings(window: ml.TimeWindow) -> pl.DataFrame:
    """One reading a day."""
    return pl.DataFrame({"at": [window.start], "x": VALUES})


@pytest.fixture
def project(platform, run, monkeypatch):
    """Two days of readings, and what materialises another."""
    VALUES[:] = [1]
    definitions = ml.build_definitions([readings], platform=platform)
    loaded = LoadedProject(ProjectTarget(Path("shop.py"), "shop", Path(), in_package=False), definitions, compiled_projects()[-1:])
    monkeypatch.setattr("mlops_assets.cli.datasets.load", lambda _: loaded)
    runner = run(definitions)
    runner("dataset/readings", partitions="2024-01-01...2024-01-02")
    return runner


def command(*arguments: str, answer: str = "", code: int = 0) -> str:
    done = CliRunner().invoke(datasets, arguments, input=answer)
    assert done.exit_code == code, done.output
    return done.output


def test_datasets_are_listed_and_shown(project) -> None:
    (listed,) = json.loads(command("list", "--json", "-"))
    assert {name: listed[name] for name in ("dataset", "rows", "partitions", "declared")} == {
        "dataset": "readings",
        "rows": 2,
        "partitions": 2,
        "declared": "yes",
    }
    shown = json.loads(command("show", "readings", "--json", "-"))
    assert shown["columns"] == [{"column": "at", "type": "Datetime(time_unit='us', time_zone='UTC')"}, {"column": "x", "type": "Int64"}]
    assert [row["partition"] for row in shown["partitions"]] == ["2024-01-01", "2024-01-02"]
    assert shown["dataset"]["key"] == "at"
    assert "2024-01-02" in command("show", "readings")
    missing = CliRunner().invoke(datasets, ["show", "reading"])
    assert missing.exception.hint.startswith("did you mean 'readings'?")


def test_a_dropped_dataset_takes_other_types_and_earlier_states_stay(project, platform) -> None:
    at = open_stores(platform)
    before = at.lake.snapshot()
    at.tracker.add(Run("a" * 32, "demand", "", "", at.lake.records("dataset/readings")["2024-01-01"].recorded_at, None, before, {}, {}, {}))
    VALUES[:] = ["high"]
    assert "`mlops datasets drop readings`" in project.error("dataset/readings", partitions="2024-01-02")
    asked = command("drop", "readings", answer="n\n", code=1)
    assert "drop dataset/readings with 2 rows in 2 partition(s); earlier states stay readable for run aaaaaaaa of demand?" in asked
    assert at.lake.records("dataset/readings")
    assert "next: mlops run --select 'key:\"dataset/readings\"' --partitions 2024-01-01...2024-01-02" in command(
        "drop", "readings", "--yes"
    )
    assert json.loads(command("list", "--json", "-"))[0]["rows"] == 0
    assert "is empty" in str(CliRunner().invoke(datasets, ["drop", "readings", "--yes"]).exception)
    project("dataset/readings", partitions="2024-01-02")
    assert at.lake.read("dataset/readings")["x"].to_list() == ["high"]
    assert at.lake.read("dataset/readings", snapshot=before)["x"].to_list() == [1, 1]
    assert len(at.lake.records("dataset/readings", snapshot=before)) == 2
    assert [
        f.text
        for f in run_checks(Installation(platform, [compiled_projects()[-1].project], project.instance, None))
        if f.state == "failure" and f.check == "lake"
    ] == []
