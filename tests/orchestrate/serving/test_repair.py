"""A service that is not as it is wanted is repaired, once for each event, and not for ever; a stopped one stays stopped."""

import json
import signal
from pathlib import Path

import dagster as dg
import psutil
import pytest

from mlops_assets.orchestrate.serving.repair import SENSOR
from mlops_assets.serving.http import control
from tests.orchestrate.retraining.test_decisions import SERVICE, Shop
from tests.projects import shop


@pytest.fixture
def world(tmp_path, instance, monkeypatch):
    monkeypatch.setenv("SHOP_WORLD", "")
    found = Shop(tmp_path, instance)
    yield found
    assert not control.stop(found.platform.home, SERVICE).running


def tick(world: Shop):
    sensor = next(s for s in world.definitions.sensors if s.name == SENSOR)
    with dg.build_sensor_context(instance=world.instance) as context:
        return sensor(context)


def test_a_killed_supervisor_is_repaired_and_a_stopped_service_is_not(world) -> None:
    assert "shop_api was never started" in tick(world).skip_message
    world.train(5)
    world.serve()
    assert "2 workers answer with version 1" in tick(world).skip_message
    file = Path(world.platform.home) / "services" / SERVICE / "supervisor.json"
    dead = psutil.Process(json.loads(file.read_text())["pid"])
    family = [dead, *dead.children(recursive=True)]
    dead.send_signal(signal.SIGKILL)
    psutil.wait_procs(family, timeout=60)
    (request,) = tick(world).run_requests
    assert tick(world).run_requests[0].run_key == request.run_key
    assert [key.to_user_string() for key in request.asset_selection] == [f"service/{SERVICE}"]
    world.run(f"service/{SERVICE}")
    assert "2 workers answer with version 1" in tick(world).skip_message
    control.stop(world.platform.home, SERVICE)
    assert "shop_api is stopped" in tick(world).skip_message
    job = world.definitions.resolve_job_def("retrain_buyer")
    assert job.execute_in_process(instance=world.instance, tags={"dagster/schedule_name": "retrain_buyer_schedule"}).success
    assert not world.status.running  # a person stopped it; a person starts it
    assert shop.shop_api.key == f"service/{SERVICE}"
