"""Sensors and schedules of an instance are never lost silently: their database is missing only in a new home."""

import shutil
from pathlib import Path

import dagster as dg
import pytest

from mlops_assets.errors import InstallationError
from mlops_assets.orchestrate.core.dagster_files import find_lost_schedules, open_instance
from mlops_assets.orchestrate.upkeep.doctor_files import check_dagster_files
from mlops_assets.values.platform import Platform


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """The folder of an instance that has no run."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    open_instance(Platform.at(tmp_path)).dispose()
    return tmp_path / "dagster"


@pytest.fixture
def used(home) -> Path:
    """The folder of an instance that has one run."""

    @dg.op
    def nothing() -> None:
        pass

    with open_instance(Platform.at(home.parent)) as instance:
        assert dg.GraphDefinition("once", node_defs=[nothing]).to_job().execute_in_process(instance=instance).success
    return home


def test_a_deleted_folder_of_schedules_is_refused_and_the_doctor_creates_it_again(used) -> None:
    platform = Platform.at(used.parent)
    assert [found.state for found in check_dagster_files(platform)] == ["ok"]
    shutil.rmtree(used / "schedules")
    lost = f"the Dagster database '{used / 'schedules/schedules.db'}' is missing or empty, but the event logs of 1 run(s) remain"
    with pytest.raises(InstallationError) as raised:
        open_instance(platform)
    assert raised.value.message.startswith(lost)
    assert "`mlops doctor --fix`" in raised.value.hint
    (found,) = check_dagster_files(platform)
    assert found.state == "failure"
    assert found.text.startswith(lost)
    assert found.fix() == "began again with the default states of sensors and schedules"
    assert [found.state for found in check_dagster_files(platform)] == ["ok"]
    open_instance(platform).dispose()


def test_a_new_home_has_no_schedules_to_lose(home) -> None:
    shutil.rmtree(home / "schedules")
    assert find_lost_schedules(home) == ""
    open_instance(Platform.at(home.parent)).dispose()


@pytest.mark.parametrize("config", ["{base_dir: elsewhere}", "{base_dir: {env: ELSEWHERE}}"])
def test_schedules_in_another_storage_are_not_missed(used, config) -> None:
    shutil.rmtree(used / "schedules")
    storage = f"{{module: dagster._core.storage.schedules, class: SqliteScheduleStorage, config: {config}}}"
    (used / "dagster.yaml").write_text(f"schedule_storage: {storage}\n")
    assert find_lost_schedules(used) == ""
