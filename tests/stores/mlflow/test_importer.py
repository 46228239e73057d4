"""An MLflow experiment and registry, made by MLflow's own client on a real server, come here whole and once, and nothing in them is opened."""

import math
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mlops_assets as ml
from mlops_assets.errors import RegistryError
from mlops_assets.serving.bridges.mlflow_mirror import mirror
from mlops_assets.stores.mlflow.client import connect
from mlops_assets.stores.mlflow.importer import VERSION, ImportCounts, import_from
from mlops_assets.stores.mlflow.names import MAX_NAME, from_mlflow_experiment, from_mlflow_key, from_mlflow_path, to_mlflow_key
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.stores.tracker.values import EXPERIMENT, check_name, check_path
from tests.mlflow_server import mlflow_server


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as uri:
        yield uri


class Trap:
    """Tells when it is unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path(self.path),))


def filled(flow, name: str, folder: Path) -> tuple[str, str]:
    """Make an experiment with a parent, a child, a run that goes on, and a registered model; return parent and child."""
    from mlflow.entities import Metric, Param

    experiment = flow.create_experiment(name)
    parent = flow.create_run(experiment, run_name="parent", tags={"team": "x", "größe": "L"}, start_time=1_700_000_000_000).info.run_id
    child = flow.create_run(experiment, run_name="child", tags={"mlflow.parentRunId": parent}, start_time=1_700_000_000_001).info.run_id
    flow.create_run(experiment, run_name="going", start_time=1_700_000_000_002)
    values = [0.5, math.nan, math.inf, -math.inf, 0.25]
    loss = [Metric("loss", value, 1_700_000_000_000 + step, step) for step, value in enumerate(values)]
    flow.log_batch(parent, metrics=[*loss, Metric("größe", 1.0, 1, 0), Metric("n" * 250, 2.0, 1, 0)], params=[Param("depth", "3")])
    trap = Trap()
    trap.path = str(folder / "opened")
    model = folder / "model.pkl"
    model.write_bytes(pickle.dumps(trap))
    flow.log_artifact(parent, str(model), "model")
    flow.set_terminated(parent, "FINISHED", end_time=1_700_000_060_000)
    flow.set_terminated(child, "FAILED", end_time=1_700_000_060_000)
    registered = name.replace("/", "-")
    flow.create_registered_model(registered)
    source = f"{flow.get_run(parent).info.artifact_uri}/model"
    flow.create_model_version(registered, source, run_id=parent, tags={"stage": "old"})
    flow.set_registered_model_alias(registered, "champion", "1")
    return parent, child


def test_an_experiment_and_its_registry_come_whole_and_once(server, platform, tmp_path) -> None:
    with connect(server) as flow:
        parent, child = filled(flow, "/Users/ada/churn", tmp_path)
    assert import_from(open_stores(platform), server) == ImportCounts(runs=2, versions=1, known=0, running=1)
    tracker, name = open_stores(platform).tracker, from_mlflow_experiment("/Users/ada/churn")
    run = tracker.get(parent)
    assert (run.model, run.name, run.status, run.started_at.timestamp()) == (name, "parent", "finished", 1_700_000_000)
    assert (run.params, run.tags["team"], run.tags[from_mlflow_key("größe")]) == ({"depth": "3"}, "x", "L")
    assert (run.metrics[from_mlflow_key("größe")], run.metrics[from_mlflow_key("n" * 250)]) == (1.0, 2.0)
    assert run.record["mlflow"]["names"][from_mlflow_key("größe")] == "größe"
    curve = tracker.curves(parent)["loss"]
    assert list(map(repr, curve.values.tolist())) == ["0.5", "nan", "inf", "-inf", "0.25"]
    assert (curve.steps.tolist(), curve.times.tolist()[0]) == ([0, 1, 2, 3, 4], 1_700_000_000_000_000)
    assert (tracker.get(child).parent_id, tracker.get(child).status) == (parent, "failed")
    (version,) = tracker.search(f"kind = '{VERSION}'")
    assert (version.record["mlflow"]["version"], version.parent_id, version.tags["mlflow.alias.champion"]) == ("1", parent, "1")
    bytes_ = (tmp_path / "model.pkl").read_bytes()
    for of in (parent, version.id):
        (stored,) = [one for one in tracker.artifacts(of) if one.name.endswith("model.pkl")]
        assert open_stores(platform).artifacts.get(stored.sha256) == bytes_
    assert not (tmp_path / "opened").exists()
    assert open_stores(platform).registry.versions() == []
    assert import_from(open_stores(platform), server) == ImportCounts(runs=0, versions=0, known=3, running=1)
    assert import_from(open_stores(platform), server, running=True) == ImportCounts(runs=1, versions=0, known=3, running=0)
    assert mirror(open_stores(platform), server).runs == 0


def test_mirrored_runs_are_not_imported_and_a_missing_name_is_reported(server, platform) -> None:
    with ml.start_run("ours", platform=platform):
        ml.runs.log_metric("x", 1)
    mirror(open_stores(platform), server)
    other = ml.Platform.at(Path(platform.home) / "other")
    assert import_from(open_stores(other), server, ["ours"]) == ImportCounts()
    with pytest.raises(RegistryError, match="there is no experiment 'our' at http") as told:
        import_from(open_stores(other), server, ["our"])
    assert "did you mean 'ours'?" in told.value.hint


def test_an_import_that_failed_between_a_run_and_its_values_continues(server, platform, tmp_path, monkeypatch) -> None:
    from mlops_assets.stores.tracker.tracker import SqlTracker

    with connect(server) as flow:
        parent, _ = filled(flow, "half", tmp_path)

    def full(*_args, **_more):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
        patched.setattr(SqlTracker, "write_batch", full)
        import_from(open_stores(platform), server, ["half"])
    assert open_stores(platform).tracker.get(parent).status == "running"
    assert import_from(open_stores(platform), server, ["half"]) == ImportCounts(runs=2, versions=1, known=0, running=1)
    assert open_stores(platform).tracker.get(parent).params == {"depth": "3"}


@given(st.text(min_size=1, max_size=300), st.text(min_size=1, max_size=300))
def test_any_name_is_brought_across_and_two_stay_two(one, other) -> None:
    for made, checked in (
        (from_mlflow_key, lambda name: check_name(name, "a metric")),
        (from_mlflow_path, check_path),
        (from_mlflow_experiment, lambda name: EXPERIMENT.fullmatch(name).group()),
    ):
        assert checked(made(one)) == made(one)
        assert (made(one) == made(other)) is (one == other)
    assert len(to_mlflow_key(one)) <= MAX_NAME
    assert (to_mlflow_key(one) == to_mlflow_key(other)) is (one == other)
