"""Tables of predictions: a row without a finite prediction is counted and left out, and a version that predicts another type loses nothing."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from sklearn.compose import TransformedTargetRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import mean_absolute_error

import mlops_assets as ml
from mlops_assets.cli.project import LoadedProject
from mlops_assets.cli.registry import models
from mlops_assets.orchestrate.compiler.build import CompiledProject
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import Runner, metadata
from tests.memory_instance import open_memory_instance

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp")
BASE = datetime(2024, 1, 1, tzinfo=UTC)
DAILY = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-03-01")
TRAIN = ("training_set/examples", "model/level", "version/level", "champion/level")
ROWS, ODD = 40, 5  # the row of each day from the fifth on that no exponential can hold


def day(number: int) -> str:
    return f"{BASE + timedelta(days=number):%Y-%m-%d}"


def events_of(window: ml.TimeWindow, *, extreme: bool) -> pl.DataFrame:
    number = (window.start - BASE).days
    x = np.random.default_rng(number).normal(size=ROWS)
    y = np.exp(x)
    if number >= ODD:
        x[7] = 1e6
    at = pl.Series([window.start + timedelta(minutes=30 * i) for i in range(ROWS)], dtype=pl.Datetime("us", "UTC"))
    return pl.DataFrame({"id": [f"{number}-{i}" for i in range(ROWS)], "at": at, "x": [1e6] * ROWS if extreme else x, "y": y})


@ml.dataset(partitions=DAILY, key="id", event_timestamp="at")
def events(window: ml.TimeWindow) -> pl.DataFrame:
    return events_of(window, extreme=False)


@ml.dataset(partitions=DAILY, key="id", event_timestamp="at")
def extremes(window: ml.TimeWindow) -> pl.DataFrame:
    return events_of(window, extreme=True)


def numbers() -> list:
    """A regression on the logarithm of its label: what it predicts may be infinite."""

    @ml.training_set(columns=["x"], label="y", event_timestamp="at", split=ml.TimeSplit(holdout=timedelta(days=2)), label_copies=["x"])
    def examples(events: pl.LazyFrame) -> pl.LazyFrame:
        return events

    @ml.model(training_set=examples, metrics=["neg_mean_absolute_error"])
    def level(train: ml.Split) -> TransformedTargetRegressor:
        return TransformedTargetRegressor(LinearRegression(), func=np.log, inverse_func=np.exp).fit(train.X, train.y)

    scores = ml.BatchPrediction("scores", model=level, dataset=events)
    bound = ml.Performance("neg_mean_absolute_error", at_least=-1.0, min_labels=10)
    watch = ml.Monitor("watch", of=scores, expectations=(bound,), min_rows=10)
    return [events, extremes, examples, level, scores, ml.BatchPrediction("far", model=level, dataset=extremes), watch]


def words() -> list:
    """The same model after its label became text."""

    @ml.training_set(columns=["x"], label="size", event_timestamp="at", split=ml.TimeSplit(holdout=timedelta(days=2)), label_copies=["x"])
    def examples(events: pl.LazyFrame) -> pl.LazyFrame:
        return events.with_columns(size=pl.when(pl.col("y") > 1).then(pl.lit("large")).otherwise(pl.lit("small")))

    @ml.model(training_set=examples, metrics=["accuracy"])
    def level(train: ml.Split) -> LogisticRegression:
        return LogisticRegression().fit(train.X, train.y)

    batches = [ml.BatchPrediction(name, model=level, dataset=of) for name, of in (("scores", events), ("far", extremes))]
    return [events, extremes, examples, level, *batches]


class World:
    """One platform on which both projects run, one after the other."""

    def __init__(self, home, instance: dg.DagsterInstance) -> None:
        self.platform = ml.Platform.at(home)
        self.at = open_stores(self.platform)
        first = Runner(ml.build_definitions(numbers(), platform=self.platform), instance)
        first("dataset/events", partitions=f"{day(0)}...{day(ODD - 1)}")
        first(*TRAIN)
        first("dataset/events", "dataset/extremes", partitions=f"{day(ODD)}...{day(ODD + 1)}")
        self.batch = first("predictions/scores", partitions=day(ODD))
        first("predictions/far", partitions=day(ODD))
        self.report = first("performance_report/watch", partitions=day(ODD))
        self.before = {name: self.table(name) for name in ("scores", "far")}
        self.nouns = words()
        self.definitions = ml.build_definitions(self.nouns, platform=self.platform)
        second = Runner(self.definitions, instance)
        self.promotion = second(*TRAIN)
        for name in ("scores", "far"):
            second(f"predictions/{name}", partitions=day(ODD + 1))

    def table(self, name: str) -> pl.DataFrame:
        return self.at.lake.read(f"predictions/{name}").sort("at")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with open_memory_instance() as instance:
        yield World(tmp_path_factory.mktemp("prediction_tables") / "home", instance)


def test_a_prediction_that_is_not_finite_is_null_with_its_reason_and_counted(world) -> None:
    table = world.before["scores"]
    bad = table.filter(pl.col("prediction").is_null())
    assert bad.select("id", "prediction_problem").rows() == [(f"{ODD}-7", "the model predicts inf, which is not finite")]
    assert table["prediction_problem"].null_count() == ROWS - 1
    shown = metadata(world.batch, "predictions/scores")
    assert (shown["rows without a prediction"], shown["share without a prediction"]) == (1, 1 / ROWS)


def test_the_other_rows_are_judged_and_the_share_is_shown(world) -> None:
    known = world.before["scores"].filter(pl.col("prediction").is_not_null())
    labels = world.at.lake.read("dataset/events").select("id", "y").join(known.select("id", "prediction"), on="id")
    shown = metadata(world.report, "performance_report/watch")
    assert labels.height == ROWS - 1
    assert shown["neg_mean_absolute_error"] == pytest.approx(-mean_absolute_error(labels["y"], labels["prediction"]))
    assert shown["share without a prediction"] == 1 / ROWS
    assert shown["state"] == "good"


def test_a_version_that_predicts_another_type_says_so_and_nothing_is_lost(world) -> None:
    changes = metadata(world.promotion, "champion/level")["predictions change"]
    assert changes.startswith("it predicts String, but the previous version Float64; tables of predictions store its rows in new columns")
    table, old = world.table("scores"), world.before["scores"]
    assert table[:ROWS].select(old.columns).equals(old)
    new = table[ROWS:]
    assert new["prediction"].null_count() == ROWS
    assert set(new["prediction_2"]) == {"large", "small"}


def test_a_column_without_any_value_takes_the_new_type(world) -> None:
    assert world.before["far"]["prediction"].null_count() == ROWS
    table = world.table("far")
    assert "prediction_2" not in table.columns
    assert table["prediction"].to_list() == [None] * ROWS + ["large"] * ROWS
    assert table["prediction_problem"].null_count() == ROWS


def test_promote_and_rollback_say_that_predictions_change(world, monkeypatch) -> None:
    loaded = LoadedProject(world.platform.home, world.definitions, (CompiledProject(Project.from_items(world.nouns), world.platform),))
    monkeypatch.setattr(models, "load_without_dbt", lambda _: loaded)
    monkeypatch.setenv("DAGSTER_HOME", "")
    back = CliRunner().invoke(models.models, ["rollback", "level", "--reason", "complaints"], catch_exceptions=False)
    assert "champion of level: version 1\nnote: it predicts Float64, but the previous version String" in back.output
    again = CliRunner().invoke(models.models, ["promote", "level", "--version", "2", "--reason", "mended"], catch_exceptions=False)
    assert "champion of level: version 2\nnote: it predicts String, but the previous version Float64" in again.output
    same = CliRunner().invoke(models.models, ["promote", "level", "--version", "2", "--reason", "again"], catch_exceptions=False)
    assert "note" not in same.output
    with dg.DagsterInstance.from_config(f"{world.platform.home}/dagster") as instance:
        records = instance.fetch_materializations(asset_key("champion/level"), limit=10).records
    changes = [record.asset_materialization.metadata.get("predictions change") for record in records]
    assert changes[1].value.startswith("it predicts String")
