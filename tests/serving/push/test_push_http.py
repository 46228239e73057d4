"""Rows over HTTP: the same rules as from Python, and refusals that repeat nothing of what was sent."""

import json
from dataclasses import replace
from datetime import date, timedelta

import pandera.polars as pa
import pytest

import mlops_assets as ml
from mlops_assets.serving.http.app import App
from mlops_assets.serving.http.control import start, stop
from mlops_assets.serving.http.metrics import Metrics
from mlops_assets.serving.http.service_folder import RequestLimits
from mlops_assets.serving.logs.inference_log import InferenceLog
from mlops_assets.serving.logs.push_log import read_pushed_rows
from mlops_assets.serving.push.endpoint import PushEndpoint
from mlops_assets.serving.push.spec import PushSpec, find_push_log_folder, list_push_specs
from mlops_assets.stores.online.opening import open_online
from mlops_assets.stores.online.protocol import Lookup
from tests.projects import stream
from tests.serving.http.test_app import call
from tests.serving.support import Client, Stage

LIMITS = RequestLimits(max_rows=3, max_bytes=5_000)
ROW = {"ship": "a", "at": "2024-03-01T01:00:00Z", "heard_at": "2024-03-01T03:00:00+02:00", "speed": 5.5, "port": "x"}


@pytest.fixture
def project(tmp_path) -> stream.Project:
    return stream.Project(ml.Platform.at(tmp_path / "home"))


@pytest.fixture
def app(tmp_path, project):
    log, at = InferenceLog(tmp_path / "log"), project.platform
    gate = PushEndpoint(list_push_specs([project.fixes]), at.home, at.online, LIMITS)
    yield App(log=log, metrics=Metrics(tmp_path / "metrics", 0), limits=LIMITS, versions=dict, push_endpoint=gate)
    log.close()


def post(app, body, view: str = "fixes") -> tuple[int, dict]:
    status, _, reply = call(app, "POST", f"/features/{view}", body if isinstance(body, bytes) else json.dumps(body).encode())
    return status, json.loads(reply)


def speed(project, ship: str = "a", hours: float = 1) -> object:
    at = round((stream.BASE + timedelta(hours=hours)).timestamp() * 1_000_000)
    return open_online(project.platform.online).reader([Lookup("fixes", ("speed", "port"))]).lookup_one([(ship,)], at)[0].values


def test_rows_are_online_and_logged_when_the_reply_comes(app, project) -> None:
    status, reply = post(app, [ROW, ROW | {"ship": "b", "speed": None, "port": None}])
    assert (status, reply["rows"], reply["repeated"]) == (200, 2, False)
    assert (speed(project), speed(project, "b")) == ((5.5, "x"), (None, None))
    assert speed(project, hours=0.9) == (None, None)
    status, reply = post(app, {name: ROW[name] for name in ("ship", "at")} | {"speed": 7, "ship": "c"})  # what may be null may be left out
    assert (status, reply["rows"]) == (200, 1)
    types = dict(PushSpec.from_source(project.source, [project.fixes]).types)
    pushed = read_pushed_rows(find_push_log_folder(project.platform.home, "positions"), date(2024, 3, 1), date(2024, 3, 1), types)
    assert pushed["ship"].to_list() == ["a", "b", "c"]
    assert pushed["speed"].to_list() == [5.5, None, 7.0]
    assert call(app, "GET", "/metrics")[2].count(b"mlops_push_requests_total 2") == 1


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"{", 400, None),
        ({"ship": "secret"}, 422, "at"),
        (ROW | {"speed": "secret"}, 422, "speed"),
        (ROW | {"at": "2024-03-01T01:00:00"}, 422, "at"),
        (ROW | {"secret": 1}, 422, None),
        (ROW | {"speed": 98765}, 422, "speed"),
        (ROW | {"port": "secret"}, 422, "port"),
        (ROW | {"ship": ""}, 422, "ship"),
        (ROW | {"at": "2023-03-01T01:00:00Z"}, 422, "at"),
        ([ROW, ROW], 422, "ship, at, heard_at"),
        ([ROW] * 4, 413, None),
        (b" " * 6_000, 413, None),
    ],
)
def test_refusals_name_the_field_and_repeat_no_value(app, project, body, status, field) -> None:
    found, reply = post(app, body)
    assert (found, reply.get("field")) == (status, field)
    assert reply["hint"]
    assert not {"secret", "98765", "2023"} & set(json.dumps(reply).replace('"', " ").replace("'", " ").split())
    assert "secret" not in json.dumps(reply)
    assert "98765" not in json.dumps(reply)
    assert open_online(project.platform.online).state("fixes") is None


def test_other_views_and_other_methods(app, project) -> None:
    assert post(app, ROW, "nothing")[0] == 404
    assert call(app, "GET", "/features/fixes")[0] == 405
    without = App(log=app._log, metrics=app._metrics, limits=LIMITS, versions=dict)
    assert post(without, ROW)[0] == 404


def test_an_unreachable_store_is_reported_and_the_row_is_in_the_log(app, project) -> None:
    app._push_endpoint._online = "redis://127.0.0.1:1/0"
    status, reply = post(app, ROW)
    assert status == 503
    assert "Idempotency-Key" in reply["hint"]


class Checked(stream.Position):
    @pa.check("ship")
    def short(cls, data):  # noqa: N805
        return data is not None


class Bounded(stream.Position):
    heard_at: stream.Utc = pa.Field(ge=stream.BASE)


@pytest.mark.parametrize("schema", [Checked, Bounded])
def test_a_schema_that_needs_the_project_is_not_offered(tmp_path, schema) -> None:
    source = ml.PushSource("odd", schema=schema, key=("ship", "at"), event_timestamp="at", created_timestamp="heard_at")
    view = ml.FeatureView(
        source=source, entity=ml.Entity("ship"), event_timestamp="at", created_timestamp="heard_at", features={"speed": float}, online=True
    )
    assert list_push_specs([view]) == ()
    assert len(list_push_specs([stream.Project(ml.Platform.at(tmp_path)).fixes])) == 1


def test_a_running_service_takes_rows(tmp_path) -> None:
    stage = Stage(tmp_path / "home")
    stage.add(0)
    stage.promote(1)
    project = stream.Project(replace(stage.platform))
    spec = stage.spec(push=list_push_specs([project.fixes]), workers=1)
    running = start(spec)
    try:
        client = Client(running.url)
        status, reply = client("POST", "/features/fixes", [ROW])
        assert status == 200, reply
        client.connection.request(
            "POST",
            "/features/fixes",
            json.dumps([ROW | {"speed": 9.0}]).encode(),
            {"Content-Type": "application/json", "Idempotency-Key": "k"},
        )
        assert json.loads(client.connection.getresponse().read()) == {"id": "k", "rows": 1, "repeated": False}
        client.connection.request("POST", "/features/fixes", json.dumps([ROW]).encode(), {"Idempotency-Key": "k"})
        assert json.loads(client.connection.getresponse().read()) == {"id": "k", "rows": 0, "repeated": True}
        assert client("POST", "/features/other", [ROW])[0] == 404
        assert start(spec).workers[0].pid == running.workers[0].pid  # the same spec is read back
        client.close()
    finally:
        stop(spec.home, spec.name)
    assert speed(project) == (9.0, "x")
