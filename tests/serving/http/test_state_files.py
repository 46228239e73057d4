"""State files of a service that were damaged, deleted or copied: they are named, written again, and no other folder's process is touched."""

import http.client
import os
import shutil
import signal
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from mlops_assets.errors import ServiceError
from mlops_assets.serving.http.control import start, status, stop
from mlops_assets.serving.http.service_folder import ServiceFolder, WorkerStatus, read_json, write_json
from mlops_assets.serving.http.service_processes import make_label
from mlops_assets.serving.http.supervisor import await_orphans
from tests.serving.support import Client, Stage, processes_of, row, wait_for

FILES = ["spec.json", "wanted.json", "supervisor.json", "workers/0.json"]
NAME = "lateness_api"


def flip_digit(data: bytes) -> bytes:
    """Change the last digit: of a number, or of the checksum."""
    at = max(i for i, byte in enumerate(data) if chr(byte).isdigit())
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


DAMAGES = {
    "flipped": flip_digit,
    "truncated": lambda data: data[: len(data) // 2],
    "emptied": lambda _: b"",
    "no text": lambda data: b"\xff\xfe" + data,
    "a list": lambda _: b"[]",
    "by hand": lambda _: b'{"state": "running"}',
}


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Stage:
    """One version, which is the champion."""
    made = Stage(tmp_path_factory.mktemp("home"))
    made.add(0)
    made.promote(1)
    return made


@pytest.fixture
def stopped(stage) -> ServiceFolder:
    """What a service that ran and was stopped leaves behind."""
    folder = stage.spec().folder
    write_json(folder.spec, asdict(stage.spec()))
    write_json(folder.wanted, {"state": "stopped"})
    write_json(
        folder.supervisor, {"pid": 999_999, "started": 1.5, "folder": make_label(folder.path), "url": None, "problem": "", "port": 7}
    )
    write_json(folder.worker(0), asdict(WorkerStatus(0, 999_998, 1.5, folder=make_label(folder.path))))
    assert status(stage.spec().home, NAME).problem == ""
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_state_file_is_named_with_what_to_do_and_stop_removes_or_rewrites_it(stage, stopped, file, damage) -> None:
    path = stopped.path / file
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    found = status(stage.spec().home, NAME)
    assert f"the state file '{path}' is damaged: it is" in found.problem
    assert found.problem.endswith(f"`mlops serve start {NAME}` writes it again, `mlops serve stop {NAME}` removes it")
    assert found.wanted == ("unknown" if file == "wanted.json" else "stopped")
    after = stop(stage.spec().home, NAME)
    assert (after.problem, after.wanted, after.running) == ("", "stopped", False)


@pytest.mark.parametrize("file", FILES)
def test_a_deleted_state_file_of_a_stopped_service_is_no_traceback(stage, stopped, file) -> None:
    (stopped.path / file).unlink()
    found = status(stage.spec().home, NAME)
    missing = f"'{stopped.wanted}' is missing: `mlops serve start {NAME}` or `mlops serve stop {NAME}` writes it again"
    assert (found.problem, found.wanted) == ((missing, "never started") if file == "wanted.json" else ("", "stopped"))
    assert stop(stage.spec().home, NAME).problem == ""


def test_a_folder_in_place_of_a_state_file_is_named(stage, stopped) -> None:
    stopped.spec.unlink()
    stopped.spec.mkdir()
    assert f"'{stopped.spec}' is damaged: it cannot be read (Is a directory)" in status(stage.spec().home, NAME).problem
    assert f"'{stopped.spec}'" in stop(stage.spec().home, NAME).problem
    stopped.spec.rmdir()


def test_what_lies_among_the_workers_files_and_is_none_is_ignored(stage, stopped) -> None:
    (stopped.path / "workers" / "notes.json").write_text("mine")
    assert [w.index for w in status(stage.spec().home, NAME).workers] == [0]


def test_a_file_that_another_version_of_the_program_wrote_is_named(stage, stopped) -> None:
    write_json(stopped.worker(0), {"index": 0, "colour": "red"})
    assert "another version of the program wrote it" in next(str(error) for _, error in stopped.find_damage())
    assert status(stage.spec().home, NAME).workers == ()


def test_a_state_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch) -> None:
    write_json(tmp_path / "spec.json", {"name": "old"})
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(ServiceError, match="cannot be written: No space left on device"):
        write_json(tmp_path / "spec.json", {"name": "new"})
    assert read_json(tmp_path / "spec.json") == {"name": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["spec.json"]


def test_the_champion_of_a_service_that_was_never_started_is_shown(stage, tmp_path) -> None:
    declared = replace(stage.spec(), name="other_api")
    found = status(declared.home, "other_api", declared)
    assert (found.wanted, found.champion, found.problem) == ("never started", 1, "")


# A service that runs.


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    """One running service, for all that is done to its files."""
    made = Stage(tmp_path_factory.mktemp("serving") / "home")
    made.add(0)
    made.promote(1)
    spec = made.spec(workers=1)
    start(spec)
    yield spec
    stop(spec.home, NAME, timeout=5)
    assert processes_of(spec.folder.path) == []


@pytest.mark.parametrize("file", FILES)
def test_a_running_service_writes_its_damaged_or_deleted_state_files_again(serving, file) -> None:
    path, before = serving.folder.path / file, status(serving.home, NAME)
    for damage in (lambda: path.write_bytes(b""), path.unlink):
        contents = read_json(path)
        damage()
        wait_for(lambda: path.exists() and serving.folder.read_or_none(path) is not None)
        assert read_json(path) == contents
    after = status(serving.home, NAME)
    assert (after.running, after.url, after.problem, after.workers[0].pid) == (True, before.url, "", before.workers[0].pid)


def test_a_copied_project_neither_shows_nor_stops_the_processes_of_the_original(serving, tmp_path) -> None:
    copy = shutil.copytree(serving.home, tmp_path / "copy", symlinks=True)
    found = status(str(copy), NAME)
    assert (found.wanted, found.running, found.url, found.workers) == ("running", False, None, ())
    assert found.problem.startswith(f"it runs in '{serving.folder.path}', and this folder is a copy; `mlops serve start {NAME}`")
    await_orphans(ServiceFolder.locate(str(copy), NAME), 10)
    assert stop(str(copy), NAME).wanted == "stopped"
    original = status(serving.home, NAME)
    assert (original.wanted, original.running, len(original.workers), original.problem) == ("running", True, 1, "")


def test_a_running_service_answers_503_while_its_online_store_is_truncated_and_no_worker_dies(serving) -> None:
    store, before = Path(serving.online) / "data.mdb", status(serving.home, NAME)
    client, contents = Client(before.url), store.read_bytes()
    assert client("POST", "/predict", row())[0] == 200
    os.truncate(store, 4096)
    assert client("POST", "/predict", row())[0] == 503
    problem = status(serving.home, NAME).problem
    assert problem.startswith(f"the online store '{store}' is damaged: ")
    assert problem.endswith("mlops doctor --fix")
    with store.open("r+b") as opened:
        opened.write(contents)
    assert client("POST", "/predict", row())[0] == 200
    client.close()
    after = status(serving.home, NAME)
    assert (after.problem, after.workers[0].pid) == ("", before.workers[0].pid)


def test_a_running_service_reads_an_online_store_that_was_rebuilt_without_being_started_again(serving) -> None:
    store, before = Path(serving.online) / "data.mdb", status(serving.home, NAME)
    assert ask_once(before.url) == 200
    contents = store.read_bytes()
    store.unlink()
    assert ask_once(before.url) == 503
    store.write_bytes(contents)
    wait_for(lambda: ask_once(before.url) == 200)
    after = status(serving.home, NAME)
    assert (after.problem, after.url) == ("", before.url)
    assert after.workers[0].pid != before.workers[0].pid


def ask_once(url: str) -> int:
    """Return the status of one request on a connection of its own; 0 when the connection ends without a reply."""
    client = Client(url)
    try:
        return client("POST", "/predict", row())[0]
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        client.close()


def test_a_moved_project_still_stops_its_own_service(serving, tmp_path) -> None:
    members = processes_of(serving.folder.path)
    for member in members:
        member.suspend()  # a state file that it writes now would make the folder again
    moved = Path(serving.home).rename(Path(serving.home).with_name("moved"))
    try:
        assert status(str(moved), NAME).running
    finally:
        moved.rename(serving.home)
        for member in members:
            member.resume()


def test_a_service_is_stopped_although_the_file_that_names_its_supervisor_is_damaged(serving) -> None:
    supervisor = psutil.Process(read_json(serving.folder.supervisor)["pid"])
    supervisor.send_signal(signal.SIGSTOP)  # so that it does not write the file again
    serving.folder.supervisor.write_bytes(b"")
    assert status(serving.home, NAME).running
    found = stop(serving.home, NAME, timeout=1)
    assert (found.running, found.wanted, found.problem) == (False, "stopped", "")
    assert processes_of(serving.folder.path) == []
