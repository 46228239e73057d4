"""When no one knows whether a service should run, automation leaves it alone and says why."""

import pytest

import mlops_assets as ml
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.serving.repair import find_repair
from mlops_assets.orchestrate.upkeep.doctor import Installation, run_checks
from mlops_assets.serving.http import control
from mlops_assets.serving.http.service_folder import ServiceFolder, write_json
from mlops_assets.values.platform import Platform
from tests.projects import repeatable

SERVICE = ml.Service("buys_api", model=repeatable.buys)


@pytest.fixture
def folder(platform: Platform) -> ServiceFolder:
    """The files of a service of which no file says whether it should run."""
    found = ServiceFolder.locate(platform.home, SERVICE.name)
    write_json(found.wanted, {"state": "stopped"})
    found.wanted.write_text('{"state": "running"}')
    return found


def test_the_sensor_repairs_nothing_and_names_the_file(platform, instance, folder) -> None:
    assert str(find_repair(SERVICE, platform, instance)).startswith(f"buys_api: the state file '{folder.wanted}' is damaged")


def test_an_automatic_step_does_not_start_the_service(platform, instance, folder) -> None:
    definitions = ml.build_definitions([*repeatable.NOUNS, SERVICE], platform=platform)
    job = definitions.resolve_implicit_global_asset_job_def()
    done = job.execute_in_process(instance=instance, asset_selection=[asset_key("service/buys_api")], tags={"dagster/sensor_name": "s"})
    assert done.success
    assert control.status(platform.home, SERVICE.name).wanted == "unknown"
    assert not folder.supervisor.exists()


def test_the_doctor_names_damaged_files_of_services_that_are_not_declared(platform, instance, folder) -> None:
    (found,) = [row for row in run_checks(Installation(platform, [], instance)) if row.check == "services" and row.state == "failure"]
    assert str(folder.wanted) in found.text
    assert "mlops serve start buys_api" in found.advice
