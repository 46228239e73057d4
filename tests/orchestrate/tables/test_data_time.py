"""The loop counts in the time of the data: declared event times, and partitions in the order of their definition."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import polars as pl
import pytest
from sklearn.linear_model import LinearRegression

import mlops_assets as ml
from mlops_assets.orchestrate.core.partitions import sort_keys
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.training.training_record import _find_window_end, find_data_end
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import Runner

GERMAN = dg.DailyPartitionsDefinition("25-01-2024", end_date="05-02-2024", fmt="%d-%m-%Y")
DAILY = dg.DailyPartitionsDefinition("2024-01-01")
START = datetime(2024, 1, 25, tzinfo=UTC)
SPLIT = ml.TimeSplit(validation=timedelta(days=1), holdout=timedelta(days=1))


def rows(first: datetime, days: int) -> pl.DataFrame:
    made = [{"id": f"{first:%j}-{n}", "at": first + timedelta(hours=6 * n), "x": float(n), "y": float(n % 3)} for n in range(4 * days)]
    return pl.DataFrame(made, schema_overrides={"at": pl.Datetime("us", "UTC")})


def model_of_trips() -> list:
    @ml.training_set(columns=["x"], label="y", event_timestamp="at", split=SPLIT)
    def examples(trips: pl.DataFrame) -> pl.DataFrame:
        return trips

    @ml.model(training_set=examples, metrics=["r2"])
    def guess(train: ml.Split) -> LinearRegression:
        return LinearRegression().fit(train.X, train.y)

    return [examples, guess]


def test_keys_are_ordered_by_their_definition() -> None:
    assert sort_keys(GERMAN, ["02-02-2024", "31-01-2024", "25-01-2024"]) == ["25-01-2024", "31-01-2024", "02-02-2024"]
    assert sort_keys(None, [""]) == [""]
    assert sort_keys(GERMAN, ["01-02-2024", "01-01-2020"]) == ["01-01-2020", "01-02-2024"]


def test_the_newest_partition_is_the_newest_by_time(run, platform) -> None:
    @ml.dataset(partitions=GERMAN, key="id", event_timestamp="at")
    def trips(window: ml.TimeWindow) -> pl.DataFrame:
        return rows(window.start, 1)

    nouns = [trips, *model_of_trips()]
    runner: Runner = run(ml.build_definitions(nouns, platform=platform))
    runner("dataset/trips", partitions="25-01-2024...02-02-2024")
    runner("training_set/examples")
    runner("model/guess")
    at, project = open_stores(platform), Project.from_items(nouns)
    assert find_data_end(at, project, nouns[-1]) == datetime(2024, 2, 3, tzinfo=UTC)
    (found,) = at.tracker.list("guess")
    (read,) = [each for each in found.record["inputs"] if each["table"] == "dataset/trips"]
    assert (read["first"], read["last"]) == ("25-01-2024", "02-02-2024")


def test_limits_are_learned_from_a_span_of_time_under_any_key_format(run, platform) -> None:
    @ml.dataset(partitions=GERMAN, key="id", event_timestamp="at", quality=ml.Quality(learn_from=("30-01-2024", "02-02-2024")))
    def trips(window: ml.TimeWindow) -> pl.DataFrame:
        return rows(window.start, 1)

    runner = run(ml.build_definitions([trips], platform=platform))
    runner("dataset/trips", partitions="25-01-2024...02-02-2024")
    (origin,) = open_stores(platform).lake.read("quality/trips")["origin"].unique().to_list()
    assert "3 partition(s) '30-01-2024' to '01-02-2024'" in origin


@pytest.mark.parametrize("declared", ["at", None])
def test_data_without_partitions_end_at_their_newest_event_not_at_the_clock(run, platform, declared) -> None:
    @ml.dataset(key="id", event_timestamp=declared)
    def trips() -> pl.DataFrame:
        return rows(START, 3)

    nouns = [trips, *model_of_trips()]
    run(ml.build_definitions(nouns, platform=platform))("dataset/trips")
    at = open_stores(platform)
    assert find_data_end(at, Project.from_items(nouns), nouns[-1]) == START + timedelta(days=2, hours=18)


@pytest.mark.parametrize(("hour", "end"), [(18, 28), (0, 29)])
def test_the_newest_event_counts_for_the_whole_window_that_holds_it(hour, end) -> None:
    moment = datetime(2024, 1, 27 if hour else 28, hour, tzinfo=UTC)
    assert _find_window_end(DAILY, moment) == datetime(2024, 1, end, tzinfo=UTC)
    assert _find_window_end(None, moment) == moment


def test_data_without_any_time_end_at_the_clock(run, platform) -> None:
    @ml.dataset(key="id")
    def trips() -> pl.DataFrame:
        return rows(START, 3).rename({"at": "then"})

    nouns = [trips, *model_of_trips()]
    run(ml.build_definitions(nouns, platform=platform))("dataset/trips")
    assert find_data_end(open_stores(platform), Project.from_items(nouns), nouns[-1]) > datetime.now(UTC) - timedelta(minutes=5)
