"""The Bento answers as the service does."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import psutil
import pytest

from mlops_assets.errors import MissingExtraError, ServiceError
from mlops_assets.serving.bridges.bento import build_bento
from mlops_assets.serving.http.app import App
from mlops_assets.serving.http.metrics import Metrics
from mlops_assets.serving.http.served_model import load_served_model
from mlops_assets.serving.http.service_folder import RequestLimits, ServiceFolder, TargetVersion
from mlops_assets.serving.logs.inference_log import InferenceLog, read_log
from tests.serving.support import EVENT, Client, Stage, row, wait_for

ROWS = [row(i, wind=None if i % 5 == 0 else i / 3) for i in range(30)]


@pytest.fixture
def stage(tmp_path):
    made = Stage(tmp_path / "home")
    made.add(0)
    made.features()
    return made


def test_without_a_champion_or_without_bentoml_there_is_none(stage, monkeypatch) -> None:
    with pytest.raises(ServiceError, match="has no champion of 'lateness'"):
        build_bento(stage.spec())
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "bentoml" else real(name, *more))
    with pytest.raises(MissingExtraError, match=r"bentoml is not installed\nHint: pip install 'mlops_assets\[bentoml\]'"):
        build_bento(stage.spec())


def test_a_bento_answers_as_the_service_does(stage, tmp_path) -> None:
    stage.promote(1)
    bento = build_bento(stage.spec(workers=1))
    packaged = next(Path(bento.home).glob("bentos/lateness_api/*/src/serving.json")).read_text()
    assert stage.platform.registry not in packaged
    assert Path(bento.home) == stage.spec().folder.path / "bento"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    output = tmp_path / "output"
    environ = {**os.environ, **bento.environment, "MLOPS_HOME": str(tmp_path / "elsewhere"), "PYTHONWARNINGS": "ignore"}
    with output.open("wb") as file:
        process = subprocess.Popen(bento.command(port=port), env=environ, stdout=file, stderr=file, start_new_session=True)
    try:
        client = Client(f"http://127.0.0.1:{port}")

        def ready() -> bool:
            assert process.poll() is None, output.read_text()
            try:
                return client("GET", "/readyz")[0] == 200
            except OSError:
                client.close()
                return False

        wait_for(ready)
        theirs = client.predict(ROWS)
        refused = client("POST", "/predict", row(distance="x"))
        counted = client("GET", "/metrics")[1]
        client.close()
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
    wait_for(lambda: not [p for p in psutil.process_iter() if of_group(p, process.pid)])
    ours = plain_answer(stage, tmp_path)
    assert (theirs["model"], theirs["version"]) == ("lateness", 1)
    for mine, other in zip(ours, theirs["predictions"], strict=True):
        assert {k: v for k, v in mine.items() if k != "id"} == {k: v for k, v in other.items() if k != "id"}
    assert refused[0] == 422
    assert b"mlops_predictions_total 30\n" in counted
    logged = read_log(ServiceFolder.locate(str(tmp_path / "elsewhere"), "lateness_api").log, EVENT.date(), EVENT.date())
    assert logged["id"].sort().to_list() == sorted(p["id"] for p in theirs["predictions"])


def of_group(process: psutil.Process, group: int) -> bool:
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False


def plain_answer(stage: Stage, tmp_path: Path) -> list[dict]:
    log = InferenceLog(tmp_path / "log")
    app = App(log=log, metrics=Metrics(tmp_path / "metrics", 0), limits=RequestLimits(), versions=dict)
    wanted = TargetVersion(1, "d", stage.artifact(1))
    app.model = load_served_model("lateness", wanted, artifacts=stage.artifacts, online=stage.platform.online, limits=RequestLimits())
    status, reply = app.predict(json.dumps(ROWS).encode())
    log.close()
    assert status == 200
    return json.loads(reply)["predictions"]
