"""A monitor that compares with the same weeks of the previous year, read again from the training set of the version."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LinearRegression

import mlops_assets as ml
from mlops_assets.compute.monitoring import same_weeks
from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.monitoring.reports import build_page_path
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import Runner, metadata

START, LIVE, ROWS = datetime(2022, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC), 40
DAILY = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-02-01")
FAULTY = datetime(2024, 1, 16, tzinfo=UTC)
TRAIN = ("dataset/history", "training_set/examples", "model/line", "version/line", "champion/line")


def weather(start: datetime, end: datetime) -> pl.DataFrame:
    """Return the temperature of each day in °C with noise; one day of January 2024 is in °F."""
    days = np.repeat(np.arange((start - START).days, (end - START).days), ROWS)
    at = [START + timedelta(days=int(day), minutes=n % ROWS) for n, day in enumerate(days)]
    season = 7 - 15 * np.cos(2 * np.pi * (days - 15) / 365.25)
    temp = season + np.random.default_rng((start - START).days).normal(size=len(days))
    temp = np.where(days == (FAULTY - START).days, temp * 1.8 + 32, temp)
    return pl.DataFrame({"id": [f"{at[n]:%Y%m%d}-{n % ROWS}" for n in range(len(days))], "at": at, "temp": temp, "y": season}).with_columns(
        pl.col("at").cast(pl.Datetime("us", "UTC"))
    )


def nouns(since: datetime, event_timestamp: str | None = "at") -> list:
    @ml.dataset(key="id", event_timestamp="at")
    def history() -> pl.DataFrame:
        return weather(since, LIVE)

    @ml.dataset(partitions=DAILY, key="id", event_timestamp="at")
    def points(window: ml.TimeWindow) -> pl.DataFrame:
        return weather(window.start, window.end).drop("y")

    split = ml.TimeSplit(holdout=timedelta(days=30)) if event_timestamp else ml.GroupSplit("id")

    @ml.training_set(columns=["temp"], label="y", event_timestamp=event_timestamp, split=split)
    def examples(history: pl.LazyFrame) -> pl.LazyFrame:
        return history if event_timestamp in (None, "at") else history.rename({"at": event_timestamp})

    @ml.model(training_set=examples, metrics=["r2"])
    def line(train: ml.Split) -> LinearRegression:
        return LinearRegression().fit(train.X, train.y)

    scores = ml.BatchPrediction("scores", model=line, dataset=points)
    expected = ml.Drift(reference=ml.monitoring.SameWeeks())
    return [history, points, examples, line, scores, ml.Monitor("watch", of=scores, expectations=(expected,), min_rows=ROWS)]


def trained(platform, instance, since: datetime) -> Runner:
    runner = Runner(ml.build_definitions(nouns(since), platform=platform), instance)
    runner(*TRAIN)
    runner("dataset/points", "predictions/scores", partitions="2024-01-10...2024-01-16")
    return runner


def test_windows_are_compared_with_the_same_weeks_of_the_training_set_of_the_version(platform, instance, monkeypatch) -> None:
    runner, at = trained(platform, instance, START), open_stores(platform)
    built, original = [], same_weeks.profile_same_weeks
    monkeypatch.setattr(same_weeks, "profile_same_weeks", lambda X, *others: built.append(X) or original(X, *others))
    result = runner("drift_report/watch", partitions="2024-01-10...2024-01-16")
    assert len(built) == 2  # the seven windows are in two weeks
    table = at.lake.read("drift_report/watch").sort("window_start")
    assert table.filter(pl.col("drifted"))["window_start"].to_list() == [FAULTY]
    note = "compared with the same weeks of earlier years: 840 training rows of 2023-01-08 to 2023-01-28"
    assert set(table["notes"].tail(2)) == {note}
    assert metadata(result, "drift_report/watch")["summary"].endswith(note)
    assert note in build_page_path(platform.home, "watch", "2024-01-16").read_text()

    # Another training set does not change what this version was trained on.
    later = Runner(ml.build_definitions(nouns(datetime(2023, 3, 1, tzinfo=UTC)), platform=platform), instance)
    later("dataset/history", "training_set/examples")
    assert metadata(later("drift_report/watch", partitions="2024-01-16"), "drift_report/watch")["summary"].endswith(note)


def test_a_version_keeps_the_event_times_that_its_training_set_had(platform, instance) -> None:
    trained(platform, instance, START)
    renamed = Runner(ml.build_definitions(nouns(START, event_timestamp="time"), platform=platform), instance)
    summary = metadata(renamed("drift_report/watch", partitions="2024-01-16"), "drift_report/watch")["summary"]
    assert "compared with the same weeks of earlier years: 840 training rows" in summary


def test_a_training_set_without_the_same_weeks_is_compared_as_a_whole(platform, instance) -> None:
    result = trained(platform, instance, datetime(2023, 3, 1, tzinfo=UTC))("drift_report/watch", partitions="2024-01-16")
    note = "compared with all training rows: those of the same weeks (2023-01-08 to 2023-01-28) are 0 in 0 windows"
    assert note in metadata(result, "drift_report/watch")["summary"]
    assert note in build_page_path(platform.home, "watch", "2024-01-16").read_text()
    assert open_stores(platform).lake.read("drift_report/watch")["notes"][0].startswith(note)


def test_same_weeks_need_event_times() -> None:
    with pytest.raises(DefinitionError, match="'training_set/examples' has no event times"):
        nouns(START, event_timestamp=None)
