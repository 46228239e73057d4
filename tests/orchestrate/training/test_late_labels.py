"""Labels that arrive days after their events: candidates train without the newest of them, a refit trains on every row."""

import json
from datetime import datetime, timedelta

import polars as pl
import pytest
from sklearn.linear_model import LinearRegression

import mlops_assets as ml
from mlops_assets.compute.training.fitted_rows import FittedRows
from mlops_assets.orchestrate.reproduction.reproduction import reproduce
from mlops_assets.orchestrate.training.evaluation import find_compared_fit
from mlops_assets.serving.formats.judged_fit import read_judged_fit
from mlops_assets.serving.formats.packaging import read_manifest, unpack
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import Runner, metadata
from tests.memory_instance import open_memory_instance
from tests.projects import refitted
from tests.projects.refitted import BASE, ROWS, events

DELAY, JUDGED, DAYS = timedelta(days=6), timedelta(days=2), 30


@ml.training_set(columns=["x"], label="y", event_timestamp="at", label_known_at="known", split=ml.TimeSplit(holdout=timedelta(days=4)))
def late_examples(events: pl.LazyFrame) -> pl.LazyFrame:
    """Every event; its label arrives six days later."""
    return events.with_columns(known=pl.col("at") + DELAY)


@ml.model(training_set=late_examples, metrics=["neg_mean_absolute_error"], gates=[])
def late_level(train: ml.Split) -> LinearRegression:
    """The level of y."""
    return LinearRegression().fit(train.X, train.y)


tomorrow = ml.BatchPrediction("tomorrow", model=late_level, dataset=events)
POLICY = ml.Retrain(every=timedelta(days=7), on=(), train_windows=(timedelta(days=9),), judge_on=JUDGED, refit=True)
watch = ml.Monitor("watch", of=tomorrow, expectations=ml.Performance("neg_mean_absolute_error", at_least=-9.0), on_failure=POLICY)
STEPS = ("training_set/late_examples", "model/late_level", "version/late_level", "champion/late_level")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The stores after one training on thirty days, and the result of the run."""
    platform = ml.Platform.at(tmp_path_factory.mktemp("late") / "home")
    with open_memory_instance() as instance:
        runner = Runner(ml.build_definitions([events, late_examples, late_level, tomorrow, watch], platform=platform), instance)
        runner("dataset/events", partitions=f"{refitted.day(0)}...{refitted.day(DAYS - 1)}")
        yield open_stores(platform), runner(*STEPS)


def starts(days: float) -> datetime:
    """Return the time of an event, in days before the end of the newest row."""
    return BASE + timedelta(days=DAYS - 1, minutes=30 * (ROWS - 1), microseconds=1) - timedelta(days=days)


def test_rows_whose_label_arrived_too_late_for_the_candidate_are_stored(trained) -> None:
    at, result = trained
    rows = at.lake.read("training_set/late_examples")
    assert rows.height == DAYS * ROWS
    gap = rows.filter(pl.col("split") == "gap")["at"]
    assert (gap.min() >= starts(4 + 6), gap.max() < starts(4)) == (True, True)
    counts = metadata(result, "training_set/late_examples")
    assert counts["gap rows"] == len(gap) > 0


def test_the_candidate_is_fitted_on_labels_that_were_known_before_its_holdout(trained) -> None:
    at, _ = trained
    version = at.registry.champion("late_level")
    judged = read_judged_fit(at.artifacts, version.artifact, version.digest)
    rows = at.lake.read("training_set/late_examples").sort("at")
    train = rows.filter(pl.col("known") < starts(2))
    train = train.filter(pl.col("at") > train["at"].max() - timedelta(days=9))
    expected = LinearRegression().fit(train.select("x"), train["y"])
    assert unpack(at.artifacts, judged.artifact).estimator.coef_ == pytest.approx(expected.coef_, abs=1e-12)


def test_the_refit_serves_and_was_fitted_on_every_row_of_its_window(trained) -> None:
    at, _ = trained
    version = at.registry.champion("late_level")
    rows = at.lake.read("training_set/late_examples").filter(pl.col("at") >= starts(9))
    expected = LinearRegression().fit(rows.select("x"), rows["y"])
    assert unpack(at.artifacts, version.artifact).estimator.coef_ == pytest.approx(expected.coef_, abs=1e-12)
    fitted = FittedRows.from_manifest(read_manifest(at.artifacts, version.artifact))
    assert (fitted.rows, fitted.first, fitted.last) == (rows.height, rows["at"].min(), rows["at"].max())
    assert fitted.labels_known == rows["known"].max()
    profile = json.loads(at.artifacts.get(read_manifest(at.artifacts, version.artifact)["profile"]))
    assert profile["rows"] == rows.height, "drift is measured against the rows that trained the serving fit"
    assert reproduce(at, version, late_level.function.function).verdict == "IDENTICAL"


def test_the_refit_is_compared_once_all_its_labels_were_known_before_the_holdout(trained) -> None:
    at, _ = trained
    version = at.registry.champion("late_level")
    judged = read_judged_fit(at.artifacts, version.artifact, version.digest)
    for days_later, artifact in ((5, judged.artifact), (7, version.artifact)):
        rows = pl.DataFrame({"at": [starts(0) + timedelta(days=days_later + i) for i in range(3)], "x": [0.0, 1.0, 2.0]})
        holdout = ml.Split(rows.select("x"), rows["x"].to_numpy(), rows)
        assert find_compared_fit(at, version, holdout, "at").artifact == artifact
