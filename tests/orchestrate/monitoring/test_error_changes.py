"""A monitor that watches the error of each row: one report after another, several at once or again, the verdict is the same."""

from datetime import timedelta

import polars as pl

import mlops_assets as ml
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.monitoring.reports import build_page_path
from mlops_assets.orchestrate.monitoring.turn import find_due_reports
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import Runner, metadata
from tests.orchestrate.monitoring import test_estimates
from tests.orchestrate.monitoring.test_estimates import BASE, TRAIN, TRAINED, LinearRegression, nouns

REPORT = "performance_report/watch"


def day(number: int) -> str:
    return f"{BASE + timedelta(days=number):%Y-%m-%d}"


def read_states(stores) -> dict[str, str]:
    latest = {report.partition: report for report in stores.decisions.reports("watch")}
    return {partition: report.state for partition, report in sorted(latest.items())}


def test_an_error_that_rises_is_a_breach_however_the_windows_are_reported(platform, instance) -> None:
    declared = nouns(LinearRegression, ml.monitoring.ErrorChange(), on_failure=ml.Retrain())
    runner, stores = Runner(ml.build_definitions(declared, platform=platform), instance), open_stores(platform)
    runner("dataset/points", "dataset/outcomes", partitions=TRAINED)
    runner(*TRAIN)
    runner("dataset/points", "dataset/outcomes", "predictions/scores", partitions=f"{day(14)}...{day(25)}")
    assert list(find_due_reports(Project.from_items(declared), declared[-1], stores)) == [REPORT]

    for number in (14, 15, 16):
        runner(REPORT, partitions=day(number))
    result = runner(REPORT, partitions=f"{day(17)}...{day(25)}")

    states = read_states(stores)
    rising = [partition for partition, state in states.items() if state == "breach"]
    assert rising[0] in (day(20), day(21))
    assert list(states)[-len(rising) :] == rising
    assert set(states.values()) == {"good", "breach"}
    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("error_change", False)
    assert f"{rising[0]}: mean error 0." in check.description
    assert "retrain:" in metadata(result, REPORT)["the loop"]
    (decision,) = stores.decisions.decisions("guess")
    assert decision.reason.split(": ", 1)[1].startswith("breach: mean error 0.")
    table = stores.lake.read(REPORT)
    assert table.group_by("window_start").agg(pl.col("errors").drop_nulls().len())["errors"].to_list() == [1] * 12
    assert "mean error 0." in build_page_path(platform.home, "watch", day(25)).read_text()

    for again in (day(25), day(20), day(14)):
        runner(REPORT, partitions=again)
    assert read_states(stores) == states


def test_a_version_without_a_scale_of_errors_cannot_be_judged(platform, instance, monkeypatch) -> None:
    monkeypatch.setattr(test_estimates, "ROWS", 10)  # a holdout of 60 rows
    declared = nouns(LinearRegression, ml.monitoring.ErrorChange())
    runner, stores = Runner(ml.build_definitions(declared, platform=platform), instance), open_stores(platform)
    runner("dataset/points", "dataset/outcomes", partitions=TRAINED)
    runner(*TRAIN)
    runner("dataset/points", "dataset/outcomes", "predictions/scores", partitions=day(14))
    result = runner(REPORT, partitions=day(14))
    assert read_states(stores) == {day(14): "cannot be measured"}
    assert "no scale of errors is stored with the version" in metadata(result, REPORT)["summary"]
