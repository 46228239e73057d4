"""What a person does to a version, from the command line."""

import json
from pathlib import Path

import dagster as dg
import pytest

from tests.cli.test_cli import good, mlops


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """A project with two versions, the second one champion."""
    folder = tmp_path_factory.mktemp("people") / "tumours"
    good(mlops(folder.parent, "init", "tumours"))
    good(mlops(folder, "run"))
    file = folder / "definitions.py"
    file.write_text(file.read_text().replace("LogisticRegression()", "LogisticRegression(C=0.5)"))
    good(mlops(folder, "run"))
    return folder


def test_a_rollback_and_a_promotion_leave_their_reasons_and_are_shown(two) -> None:
    assert "champion of benign: version 1" in good(mlops(two, "models", "rollback", "benign", "--reason", "complaints"))
    refused = mlops(two, "run", "--select", 'key:"champion/benign"')
    assert refused.returncode == 1
    assert "was rolled back, and is not promoted by itself" in refused.stdout
    assert "version 2" in good(mlops(two, "models", "promote", "benign", "--version", "2", "--reason", "false alarm"))
    log = json.loads(good(mlops(two, "models", "history", "benign", "--json", "-")))
    assert [(e["kind"], e["version"], e["reason"]) for e in log[:2]] == [("promotion", 2, "false alarm"), ("rollback", 1, "complaints")]
    with dg.DagsterInstance.from_config(str(two / ".mlops" / "dagster")) as instance:
        shown = instance.get_latest_materialization_event(dg.AssetKey(["champion", "benign"])).asset_materialization
    assert shown.metadata["version"].value == 2


def test_an_approval_is_recorded_with_its_name(two) -> None:
    assert "approved by grace" in good(mlops(two, "models", "approve", "benign", "1", "--approver", "grace", "--reason", "checked"))
    assert "rejected by grace" in good(mlops(two, "models", "reject", "benign", "1", "--approver", "grace", "--reason", "no"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("models", "rollback", "bening", "--reason", "x"), "did you mean 'benign'"),
        (("models", "promote", "benign", "--version", "9", "--reason", "x"), "no version 9"),
        (("models", "approve", "benign", "1", "--approver", " ", "--reason", "x"), "needs a name and a reason"),
        (("serve", "start", "api"), "there is no service 'api'"),
        (("predict", "api", "--rows", "data.csv"), "there is no service 'api'"),
        (("monitor", "show", "watch"), "there is no monitor 'watch'"),
    ],
)
def test_what_is_not_there_is_named(two, arguments, words) -> None:
    done = mlops(two, *arguments)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Hint:" in done.stderr


def test_upkeep_keeps_what_versions_need(two) -> None:
    assert "snapshots pinned: " in good(mlops(two, "gc", "--older-than", "0"))
    good(mlops(two, "run"))
