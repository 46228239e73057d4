"""What is predicted is the same wherever it is asked for: by gates, batches, services, monitors, reproductions and cards."""

import json
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest
from sklearn.metrics import recall_score

import mlops_assets as ml
from mlops_assets.compute.training.comparison import compare_trainings
from mlops_assets.errors import ArtifactError
from mlops_assets.orchestrate.reproduction.reproduction import reproduce
from mlops_assets.serving.formats.packaging import read_manifest, unpack
from mlops_assets.serving.http.app import App
from mlops_assets.serving.http.metrics import Metrics
from mlops_assets.serving.http.served_model import load_served_model
from mlops_assets.serving.http.service_folder import RequestLimits, TargetVersion
from mlops_assets.serving.logs.inference_log import InferenceLog
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.values.platform import Platform
from tests.conftest import Runner, metadata
from tests.memory_instance import open_memory_instance
from tests.projects import payments


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The project of payments, trained and predicted."""
    platform = Platform.at(tmp_path_factory.mktemp("payments") / "home")
    with open_memory_instance() as instance:
        run = Runner(ml.build_definitions(payments.NOUNS, platform=platform), instance)
        run("dataset/payments", partitions=payments.ALL_DAYS)
        run("predictions/frauds_api", partitions="2024-05-05")  # nothing is predicted yet, and no type is known
        assert "prediction" not in open_stores(platform).lake.schema("predictions/frauds_api")
        trained = run(*payments.TRAIN)
        yield open_stores(platform), run, trained


@contextmanager
def answering(at, service: str, model: str):
    """Yield the application of a service, in this process, with the champion."""
    champion, folder = at.registry.champion(model), Path(at.platform.home) / "services" / service
    log, limits = InferenceLog(folder / "log"), RequestLimits()
    app = App(log=log, metrics=Metrics(folder / "metrics", 0), limits=limits, versions=dict)
    wanted = TargetVersion(champion.version, champion.digest, champion.artifact)
    app.model = load_served_model(model, wanted, artifacts=at.artifacts, online=at.platform.online, limits=limits)
    yield app
    log.close()


def ask(app: App, rows: pl.DataFrame) -> list[dict]:
    """Return what a service answers of payments."""
    status, reply = app.predict(json.dumps(requests_of(app, rows)).encode())
    assert status == 200, reply
    return json.loads(reply)["predictions"]


def requests_of(app: App, rows: pl.DataFrame) -> list[dict]:
    sent = rows.select("id", *app.model.columns, at=pl.col("at").dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
    return sent.to_dicts()


def champion_of(at, model: str):
    """Return the champion's estimator and manifest."""
    artifact = at.registry.champion(model).artifact
    return unpack(at.artifacts, artifact).estimator, read_manifest(at.artifacts, artifact)


def last_day(at) -> pl.DataFrame:
    """Return the holdout: the payments of the last day."""
    return at.lake.read("dataset/payments").filter(pl.col("at") >= payments.BASE.replace(day=5)).sort("at")


def test_the_gate_the_batch_the_service_and_the_monitor_judge_and_give_the_same_predictions(world) -> None:
    at, run, trained = world
    rows = last_day(at)
    judged = metadata(trained, "model/frauds")["recall"]
    assert judged > 0.5
    run("predictions/frauds_daily", partitions="2024-05-05")
    batch = at.lake.read("predictions/frauds_daily").sort("at")
    assert recall_score(rows["fraud"], batch["prediction"]) == judged
    assert recall_score(rows["fraud"], batch["probability"] > 0.5) < judged / 2
    with answering(at, "frauds_api", "frauds") as app:
        assert [answer["prediction"] for answer in ask(app, rows)] == batch["prediction"].to_list()
        alone = [ask(app, rows[i])[0]["prediction"] for i in range(0, rows.height, 20)]
    assert alone == batch["prediction"].to_list()[::20]
    run("predictions/frauds_api", partitions="2024-05-05")
    served = at.lake.read("predictions/frauds_api").sort("at", "id")
    assert served["probability_of"].unique().to_list() == ["True"]
    assert served["probabilities"].struct.field("True").equals(served["probability"], check_names=False)
    assert set(served.select("id", "prediction").rows()) == set(batch.select("id", "prediction").rows())
    assert metadata(run("performance_report/frauds_watch", partitions="2024-05-05"), "performance_report/frauds_watch")["recall"] == judged


def test_the_probe_stores_predictions_and_probabilities_and_both_are_compared(world) -> None:
    at, _, _ = world
    estimator, manifest = champion_of(at, "frauds")
    probe = pl.read_ipc(at.artifacts.get(manifest["probe"]))
    assert manifest["probe_labels"] == estimator.predict(probe).tolist()
    assert manifest["probe_labels"] != (estimator.predict_proba(probe)[:, 1] > 0.5).tolist()
    assert "predicts_likeliest" not in manifest
    other = manifest | {"probe_labels": [not label for label in manifest["probe_labels"]]}
    with pytest.raises(ArtifactError, match="predicts differently from when it was stored"):
        unpack(at.artifacts, at.artifacts.put(json.dumps(other).encode()))


def test_a_reproduction_compares_predicted_classes_too(world) -> None:
    at, _, _ = world
    version = at.registry.champion("frauds")
    assert reproduce(at, version, payments.frauds.function.function).verdict == "IDENTICAL"
    same = {"data": {}, "predictions": [[0.4, 0.6], [0.9, 0.1]], "metrics": {"recall": 1.0}}
    found = compare_trainings(same | {"labels": [True, False]}, same | {"labels": [True, True]})
    assert (found.verdict, found.first.field, found.first.was, found.first.now) == ("DIFFERENT", "labels.row 1 of the probe", False, True)
