"""Labels that arrive late or in partitions of their arrival make the reports of older windows again, by the automation itself."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LinearRegression

import mlops_assets as ml
from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.monitoring.reading import describe_missing_windows
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import Runner, metadata
from tests.home_template import HomeTemplate, open_home_template

BASE = datetime(2024, 1, 1, tzinfo=UTC)
DAILY = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-03-01")
REPORT, ROWS = "performance_report/watch", 40
TRAIN = ("training_set/examples", "model/line", "version/line", "champion/line")


class World:
    """The labels by the day of their arrival, and the days on which the log is empty."""

    def __init__(self) -> None:
        self.delay: dict[str, int] = {}  # id → days until its label arrives; absent: none
        self.wrong: set[str] = set()
        self.silent: set[int] = set()


def day_rows(day: int, world: World) -> pl.DataFrame:
    rng = np.random.default_rng(day)
    x = rng.normal(size=0 if day in world.silent else ROWS)
    at = pl.Series([BASE + timedelta(days=day, minutes=n) for n in range(len(x))], dtype=pl.Datetime("us", "UTC"))
    return pl.DataFrame(
        {
            "id": pl.Series([f"{day}-{n}" for n in range(len(x))], dtype=pl.String),
            "at": at,
            "x": x,
            "y": 2 * x + 0.3 * rng.normal(size=len(x)),
        }
    )


def nouns(world: World, *, within: timedelta, **more) -> list:
    @ml.dataset(partitions=DAILY, key="id", event_timestamp="at", allow_empty=True)
    def points(window: ml.TimeWindow) -> pl.DataFrame:
        return day_rows((window.start - BASE).days, world).drop("y")

    @ml.dataset(partitions=DAILY, key=("id", "arrived_at"), event_timestamp="arrived_at", allow_empty=True)
    def outcomes(window: ml.TimeWindow) -> pl.DataFrame:
        day = (window.start - BASE).days
        arrived = [
            day_rows(made, world)
            .filter(pl.col("id").map_elements(lambda i, made=made: world.delay.get(i, 0) == day - made, return_dtype=pl.Boolean))
            .select("id", y=pl.when(pl.col("id").is_in(list(world.wrong))).then(-pl.col("y")).otherwise("y"))
            for made in range(day + 1)
        ]
        corrected = [
            day_rows(made, world).filter(pl.col("id").is_in(list(world.wrong))).select("id", "y") for made in [day - 3] if made >= 0
        ]
        rows = pl.concat([*arrived, *corrected])
        return rows.with_columns(arrived_at=pl.lit(window.start + timedelta(hours=1)).cast(pl.Datetime("us", "UTC")))

    @ml.training_set(
        columns=["x"], label="y", event_timestamp="at", label_known_at="arrived_at", split=ml.TimeSplit(holdout=timedelta(days=2))
    )
    def examples(points: pl.LazyFrame, outcomes: pl.LazyFrame) -> pl.LazyFrame:
        return points.join(outcomes.select("id", "y", "arrived_at"), on="id")

    @ml.model(training_set=examples, metrics=["r2"])
    def line(train: ml.Split) -> LinearRegression:
        return LinearRegression().fit(train.X, train.y)

    scores = ml.BatchPrediction("scores", model=line, dataset=points)
    expected = ml.Performance("r2", at_least=0.5, min_labels=10)
    monitor = ml.Monitor("watch", of=scores, expectations=expected, on_failure=ml.Retrain(), labels_within=within, min_rows=10, **more)
    return [points, outcomes, examples, line, scores, monitor]


class Loop:
    """The automation conditions of the report, evaluated as the daemon does."""

    def __init__(self, runner: Runner) -> None:
        self.runner, self.cursor, self.time = runner, None, datetime.now(UTC)

    def ask(self) -> list[str]:
        self.time += timedelta(seconds=30)
        selection = dg.AssetSelection.assets(asset_key(REPORT))
        found = dg.evaluate_automation_conditions(self.runner.definitions, self.runner.instance, selection, self.time, cursor=self.cursor)
        self.cursor = found.cursor
        return sorted(found.get_requested_partitions(asset_key(REPORT)) or ())

    def settle(self) -> list[str]:
        asked = self.ask()
        for key in asked:
            self.runner(REPORT, partitions=key)
        assert self.ask() == []
        return asked


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Iterator[HomeTemplate]:
    """The home of a champion that was trained on 12 days, which are the same in each world."""
    with open_home_template(tmp_path_factory.mktemp("labels")) as made:
        runner = Runner(ml.build_definitions(nouns(World(), within=timedelta(days=2)), platform=made.platform), made.instance)
        runner("dataset/points", "dataset/outcomes", partitions="2024-01-01...2024-01-12")
        runner(*TRAIN)
        yield made


@pytest.fixture
def started(template, platform, instance):
    """A function that predicts two more days in a world."""

    def start(world: World, within: timedelta) -> tuple[Runner, Loop]:
        template.copy_to(platform, instance)
        runner = Runner(ml.build_definitions(nouns(world, within=within), platform=platform), instance)
        runner("dataset/points", "predictions/scores", partitions="2024-01-13...2024-01-14")
        return runner, Loop(runner)

    return start


def labelled(platform) -> dict[str, int]:
    table = open_stores(platform).lake.read(REPORT).sort("window_start")
    return {f"{row['window_start']:%d}": row["labelled"] for row in table.iter_rows(named=True)}


def test_labels_in_later_partitions_make_the_report_of_their_window_again(platform, started) -> None:
    world = World()
    world.delay = {f"12-{n}": n % 3 for n in range(ROWS)} | {f"13-{n}": 9 for n in range(ROWS)}
    runner, loop = started(world, timedelta(days=2))
    assert loop.ask() == []  # no label has arrived
    runner("dataset/outcomes", partitions="2024-01-13")
    assert loop.settle() == ["2024-01-13"]
    assert labelled(platform) == {"13": 14}
    runner("dataset/outcomes", partitions="2024-01-14")
    assert loop.settle() == ["2024-01-13", "2024-01-14"]
    assert labelled(platform) == {"13": 27, "14": 0}
    runner("dataset/outcomes", partitions="2024-01-15")
    assert loop.settle() == ["2024-01-13", "2024-01-14"]
    assert labelled(platform) == {"13": ROWS, "14": 0}
    assert [r.state for r in open_stores(platform).decisions.reports("watch") if r.partition == "2024-01-13"] == [
        "not enough data",
        "good",
        "good",
    ]
    runner("dataset/outcomes", partitions="2024-01-16")  # after labels_within of the 13th
    assert loop.settle() == ["2024-01-14"]


def test_a_label_partition_that_is_written_again_makes_the_report_again(platform, started) -> None:
    world = World()
    world.delay = {f"12-{n}": 9 for n in range(30)}
    runner, loop = started(world, timedelta(0))
    runner("dataset/outcomes", partitions="2024-01-13")
    assert loop.settle() == ["2024-01-13"]
    assert labelled(platform) == {"13": 10}
    world.delay = {}
    runner("dataset/outcomes", partitions="2024-01-13")
    assert loop.settle() == ["2024-01-13"]
    assert labelled(platform) == {"13": ROWS}
    assert loop.settle() == []


def test_a_correction_in_a_later_partition_replaces_the_label_and_ends_the_breach(platform, started) -> None:
    world = World()
    world.wrong = {f"12-{n}" for n in range(ROWS)}
    runner, loop = started(world, timedelta(days=3))
    runner("dataset/outcomes", partitions="2024-01-13")
    assert loop.settle() == ["2024-01-13"]
    at = open_stores(platform)
    assert [d.closed for d in at.decisions.decisions("line")] == [""]
    runner("dataset/outcomes", partitions="2024-01-16")
    assert loop.settle() == ["2024-01-13", "2024-01-14"]
    shown = runner(REPORT, partitions="2024-01-13")
    assert metadata(shown, REPORT)["corrected labels"] == ROWS
    assert "the breach is gone" in at.decisions.decisions("line")[0].closed


def test_a_report_that_runs_twice_changes_nothing_but_the_number_of_records(platform, started) -> None:
    world = World()
    world.wrong = {f"12-{n}" for n in range(ROWS)}
    runner, loop = started(world, timedelta(0))
    runner("dataset/outcomes", partitions="2024-01-13")
    loop.settle()
    at = open_stores(platform)
    before = at.lake.read(REPORT), at.decisions.decisions("line"), at.lake.records(REPORT)["2024-01-13"].content_hash
    runner(REPORT, partitions="2024-01-13")
    assert at.lake.read(REPORT).equals(before[0])
    assert (at.decisions.decisions("line"), at.lake.records(REPORT)["2024-01-13"].content_hash) == before[1:]
    assert len(before[1]) == 1
    assert loop.ask() == []


def test_a_day_without_predictions_is_reported_as_such_and_no_alarm(platform, started) -> None:
    world = World()
    world.silent = {13}
    runner, loop = started(world, timedelta(0))
    runner("dataset/outcomes", partitions="2024-01-13...2024-01-14")
    assert loop.settle() == ["2024-01-13", "2024-01-14"]
    shown = runner(REPORT, partitions="2024-01-14")
    assert metadata(shown, REPORT)["summary"] == "not enough data: nothing was predicted"
    assert open_stores(platform).lake.read(REPORT).sort("window_start")["predicted"].to_list() == [ROWS, 0]


def test_a_window_without_predictions_is_named_by_the_next_report(platform, started) -> None:
    runner, loop = started(World(), timedelta(0))
    runner("dataset/points", "dataset/outcomes", partitions="2024-01-15...2024-01-18")
    runner("predictions/scores", partitions="2024-01-18")
    runner("dataset/outcomes", partitions="2024-01-13...2024-01-14")
    assert loop.settle() == ["2024-01-13", "2024-01-14", "2024-01-18"]
    shown = metadata(runner(REPORT, partitions="2024-01-18"), REPORT)
    assert shown["missing windows"] == "no predictions are recorded for 2024-01-15, 2024-01-16, 2024-01-17"
    assert describe_missing_windows([f"day {n}" for n in range(8)]).endswith("day 3, day 4, day 5, day 6, day 7 and 3 earlier windows")


def test_a_negative_time_of_labels_is_refused() -> None:
    with pytest.raises(DefinitionError, match="labels_within=-1 day"):
        nouns(World(), within=timedelta(days=-1))
