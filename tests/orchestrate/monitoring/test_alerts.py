"""Alerts reach a webhook, once each; a webhook that is down is tried again."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import dagster as dg
import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.orchestrate.monitoring.alerts import CHECKS, FAILURES
from tests.conftest import Runner


class Hook(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.status, answer = 200, self.server.status
        if answer == 200:
            self.server.told.append(json.loads(body))
            self.server.status, self.server.once = 503 if self.server.once else 200, False
        self.send_response(answer)
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def hook():
    server = HTTPServer(("127.0.0.1", 0), Hook)
    server.told, server.status, server.once = [], 200, False
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


BAD = {"rows": False}


@ml.dataset(key="id")
def numbers() -> pl.DataFrame:
    return pl.DataFrame({"id": [1, 1] if BAD["rows"] else [1, 2]})


@pytest.fixture
def project(hook, tmp_path, instance) -> Runner:
    BAD["rows"] = False
    platform = ml.Platform.from_env({"MLOPS_HOME": str(tmp_path / "home"), "MLOPS_WEBHOOK": f"http://127.0.0.1:{hook.server_port}/alerts"})
    return Runner(ml.build_definitions([numbers], platform=platform), instance)


def tick(project: Runner, cursor: str | None) -> str:
    sensor = next(s for s in project.definitions.sensors if s.name == CHECKS)
    with dg.build_sensor_context(
        instance=project.instance, cursor=cursor, repository_def=project.definitions.get_repository_def()
    ) as context:
        sensor(context)
        return context.cursor


def test_a_failing_check_alerts_once(project, hook) -> None:
    cursor = tick(project, None)
    project("dataset/numbers")
    cursor = tick(project, cursor)
    assert hook.told == []
    BAD["rows"] = True
    project("dataset/numbers", ok=False)
    hook.status = 500
    with pytest.raises(OSError, match="500"):
        tick(project, cursor)
    cursor = tick(project, cursor)
    assert [(t["kind"], t["asset"], t["check"], t["severity"]) for t in hook.told] == [("check_failure", "dataset/numbers", "key", "ERROR")]
    assert "the key {'id': 1} is on 2 rows" in hook.told[0]["text"]
    tick(project, cursor)
    assert len(hook.told) == 1


def test_a_webhook_that_fails_in_the_middle_receives_the_rest_and_nothing_twice(hook, tmp_path, instance) -> None:
    @ml.dataset(key="id")
    def others() -> pl.DataFrame:
        return pl.DataFrame({"id": [1, 1] if BAD["rows"] else [1, 2]})

    platform = ml.Platform.from_env({"MLOPS_HOME": str(tmp_path / "home"), "MLOPS_WEBHOOK": f"http://127.0.0.1:{hook.server_port}/alerts"})
    two = Runner(ml.build_definitions([numbers, others], platform=platform), instance)
    BAD["rows"] = False
    cursor = tick(two, None)
    BAD["rows"] = True
    for key in ("dataset/numbers", "dataset/others"):
        two(key, ok=False)
    hook.once = True
    cursor = tick(two, cursor)
    assert [t["asset"] for t in hook.told] == ["dataset/numbers"]
    cursor = tick(two, cursor)
    tick(two, cursor)
    assert [t["asset"] for t in hook.told] == ["dataset/numbers", "dataset/others"]


def test_a_failing_run_alerts(project, hook) -> None:
    BAD["rows"] = True
    failed = project("dataset/numbers", ok=False)
    sensor = next(s for s in project.definitions.sensors if s.name == FAILURES)
    event = next(e for e in failed.all_events if e.event_type is dg.DagsterEventType.RUN_FAILURE)
    context = dg.build_run_status_sensor_context(FAILURES, event, project.instance, failed.dagster_run).for_run_failure()
    sensor(context)
    assert (hook.told[0]["kind"], hook.told[0]["run"]) == ("run_failure", failed.run_id)


def test_without_a_webhook_there_are_no_alert_sensors(platform) -> None:
    names = {s.name for s in ml.build_definitions([numbers], platform=platform).sensors}
    assert names & {CHECKS, FAILURES} == set()
