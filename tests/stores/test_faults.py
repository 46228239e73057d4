"""A database that somebody else holds, and a disk that is full: nothing half-written, and it goes on afterwards."""

import os
import subprocess
import sys

import pytest

import mlops_assets as ml
from mlops_assets.stores.database.sql import open_database
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.stores.registry.registry import open_registry
from tests.conftest import ROOT
from tests.stores.registry.test_registry import candidate, evidence, passed

HOLDER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
connection.execute("COMMIT")
"""


@pytest.mark.parametrize("seconds", [8, pytest.param(60, marks=pytest.mark.stress)])
def test_writers_wait_for_a_database_that_another_process_has_locked(tmp_path, seconds) -> None:
    there = ml.Platform.at(tmp_path)
    registry, file = open_registry(there.registry), tmp_path / "registry.sqlite"
    passed(registry, "before")
    with ml.start_run("e", platform=there) as run:
        command = [sys.executable, "-c", HOLDER, str(file), str(seconds)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout.readline() == "locked\n"
            assert [v.digest for v in registry.versions()] == ["before"]  # who reads does not wait
            assert holder.poll() is None
            run.log_metric("a", 1)
            run.flush()
            assert holder.wait(60) == 0
        passed(registry, "after")
    tracker = open_stores(there).tracker
    assert (tracker.get(run.id).status, tracker.get(run.id).metrics) == ("finished", {"a": 1.0})
    assert [v.digest for v in registry.versions()] == ["before", "after"]


def test_every_connection_waits_for_more_than_a_minute(tmp_path) -> None:
    """What the short form above cannot show: the long one, which waits for a minute, is `make stress`."""
    opened = open_database(f"sqlite:///{tmp_path / 'r.sqlite'}")
    for looking in (opened.read_transaction, opened.write_transaction, opened.read_transaction):
        with looking() as connection:
            assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() >= 120_000


def test_a_registration_waits_as_well(tmp_path) -> None:
    registry = open_registry(f"sqlite:///{tmp_path / 'r.sqlite'}")
    registry.submit(candidate("a"), [evidence("a")])
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "r.sqlite"), "2"], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "locked\n"
        assert registry.register("m", {}).version == 1
        assert holder.wait(60) == 0


def test_a_full_disk_leaves_whole_runs_and_versions(tmp_path) -> None:
    """A small disk in a mount namespace: of root's, or of a user's. A kernel may give none; a limit on sizes of files then stands for it, in `test_tracker`."""
    mine = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    probe = subprocess.run([*mine, "mount", "-t", "tmpfs", "none", str(tmp_path)], capture_output=True, text=True, check=False)
    if "not permitted" in probe.stderr or "denied" in probe.stderr:
        pytest.skip(f"this kernel gives no small disk: {probe.stderr.strip()}")
    command = [*mine, sys.executable, "-W", "ignore", "-m", "tests.stores.full_disk", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    assert list(tmp_path.iterdir()) == []  # the disk went with its namespace
    registered, artifact, _, version, then = done.stdout.splitlines()
    assert int(registered) > 0
    assert "No space left on device" in artifact
    assert "database or disk is full" in version
    assert then == "Hint: nothing was recorded: free disk space, and run this command again"
