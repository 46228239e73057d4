"""Partitions of a command: each key is known, and a range runs forwards, whichever command takes it."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from sklearn.linear_model import LinearRegression

import mlops_assets as ml
from mlops_assets.cli.ci import _choose_partitions
from mlops_assets.cli.features import _measure_skew
from mlops_assets.cli.partition_range import find_partitions, find_window
from mlops_assets.cli.predict import _read_rows
from mlops_assets.cli.project import LoadedProject
from mlops_assets.cli.quarantine import _read_rows as _read_quarantine
from mlops_assets.cli.running import _partition_tags, select_assets
from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.compiler.build import compiled_projects
from mlops_assets.values.dataset import Dataset

DAILY = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-01-05")
REFUSED = {
    "foo": "has no partition 'foo'\nHint: there are 2024-01-01 to 2024-01-04",
    "2023-12-31": "has no partition '2023-12-31'\nHint: did you mean .*there are 2024-01-01 to 2024-01-04",
    "2024-01-02...2024-02-01": "has no partition '2024-02-01'\nHint: did you mean .*there are 2024-01-01 to 2024-01-04",
    "2024-01-03...2024-01-02": r"the partitions 2024-01-03\.\.\.2024-01-02 of .* are reversed\nHint: write 2024-01-02\.\.\.2024-01-03",
    "2024-01-03...": r"have no last key\nHint: write 2024-01-03\.\.\.2024-01-04; there are 2024-01-01 to 2024-01-04",
    "...2024-01-03": r"have no first key\nHint: write 2024-01-01\.\.\.2024-01-03; there are 2024-01-01 to 2024-01-04",
    "": "has no partition ''",
}


def declare(folder: Path, partitions: dg.PartitionsDefinition | None) -> LoadedProject:
    def points(window: ml.TimeWindow) -> pl.DataFrame:
        raise NotImplementedError

    def all_points() -> pl.DataFrame:
        raise NotImplementedError

    all_points.__name__ = "points"
    dataset = ml.dataset(partitions=partitions, key="id", event_timestamp="at", quarantine=True)(points if partitions else all_points)

    @ml.training_set(columns=["x"], label="y", event_timestamp="at", split=ml.TimeSplit(holdout=timedelta(days=1)))
    def examples(points: pl.LazyFrame) -> pl.LazyFrame:
        raise NotImplementedError

    @ml.model(training_set=examples, metrics=["r2"])
    def line(train: ml.Split) -> LinearRegression:
        raise NotImplementedError

    nouns = [dataset, examples, line, ml.Service("line_api", model=line)]
    definitions = ml.build_definitions(nouns, platform=ml.Platform.at(folder / "home"))
    return LoadedProject(Path("definitions.py"), definitions, compiled_projects()[-1:])


@pytest.fixture
def project(tmp_path) -> LoadedProject:
    return declare(tmp_path, DAILY)


def test_a_key_or_a_range_chooses_partitions() -> None:
    assert find_partitions(DAILY, "2024-01-02", "'dataset/points'") == ["2024-01-02"]
    assert find_partitions(DAILY, "2024-01-02...2024-01-04", "'dataset/points'") == ["2024-01-02", "2024-01-03", "2024-01-04"]
    assert find_partitions(DAILY, "2024-01-02...2024-01-02", "'dataset/points'") == ["2024-01-02"]
    window = find_window(DAILY, "2024-01-02...2024-01-03", "'dataset/points'")
    assert window == ml.TimeWindow(datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 1, 4, tzinfo=UTC))


def test_a_table_without_partitions_yet_is_named() -> None:
    future = dg.DailyPartitionsDefinition("2999-01-01")
    with pytest.raises(DefinitionError, match="'dataset/points' has no partition '2999-01-01'\nHint: there is no partition yet"):
        find_partitions(future, "2999-01-01", "'dataset/points'")


@pytest.mark.parametrize("partitions", REFUSED)
@pytest.mark.parametrize("command", ["run", "ci train", "features skew", "predict"])
def test_every_command_refuses_unknown_reversed_and_open_ranges(project, command, partitions) -> None:
    (service,) = project.parts[0].project.select(ml.Service)
    commands = {
        "run": lambda: _partition_tags(project.definitions, select_assets(project.definitions, 'key:"dataset/points"'), partitions),
        "ci train": lambda: _choose_partitions(project, "*", partitions, 2),
        "features skew": lambda: _measure_skew(project, "line_api", partitions),
        "predict": lambda: _read_rows(project, service, None, partitions),
    }
    owner = "service 'line_api'" if command == "features skew" else "'dataset/points'"
    with pytest.raises(DefinitionError, match=f"(?s){REFUSED[partitions]}") as refused:
        commands[command]()
    assert owner in str(refused.value)


def test_skew_of_a_service_without_partitions_refuses_a_choice(tmp_path) -> None:
    with pytest.raises(DefinitionError, match="the predictions of service 'line_api' are not partitioned"):
        _measure_skew(declare(tmp_path, None), "line_api", "2024-01-01")


@pytest.mark.parametrize("partition", ["foo", "2024-01-01...2024-01-02"])
def test_the_quarantine_of_an_unknown_partition_is_refused(project, partition) -> None:
    (points,) = project.parts[0].project.select(Dataset)
    message = f"'dataset/points' has no partition '{re.escape(partition)}'\n.*there are 2024-01-01 to 2024-01-04"
    with pytest.raises(DefinitionError, match=message):
        _read_quarantine(project, points, partition)
    assert _read_quarantine(project, points, "2024-01-02").is_empty()


def test_the_quarantine_of_a_table_without_partitions_refuses_a_choice(tmp_path) -> None:
    project = declare(tmp_path, None)
    (points,) = project.parts[0].project.select(Dataset)
    with pytest.raises(
        DefinitionError, match="'dataset/points' has no partition '2024-01-01'\nHint: it is not partitioned: omit --partition"
    ):
        _read_quarantine(project, points, "2024-01-01")
