"""The mirror against a real MLflow server: what is there equals what was recorded, however often and however rudely it is mirrored."""

import json
import math
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

import mlops_assets as ml
from mlops_assets.errors import ArtifactError, InstallationError
from mlops_assets.serving.bridges.mlflow_flavour import export_version
from mlops_assets.serving.bridges.mlflow_mirror import MirrorSummary, mirror
from mlops_assets.serving.formats.packaging import pack, unpack
from mlops_assets.stores.mlflow.client import connect, import_mlflow
from mlops_assets.stores.mlflow.names import to_mlflow_key
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.stores.registry.records import CandidateRecord
from tests.cli.test_cli import good, mlops
from tests.mlflow_server import mlflow_server
from tests.redis_server import free_port

NOW = datetime(2024, 1, 1, tzinfo=UTC)
LONG = "é" * 19_000


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as uri:
        yield uri


def state(uri: str, experiment: str) -> dict:
    """Return all that a server holds of an experiment, in a form that compares."""
    with connect(uri) as flow:
        found = flow.get_experiment_by_name(experiment)
        runs = flow.search_runs([found.experiment_id]) if found else []
        return {
            run.info.run_id: (
                run.info.status,
                run.info.start_time,
                run.info.end_time,
                sorted(run.data.params.items()),
                sorted(run.data.tags.items()),
                {k: [(m.step, m.timestamp, repr(m.value)) for m in flow.get_metric_history(run.info.run_id, k)] for k in run.data.metrics},
                sorted(f.path for f in flow.list_artifacts(run.info.run_id)),
            )
            for run in runs
        }


def logged(platform: ml.Platform, experiment: str) -> str:
    """Record one run with everything that MLflow finds hard, and a child."""
    with ml.start_run(experiment, name="outer", params={"depth": 3, "long": LONG}, tags={"team": "x"}, platform=platform) as outer:
        ml.runs.log_params({"a<b": 1, "a>b": 2, "x//y": 3, "p" * 200: 4})
        for step, value in enumerate((0.5, math.nan, math.inf, -math.inf, 0.25)):
            ml.runs.log_metric("loss", value, step=step)
        for step in range(1200):
            ml.runs.log_metric("many", step / 7, step=step)
        ml.runs.log_artifact("notes/read me.txt", b"hello")
        with ml.start_run(experiment, name="inner", platform=platform):
            ml.runs.log_metric("auc", 0.7)
    return outer.id


def registered(platform: ml.Platform, model: str, seed: int = 0) -> pl.DataFrame:
    """Register a version of a real estimator, make it champion, and return rows."""
    there, draws = open_stores(platform), np.random.default_rng(seed)
    X = pl.DataFrame({"a": draws.normal(size=200), "b": draws.integers(0, 9, 200), "c": draws.normal(size=200).astype("float32")})
    estimator = LogisticRegression().fit(X, (X["a"] + X["b"] > 4).to_numpy())
    artifact = pack(there.artifacts, estimator, X=X, modules=[], facts={"model": model, "libraries": {"scikit-learn": "1.9"}})
    with ml.start_run(model, platform=platform) as run:
        ml.runs.log_metric("roc_auc", 0.9)
    there.registry.submit(CandidateRecord(model, f"{model}-{seed}", run.id, artifact, 1, NOW), ())
    version = there.registry.register(model, {})
    there.registry.promote(model, {}, actor="ada", reason="better", version=version.version)
    return X


def test_runs_arrive_whole_and_once(server, platform) -> None:
    outer = logged(platform, "hard")
    assert mirror(open_stores(platform), server) == MirrorSummary(runs=2, versions=0, aliases=0, waiting=0)
    before = state(server, "hard")
    with connect(server) as flow:
        runs = {run.info.run_name: run for run in flow.search_runs([flow.get_experiment_by_name("hard").experiment_id])}
        above, below = runs["outer"], runs["inner"]
        assert (above.data.tags["mlops_assets.run_id"], above.data.tags["team"]) == (outer, "x")
        assert below.data.tags["mlflow.parentRunId"] == above.info.run_id
        assert (above.info.status, above.data.params["depth"], len(above.data.params["long"])) == ("FINISHED", "3", 6000)
        assert [above.data.params[to_mlflow_key(name)] for name in ("a<b", "a>b", "x//y", "p" * 200)] == ["1", "2", "3", "4"]
        values = [m.value for m in sorted(flow.get_metric_history(above.info.run_id, "loss"), key=lambda m: m.step)]
        assert [math.isnan(values[1]), values[2] > 1e308, values[3] < -1e308] == [True] * 3
        assert (values[0], values[4]) == (0.5, 0.25)
        many = sorted((m.step, m.value) for m in flow.get_metric_history(above.info.run_id, "many"))
        assert many == [(step, step / 7) for step in range(1200)]
        whole = json.loads(Path(flow.download_artifacts(above.info.run_id, "mlops_assets/run.json")).read_text())
        assert whole["params"]["long"] == LONG
        assert Path(flow.download_artifacts(above.info.run_id, "notes/read me.txt")).read_bytes() == b"hello"
    assert mirror(open_stores(platform), server) == MirrorSummary(0, 0, 0, 0)
    assert state(server, "hard") == before


def test_a_deleted_or_foreign_experiment_is_left_alone(server, platform) -> None:
    with connect(server) as flow:
        flow.delete_experiment(flow.create_experiment("gone"))
        flow.create_experiment("theirs")
        for name in ("gone", "theirs"):
            with ml.start_run(name, platform=platform):
                ml.runs.log_metric("x", 1)
        assert mirror(open_stores(platform), server).runs == 2
        assert flow.get_experiment_by_name("gone").lifecycle_stage == "deleted"
    assert [len(state(server, f"{name}-mlops_assets-2")) for name in ("gone", "theirs")] == [1, 1]
    assert state(server, "theirs") == {}
    assert mirror(open_stores(platform), server).runs == 0


def test_a_killed_mirror_continues(server, platform) -> None:
    logged(platform, "killed")
    code = (
        "import os, signal, sys\n"
        "from mlops_assets.values.platform import Platform\n"
        "from mlops_assets.stores.platform.stores import open_stores\n"
        "from mlops_assets.stores.mlflow.client import import_mlflow\n"
        "from mlops_assets.serving.bridges.mlflow_mirror import mirror\n"
        "with import_mlflow() as mlflow:\n"
        "    sent, log = [0], mlflow.MlflowClient.log_batch\n"
        "    def dies(self, *args, **more):\n"
        "        log(self, *args, **more)\n"
        "        sent[0] += 1\n"
        "        if sent[0] == int(sys.argv[3]): os.kill(os.getpid(), signal.SIGKILL)\n"
        "    mlflow.MlflowClient.log_batch = dies\n"
        "mirror(open_stores(Platform.at(sys.argv[1])), sys.argv[2])\n"
    )
    for at in (1, 3):
        done = subprocess.run([sys.executable, "-c", code, platform.home, server, str(at)], capture_output=True, text=True)
        assert done.returncode == -9, done.stderr
    half = state(server, "killed")
    assert len(half) == 1
    assert "mlops_assets.mirrored" not in dict(half.popitem()[1][4])
    assert mirror(open_stores(platform), server).runs == 2
    assert mirror(open_stores(platform), server).runs == 0
    whole = {dict(tags)["mlflow.runName"]: curves for _, _, _, _, tags, curves, _ in state(server, "killed").values()}
    assert sorted(whole) == ["inner", "outer"]
    assert (len(whole["outer"]["many"]), len(whole["outer"]["loss"])) == (1200, 5)


def test_versions_load_from_the_registry_of_mlflow_and_predict_the_same(server, platform) -> None:
    rows = registered(platform, "churn")
    assert mirror(open_stores(platform), server) == MirrorSummary(runs=1, versions=1, aliases=1, waiting=0)
    registered(platform, "churn", seed=1)
    assert mirror(open_stores(platform), server) == MirrorSummary(runs=1, versions=1, aliases=1, waiting=0)
    assert mirror(open_stores(platform), server) == MirrorSummary(0, 0, 0, 0)
    with connect(server) as flow, import_mlflow() as mlflow:
        assert flow.get_model_version_by_alias("churn", "champion").version in ("2", 2)
        mlflow.set_tracking_uri(server)
        loaded = mlflow.pyfunc.load_model("models:/churn/1")
        ours = unpack(open_stores(platform).artifacts, open_stores(platform).registry.versions("churn")[0].artifact).estimator
        assert loaded.predict(rows.to_pandas()).tolist() == ours.predict(rows).tolist()
    open_stores(platform).registry.rollback("churn", actor="ada", reason="alarms")
    assert mirror(open_stores(platform), server) == MirrorSummary(0, 0, 1, 0)


def test_a_registered_model_of_another_project_keeps_its_champion(server, platform) -> None:
    with connect(server) as flow:
        flow.create_registered_model("shared")
        flow.create_model_version("shared", "s3://bucket/model")
        flow.set_registered_model_alias("shared", "champion", "1")
        registered(platform, "shared")
        mirror(open_stores(platform), server)
        assert len(flow.search_model_versions("name = 'shared'")) == 1
        assert dict(flow.get_registered_model("shared-mlops_assets-2").aliases) == {"champion": "1"}


def test_an_exported_version_predicts_the_same_and_refuses_changed_bytes(platform, tmp_path) -> None:
    rows = registered(platform, "plain")
    version = open_stores(platform).registry.champion("plain")
    ours = unpack(open_stores(platform).artifacts, version.artifact).estimator
    folder = export_version(open_stores(platform).artifacts, version, tmp_path / "model")
    with import_mlflow() as mlflow:
        loaded = mlflow.pyfunc.load_model(str(folder))
        shuffled = rows.to_pandas()[["c", "b", "a"]].assign(other=1)
        assert loaded.predict(shuffled).tolist() == ours.predict(rows).tolist()
        proba = loaded.predict(rows.to_pandas(), params={"predict_method": "predict_proba"})
        assert np.array_equal(proba, ours.predict_proba(rows))
        with pytest.raises(mlflow.exceptions.MlflowException, match="missing inputs"):
            loaded.predict(pd.DataFrame({"a": [1.0]}))
    assert not list(folder.rglob("*.pkl"))
    with pytest.raises(ArtifactError, match="is not empty"):
        export_version(open_stores(platform).artifacts, version, folder)
    estimator = json.loads(open_stores(platform).artifacts.get(version.artifact))["estimator"]
    (path,) = folder.rglob(estimator)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with import_mlflow() as mlflow, pytest.raises(ArtifactError, match="was changed after it was stored"):
        mlflow.pyfunc.load_model(str(folder))


def test_a_server_that_is_down_is_reported(platform) -> None:
    with ml.start_run("x", platform=platform):
        ml.runs.log_metric("a", 1)
    with pytest.raises(InstallationError, match=r"the MLflow server at http://127.0.0.1:\d+ failed"):
        mirror(open_stores(platform), f"http://someone:secret@127.0.0.1:{free_port()}")
    with pytest.raises(InstallationError, match="give the address"):
        mirror(open_stores(platform), "sqlite:///x")


def test_a_training_mirrors_itself_and_the_commands_mirror_and_import(server, tmp_path) -> None:
    there = {"MLOPS_MLFLOW": server, "MLOPS_MLFLOW_SECONDS": "120"}
    good(mlops(tmp_path, "init", "growths"))
    folder = tmp_path / "growths"
    file = folder / "definitions.py"
    file.write_text(
        file.read_text()
        .replace("benign(", "growth(")
        .replace("model=benign", "model=growth")
        .replace("examples, benign,", "examples, growth,")
    )
    good(mlops(folder, "run", "--select", 'not key:"predictions/*"', **there))
    with connect(server) as flow:
        (run,) = flow.search_runs([flow.get_experiment_by_name("growth").experiment_id])
        assert run.info.status == "FINISHED"
        assert run.data.metrics["roc_auc"] > 0.9
        held = flow.get_model_version_by_alias("growth", "champion")
        assert held.run_id == run.info.run_id
        other = flow.create_experiment("brought")
        flow.log_metric(flow.create_run(other).info.run_id, "loss", 0.25)
        (made,) = flow.search_runs([other])
        flow.set_terminated(made.info.run_id)
    assert "mirrored 0 runs, 0 versions, 0 aliases" in good(mlops(folder, "mlflow", "mirror", **there))
    assert "imported 1 runs and 0 versions" in good(mlops(folder, "mlflow", "import", "--experiment", "brought", **there))
    listed = json.loads(good(mlops(folder, "runs", "list", "--where", "experiment = 'brought'", "--json", "-")))
    assert len(listed) == 1
    unnamed = mlops(folder, "mlflow", "mirror")
    assert (unnamed.returncode, "no MLflow server is configured\nHint: set MLOPS_MLFLOW" in unnamed.stderr) == (1, True)
