"""The registry decides which code a service runs: other bytes in the artifacts, or in the service's folder, are refused before they run."""

import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from mlops_assets.errors import ArtifactError
from mlops_assets.serving.http.served_model import load_served_model
from mlops_assets.serving.http.service_folder import RequestLimits, TargetVersion, write_json
from mlops_assets.serving.http.supervisor import Supervisor
from tests.serving.support import CLOCK, Stage


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Stage:
    """Two versions with an on-demand module, the first the champion."""
    made = Stage(tmp_path_factory.mktemp("home"))
    made.add(0)
    made.add(1)
    made.promote(1)
    return made


@pytest.fixture
def wanted(stage, monkeypatch) -> TargetVersion:
    """What the supervisor asks its workers for."""
    folder = stage.spec().folder
    folder.path.mkdir(parents=True, exist_ok=True)
    other = {"version": 2, "digest": "digest-1-1", "artifact": stage.artifact(2)}
    write_json(folder.wanted, {"state": "running", **other})
    write_json(folder.supervisor, {"url": None, "refused": None, **other})
    asked: list[TargetVersion] = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        supervisor = Supervisor(folder, stage.spec(), listener)
        monkeypatch.setattr(supervisor._pool, "set_target", asked.append)
        supervisor._poll_champion()
    return asked[0]


def load(stage: Stage, wanted: TargetVersion):
    return load_served_model("lateness", wanted, artifacts=stage.artifacts, online=stage.platform.online, limits=RequestLimits())


def file_of(stage: Stage, sha256: str) -> Path:
    return Path(stage.platform.artifacts) / "sha256" / sha256[:2] / sha256


def hostile(marker: Path) -> str:
    """Return a module that computes the same, and leaves a file where it ran."""
    return f"from pathlib import Path\nPath({str(marker)!r}).touch()\n{CLOCK}"


def test_the_supervisor_takes_the_version_from_the_registry_and_not_from_the_service_s_files(stage, wanted) -> None:
    assert wanted == TargetVersion(1, "digest-0-0", stage.artifact(1))
    assert load(stage, wanted).version == 1


def test_an_on_demand_module_with_other_bytes_than_registered_does_not_run(stage, wanted, tmp_path) -> None:
    module = json.loads(stage.artifacts.get(wanted.artifact))["modules"][0]["source"]
    file, marker = file_of(stage, module), tmp_path / "it ran"
    before = file.read_bytes()
    file.write_text(hostile(marker))
    try:
        with pytest.raises(ArtifactError, match="was changed after it was stored"):
            load(stage, wanted)
    finally:
        file.write_bytes(before)
    assert not marker.exists()


def test_a_manifest_that_names_a_module_which_was_not_registered_is_refused(stage, wanted, tmp_path) -> None:
    marker, file = tmp_path / "it ran", file_of(stage, wanted.artifact)
    before = file.read_bytes()
    manifest = json.loads(before)
    manifest["modules"][0]["source"] = stage.artifacts.put(hostile(marker).encode())
    forged = json.dumps(manifest, sort_keys=True).encode()
    load(stage, replace(wanted, artifact=stage.artifacts.put(forged)))  # named by its digest, it does run
    assert marker.exists()
    marker.unlink()
    file.write_bytes(forged)
    try:
        with pytest.raises(ArtifactError, match="was changed after it was stored"):
            load(stage, wanted)
    finally:
        file.write_bytes(before)
    assert not marker.exists()
