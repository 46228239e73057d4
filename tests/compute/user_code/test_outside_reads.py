"""Files and variables that a function reads are noted; those of the interpreter, of libraries and of the platform are not."""

import json
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from mlops_assets.compute.user_code.outside_reads import ABSENT, OutsideReads, describe_changes, hash_outside, is_library_file


def recorded(function, *ignored: str) -> dict[str, str]:
    reads = OutsideReads(ignored)
    with reads.recording():
        function()
    return reads.hashes()


def test_files_and_variables_that_are_read_are_noted_with_their_content(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WORK_DEPTH", "3")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.json").write_text("{}")
    (tmp_path / "other.bin").write_bytes(b"x")

    def work() -> None:
        json.loads((tmp_path / "params.json").read_text())
        thread = threading.Thread(target=Path("other.bin").read_bytes)
        thread.start()
        thread.join()
        os.environ.get("WORK_DEPTH")
        os.getenv("WORK_ABSENT")

    found = recorded(work)
    assert set(found) == {"file:params.json", "file:other.bin", "variable:WORK_DEPTH", "variable:WORK_ABSENT"}
    assert found["variable:WORK_ABSENT"] == ABSENT
    assert describe_changes(found) == []
    (tmp_path / "params.json").write_text('{"a": 1}')
    (tmp_path / "other.bin").unlink()
    monkeypatch.setenv("WORK_DEPTH", "4")
    monkeypatch.setenv("WORK_ABSENT", "now there")
    assert describe_changes(found) == [
        "the file 'other.bin' is gone",
        "the file 'params.json' has changed",
        "the environment variable 'WORK_ABSENT' has changed",
        "the environment variable 'WORK_DEPTH' has changed",
    ]


def test_what_libraries_the_system_and_the_platform_read_is_not_noted(tmp_path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "registry").write_text("x")

    def work() -> None:
        from sklearn.datasets import load_iris

        load_iris()
        Path("/etc/hostname").read_bytes()
        (tmp_path / "home" / "registry").read_text()

    assert recorded(work, str(tmp_path / "home") + os.sep) == {}


def test_what_a_function_writes_is_a_result_and_not_an_input(tmp_path) -> None:
    def work() -> None:
        (tmp_path / "cache").write_text("x")
        (tmp_path / "cache").read_text()

    assert recorded(work) == {}


def test_nothing_is_noted_outside_of_a_recording(tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    reads = OutsideReads()
    with reads.recording():
        pass
    (tmp_path / "file").read_text()
    os.environ.get("HOME")
    assert reads.hashes() == {}
    assert os.environ.copy() == dict(os.environ)


def test_a_copy_of_the_whole_environment_is_no_list_of_variables() -> None:
    reads = OutsideReads()
    with reads.recording():
        dict(os.environ)
    assert reads.whole_environment
    assert reads.hashes() == {}


def test_a_file_that_is_gone_has_a_hash_of_its_own(tmp_path) -> None:
    assert hash_outside([f"file:{tmp_path / 'none'}"]) == {f"file:{tmp_path / 'none'}": ABSENT}


@pytest.mark.parametrize("folder", ["/opt/dagster/app", "/usr/src/app", "/usr/local/app", "/srv/app", str(Path(sys.prefix) / "work")])
def test_a_project_in_a_folder_that_containers_use_is_no_library(folder) -> None:
    assert not is_library_file(f"{folder}/params.json")


@pytest.mark.parametrize(
    "file", [os.__file__, np.__file__, sys.executable, "/usr/share/zoneinfo/UTC", "/etc/localtime", "/usr/lib/locale/C.utf8"]
)
def test_files_of_the_interpreter_and_of_the_system_are_of_a_library(file) -> None:
    assert is_library_file(file)
