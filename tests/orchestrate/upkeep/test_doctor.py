"""The doctor finds each fault when exactly that fault is planted, and mends what it says that it mends."""

import json
import os
import shutil
import sqlite3
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner

import mlops_assets as ml
from mlops_assets.cli.main import mlops
from mlops_assets.errors import InstallationError
from mlops_assets.orchestrate.compiler import build
from mlops_assets.orchestrate.core.dagster_files import open_instance
from mlops_assets.orchestrate.core.liveness import build_process_tags
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.upkeep import doctor, doctor_machine
from mlops_assets.orchestrate.upkeep.doctor import Installation, run_checks
from mlops_assets.orchestrate.upkeep.doctor_files import check_dagster_files
from mlops_assets.orchestrate.upkeep.doctor_stores import check_database
from mlops_assets.serving.formats.packaging import read_manifest
from mlops_assets.serving.http.service_folder import ServiceStatus, WorkerStatus
from mlops_assets.stores.database import migrations
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.stores.registry.erasures import BEGUN, DONE, open_erasure_log
from mlops_assets.stores.tracker.tracker import Run
from mlops_assets.values.platform import Platform
from tests.conftest import ROOT, Runner
from tests.memory_instance import open_memory_instance
from tests.projects import repeatable
from tests.stores.database.test_migrations import old


@pytest.fixture(scope="module")
def installation(tmp_path_factory):
    platform = Platform.at(tmp_path_factory.mktemp("patient") / "home")
    with open_memory_instance() as instance:
        Runner(ml.build_definitions(repeatable.NOUNS, platform=platform), instance)()
        yield Installation(platform, [Project.from_items([*repeatable.NOUNS, ml.Service("buys_api", model=repeatable.buys)])], instance)


def ill(installation: Installation) -> dict[str, str]:
    """Return what is not well: check → text."""
    return {found.check: found.text for found in run_checks(installation) if found.state != "ok" and found.check != "disk"}


def test_a_healthy_installation_has_nothing(installation) -> None:
    found = list(run_checks(installation))
    assert ill(installation) == {}
    checks = {
        "database",
        "dagster",
        "catalog",
        "records",
        "layouts",
        "online",
        "logs",
        "versions",
        "hashes",
        "runs",
        "lake",
        "erasures",
        "orphans",
        "services",
        "disk",
        "permissions",
        "clock",
        "packages",
    }
    assert {finding.check for finding in found} == checks


def artifact(installation: Installation, what: str) -> Path:
    stores = installation.stores
    name = read_manifest(stores.artifacts, stores.registry.versions()[0].artifact)[what]
    return Path(installation.platform.artifacts) / "sha256" / name[:2] / name


def test_a_version_s_missing_artifact(installation, tmp_path) -> None:
    file = artifact(installation, "estimator")
    shutil.move(file, tmp_path / "aside")
    try:
        assert list(ill(installation)) == ["versions"]
        assert f"buys@1: its estimator {file.name[:12]} is missing" in ill(installation)["versions"]
    finally:
        shutil.move(tmp_path / "aside", file)


def test_a_flipped_bit_in_an_artifact(installation) -> None:
    file = artifact(installation, "probe")
    data = file.read_bytes()
    file.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    try:
        assert list(ill(installation)) == ["hashes"]
        assert file.name in ill(installation)["hashes"]
    finally:
        file.write_bytes(data)


@pytest.mark.parametrize("fault", ["gone", "short"])
def test_a_damaged_file_of_the_lake(installation, fault) -> None:
    file = next(Path(installation.platform.lake).glob("data/dataset/people/*.parquet"))
    data = file.read_bytes()
    file.unlink() if fault == "gone" else file.write_bytes(data[:-1])
    try:
        assert list(ill(installation)) == ["lake"]
        assert ill(installation)["lake"].startswith("dataset/people: its file")
    finally:
        file.write_bytes(data)


def test_orphaned_artifacts_are_counted_and_removed(installation) -> None:
    stores = installation.stores
    name = stores.artifacts.put(b"nobody's")
    assert ill(installation) == {}  # it may be a training's, until it is a day old
    os.utime(Path(installation.platform.artifacts) / "sha256" / name[:2] / name, (0, 0))
    assert ill(installation) == {"orphans": "1 unused artifact(s), 8 bytes, older than a day"}
    fixes = [found.fix for found in run_checks(installation) if found.fix]
    assert [fix() for fix in fixes] == ["removed 1 artifact(s)"]
    assert ill(installation) == {}


def test_a_run_whose_process_is_gone(installation) -> None:
    run = installation.instance.create_run_for_job(
        dg.GraphDefinition("g").to_job(), tags=build_process_tags(os.getpid()) | {"mlops/pid": "999999"}
    )
    installation.instance.add_run_tags(run.run_id, {"mlops/run": run.run_id})
    installation.instance.report_run_canceling(run)
    assert list(ill(installation)) == ["runs"]
    fix = next(found.fix for found in run_checks(installation) if found.check == "runs")
    assert fix() == "marked 1 run(s) as failed"
    assert ill(installation) == {}


@pytest.mark.parametrize("fault", ["problem", "behind"])
def test_a_service_that_is_not_as_it_should_be(installation, fault, monkeypatch) -> None:
    worker = WorkerStatus.__new__(WorkerStatus)
    object.__setattr__(worker, "running", True)
    object.__setattr__(worker, "version", 7)
    told = ServiceStatus("buys_api", "running", True, "http://x", (worker,), 1, "worker 0: out of memory" if fault == "problem" else "")
    monkeypatch.setattr(doctor.control, "status", lambda *_: told)
    wanted = {"problem": "buys_api: worker 0: out of memory", "behind": "buys_api answers with version 7, the champion is 1"}
    assert ill(installation) == {"services": wanted[fault]}


def test_an_erasure_that_was_killed(installation) -> None:
    log = open_erasure_log(installation.platform.registry)
    log.add(BEGUN, actor="ada", reason="r", entity="sha256:12", facts={})
    assert ill(installation) == {"erasures": "the erasure of sha256:12 has not finished"}
    log.add(DONE, actor="ada", reason="r", entity="sha256:12", facts={})
    assert ill(installation) == {}


def test_what_anybody_may_write(installation) -> None:
    file = Path(installation.platform.home) / "registry.sqlite"
    file.chmod(0o666)
    assert ill(installation) == {"permissions": f"registry {file} can be written by every user"}
    fix = next(found.fix for found in run_checks(installation) if found.check == "permissions")
    assert fix() == f"removed the write permission of other users from {file}"
    assert ill(installation) == {}


def test_a_full_disk(installation, monkeypatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(doctor_machine.shutil, "disk_usage", lambda _: usage._replace(free=10 * 2**20))
    found = [finding for finding in run_checks(installation) if finding.check == "disk"]
    assert {finding.state for finding in found} == {"failure"}
    assert found[0].text.startswith("0.0 GiB are free at")


def test_a_package_outside_of_our_range(installation, monkeypatch) -> None:
    known = doctor_machine.installed_distributions()
    monkeypatch.setattr(doctor_machine, "installed_distributions", lambda: known | {"pandas": "3.7"})
    assert ill(installation) == {"packages": "pandas 3.7 is installed, outside of <3.1,>=2.2"}
    monkeypatch.setattr(doctor_machine, "installed_distributions", lambda: {n: v for n, v in known.items() if n != "skops"})
    assert ill(installation) == {"packages": "skops is not installed"}


def test_a_clock_that_was_set_back(platform, instance) -> None:
    stores, later = Stores(platform), datetime.now(UTC) + timedelta(hours=1)
    stores.tracker.add(Run("later", "m", "", "", later, later, None, {}, {}, {}))
    assert list(ill(Installation(platform, [], instance))) == ["clock"]


def test_the_revision_of_the_database(tmp_path) -> None:
    assert [found.text for found in check_database(Platform.at(tmp_path / "none"))] == ["there is none yet: the first run creates it"]
    assert not (tmp_path / "none").exists()  # looking makes nothing
    platform = Platform.at(tmp_path)
    old(tmp_path / "registry.sqlite")
    found = next(check_database(platform))
    assert (found.state, found.text) == ("warning", f"the database has revision 0001, this version of mlops_assets needs {migrations.HEAD}")
    assert found.fix() == f"migrated the database to revision {migrations.HEAD}"
    assert next(check_database(platform)).state == "ok"
    with sqlite3.connect(tmp_path / "registry.sqlite") as connection:
        connection.execute("UPDATE mlops_revision SET version_num = '9999'")
    connection.close()
    with open_memory_instance() as instance:
        assert "revision 9999, but this program knows" in ill(Installation(platform, [], instance))["database"]


def test_a_database_that_is_broken(tmp_path) -> None:
    (tmp_path / "registry.sqlite").write_bytes(b"SQLite format 3\x00" + b"\xff" * 5000)
    found = next(check_database(Platform.at(tmp_path)))
    assert found.state == "failure"
    assert found.text.startswith("the registry's database is damaged")


def test_the_doctor_advises_what_status_advises_for_a_damaged_history(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "")
    platform = Platform.at(tmp_path)
    history = tmp_path / "dagster/history"
    history.mkdir(parents=True)
    (history / "runs.db").write_bytes(b"SQLite format 3\x00" + b"\xff" * 5000)
    (found,) = check_dagster_files(platform)
    assert found.text.startswith(f"the Dagster database '{history / 'runs.db'}' is damaged")
    assert found.advice == f"restore it from a backup; to begin again without the history of runs, move '{history}' away first"
    with pytest.raises(InstallationError) as status:
        open_instance(platform)
    assert status.value.hint == found.advice


def test_the_command_says_it_all_and_fails_when_something_does(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "tests/projects/repeatable.py", tmp_path / "definitions.py")
    monkeypatch.setitem(sys.modules, "definitions", None)
    monkeypatch.setattr(build, "_COMPILED", [])  # of this process so far
    well = CliRunner().invoke(mlops, ["doctor", "--json", "-"])
    rows = json.loads(well.stdout)
    assert (well.exit_code, rows[0]["text"]) == (0, "definitions.py can be imported")
    name = Stores(Platform.from_env()).artifacts.put(b"nobody's")
    os.utime(tmp_path / "home/artifacts/sha256" / name[:2] / name, (0, 0))
    mended = CliRunner().invoke(mlops, ["doctor", "--fix", "--json", "-"])
    assert [row["fixed"] for row in json.loads(mended.stdout) if row["fixable"]] == ["removed 1 artifact(s)"]
    (tmp_path / "definitions.py").write_text("1 / 0")
    broken = CliRunner().invoke(mlops, ["doctor"])
    assert broken.exit_code == 1
    assert "ZeroDivisionError" in broken.stdout
