"""A hint names the supervisor's log only when something is written there."""

import subprocess

import pytest

from mlops_assets.errors import ServiceError
from mlops_assets.serving.http import control
from mlops_assets.serving.http.service_folder import ServiceFolder
from tests.serving.support import Stage


@pytest.mark.parametrize("said", ["", "Traceback: no such module\n"])
def test_a_supervisor_that_does_not_start_is_explained_by_what_is_known(tmp_path, monkeypatch, said) -> None:
    spec = Stage(tmp_path / "home").spec()
    spec.folder.path.mkdir(parents=True)

    def end(command: list[str], *, stderr, **_) -> subprocess.CompletedProcess:
        stderr.write(said.encode())
        return subprocess.CompletedProcess(command, -9, stdout=b"")

    monkeypatch.setattr(control.subprocess, "run", end)
    with pytest.raises(ServiceError, match="did not start") as info:
        control._start_supervisor(spec, spec.folder, 0.0)
    assert ("supervisor.log" in info.value.hint) is bool(said)
    assert ("ended with code -9 and wrote nothing" in info.value.hint) is not bool(said)


def test_a_version_that_does_not_load_is_not_explained_by_an_empty_log(tmp_path) -> None:
    folder = ServiceFolder(tmp_path)
    assert control._rollback_hint(folder) == "to return to the previous version: mlops models rollback"
    folder.output.write_text("")
    assert "supervisor.log" not in control._rollback_hint(folder)
    folder.output.write_text("worker 0: killed")
    assert control._rollback_hint(folder).startswith(f"{folder.output} has details; to return to the previous version")
