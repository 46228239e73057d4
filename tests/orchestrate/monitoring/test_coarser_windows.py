"""A monitor with coarser windows than its predictions: each window holds whole partitions, in reports, decisions, page, checks and the loop."""

import json
from datetime import UTC, datetime, timedelta

import dagster as dg
import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LinearRegression

import mlops_assets as ml
from mlops_assets.compute.drift.profile import BY_WINDOW
from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.core.graph import Edge
from mlops_assets.orchestrate.core.partitions import build_window_mapping, map_partitions
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.monitoring.reports import build_page_path, performance_node
from mlops_assets.orchestrate.tables.automation import find_due
from mlops_assets.orchestrate.training.training_record import _find_window_end, find_data_end
from mlops_assets.serving.formats.packaging import read_manifest
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import Runner, metadata
from tests.memory_instance import open_memory_instance

BASE = datetime(2024, 1, 1, tzinfo=UTC)  # a Monday
DAILY = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-03-01")
WEEKLY = dg.WeeklyPartitionsDefinition("2024-01-01", day_offset=1, end_date="2024-03-11")
TRAIN = ("training_set/examples", "model/line", "version/line", "champion/line")
ROWS = 20
NEW_YORK = "America/New_York"


def rows(window: ml.TimeWindow) -> pl.DataFrame:
    """Return a line that turns over on 28 January, the last day of the fourth week."""
    days = range((window.start - BASE).days, (window.end - BASE).days)
    x = np.concatenate([np.random.default_rng(day).normal(size=ROWS) for day in days])
    at = pl.Series([BASE + timedelta(days=day, minutes=n) for day in days for n in range(ROWS)], dtype=pl.Datetime("us", "UTC"))
    turned = np.repeat([day >= 27 for day in days], ROWS)
    noise = np.concatenate([np.random.default_rng(day + 999).normal(size=ROWS, scale=0.3) for day in days])
    y = np.where(turned, -9.0 * x, x) + noise
    return pl.DataFrame({"id": [f"{d}-{n}" for d in days for n in range(ROWS)], "at": at, "x": x, "y": y})


def nouns(windows: dg.PartitionsDefinition, predicted: dg.PartitionsDefinition = DAILY) -> list:
    @ml.dataset(partitions=predicted, key="id", event_timestamp="at")
    def points(window: ml.TimeWindow) -> pl.DataFrame:
        return rows(window)

    @ml.training_set(columns=["x"], label="y", event_timestamp="at", split=ml.TimeSplit(holdout=timedelta(days=2)))
    def examples(points: pl.LazyFrame) -> pl.LazyFrame:
        return points

    @ml.model(training_set=examples, metrics=["r2"])
    def line(train: ml.Split) -> LinearRegression:
        return LinearRegression().fit(train.X, train.y)

    scores = ml.BatchPrediction("scores", model=line, dataset=points)
    expected = (ml.Drift(), ml.Performance("r2", at_least=0.5, min_labels=10))
    monitor = ml.Monitor("watch", of=scores, partitions=windows, expectations=expected, on_failure=ml.Retrain(), min_rows=10)
    return [points, examples, line, scores, monitor]


def test_a_weekly_monitor_judges_whole_weeks_of_daily_predictions(platform, instance) -> None:
    declared = nouns(WEEKLY)
    runner, at, project = (
        Runner(ml.build_definitions(declared, platform=platform), instance),
        open_stores(platform),
        Project.from_items(declared),
    )
    runner("dataset/points", partitions="2024-01-01...2024-01-14")
    runner(*TRAIN)
    runner("dataset/points", "predictions/scores", partitions="2024-01-15...2024-01-27")
    node = performance_node(project, declared[-1])
    assert find_due(node, platform, datetime.now(UTC)) == ["2024-01-15"]  # the fourth week lacks its last day
    runner("dataset/points", "predictions/scores", partitions="2024-01-28")
    assert find_due(node, platform, datetime.now(UTC)) == ["2024-01-15", "2024-01-22"]

    result = runner("drift_report/watch", "performance_report/watch", partitions="2024-01-15...2024-01-22")
    assert find_due(node, platform, datetime.now(UTC)) == []
    found = at.lake.read("performance_report/watch").sort("window_start")
    assert found["window_start"].to_list() == [BASE + timedelta(days=14), BASE + timedelta(days=21)]
    assert found["predicted"].to_list() == [7 * ROWS, 7 * ROWS]
    weeks = rows(ml.TimeWindow(BASE + timedelta(days=21), BASE + timedelta(days=28)))
    predicted = at.lake.read("predictions/scores").filter(pl.col("at") >= BASE + timedelta(days=21)).sort("at")["prediction"]
    y = weeks["y"]
    assert found["value"][1] == pytest.approx(1 - float(((y - predicted) ** 2).sum()) / float(((y - y.mean()) ** 2).sum()))
    assert found["state"].to_list() == ["good", "breach"]
    reports = {(r.kind, r.partition): r for r in at.decisions.reports("watch")}
    assert reports["drift", "2024-01-22"].state == "good"
    assert reports["performance", "2024-01-22"].end == datetime(2024, 1, 29, tzinfo=UTC)
    (decision,) = at.decisions.decisions("line")
    assert decision.evidence == ("2024-01-22",)
    assert "2024-01-22" in build_page_path(platform.home, "watch", "2024-01-22").read_text()
    assert not next(c for c in result.get_asset_check_evaluations() if c.check_name == "r2_at_least").passed
    assert metadata(result, "performance_report/watch")["summary"].startswith(
        "1 of 2 windows breached: 2024-01-22; 1 of 2 windows are good"
    )
    profile = json.loads(at.artifacts.get(read_manifest(at.artifacts, at.registry.champion("line").artifact)["profile"]))
    assert list(profile[BY_WINDOW]) == ["604800"]

    # A monitor that is newer than the version says whose limits it uses.
    assert "calibrated" not in reports["drift", "2024-01-22"].reason
    biweekly = nouns(dg.TimeWindowPartitionsDefinition(start="2024-01-01", fmt="%Y-%m-%d", cron_schedule="0 0 1,15 * *"))
    later = Runner(ml.build_definitions(biweekly, platform=platform), instance)("drift_report/watch", partitions="2024-01-15")
    assert "; its limits are calibrated on windows of 1 day, 0:00:00, not of 14 days" in metadata(later, "drift_report/watch")["summary"]

    # A training in the middle of the next week has no data of its end: the breach of that week is still open to a decision.
    runner("dataset/points", partitions="2024-01-29...2024-01-31")
    assert find_data_end(at, project, declared[2]) == datetime(2024, 2, 1, tzinfo=UTC)
    runner(*TRAIN)
    assert at.decisions.trainings("line")[-1].as_of == datetime(2024, 2, 1, tzinfo=UTC)


def test_a_week_that_two_versions_predicted_has_a_report_of_each(platform, instance) -> None:
    runner, at = Runner(ml.build_definitions(nouns(WEEKLY), platform=platform), instance), open_stores(platform)
    runner("dataset/points", partitions="2024-01-01...2024-01-14")
    runner(*TRAIN)
    runner("dataset/points", "predictions/scores", partitions="2024-01-15...2024-01-18")
    runner(*TRAIN)
    runner("dataset/points", "predictions/scores", partitions="2024-01-19...2024-01-21")
    predicted = at.lake.read("predictions/scores").group_by("model_version").len().sort("model_version")
    assert predicted.rows() == [(1, 4 * ROWS), (2, 3 * ROWS)]

    result = runner("drift_report/watch", "performance_report/watch", partitions="2024-01-15")
    assert at.lake.read("drift_report/watch").select("version", "rows", "column").sort("version").rows() == [
        (1, 4 * ROWS, "x"),
        (2, 3 * ROWS, "x"),
    ]
    performance = at.lake.read("performance_report/watch").filter(pl.col("metric") == "r2")
    assert performance.select("version", "predicted", "labelled").sort("version").rows() == [(1, 80, 80), (2, 60, 60)]
    recorded = sorted((report.kind, report.version, report.state) for report in at.decisions.reports("watch"))
    assert recorded == [("drift", 1, "good"), ("drift", 2, "good"), ("performance", 1, "good"), ("performance", 2, "good")]
    shown = metadata(result, "performance_report/watch")
    assert (shown["versions"], shown["window"]) == ("1, 2", "2024-01-15, version 2")
    assert shown["summary"].startswith("version 1: good: r2 ")
    assert "; version 2: good: r2 " in shown["summary"]
    page = build_page_path(platform.home, "watch", "2024-01-15").read_text()
    assert "Predictions of line, versions 1, 2" in page
    assert page.index("<h2>Version 1</h2>") < page.index("<h2>Version 2</h2>")
    assert page.count("<h2>Performance</h2>") == page.count("<h2>Most drifted columns</h2>") == 2


def test_the_newest_event_without_partitions_counts_until_the_end_of_its_day_not_of_its_week(platform) -> None:
    declared = nouns(WEEKLY)
    line, batch, monitor = declared[2:]

    @ml.dataset(key="id", event_timestamp="at")
    def labels() -> pl.DataFrame:
        return rows(ml.TimeWindow(BASE, BASE + timedelta(days=3)))

    @ml.training_set(columns=["x"], label="y", event_timestamp="at", split=ml.TimeSplit(holdout=timedelta(days=1)))
    def known(labels: pl.LazyFrame) -> pl.LazyFrame:
        return labels

    @ml.model(training_set=known, metrics=["r2"])
    def late(train: ml.Split) -> LinearRegression:
        return LinearRegression().fit(train.X, train.y)

    scores = ml.BatchPrediction("late_scores", model=late, dataset=declared[0])
    expected = ml.Performance("r2", at_least=0.5)
    watch = ml.Monitor("late_watch", of=scores, partitions=WEEKLY, expectations=expected, on_failure=ml.Retrain())
    every = [declared[0], labels, known, late, scores, watch]
    definitions = ml.build_definitions(every, platform=platform)
    with open_memory_instance() as opened:
        Runner(definitions, opened)("dataset/labels")
    assert find_data_end(open_stores(platform), Project.from_items(every), late) == datetime(2024, 1, 4, tzinfo=UTC)
    assert _find_window_end(DAILY, datetime(2024, 1, 3, 12, tzinfo=UTC)) == datetime(2024, 1, 4, tzinfo=UTC)
    assert (line.name, batch.name, monitor.name) == ("line", "scores", "watch")


@pytest.mark.parametrize(
    ("windows", "predicted"),
    [
        (WEEKLY, DAILY),
        (dg.MonthlyPartitionsDefinition("2024-01-01"), DAILY),
        (dg.MonthlyPartitionsDefinition("2024-01-01", timezone=NEW_YORK), dg.DailyPartitionsDefinition("2024-01-01", timezone=NEW_YORK)),
        (dg.DailyPartitionsDefinition("2024-01-01", timezone=NEW_YORK), dg.HourlyPartitionsDefinition("2024-01-02-00:00")),
        (dg.DailyPartitionsDefinition("2023-12-01"), dg.DailyPartitionsDefinition("2024-01-01")),
    ],
)
def test_windows_of_whole_partitions_are_accepted(windows, predicted) -> None:
    ml.build_definitions(nouns(windows, predicted))


@pytest.mark.parametrize(
    ("windows", "predicted", "why"),
    [
        (DAILY, WEEKLY, "a window is shorter than a partition.*\nHint: give both the same partitions, or the monitor coarser ones"),
        (dg.HourlyPartitionsDefinition("2024-01-01-00:00"), DAILY, "a window is shorter than a partition"),
        (
            dg.MonthlyPartitionsDefinition("2024-01-01"),
            WEEKLY,
            "the partition from 2024-01-29.* to 2024-02-05.* lies in two windows.*\nHint: .*timezone=",
        ),
        (
            dg.WeeklyPartitionsDefinition("2023-12-01", timezone=NEW_YORK),
            DAILY,
            "lies in two windows: one begins at 2023-12-03 00:00:00-05:00",
        ),
        (
            dg.DailyPartitionsDefinition("2024-01-01", timezone="Asia/Kolkata"),
            dg.HourlyPartitionsDefinition("2024-01-02-00:00"),
            "lies in two windows",
        ),
        (
            dg.WeeklyPartitionsDefinition("2024-01-01"),
            DAILY,
            "from 2024-01-01.* to 2024-01-07.* lie in no window.*\nHint: give the monitor an earlier start",
        ),
        (
            dg.WeeklyPartitionsDefinition("2024-01-01", day_offset=1, end_date="2024-03-01"),
            DAILY,
            "the partitions from 2024-02-26.* on lie in no window.*\nHint: give the monitor no end_date=",
        ),
    ],
)
def test_windows_that_cut_or_miss_a_partition_are_refused(windows, predicted, why) -> None:
    with pytest.raises(DefinitionError, match=f"(?s)monitor 'watch' has the windows .*{why}"):
        ml.build_definitions(nouns(windows, predicted))


@pytest.mark.parametrize("zone", ["UTC", NEW_YORK, "Europe/Berlin"])
def test_every_partition_is_mapped_to_exactly_the_window_that_holds_it(zone) -> None:
    daily = dg.DailyPartitionsDefinition("2024-02-20", end_date="2024-04-20", timezone=zone)
    for coarser in (
        dg.WeeklyPartitionsDefinition("2024-02-01", end_date="2024-05-05", timezone=zone),
        dg.MonthlyPartitionsDefinition("2024-02-01", end_date="2024-05-01", timezone=zone),
    ):
        for _ in range(2):  # asked again, it is remembered
            found = map_partitions(Edge("predictions/x", daily, build_window_mapping()), coarser, coarser.get_partition_keys())
            assert sorted(day for days in found.values() for day in days) == daily.get_partition_keys()
            for key, days in found.items():
                window = coarser.time_window_for_partition_key(key)
                assert list(days) == [
                    day for day in daily.get_partition_keys() if window.start <= daily.time_window_for_partition_key(day).start < window.end
                ]
