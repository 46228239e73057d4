"""A home that was moved or damaged: commands name the file, and the doctor rebuilds what is derived."""

import json
import shutil
from pathlib import Path

import pytest

from tests.commands import run_mlops
from tests.conftest import ROOT, clean_environment

STATUS, RUN, DOCTOR = ["status"], ["run"], ["doctor", "--json", "-"]


def command(folder: Path, *arguments: str):
    return run_mlops(arguments, cwd=folder, env=clean_environment(folder / ".mlops", PYTHONWARNINGS="ignore"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A project that was run."""
    folder = tmp_path_factory.mktemp("prepared") / "project"
    folder.mkdir()
    shutil.copy(ROOT / "tests/projects/damaged.py", folder / "definitions.py")
    done = command(folder, "run", "--select", 'not key:"service/*"')
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def failures(folder: Path) -> tuple[int, str]:
    done = command(folder, *DOCTOR)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, "\n".join(row["text"] for row in json.loads(done.stdout) if row["state"] == "failure")


def test_a_sound_home_has_no_failure(prepared) -> None:
    assert failures(prepared) == (0, "")


@pytest.mark.parametrize(
    ("gone", "remains"),
    [("lake/catalog.sqlite", "file(s) of rows remain"), ("registry.sqlite", "artifact(s)"), ("dagster/history/runs.db", "event logs")],
)
def test_a_deleted_database_is_refused_while_what_it_named_remains(prepared, tmp_path, gone, remains) -> None:
    folder = tmp_path / "project"
    shutil.copytree(prepared, folder)
    (folder / ".mlops" / gone).unlink()
    code, named = failures(folder)
    assert code == 1
    assert Path(gone).name in named
    done = command(folder, "status")
    assert done.returncode == 1
    assert remains in done.stderr
    assert "Traceback" not in done.stderr


def test_a_moved_project_continues_with_its_own_lake(prepared, tmp_path) -> None:
    shutil.copytree(prepared, tmp_path / "moved")
    for arguments in (STATUS, DOCTOR, [*RUN, "--select", 'not key:"service/*"']):
        done = command(tmp_path / "moved", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_doctor_rebuilds_a_damaged_online_store(prepared, tmp_path) -> None:
    folder = tmp_path / "project"
    shutil.copytree(prepared, folder)
    store = folder / ".mlops/online/data.mdb"
    store.write_bytes(store.read_bytes()[:8192])
    assert failures(folder)[0] == 1
    done = command(folder, "doctor", "--fix")
    assert done.returncode == 0, done.stdout + done.stderr
    assert failures(folder) == (0, "")


@pytest.mark.parametrize(
    ("text", "said"), [("a: [", "dagster.yaml"), ("run_storage:\n  module: not_installed\n  class: X\n", "not_installed")]
)
def test_a_configuration_of_dagster_that_cannot_be_used_is_an_error_with_a_hint(prepared, tmp_path, text, said) -> None:
    folder = tmp_path / "project"
    shutil.copytree(prepared, folder)
    (folder / ".mlops/dagster/dagster.yaml").write_text(text)
    done = command(folder, "status")
    assert done.returncode == 1
    assert said in done.stderr
    assert "Hint:" in done.stderr
    assert "Traceback" not in done.stderr
    assert failures(folder)[0] == 1


def test_a_home_of_dagster_below_the_user_s_folder_is_expanded(prepared, tmp_path) -> None:
    environment = clean_environment(prepared / ".mlops", PYTHONWARNINGS="ignore", HOME=str(tmp_path), DAGSTER_HOME="~/dagster")
    done = run_mlops(["status"], cwd=prepared, env=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "dagster" / "dagster.yaml").exists()
    assert not (prepared / "~").exists()
