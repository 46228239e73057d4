"""What a person does to a version, from the command line."""

import json
from pathlib import Path

import dagster as dg
import pytest

from mlops_assets.orchestrate.core.steps import asset_key
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
    refused = mlops(two, "run", "--select", 'key:"champion/benign_champion"')
    assert refused.returncode == 1
    assert "was rolled back, and is not promoted automatically" in refused.stdout
    assert "version 2" in good(mlops(two, "models", "promote", "benign", "--version", "2", "--reason", "false alarm"))
    log = json.loads(good(mlops(two, "models", "history", "benign", "--json", "-")))
    assert [(e["kind"], e["version"], e["reason"]) for e in log[:2]] == [("promotion", 2, "false alarm"), ("rollback", 1, "complaints")]
    with dg.DagsterInstance.from_config(str(two / ".mlops" / "dagster")) as instance:
        shown = instance.get_latest_materialization_event(asset_key("champion/benign")).asset_materialization
    assert shown.metadata["version"].value == 2


def test_an_approval_is_recorded_with_its_name(two) -> None:
    assert "approved by grace" in good(mlops(two, "models", "approve", "benign", "1", "--approver", "grace", "--reason", "checked"))
    assert "rejected by grace" in good(mlops(two, "models", "reject", "benign", "1", "--approver", "grace", "--reason", "no"))


def test_each_version_has_a_card_of_its_own(two) -> None:
    first, second, newest = (good(mlops(two, "models", "card", f"benign{which}")) for which in ("@1", "@2", ""))
    assert second == newest != first
    assert first.startswith("# benign, version 1\n")
    assert "mlops reproduce benign@2" in second
    assert "wrote " in good(mlops(two, "models", "card", "benign@1", "--html", "card.html"))
    assert (two / "card.html").read_text().startswith("<!doctype html>")
    files = {row["file"]: row["bytes"] for row in json.loads(good(mlops(two, "models", "show", "benign@1", "--json", "-")))["files"]}
    assert files["card.html"] == (two / "card.html").stat().st_size
    assert files["card.md"] == len(first.encode())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("models", "rollback", "bening", "--reason", "x"), "did you mean 'benign'"),
        (("models", "promote", "benign", "--version", "9", "--reason", "x"), "no version 9"),
        (("models", "card", "bening@1"), "did you mean 'benign'"),
        (("models", "card", "benign@9"), "no version 9"),
        (("models", "approve", "benign", "1", "--approver", " ", "--reason", "x"), "needs a name and a reason"),
        (("serve", "start", "api"), "there is no service 'api'"),
        (("predict", "api", "--rows", "data.csv"), "there is no service 'api'"),
        (("monitor", "show", "watch"), "there is no monitor 'watch'"),
        (("monitor", "step", "watch"), "there is no monitor 'watch'"),
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


def flipped(two: Path, part: str, version: int) -> Path:
    """Flip one bit of what a version stores, and return the file."""
    shown = json.loads(good(mlops(two, "models", "show", f"benign@{version}", "--json", "-")))
    sha256 = next(row["sha256"] for row in shown["files"] if row["file"] == part)
    (file,) = (two / ".mlops" / "artifacts").rglob(sha256)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.chmod(0o644)
    file.write_bytes(bytes(data))
    return file


def test_show_prints_state_evidence_files_and_libraries(two) -> None:
    shown = json.loads(good(mlops(two, "models", "show", "benign@2", "--json", "-")))
    assert shown["benign@2"]["state"] == "champion"
    gate = shown["evidence"][0]
    assert (gate["gate"], gate["passed"]) == ("roc_auc_at_least", True)
    assert {row["file"] for row in shown["files"]} >= {"manifest", "estimator", "probe"}
    assert all(row["comparison"] == "same" for row in shown["libraries"])
    assert shown["training"]["run"]
    assert "roc_auc" in good(mlops(two, "models", "show", "benign"))
    assert "no version 9" in mlops(two, "models", "show", "benign@9").stderr


def test_a_challenger_is_set_refused_and_withdrawn(two) -> None:
    good(mlops(two, "models", "approve", "benign", "1", "--approver", "grace", "--reason", "again"))
    assert "challenger of benign: version 1" in good(
        mlops(two, "models", "challenge", "benign", "--version", "1", "--expected", "none", "--reason", "shadow")
    )
    lost = mlops(two, "models", "challenge", "benign", "--version", "1", "--expected", "7", "--reason", "x")
    assert lost.returncode == 0  # it is so already
    lost = mlops(two, "models", "promote", "benign", "--version", "1", "--expected", "1", "--reason", "x")
    assert lost.returncode == 1
    assert "is version 2, but version 1 was expected" in lost.stderr
    assert "has no challenger; version 1 is archived" in good(mlops(two, "models", "withdraw", "benign", "--reason", "slow"))
    log = json.loads(good(mlops(two, "models", "history", "benign", "--json", "-")))
    assert [(e["alias"], e["kind"]) for e in log[:2]] == [("challenger", "withdrawal"), ("challenger", "challenge")]


def test_a_flipped_bit_is_refused_before_anything_is_opened_and_the_champion_stays(two) -> None:
    file = flipped(two, "estimator", 1)
    refused = mlops(two, "models", "rollback", "benign", "--reason", "x")
    assert refused.returncode == 1
    assert "version 1 of 'benign' is damaged: estimator: artifact" in refused.stderr
    listed = {row["version"]: row["state"] for row in json.loads(good(mlops(two, "models", "list", "benign", "--json", "-")))}
    assert listed[2] == "champion"
    assert listed[1].startswith("damaged: estimator: artifact")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    listed = {row["version"]: row["state"] for row in json.loads(good(mlops(two, "models", "list", "benign", "--json", "-")))}
    assert listed[1] == "archived"  # restored
    shown = json.loads(good(mlops(two, "models", "show", "benign@1", "--json", "-")))
    assert [row["mark"] for row in shown["marks"]] == ["damaged", "restored"]


def test_status_reports_a_damaged_champion(two) -> None:
    flipped(two, "estimator", 2)
    told = json.loads(good(mlops(two, "status", "--json", "-")))
    assert next(row["state"] for row in told["versions"] if row["version"] == 2).startswith("damaged: estimator")
    assert "champion" in next(row["aliases"] for row in told["versions"] if row["version"] == 2)
