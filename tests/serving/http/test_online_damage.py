"""A worker whose online store is damaged, deleted or replaced under it answers 503, and lives."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mlops_assets.serving.http.app import App
from mlops_assets.serving.http.metrics import Metrics
from mlops_assets.serving.http.served_model import load_served_model
from mlops_assets.serving.http.service_folder import RequestLimits, TargetVersion
from mlops_assets.serving.logs.inference_log import InferenceLog
from mlops_assets.stores.online.lmdb_check import MappedFile
from tests.serving.http.test_app import predict
from tests.serving.support import Stage, row


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Stage:
    """One version, which looks features up."""
    made = Stage(tmp_path_factory.mktemp("home"))
    made.add(0)
    return made


@pytest.fixture
def store(stage, tmp_path) -> Path:
    """The file of an online store with features of two carriers; a process maps each path once."""
    stage.platform = replace(stage.platform, online=str(tmp_path / "online"))
    stage.features()
    return tmp_path / "online" / "data.mdb"


@pytest.fixture
def app(stage, store, tmp_path):
    """A worker's application, with the store mapped."""
    log = InferenceLog(tmp_path / "log")
    made = App(log=log, metrics=Metrics(tmp_path / "metrics", 0), limits=RequestLimits(), versions=dict)
    wanted = TargetVersion(1, "digest", stage.artifact(1))
    made.model = load_served_model("lateness", wanted, artifacts=stage.artifacts, online=str(store.parent), limits=RequestLimits())
    assert predict(made, [row(0), row(1)])[0] == 200
    yield made
    log.close()


def overwrite(file: Path, data: bytes) -> None:
    """Write within the file that is mapped."""
    with file.open("r+b") as opened:
        opened.write(data)


DAMAGES = {
    "truncated": lambda file: os.truncate(file, 8192),
    "emptied": lambda file: os.truncate(file, 0),
    "zeroed": lambda file: overwrite(file, bytes(file.stat().st_size)),
    "overwritten": lambda file: overwrite(file, b"\x5a" * file.stat().st_size),
    "deleted": lambda file: file.unlink(),
    "replaced": lambda file: shutil.copy(file, file.with_suffix(".new")) and file.with_suffix(".new").replace(file),
}


@pytest.mark.parametrize("rows", [row(0), [row(0), row(1)]], ids=["one row", "two rows"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_store_that_cannot_be_read_any_more_is_a_503(app, store, damage, rows) -> None:
    DAMAGES[damage](store)
    for _ in range(2):
        status, reply = predict(app, rows)
        assert (status, reply["error"]) == (503, "the online store cannot be read")
        assert reply["hint"]


def test_a_store_that_is_restored_in_place_is_read_again(app, store) -> None:
    before = store.read_bytes()
    os.truncate(store, 8192)
    assert predict(app, row(0))[0] == 503
    overwrite(store, before)
    assert predict(app, row(0))[0] == 200


def test_a_store_that_grows_is_read_on(stage, store) -> None:
    file = MappedFile(store.parent)
    os.truncate(store, store.stat().st_size + 4096)
    file.check_unchanged()


def test_a_process_whose_store_was_replaced_asks_to_be_ended(app, store) -> None:
    ended = []
    app.end = lambda: ended.append(True)
    DAMAGES["truncated"](store)
    predict(app, row(0))
    assert not ended
    DAMAGES["replaced"](store)
    assert predict(app, row(0))[0] == 503
    assert ended
