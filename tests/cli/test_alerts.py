"""mlops alerts: a failed check is sent, listed with the command that acts, silenced, and a dead channel is named."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import run_mlops
from tests.conftest import ROOT, clean_environment
from tests.orchestrate.monitoring.channel_servers import HookServer, serve
from tests.projects import meters

CHECK = "dataset/readings:no_quarantined_rows"


@pytest.fixture
def hook() -> Iterator[HookServer]:
    with serve(HookServer()) as server:
        yield server


@pytest.fixture
def mlops(tmp_path, hook):
    meters.World().write(tmp_path / "world.json")
    home = tmp_path / "home"
    environment = clean_environment(home, METERS_WORLD=str(tmp_path / "world.json"), MLOPS_WEBHOOK=hook.url)

    def call(*arguments: str) -> subprocess.CompletedProcess:
        return run_mlops([*arguments, "-f", "tests/projects/meters.py"], cwd=ROOT, env=environment)

    return call


def spoil(folder: Path) -> None:
    world = meters.World()
    world.spoil(2, 7, meter="west")
    world.write(folder / "world.json")


def test_a_failed_check_is_sent_listed_and_resolved(mlops, hook, tmp_path) -> None:
    assert mlops("alerts", "list").stdout == "no alerts\n"
    assert mlops("alerts", "send").stdout == "no new alert\n"
    spoil(tmp_path)
    assert mlops("run", "--partitions", "2024-01-01...2024-01-04").returncode == 0
    sent = mlops("alerts", "send")
    assert sent.stdout.startswith("1 opened; sent to webhook 127.0.0.1"), sent.stdout + sent.stderr
    (alert,) = hook.received[0]["alerts"]
    assert (alert["subject"], alert["severity"], alert["command"]) == (CHECK, "WARN", "mlops quarantine show readings")
    (row,) = json.loads(mlops("alerts", "list", "--open", "--json", "-").stdout)["alerts"]
    assert (row["alert"], row["state"], row["partitions"]) == (CHECK, "open", "2024-01-01...2024-01-04")
    meters.World().write(tmp_path / "world.json")
    assert mlops("quarantine", "replay", "readings").returncode == 0
    mlops("alerts", "send")
    assert hook.kinds == [[("opened", CHECK)], [("resolved", CHECK)]]
    assert "no alerts" in mlops("alerts", "list", "--open").stdout


def test_a_check_is_silenced_with_a_reason_and_heard_again(mlops, hook, tmp_path) -> None:
    mlops("alerts", "send")
    done = mlops("alerts", "silence", "dataset/readings:*", "--until", "2999-01-01T08:00", "--reason", "a meter is replaced")
    assert done.stdout.startswith("dataset/readings:* is silent until 2999-01-01T08:00"), done.stderr
    spoil(tmp_path)
    mlops("run", "--partitions", "2024-01-01...2024-01-04")
    assert mlops("alerts", "send").stdout == "no new alert\n"
    (row,) = json.loads(mlops("alerts", "list", "--json", "-").stdout)["silences"]
    assert (row["check"], row["reason"]) == ("dataset/readings:*", "a meter is replaced")
    assert mlops("alerts", "unsilence", "dataset/readings:*").returncode == 0
    assert mlops("alerts", "send").stdout.startswith("1 opened")
    again = mlops("alerts", "unsilence", "dataset/readings:*")
    assert (again.returncode, "is not silent" in again.stderr) == (1, True)


def test_an_alert_is_closed_by_a_person_and_a_later_failure_opens_another(mlops, hook, tmp_path) -> None:
    mlops("alerts", "send")
    for sent in (1, 2):
        spoil(tmp_path)
        assert mlops("run", "--partitions", "2024-01-01...2024-01-04").returncode == 0
        mlops("alerts", "send")
        assert hook.kinds == [[("opened", CHECK)]] * sent
        assert mlops("alerts", "close", CHECK).stdout == f"the alert of {CHECK} is closed\n"
        assert mlops("alerts", "list", "--open").stdout == "no alerts\n"
        meters.World().write(tmp_path / "world.json")
        assert mlops("quarantine", "replay", "readings").returncode == 0
    assert mlops("alerts", "send").stdout == "no new alert\n"
    refused = mlops("alerts", "close", CHECK)
    assert (refused.returncode, f"there is no open alert of '{CHECK}'" in refused.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("dataset/reading:key", "--until", "2999-01-01"), "there is no check, asset or job 'dataset/reading:key'"),
        (("dataset/readings:*", "--until", "tomorrow"), "--until 'tomorrow' is not a time"),
        (("dataset/readings:*", "--until", "2001-01-01"), "has passed"),
    ],
)
def test_a_silence_that_cannot_work_is_refused(mlops, arguments, problem) -> None:
    refused = mlops("alerts", "silence", *arguments, "--reason", "none")
    assert (refused.returncode, problem in refused.stderr, "Hint:" in refused.stderr) == (1, True, True)


def test_the_test_message_names_the_channel_that_failed(mlops, hook, tmp_path) -> None:
    done = mlops("alerts", "test")
    assert (done.returncode, done.stdout.endswith(": sent\n")) == (0, True)
    assert hook.received[0]["text"].startswith("[dev] WARN: this message is a test")
    hook.status = 500
    failed = mlops("alerts", "test")
    assert (failed.returncode, "failed: HTTP 500" in failed.stdout) == (1, True)
    mlops("alerts", "send")
    spoil(tmp_path)
    mlops("run", "--partitions", "2024-01-01...2024-01-04")
    assert "failed: HTTP 500" in mlops("alerts", "send").stdout
    (channel,) = json.loads(mlops("alerts", "list", "--json", "-").stdout)["failing channels"]
    assert (channel["waiting messages"], channel["attempts"], channel["error"]) == (1, 1, "HTTP 500 Internal Server Error")


def test_a_project_without_channels_says_what_to_declare(tmp_path) -> None:
    meters.World().write(tmp_path / "world.json")
    environment = clean_environment(tmp_path / "home", METERS_WORLD=str(tmp_path / "world.json"))
    refused = run_mlops(["alerts", "test", "-f", "tests/projects/meters.py"], cwd=ROOT, env=environment)
    assert (refused.returncode, "set MLOPS_WEBHOOK" in refused.stderr) == (1, True)
