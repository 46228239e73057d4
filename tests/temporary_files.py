"""The temporary folder of a test session: it lies in pytest's own, everything that the session starts uses it, and it goes with the session."""

import os
import shutil
import tempfile
from contextlib import suppress
from multiprocessing import util
from pathlib import Path

import pytest

FOLDER = "temporary"
_session = pytest.StashKey[Path]()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):  # a worker inherits the folder, as all other processes do
        folder = session.config._tmp_path_factory.mktemp(FOLDER, numbered=False)
        session.config.stash[_session] = folder
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish() -> None:
    util._run_finalizers()  # multiprocessing deletes its folder at exit, and fails when pytest has deleted it


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    folder = config.stash.get(_session, None)
    if folder is None:
        return
    if any(folder.glob("mlops_assets-llm-*/server.json")):  # it would wait for its next client
        from mlops_assets.serving.llm.embedded import stop_server

        stop_server()
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # the folders of failed tests are kept, and those of other sessions
        folder.parents[1].rmdir()
