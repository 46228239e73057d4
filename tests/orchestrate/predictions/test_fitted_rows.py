"""Rows that a version was fitted on are no evidence about it: not judged, not decided upon, and predicted by an earlier champion."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest
from sklearn.tree import DecisionTreeRegressor

import mlops_assets as ml
from mlops_assets.orchestrate.monitoring.reports import build_page_path
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import Runner, metadata

BASE = datetime(2024, 1, 1, tzinfo=UTC)
DAILY = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-03-01")
ROWS = 40
TRAIN = ("training_set/examples", "model/tree", "version/tree", "champion/tree")
REPORTS = ("drift_report/watch", "performance_report/watch")


def noise(day: int) -> pl.DataFrame:
    """A day of pure noise: nothing of y can be known from x."""
    rng = np.random.default_rng(day)
    at = [BASE + timedelta(days=day, minutes=30 * i) for i in range(ROWS)]
    ids, group = [f"{day}-{i}" for i in range(ROWS)], [f"g{i % 10}" for i in range(ROWS)]
    return pl.DataFrame({"id": ids, "at": at, "group": group, "x": rng.normal(size=ROWS), "y": rng.normal(size=ROWS)})


def nouns(split) -> list:
    @ml.dataset(partitions=DAILY, key="id", event_timestamp="at")
    def events(window: ml.TimeWindow) -> pl.DataFrame:
        first, last = (window.start - BASE).days, (window.end - BASE).days
        return pl.concat([noise(day) for day in range(first, last)]).with_columns(pl.col("at").cast(pl.Datetime("us", "UTC")))

    @ml.training_set(columns=["x"], features=[], label="y", event_timestamp="at", split=split)
    def examples(events: pl.LazyFrame) -> pl.LazyFrame:
        return events

    @ml.model(training_set=examples, metrics=["r2"])
    def tree(train: ml.Split) -> DecisionTreeRegressor:
        return DecisionTreeRegressor(random_state=0).fit(train.X, train.y)

    batch = ml.BatchPrediction("scores", model=tree, dataset=events)
    expected = (ml.Drift(), ml.Performance("r2", at_least=0.5, min_labels=10))
    monitor = ml.Monitor("watch", of=batch, expectations=expected, on_failure=ml.Retrain(), min_rows=10)
    return [events, examples, tree, batch, monitor]


@pytest.fixture
def run(platform, instance):
    def begin(split) -> Runner:
        return Runner(ml.build_definitions(nouns(split), platform=platform), instance)

    return begin


def day(number: int) -> str:
    return f"{BASE + timedelta(days=number):%Y-%m-%d}"


def states(platform, kind: str) -> dict[str, str]:
    found = {report.partition: report for report in open_stores(platform).decisions.reports("watch") if report.kind == kind}
    return {partition: report.state for partition, report in sorted(found.items())}


BY_TIME = ml.TimeSplit(validation=timedelta(days=2), holdout=timedelta(days=3))


def test_a_tree_on_noise_is_never_good_on_what_it_was_fitted_on(run, platform) -> None:
    runner = run(BY_TIME)
    every = f"{day(0)}...{day(11)}"
    runner("dataset/events", partitions=every)
    runner(*TRAIN)
    runner("predictions/scores", partitions=every)
    result = runner(*REPORTS, partitions=every)
    expected = {day(n): "in training data" for n in range(7)} | {day(n): "breach" for n in range(7, 12)}
    assert states(platform, "performance") == expected
    assert all(state == "in training data" for state in list(states(platform, "drift").values())[:7])
    decisions = open_stores(platform).decisions.decisions("tree")
    assert all(set(decision.evidence) <= {day(n) for n in range(7, 12)} for decision in decisions)
    found = open_stores(platform).lake.read("performance_report/watch")
    assert found.filter(pl.col("state") == "in training data")["window_start"].n_unique() == 7
    assert found.filter(pl.col("state") == "good").is_empty()
    page = build_page_path(platform.home, "watch", day(3)).read_text()
    assert "In training data: performance is not evaluated" in page
    assert "In training data: drift is not evaluated" in page
    assert "Performance is good" not in page
    shown = metadata(result, "performance_report/watch")
    assert shown["state"] == "breach"
    assert shown["summary"].startswith(
        f"5 of 12 windows breached: {day(7)} to {day(11)}; 7 of 12 windows are in training data: {day(0)} to {day(6)}. {day(11)}: breach: r2"
    )
    assert all(day(n) in shown["windows"] for n in range(12))
    check = next(c for c in result.get_asset_check_evaluations() if c.check_name == "r2_at_least")
    assert not check.passed
    assert check.metadata["windows"].value.startswith("5 of 12 windows breached")


def test_a_check_of_a_window_in_training_data_says_so(run) -> None:
    runner = run(BY_TIME)
    runner("dataset/events", partitions=f"{day(0)}...{day(11)}")
    runner(*TRAIN)
    runner("predictions/scores", partitions=day(2))
    result = runner(*REPORTS, partitions=day(2))
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    for name in ("no_drift", "r2_at_least"):
        assert checks[name].passed
        assert checks[name].metadata["state"].value == "in training data"


def test_a_new_partition_is_predicted_by_the_champion_that_was_not_fitted_on_it(run, platform) -> None:
    runner = run(ml.GroupSplit("group"))
    runner("dataset/events", partitions=f"{day(0)}...{day(9)}")
    runner(*TRAIN)
    runner(partitions=day(10))  # data, training, promotion, prediction and reports of one day in one run
    at = open_stores(platform)
    assert at.registry.champion("tree").version == 2
    predicted = at.lake.read("predictions/scores")
    assert predicted["model_version"].unique().to_list() == [1]
    assert states(platform, "performance") == {day(10): "breach"}
    report = at.decisions.reports("watch")[-1]
    assert report.version == 1
    assert at.decisions.decisions("tree") == ()  # version 2 serves, and nothing is known of it


def test_only_the_groups_that_were_fitted_are_left_out(run, platform) -> None:
    runner = run(ml.GroupSplit("group"))
    runner("dataset/events", partitions=f"{day(0)}...{day(9)}")
    runner(*TRAIN)
    runner("predictions/scores", partitions=day(4))
    shown = metadata(runner("performance_report/watch", partitions=day(4)), "performance_report/watch")
    examples = open_stores(platform).lake.read("training_set/examples")
    others = examples.filter((pl.col("at").dt.date() == (BASE + timedelta(days=4)).date()) & (pl.col("split") != "train")).height
    assert 0 < others < ROWS
    assert shown["labels"] == others
    assert f"{ROWS - others} predictions of training rows are left out" in Path(shown["page"]).read_text()


def test_several_partitions_may_have_several_versions(run, platform) -> None:
    runner = run(BY_TIME)
    runner("dataset/events", partitions=f"{day(0)}...{day(9)}")
    runner(*TRAIN)
    runner("dataset/events", partitions=f"{day(10)}...{day(19)}")
    runner(*TRAIN)
    runner("predictions/scores", partitions=f"{day(0)}...{day(19)}")
    found = (
        open_stores(platform)
        .lake.read("predictions/scores")
        .group_by("model_version")
        .agg(pl.col("at").min(), pl.len())
        .sort("model_version")
    )
    assert found["model_version"].to_list() == [1, 2]
    assert found["len"].to_list() == [10 * ROWS, 10 * ROWS]
