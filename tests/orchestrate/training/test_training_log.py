"""A training is a run from its first moment: what its function logs, what its estimator tells, what the UI shows, how it fails."""

import base64
from datetime import UTC, datetime, timedelta

import dagster as dg
import polars as pl
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import mlops_assets as ml
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import metadata

ROWS = pl.DataFrame(
    {
        "id": range(300),
        "at": [datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=n) for n in range(300)],
        "x": [n * 7 % 13 / 13 for n in range(300)],
    }
).with_columns(pl.col("at").cast(pl.Datetime("us", "UTC")), y=(pl.col("x") > 0.4).cast(pl.Int64))
KEYS = ("dataset/rows", "training_set/examples", "model/m")


class Params(dg.Config):
    rate: float = 0.1


class Given:
    """A project whose model's function does what a test says."""

    def __init__(self, run, platform) -> None:
        self.within = lambda: None
        self.seen: list[str] = []
        given = self

        @ml.dataset(key="id", event_timestamp="at")
        def rows() -> pl.DataFrame:
            return ROWS

        @ml.training_set(
            columns=["x"], label="y", event_timestamp="at", split=ml.TimeSplit(validation=timedelta(days=2), holdout=timedelta(days=2))
        )
        def examples(rows: pl.LazyFrame) -> pl.LazyFrame:
            return rows

        @ml.model(training_set=examples, metrics=["accuracy"])
        def m(train: ml.Split, params: Params) -> HistGradientBoostingClassifier:
            given.seen += open_stores(platform).tracker.frame("status = 'running'")["experiment"].to_list()
            given.within()
            boosted = HistGradientBoostingClassifier(learning_rate=params.rate, max_iter=5, early_stopping=True, random_state=0)
            return make_pipeline(StandardScaler().set_output(transform="polars"), boosted).fit(train.X, train.y)

        self.tracker = open_stores(platform).tracker
        self.runner = run(ml.build_definitions([rows, examples, m], platform=platform))


@pytest.fixture
def given(run, platform) -> Given:
    return Given(run, platform)


def test_a_training_logs_and_the_ui_shows_it(given, platform) -> None:
    def within() -> None:
        ml.runs.log_params({"mine": 1, "pipeline__unknown": "x", "histgradientboostingclassifier__max_iter": "as I say"})
        for step in range(3):
            ml.runs.log_metric("loss", 1 / (step + 1), step=step)
        ml.runs.log_metric("<b>x</b>", float("nan"))
        ml.runs.log_artifact("notes.txt", b"hello")

    given.within = within
    result = given.runner(*KEYS)
    assert given.seen == ["m"]
    [run] = given.tracker.list("m")
    assert (run.status, run.kind, run.environment) == ("finished", "training", "dev")
    assert run.dagster_run_id == result.run_id
    assert run.params["rate"] == 0.1
    assert run.params["mine"] == 1
    assert run.params["histgradientboostingclassifier__max_iter"] == "as I say"
    assert run.params["histgradientboostingclassifier__learning_rate"] == 0.1
    assert run.record["config"] == {"rate": 0.1}
    assert set(run.metrics) == {"accuracy", "loss", "<b>x</b>", "validation_score", "train_score", "iterations"}
    assert given.tracker.curves(run.id)["validation_score"].steps.tolist() == list(range(6))
    assert [one.name for one in given.tracker.artifacts(run.id)] == ["notes.txt"]
    inputs = {one["table"]: one for one in run.record["inputs"]}
    lake = open_stores(platform).lake
    assert set(inputs) == {"training_set/examples", "dataset/rows"}
    assert inputs["dataset/rows"]["content_hash"] == lake.records("dataset/rows")[""].content_hash
    assert (inputs["dataset/rows"]["rows"], run.snapshot is not None, run.record["machine"]["cpus"] >= 1) == (300, True, True)
    shown = metadata(result, "model/m")
    assert shown["logged/loss"] == 1 / 3
    assert "logged/<b>x</b>" not in shown
    assert "logged/accuracy" not in shown
    png = base64.b64decode(shown["curves"].split("base64,")[1].rstrip(")"))
    assert png.startswith(b"\x89PNG")
    assert len(png) < 100_000
    again = given.runner(*KEYS)
    assert len(given.tracker.list("m")) == 1
    assert metadata(again, "model/m")["logged/loss"] == 1 / 3
    assert metadata(again, "model/m")["trained"].startswith("no")


def test_a_training_that_fails_is_a_failed_run_and_the_next_one_trains(given) -> None:
    def within() -> None:
        ml.runs.log_metric("loss", 3)
        raise OSError("the disk is gone")

    given.within = within
    given.runner(*KEYS, ok=False)
    [run] = given.tracker.list("m")
    assert (run.status, run.error, run.metrics) == ("failed", "OSError: the disk is gone", {"loss": 3.0})
    given.within = lambda: None
    given.runner(*KEYS)
    assert [r.status for r in given.tracker.list("m")] == ["finished", "failed"]


def test_what_an_estimator_does_when_asked_breaks_no_training(given, monkeypatch) -> None:
    monkeypatch.setattr("mlops_assets.orchestrate.training.training_log.read_training_log", lambda _: 1 / 0)
    given.runner(*KEYS)
    [run] = given.tracker.list("m")
    assert (run.status, set(run.metrics)) == ("finished", {"accuracy"})


def test_children_of_a_training_are_runs_of_their_own(given, platform) -> None:
    def within() -> None:
        for n in range(2):
            with ml.start_run("m", name=f"fold {n}", platform=platform):
                ml.runs.log_metric("fold", n)

    given.within = within
    given.runner(*KEYS)
    [training] = given.tracker.search("kind = 'training'")
    assert [r.name for r in given.tracker.search(f"parent = '{training.id}'", "started_at")] == ["fold 0", "fold 1"]
