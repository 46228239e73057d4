"""A session of tests leaves nothing in the temporary folders of the machine."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests import temporary_files
from tests.conftest import ROOT

MAX_SOCKET = 107  # bytes in the path of a Unix socket
WHERE = "import tempfile; print(tempfile.gettempdir(), end='')"
OPTIONS = ("-p", "xdist", "-p", "tests.temporary_files", "-p", "no:cacheprovider")
LEAVES = """
import subprocess, sys, tempfile
from pathlib import Path

def test_leaves_a_folder_and_so_does_its_process(tmp_path):
    (Path(tempfile.mkdtemp()) / "file").touch()
    subprocess.run([sys.executable, "-c", "import tempfile; tempfile.mkdtemp()"], check=True)
    (tmp_path / "kept").touch()
    assert {passes}
"""


def test_a_test_and_whatever_it_starts_use_the_folder_of_the_session(tmp_path_factory) -> None:
    folder = Path(tempfile.gettempdir())
    base = tmp_path_factory.getbasetemp()
    assert folder.name == temporary_files.FOLDER
    assert folder.parent in (base, base.parent)  # a worker has a part of the session's
    new = subprocess.run([sys.executable, "-c", WHERE], check=True, capture_output=True, text=True).stdout
    assert new == str(folder)
    assert len(f"{folder}/mlops-dbt-12345678/listener-12345678") < MAX_SOCKET


@pytest.mark.parametrize(("passes", "workers", "kept"), [(True, "2", []), (False, "0", ["kept"])])
def test_a_session_leaves_only_the_folders_of_tests_that_failed(passes, workers, kept, tmp_path) -> None:
    (tmp_path / "test_it.py").write_text(LEAVES.format(passes=passes))
    (tmp_path / "pytest.ini").write_text("[pytest]\ntmp_path_retention_policy = failed\n")
    roots = [tmp_path / "temporary", tmp_path / "memory"]
    for root in roots:
        root.mkdir()
    line = [sys.executable, "-m", "pytest", "-q", "-n", workers, *OPTIONS, str(tmp_path)]
    environment = os.environ | {"TMPDIR": str(roots[0]), "PYTEST_DEBUG_TEMPROOT": str(roots[1]), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(line, cwd=ROOT, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == (not passes), done.stdout + done.stderr
    left = [path for root in roots for path in root.rglob("*") if path.is_file() and path.name != ".lock"]
    assert [path.name for path in left] == kept
    assert not passes or not any(path for root in roots for path in root.iterdir())
