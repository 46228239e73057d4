"""Processes that are killed between recording and sending, and two daemons at once, lose no alert and send none twice."""

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import mlops_assets as ml
from mlops_assets.stores.registry.alerts import CLAIM_TIME
from tests.commands import WARM_START
from tests.conftest import ROOT, clean_environment, open_dagster
from tests.orchestrate.monitoring.channel_servers import HookServer, serve
from tests.orchestrate.monitoring.test_alerts import DAYS, Alerting

SUBJECT = "dataset/visits:key"
TURNS = """
import os, signal, sys
from pathlib import Path
import mlops_assets as ml
from mlops_assets.orchestrate.monitoring import alerts
from mlops_assets.stores.registry.alerts import AlertStore
from tests.conftest import open_dagster
from tests.orchestrate.monitoring.test_alerts import Alerting

folder, url, point, turns = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])

def die(*_arguments, **_options):
    os.kill(os.getpid(), signal.SIGKILL)

if point == "after recording":
    AlertStore.claim = die
elif point == "after claiming":
    alerts.send_alerts = die
elif point == "after sending":
    AlertStore.record_delivery = die
elif point == "before recording":
    AlertStore._add_deliveries = die
with open_dagster(folder / "dagster") as instance:
    project = Alerting(folder, instance, ml.monitoring.Alerts(ml.monitoring.Webhook(url)))
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(turns):
        project.turn(1 / 60)
"""


@pytest.fixture
def hook() -> Iterator[HookServer]:
    with serve(HookServer()) as server:
        yield server


@pytest.fixture
def project(tmp_path: Path, hook) -> Iterator[Alerting]:
    with open_dagster(tmp_path / "dagster") as instance:
        made = Alerting(tmp_path, instance, ml.monitoring.Alerts(ml.monitoring.Webhook(hook.url)))
        made.turn()
        yield made


def start(folder: Path, hook: HookServer, point: str, turns: int = 1) -> subprocess.Popen:
    """Start a process that takes turns of the sensor when a line arrives."""
    command = [sys.executable, "-W", "ignore", "-c", TURNS, str(folder), hook.url, point, str(turns)]
    environment = clean_environment(folder / "home", PYTHONPATH=f"{ROOT}:{WARM_START}")
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("point", "sent", "wait"),
    [("before recording", 0, 0), ("after recording", 0, 0), ("after claiming", 0, CLAIM_TIME), ("after sending", 1, CLAIM_TIME)],
)
def test_a_killed_process_loses_no_alert(tmp_path, hook, project, point, sent, wait) -> None:
    project.check("2024-01-01", passed=False)
    killed = start(tmp_path, hook, point)
    killed.communicate("go\n")
    assert killed.returncode == -signal.SIGKILL
    assert len(hook.received) == sent
    for minutes in (wait / 60, 1, 1):
        project.turn(minutes)
    # A message that was confirmed in the moment of the kill is sent again with the same identity.
    assert {alert["id"] for body in hook.received for alert in body["alerts"]} == {"1-1"}
    assert len({body["delivery"] for body in hook.received}) == 1
    assert len(hook.received) == sent + 1
    assert [delivery.state for delivery in project.stores.alerts.deliveries()] == ["sent"]
    project.check("2024-01-01", passed=True)
    project.turn(1)
    assert hook.kinds[-1] == [("resolved", SUBJECT)]


def test_two_daemons_send_each_alert_once(tmp_path, hook, project) -> None:
    daemons = [start(tmp_path, hook, "never", turns=60) for _ in range(2)]
    for daemon in daemons:
        assert daemon.stdout.readline() == "ready\n"
    for daemon in daemons:
        daemon.stdin.write("go\n")
        daemon.stdin.flush()
    for day in DAYS.get_partition_keys()[:20]:
        for passed in (False, True):
            project.check(day, passed=passed)
    assert [daemon.wait(300) for daemon in daemons] == [0, 0]
    for daemon in daemons:
        daemon.stdin.close()
        daemon.stdout.close()
    project.now = project.now.replace(hour=13)
    project.turn()
    project.turn()
    counts = Counter(alert["id"] for body in hook.received for alert in body["alerts"])
    assert set(counts.values()) == {1}
    assert hook.kinds[-1][-1] == ("resolved", SUBJECT)
    assert project.stores.alerts.episodes(only_open=True) == ()
    assert {delivery.state for delivery in project.stores.alerts.deliveries()} == {"sent"}
