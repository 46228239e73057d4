"""Drift in a replay: the report of each window equals that of production's monitor, for each option of ``ml.Drift``."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.cli.options import console
from mlops_assets.cli.project import load
from mlops_assets.cli.replay import preparation
from mlops_assets.compute.drift.reference_profile import build_reference_profile
from mlops_assets.compute.replay.result import PolicyResult
from mlops_assets.compute.training.environment import thread_settings
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.replay.drift import plan_drift
from mlops_assets.orchestrate.training.estimator_package import list_profile_options
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.values.evaluation import Split
from mlops_assets.values.monitoring import BREACH
from tests.conftest import Runner
from tests.memory_instance import open_memory_instance
from tests.projects import described

DAYS = described.DAILY.get_partition_keys()
FIRST, LAST = DAYS.index("2024-01-25"), DAYS.index("2024-01-31")
LEADER = "all_columns"


class Production:
    """The project on a platform of its own, lived day by day with the sensor and the jobs that users have."""

    def __init__(self, home: Path, instance: dg.DagsterInstance, *, refit: bool) -> None:
        self.platform, self.instance, self.refit = ml.Platform.at(home), instance, refit
        self.definitions = ml.build_definitions(described.list_items(LEADER, refit=refit), platform=self.platform)
        self.monitors = [LEADER] if refit else list(described.DRIFT)
        self.run = Runner(self.definitions, instance)

    def live(self) -> None:
        self.run("dataset/deliveries", partitions=f"{DAYS[0]}...{DAYS[FIRST - 1]}")
        self.run("training_set/examples", "model/cold", "version/cold", "champion/cold")
        for day in DAYS[FIRST:LAST]:
            self.run("dataset/deliveries", "predictions/scores", partitions=day)
            self.run(f"performance_report/{LEADER}", *(f"drift_report/{name}" for name in self.monitors), partitions=day)
            sensor = next(s for s in self.definitions.sensors if s.name == f"{LEADER}_retrains")
            with dg.build_sensor_context(instance=self.instance) as context:
                asked = sensor(context)
            if isinstance(asked, dg.RunRequest):
                self.definitions.resolve_job_def(asked.job_name).execute_in_process(instance=self.instance, tags=asked.tags)

    def list_reports(self, monitor: str) -> dict[str, tuple[int, str, str]]:
        reports = open_stores(self.platform).decisions.reports(monitor)
        return {report.partition: (report.version, report.state, report.reason) for report in reports if report.kind == "drift"}


@pytest.fixture(scope="module")
def production(tmp_path_factory) -> Iterator[Production]:
    with open_memory_instance() as instance:
        lived = Production(tmp_path_factory.mktemp("drift") / "home", instance, refit=False)
        lived.live()
        yield lived


def replay(production: Production, leader: str, folder: Path, processes: int = 1) -> PolicyResult:
    file = folder / "definitions.py"
    file.write_text(
        "import mlops_assets as ml\nfrom tests.projects.described import list_items\n"
        f"items = list_items({leader!r}, refit={production.refit})\n"
        f"defs = ml.build_definitions(items, platform=ml.Platform.at({production.platform.home!r}))\n"
    )
    request = preparation.ReplayRequest(
        DAYS[FIRST], DAYS[LAST], ("loop", "never"), suggest=False, model="", by=None, metric="", processes=processes, refresh=False
    )
    loop, never = preparation.run(load(str(file)), str(file), request, console()).result.policies
    assert never.drift is None
    assert "drift" not in never.as_json()
    return loop


@pytest.mark.parametrize("monitor", described.DRIFT)
def test_each_window_has_the_report_of_production(production, monitor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = replay(production, monitor, tmp_path)

    check_reports(found, production.list_reports(monitor))
    drifted = {each.window: each.columns for each in found.drift if each.state == BREACH}
    faults = {described.FAHRENHEIT: "temp", described.RENAMED: "shop", described.OTHER_WORDS: "note"}
    columns = described.DRIFT[monitor].columns or tuple(faults.values())
    for day, column in faults.items():
        assert column not in columns or next(name for name in drifted[day] if name in faults.values()) == column
    assert len(found.drift) == LAST - FIRST > len(drifted), "every clean window has an alarm"
    alarms = {alarm["window"]: tuple(alarm["columns"]) for alarm in found.as_json()["alarms"] if alarm["kind"] == "drift"}
    assert alarms == drifted


def check_reports(found: PolicyResult, expected: dict[str, tuple[int, str, str]]) -> None:
    assert {each.window: (each.version, each.state, each.summary) for each in found.drift} == expected
    assert len({each.version for each in found.drift}) > 1


def test_predictions_of_a_refit_are_not_compared_as_in_production(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_memory_instance() as instance:
        production = Production(tmp_path / "home", instance, refit=True)
        production.live()
        before = thread_settings()
        found = replay(production, LEADER, tmp_path, processes=2)

    assert thread_settings() == before, "a limit on threads outlives the replay"
    check_reports(found, production.list_reports(LEADER))
    assert all("; predictions are not compared: the version stores none for rows" in each.summary for each in found.drift)


def test_the_reference_of_longer_windows_is_the_one_that_production_reads():
    *items, scores, daily, _, _, _ = described.list_items(LEADER)
    weeks = dg.WeeklyPartitionsDefinition("2023-01-01")
    weekly = ml.Monitor("weekly", of=scores, partitions=weeks, expectations=ml.Drift(classifier=True))
    project = Project.from_items([*items, scores, daily, weekly])
    rows = pl.concat(described.draw_day(day) for day in range(25))
    splits = [Split(rows.select("temp", "shop"), rows["y"].to_numpy(), rows)]

    stored, own = (
        json.loads(build_reference_profile(options, "at", splits, pytest.fail))
        for options in (list_profile_options(project, described.examples), plan_drift(project, weekly).options)
    )
    week = timedelta(weeks=1).total_seconds()
    assert own | {"window length": week} == stored["by window"][str(int(week))]
    assert own["window_seconds"] > timedelta(days=1).total_seconds()
