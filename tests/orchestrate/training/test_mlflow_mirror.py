"""A training waits for MLflow no longer than is stated, and never fails for it."""

import logging
import socket
from dataclasses import replace
from types import SimpleNamespace

import pytest

import mlops_assets as ml
from mlops_assets.orchestrate.training.mlflow_mirror import mirror_to_mlflow
from mlops_assets.stores.platform.stores import open_stores
from tests.redis_server import free_port


def told(platform: ml.Platform, caplog) -> str:
    mirror_to_mlflow(SimpleNamespace(stores=open_stores(platform), context=SimpleNamespace(log=logging.getLogger("training"))))
    return caplog.text


@pytest.fixture
def trained(platform) -> ml.Platform:
    with ml.start_run("x", platform=platform):
        ml.runs.log_metric("a", 1)
    return platform


def test_nothing_happens_without_an_address(trained, caplog) -> None:
    assert told(trained, caplog) == ""


def test_a_server_that_is_down_is_a_warning(trained, caplog) -> None:
    down = replace(trained, mlflow=f"http://someone:secret@127.0.0.1:{free_port()}")
    assert "the next mirror catches up" in told(down, caplog)
    assert "secret" not in caplog.text


def test_a_server_that_never_answers_is_abandoned(trained, caplog, monkeypatch) -> None:
    monkeypatch.setenv("MLOPS_MLFLOW_SECONDS", "3")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hung = replace(trained, mlflow=f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "it took longer than 3 s; the next mirror catches up" in told(hung, caplog)
