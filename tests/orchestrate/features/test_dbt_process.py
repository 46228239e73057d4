"""dbt that a person starts takes the lake's lock, however the folder of its profiles is named."""

import sys

import pytest

from mlops_assets.orchestrate.features.dbt_process import LOCK_FILE, find_lock_path, main


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> None:
    for name in ("DBT_PROFILES_DIR", "DBT_ENGINE_PROFILES_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "person"))
    for name in ("work", "other", "person/.dbt", "empty"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        if name != "empty":
            (folder / LOCK_FILE).write_text(str(folder / "lock"))
            (folder / "profiles.yml").write_text("")
    monkeypatch.chdir(tmp_path / "empty")


@pytest.mark.parametrize(
    ("arguments", "variables", "expected"),
    [
        ("build --profiles-dir {0}/work", {}, "work"),
        ("build --profiles-dir={0}/work", {}, "work"),
        ("build --profiles-dir {0}/other --profiles-dir={0}/work --select means", {}, "work"),
        ("build", {"DBT_PROFILES_DIR": "{0}/work"}, "work"),
        ("build", {"DBT_ENGINE_PROFILES_DIR": "{0}/work", "DBT_PROFILES_DIR": "{0}/other"}, "work"),
        ("build", {"DBT_ENGINE_PROFILES_DIR": "", "DBT_PROFILES_DIR": "{0}/work"}, "work"),
        ("build --profiles-dir={0}/work", {"DBT_PROFILES_DIR": "{0}/other"}, "work"),
        ("build --profiles-dir {0}/empty", {"DBT_PROFILES_DIR": "{0}/other"}, None),
        ("build", {}, "person/.dbt"),
    ],
)
def test_the_lock_is_found_in_the_folder_from_which_dbt_reads_its_profiles(tmp_path, monkeypatch, arguments, variables, expected) -> None:
    from dbt.cli.flags import args_to_context

    line = arguments.format(tmp_path).split()
    environment = {name: value.format(tmp_path) for name, value in variables.items()}
    assert find_lock_path(line, environment) == (tmp_path / expected / "lock" if expected else None)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert str(args_to_context(line).params["profiles_dir"]) == str(tmp_path / (expected or "empty"))


def test_profiles_of_the_current_folder_come_before_those_of_the_person(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path / "work")
    assert find_lock_path(["run"], {}) == tmp_path / "work" / "lock"


@pytest.mark.parametrize(("command", "locked"), [("build", True), ("test", True), ("ls", False)])
def test_a_command_that_writes_holds_the_lock(tmp_path, monkeypatch, command, locked) -> None:
    from dbt.cli import main as dbt_main

    held = []

    def run_dbt() -> None:
        held.append((tmp_path / "work" / "lock").exists())

    monkeypatch.setattr(dbt_main, "cli", run_dbt)
    monkeypatch.setattr(sys, "argv", ["mlops-dbt", command, f"--profiles-dir={tmp_path / 'work'}"])
    main()
    assert held == [locked]
