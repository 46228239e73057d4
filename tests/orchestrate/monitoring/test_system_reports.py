"""The report of a service's requests: by window and version, with its objectives, due when the log grows, in the page and in alerts."""

import json
from datetime import UTC, datetime, timedelta

import dagster as dg
import polars as pl
import pytest
from sklearn.linear_model import LinearRegression

import mlops_assets as ml
from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.compiler.build import compiled_projects
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.monitoring.reports import build_page_path
from mlops_assets.orchestrate.monitoring.turn import find_due_reports
from mlops_assets.serving.http.service_folder import ServiceFolder
from mlops_assets.serving.logs import request_log
from mlops_assets.serving.logs.request_log import RequestLog
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import Runner

DAILY = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-02-01")
HOURLY = dg.HourlyPartitionsDefinition("2024-01-01-00:00", end_date="2024-01-03-00:00")
OBJECTIVES = (
    ml.monitoring.Latency(p95=0.05),
    ml.monitoring.ErrorRate(at_most=0.01, period=timedelta(days=2)),
    ml.monitoring.MissingFeatures(at_most=0.02),
)


@ml.dataset(key="id")
def points() -> pl.DataFrame:
    return pl.DataFrame({"id": [1, 2], "x": [1.0, 2.0], "y": [1.0, 2.0]})


@ml.training_set(columns=["x"], label="y", split=ml.GroupSplit("id"))
def examples(points: pl.DataFrame) -> pl.DataFrame:
    return points


@ml.model(training_set=examples, metrics=["r2"])
def line(train: ml.Split) -> LinearRegression:
    return LinearRegression().fit(train.X, train.y)


API = ml.Service("line_api", model=line)


def build(platform: ml.Platform, windows: dg.PartitionsDefinition) -> tuple[dg.Definitions, ml.Monitor]:
    monitor = ml.Monitor("watch", of=API, partitions=windows, expectations=OBJECTIVES)
    return ml.build_definitions([points, examples, line, API, monitor], platform=platform), monitor


@pytest.fixture
def write(platform, monkeypatch):
    """Return a function that writes requests of a version to the service's log at a time."""

    def call(at: datetime, version: int = 1, *, answered: int = 200, failed: int = 0, seconds: float = 0.01, missing: int = 0) -> None:
        monkeypatch.setattr(request_log, "_now", lambda: int(at.timestamp() * 1e6))
        log = RequestLog(ServiceFolder.locate(platform.home, API.name).requests, interval=3_600)
        for number in range(answered):
            log.count_rows(version, 1, 10, missing if number == 0 else 0)
            log.count_reply(version, 200, seconds)
        for _ in range(failed):
            log.count_reply(version, 500, 0.0)
        log.close()

    return call


def evaluations(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {e.check_name: e for e in result.get_asset_check_evaluations()}


def day(number: int, hour: int = 1) -> datetime:
    return datetime(2024, 1, number, hour, tzinfo=UTC)


def test_a_window_is_reported_by_version_and_judged_as_a_whole(platform, instance, write) -> None:
    definitions, _ = build(platform, DAILY)
    write(day(1))
    write(day(2), version=1, answered=100, failed=2)
    write(day(2, 20), version=2, answered=100, seconds=0.2, missing=40)
    write(day(2), version=0, answered=0, failed=1)
    result = Runner(definitions, instance)("system_report/watch", partitions="2024-01-02")
    rows = open_stores(platform).lake.read("system_report/watch").sort("version", nulls_last=True)
    assert rows["version"].to_list() == [1, 2, None]
    assert rows["requests"].to_list() == [102, 100, 1]
    assert rows["errors"].to_list() == [2, 0, 1]
    assert rows["missing_rate"].to_list() == [0.0, 0.04, None]
    assert rows["p95"].to_list()[:2] == pytest.approx([0.01, 0.2], rel=0.03)
    assert rows["requests_per_second"].to_list()[0] == pytest.approx(102 / 86_400)
    found = evaluations(result)
    assert {name: each.passed for name, each in found.items()} == {"latency_p95": False, "error_rate": False, "missing_features": True}
    errors = found["error_rate"]
    assert (errors.metadata["value"].value, errors.metadata["bound"].value) == (pytest.approx(3 / 203), 0.01)
    # The budget is of two days: 3 of 403 requests failed, 4.03 may.
    assert errors.metadata["error budget used up"].value == pytest.approx(3 / 4.03)
    assert errors.severity is dg.AssetCheckSeverity.WARN
    assert found["latency_p95"].severity is dg.AssetCheckSeverity.ERROR, "its budget is exhausted"
    assert "the error budget is exhausted" in found["latency_p95"].description


def test_the_page_shows_requests_by_version(platform, instance, write) -> None:
    definitions, _ = build(platform, DAILY)
    write(day(2), version=3, failed=10)
    Runner(definitions, instance)("system_report/watch", partitions="2024-01-02")
    page = build_page_path(platform.home, "watch", "2024-01-02").read_text()
    assert "error_rate misses its objective" in page
    assert '<th scope="row">3</th><td>210</td>' in page


def test_a_report_is_due_when_the_requests_of_its_window_change(platform, instance, write) -> None:
    definitions, monitor = build(platform, HOURLY)
    project, stores = compiled_projects()[-1].project, open_stores(platform)
    write(day(1, 5))
    assert find_due_reports(project, monitor, stores) == {"system_report/watch": ["2024-01-01-05:00"]}
    run = Runner(definitions, instance)
    run("system_report/watch", partitions="2024-01-01-05:00")
    assert find_due_reports(project, monitor, stores) == {}
    write(day(1, 6))
    assert find_due_reports(project, monitor, stores) == {"system_report/watch": ["2024-01-01-06:00"]}
    run("system_report/watch", partitions="2024-01-01-06:00")
    write(day(1, 5), failed=1)
    assert find_due_reports(project, monitor, stores) == {"system_report/watch": ["2024-01-01-05:00"]}


def test_a_window_without_a_log_is_not_judged(platform, instance) -> None:
    definitions, _ = build(platform, DAILY)
    result = Runner(definitions, instance)("system_report/watch", partitions="2024-01-02...2024-01-03")
    assert {each.passed for each in evaluations(result).values()} == {True}
    assert evaluations(result)["error_rate"].metadata["state"].value == "not enough data"


def test_objectives_never_retrain_and_need_a_service(platform) -> None:
    with pytest.raises(DefinitionError, match="retrains on failure but has no expectation of performance"):
        ml.Monitor("watch", of=API, partitions=DAILY, expectations=OBJECTIVES, on_failure=ml.Retrain())
    scores = ml.BatchPrediction("scores", model=line, dataset=points)
    with pytest.raises(DefinitionError, match="expects latency_p95 of a batch prediction"):
        ml.Monitor("watch", of=scores, partitions=DAILY, expectations=OBJECTIVES)


def test_the_checks_are_those_of_the_objectives(platform) -> None:
    definitions, monitor = build(platform, DAILY)
    keys = {key.name for key in definitions.resolve_asset_graph().asset_check_keys if key.asset_key == asset_key(monitor.system_key)}
    assert keys == {"latency_p95", "error_rate", "missing_features"}
    assert json.dumps(asset_key(monitor.system_key).path) == '["system_report", "watch_system"]'
