"""Each file of a home, damaged in each way, under each command: a message that names the file and ends in a hint, never a traceback."""

import contextlib
import io
import json
import os
import shutil
import sqlite3
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import pytest

from mlops_assets.cli.main import main
from mlops_assets.orchestrate.compiler import build
from mlops_assets.serving.http.service_folder import ServiceFolder, ServiceSpec, WorkerStatus, write_json
from mlops_assets.serving.http.service_processes import make_label
from tests.commands import run_mlops
from tests.conftest import ROOT, clean_environment

SERVICE = "arrival_api"
SINGLES = [
    "lake/catalog.sqlite",
    "lake/data/_mlops/partitions/*.parquet",
    "registry.sqlite",
    "dagster/history/runs.db",
    "dagster/history/runs/index.db",
    "dagster/schedules/schedules.db",
    "layouts/*/*.arrow",
]
LEAVES = [
    "lake/data/dataset/positions/*.parquet",
    "artifacts/sha256/*/*",
    "online/data.mdb",
    "layouts/*/state.json",
    f"services/{SERVICE}/spec.json",
    f"services/{SERVICE}/wanted.json",
    f"services/{SERVICE}/supervisor.json",
    f"services/{SERVICE}/workers/0.json",
]


class Answer(NamedTuple):
    """What a command did."""

    code: int
    output: str
    errors: str


def flip(data: bytes) -> bytes:
    """Change one byte in the middle, of a Parquet file one among its rows, of a database half a page."""
    middle = len(data) // 2
    begin, size = (middle // 4096 * 4096, 2048) if data.startswith(b"SQLite") else (40, 1) if data.startswith(b"PAR1") else (middle, 1)
    return data[:begin] + bytes(byte ^ 0x11 for byte in data[begin : begin + size]) + data[begin + size :]


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    path.unlink()  # the copy shares some files with the home that it was made of
    if how != "deleted":
        path.write_bytes({"flipped": flip(data), "truncated": data[: len(data) // 2], "emptied": b""}[how])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A project that was run, with the files of a service that was stopped."""
    folder = tmp_path_factory.mktemp("prepared") / "project"
    folder.mkdir()
    shutil.copy(ROOT / "tests/projects/damaged.py", folder / "definitions.py")
    home = folder / ".mlops"
    done = run_mlops(["run", "--select", 'not key:"service/*"'], cwd=folder, env=clean_environment(home, PYTHONWARNINGS="ignore"))
    assert done.returncode == 0, done.stdout + done.stderr
    for database in (*home.rglob("*.sqlite"), *home.rglob("*.db")):
        with contextlib.closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return folder


def stopped_service(home: Path) -> None:
    """Leave behind what a service does that was stopped."""
    stores = {name: str(home / name) for name in ("artifacts", "online")}
    spec = ServiceSpec(SERVICE, "arrival", str(home), f"sqlite:///{home / 'registry.sqlite'}", **stores)
    folder = ServiceFolder.locate(str(home), SERVICE)
    write_json(folder.spec, asdict(spec))
    write_json(folder.wanted, {"state": "stopped"})
    write_json(folder.supervisor, {"pid": 999_999, "started": 1.5, "folder": make_label(folder.path), "url": None, "problem": ""})
    write_json(folder.worker(0), asdict(WorkerStatus(0, 999_998, 1.5, folder=make_label(folder.path))))


def link_or_copy(source: str, target: str) -> None:
    os.link(source, target) if "/extensions/" in source else shutil.copy2(source, target)


@pytest.fixture
def folder(prepared, tmp_path, monkeypatch) -> Path:
    """A copy of the project, in which commands run."""
    copy = shutil.copytree(prepared, tmp_path / "project", copy_function=link_or_copy)
    for name in [name for name in os.environ if name.startswith(("MLOPS_", "DAGSTER_", "DBT_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLOPS_HOME", str(copy / ".mlops"))
    monkeypatch.setenv("DAGSTER_HOME", str(copy / ".mlops" / "dagster"))
    monkeypatch.setattr(build, "_COMPILED", [])
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setitem(sys.modules, "definitions", None)
    monkeypatch.chdir(copy)
    stopped_service(copy / ".mlops")
    return copy


def mlops(*arguments: str) -> Answer:
    """Run a command in this process; an error that it does not explain is raised."""
    build._COMPILED.clear()
    sys.argv = ["mlops", *arguments]
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Answer(code, output.getvalue(), errors.getvalue())


def failures() -> list[dict[str, str]]:
    """Return what the doctor finds; each failure says what to do."""
    answer = mlops("doctor", "--json", "-")
    found = [row for row in json.loads(answer.output) if row["state"] == "failure"]
    assert all(row["advice"] for row in found), found
    assert answer.code == (1 if found else 0)
    return found


def refuses_by_name(answer: Answer, name: str) -> bool:
    """Whether a command worked, or named the file and said what to do."""
    return not answer.errors or (name in answer.errors and "\nHint: " in answer.errors)


COMMANDS = [
    ("status",),
    ("serve", "status", "--json", "-"),
    ("models", "list"),
    ("run", "--select", 'key:"dataset/positions"'),
    ("serve", "stop", SERVICE),
]


def test_a_sound_home_has_no_failure_and_every_command_works(folder) -> None:
    assert failures() == []
    assert [(answer.code, answer.errors) for answer in (mlops(*command) for command in COMMANDS)] == [(0, "")] * len(COMMANDS)


@pytest.mark.parametrize("how", ["flipped", "truncated", "emptied", "deleted"])
@pytest.mark.parametrize("file", SINGLES)
def test_a_damaged_file_is_named_by_every_command_that_needs_it(folder, file, how) -> None:
    path = min((folder / ".mlops").glob(file))
    damage(path, how)
    named = [row["text"] for row in failures() if path.name in row["text"]]
    assert named, f"the doctor does not name {path.name}: {failures()}"
    for command in COMMANDS:
        answer = mlops(*command)
        assert refuses_by_name(answer, path.name), (command, answer)


@pytest.mark.parametrize("how", ["flipped", "truncated", "emptied", "deleted"])
def test_many_damaged_files_are_named_at_once(folder, how) -> None:
    paths = [path for file in LEAVES for path in (folder / ".mlops").glob(file)]
    spared = {"flipped": {"data.mdb"}, "deleted": {"spec.json", "supervisor.json", "0.json", "state.json"}}.get(how, set())
    if how == "deleted":  # what a manifest names is not known without it
        with contextlib.closing(sqlite3.connect(folder / ".mlops/registry.sqlite")) as connection:
            spared |= {name for (name,) in connection.execute("SELECT artifact FROM mlops_versions")}
    for path in paths:
        if path.name not in spared:  # LMDB has no checksums; nothing is lost with the others
            damage(path, how)
    texts = " ".join(row["text"] for row in failures())
    named = {path.name for path in paths if path.name in texts or f"'{path.parent}'" in texts}
    assert {path.name for path in paths} - named - spared == set()
    for command in COMMANDS:
        answer = mlops(*command)
        assert not answer.errors or "\nHint: " in answer.errors, (command, answer)
        if command[:2] == ("serve", "status"):
            assert (answer.code, "wanted.json" in answer.output) == (1, True)
