"""The ASGI application: replies, refusals, readiness, and one model for each request."""

import asyncio
import json
import os
import subprocess
import sys

import polars as pl
import pytest
from sklearn.linear_model import LinearRegression

from mlops_assets.errors import ArtifactError
from mlops_assets.serving.formats.packaging import pack, unpack
from mlops_assets.serving.http.app import App
from mlops_assets.serving.http.metrics import Metrics
from mlops_assets.serving.http.served_model import load_served_model
from mlops_assets.serving.http.service_folder import RequestLimits, TargetVersion
from mlops_assets.serving.logs.day_log import list_log_days
from mlops_assets.serving.logs.inference_log import InferenceLog, read_log
from mlops_assets.serving.logs.request_log import RequestLog, read_request_file
from mlops_assets.serving.predict.batch import score_rows, select_input
from mlops_assets.serving.predict.predictor import ScoringPath
from tests.serving.support import COLUMNS, EVENT, Stage, facts, offline, row

LIMITS = RequestLimits(max_rows=50, max_bytes=20_000)


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    made = Stage(tmp_path_factory.mktemp("home"))
    made.features()
    made.add(0)
    made.add(1)
    return made


def load(stage: Stage, version: int):
    wanted = TargetVersion(version, "digest", stage.artifact(version))
    return load_served_model("lateness", wanted, artifacts=stage.artifacts, online=stage.platform.online, limits=LIMITS)


@pytest.fixture(scope="module")
def models(stage):
    return {version: load(stage, version) for version in (1, 2)}


@pytest.fixture
def app(tmp_path, models):
    log = InferenceLog(tmp_path / "log")
    made = App(log=log, metrics=Metrics(tmp_path / "metrics", 0), limits=LIMITS, versions=lambda: {0: made.model and made.model.version})
    made.model = models[1]
    made.folder = tmp_path / "log"
    yield made
    log.close()


def call(app, method: str, path: str, *chunks: bytes) -> tuple[int, dict, bytes]:
    messages = [{"type": "http.request", "body": chunk, "more_body": i < len(chunks) - 1} for i, chunk in enumerate(chunks or (b"",))]
    sent: list[dict] = []

    async def receive() -> dict:
        return messages.pop(0)

    async def send(message: dict) -> None:
        sent.append(message)

    asyncio.run(app({"type": "http", "method": method, "path": path, "headers": []}, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


def predict(app, body: object) -> tuple[int, dict]:
    status, headers, data = call(app, "POST", "/predict", body if isinstance(body, bytes) else json.dumps(body).encode())
    assert headers[b"content-length"] == str(len(data)).encode()
    return status, json.loads(data)


def test_a_reply_names_model_version_prediction_probability_and_what_was_missing(app, models) -> None:
    status, reply = predict(app, [row(0, flight="x"), row(1), row(2)])
    assert (status, reply["model"], reply["version"]) == (200, "lateness", 1)
    assert [p["missing"] for p in reply["predictions"]] == [[], ["late_share"], ["late_share", "mean_delay"]]
    assert [p["prediction"] for p in reply["predictions"]] == [p["probability"] > 0.5 for p in reply["predictions"]]
    assert len({p["id"] for p in reply["predictions"]}) == 3
    logged = read_log(app.folder, EVENT.date(), EVENT.date())
    assert logged["id"].to_list() == sorted(p["id"] for p in reply["predictions"])
    assert logged["x"].to_list()[0] == {"late_share": 0.25, "mean_delay": 7.0, "hour": 12, "carrier": "AA", "distance": 100, "wind": None}
    assert logged["key"].to_list() == [{"flight": "x"}, {"flight": None}, {"flight": None}]
    assert logged["worker"].to_list() == [os.getpid()] * 3
    app.model = models[2]
    assert predict(app, row(0))[1]["version"] == 2


def test_predictions_are_those_of_batch_scoring(app, stage) -> None:
    rows = [row(i, wind=None if i % 5 == 0 else i / 7) for i in range(40)]
    _, reply = predict(app, rows)
    logged = read_log(app.folder, EVENT.date(), EVENT.date()).sort(pl.col("id").str.split("-").list.last().str.to_integer(base=16))
    bundle = unpack(stage.artifacts, stage.artifact(1))
    X = select_input(bundle, logged["x"].struct.unnest().select(COLUMNS), "the log")
    scored = score_rows(bundle, X)
    assert [p["prediction"] for p in reply["predictions"]] == scored["__prediction"].to_list()
    assert [p["probability"] for p in reply["predictions"]] == pytest.approx(scored["__probability"].to_list(), abs=1e-9)
    estimator = bundle.estimator
    _, other = predict(app, row(2, carrier="ZZ"))
    assert other["predictions"][0]["probability"] == pytest.approx(offline(estimator, row(2, carrier="ZZ")), abs=1e-9)


def test_no_rows_are_answered_with_none(app) -> None:
    assert predict(app, b"[]") == (200, {"model": "lateness", "version": 1, "probability_of": "True", "predictions": []})
    assert list_log_days(app.folder) == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        ([row()] * 51, 413),
        (b" " * 20_001, 413),
        (row(distance="x"), 422),
        ({**row(), "carrier": None}, 422),
    ],
)
def test_what_is_refused_is_not_logged(app, body, status) -> None:
    code, reply = predict(app, body)
    assert code == status
    assert set(reply) >= {"error", "hint"}
    assert list_log_days(app.folder) == []


def test_a_body_may_come_in_pieces_and_is_not_read_beyond_the_limit(app) -> None:
    body = json.dumps(row()).encode()
    assert call(app, "POST", "/predict", body[:10], body[10:])[0] == 200
    status, headers, _ = call(app, "POST", "/predict", b" " * 15_000, b" " * 15_000, *[b" " * 15_000] * 3)
    assert status == 413
    assert headers[b"connection"] == b"close"


def test_a_client_that_is_gone_gets_nothing(app) -> None:
    async def receive() -> dict:
        return {"type": "http.disconnect"}

    async def send(message: dict) -> None:
        raise AssertionError(message)

    asyncio.run(app({"type": "http", "method": "POST", "path": "/predict"}, receive, send))
    assert list_log_days(app.folder) == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/predict", 405),
        ("POST", "/livez", 405),
        ("DELETE", "/metrics", 405),
        ("GET", "/", 404),
        ("POST", "/predict/", 404),
        ("GET", "/livez", 200),
        ("HEAD", "/readyz", 200),
        ("GET", "/metrics", 200),
        ("GET", "/openapi.json", 200),
    ],
)
def test_other_paths(app, method, path, status) -> None:
    assert call(app, method, path)[0] == status


def explain(app, body: object) -> tuple[int, dict]:
    status, _, data = call(app, "POST", "/explain", body if isinstance(body, bytes) else json.dumps(body).encode())
    return status, json.loads(data)


def test_explanations_sum_to_the_predictions_and_are_not_logged(app) -> None:
    pytest.importorskip("shap")
    status, reply = explain(app, [row(0), row(1)])
    assert list_log_days(app.folder) == []
    _, predicted = predict(app, [row(0), row(1)])
    assert (status, reply["model"], reply["version"]) == (200, "lateness", 1)
    for explained, prediction in zip(reply["explanations"], predicted["predictions"], strict=True):
        assert list(explained["values"]) == COLUMNS
        assert explained["base"] + sum(explained["values"].values()) == pytest.approx(prediction["probability"])
        assert (explained["probability_of"], explained["output"]) == (predicted["probability_of"], pytest.approx(prediction["probability"]))
        assert explained["missing"] == prediction["missing"]


def test_requests_for_explanations_are_refused_like_those_for_predictions(app, monkeypatch) -> None:
    assert explain(app, b"{")[0] == 400
    assert explain(app, [row()] * 21)[0] == 413
    assert explain(app, b" " * 30_000)[0] == 413
    assert explain(app, {**row(), "distance": "far"})[0] == 422
    assert call(app, "GET", "/explain")[0] == 405
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "shap", None)
        status, reply = explain(app, row())
    assert (status, reply["hint"]) == (501, "pip install 'mlops_assets[explain]'")
    app.model = None
    assert explain(app, row())[0] == 503


def test_the_document_describes_explanations(app) -> None:
    described = json.loads(call(app, "GET", "/openapi.json")[2])
    post = described["paths"]["/explain"]["post"]
    assert post["requestBody"]["content"]["application/json"]["schema"]["oneOf"][1]["maxItems"] == 20
    assert post["responses"]["200"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ExplainReply"}
    assert set(described["components"]["schemas"]["Explanation"]["required"]) == {"output", "probability_of", "base", "values", "missing"}
    assert "501" in post["responses"]
    assert "501" not in described["paths"]["/predict"]["post"]["responses"]


def test_without_a_model_nothing_but_life_is_answered(app) -> None:
    app.model = None
    assert [call(app, "GET", path)[0] for path in ("/livez", "/readyz", "/openapi.json")] == [200, 503, 503]
    assert predict(app, row())[0] == 503


def test_without_a_log_nothing_is_predicted_and_it_is_not_ready(app, monkeypatch) -> None:
    def refuse(*_) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("mlops_assets.serving.logs.day_log.os.write", refuse)
        assert predict(app, row())[0] == 503
        patched.setattr("mlops_assets.serving.logs.day_log.find_write_problem", lambda folder, **_: f"{folder} cannot be written")
        status, _, body = call(app, "GET", "/readyz")
        assert (status, b"cannot be written" in body) == (503, True)
    assert call(app, "GET", "/readyz")[0] == 200
    assert predict(app, row())[0] == 200
    text = call(app, "GET", "/metrics")[2].decode()
    assert "mlops_log_failures_total 1\n" in text
    assert 'mlops_requests_total{code="503"} 1\n' in text
    assert "mlops_predictions_total 1\n" in text


def test_while_it_ends_it_answers_and_closes_connections(app) -> None:
    app.draining = True
    status, headers, _ = call(app, "POST", "/predict", json.dumps(row()).encode())
    assert (status, headers[b"connection"]) == (200, b"close")
    assert call(app, "GET", "/readyz")[0] == 503


def test_a_failure_is_logged_with_its_place_and_without_values(app, capsys, monkeypatch) -> None:
    def fail(*_) -> None:
        raise KeyError(f"secret {4700 + 11}")

    monkeypatch.setattr(app.model.predictor, "path", ScoringPath(fail, fail))
    status, reply = predict(app, row())
    assert (status, reply["error"]) == (500, "the prediction failed (KeyError)")
    told = capsys.readouterr().err
    assert "KeyError" in told
    assert "in fail" in told
    assert "4711" not in told + json.dumps(reply)
    assert list_log_days(app.folder) == []


def test_the_lifespan_is_answered(app) -> None:
    messages, sent = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}], []

    async def receive() -> dict:
        return messages.pop(0)

    async def send(message: dict) -> None:
        sent.append(message["type"])

    asyncio.run(app({"type": "lifespan"}, receive, send))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_a_model_that_was_stored_before_there_were_services_is_refused(stage) -> None:
    X = pl.DataFrame({"a": [1.0, 2.0, 3.0]})
    old = pack(stage.artifacts, LinearRegression().fit(X, [1, 2, 3]), X=X, modules=[], facts={"model": "m"})
    with pytest.raises(ArtifactError, match="was stored without 'request'"):
        load_served_model("m", TargetVersion(1, "d", old), artifacts=stage.artifacts, online="", limits=LIMITS)
    fields = [
        {"name": "a", "type": "Date", "nullable": False, "role": "column"},
        {"name": "k", "type": "Date", "nullable": True, "role": "key"},
    ]
    for role, why in (("column", "takes the field 'a' of type Date, which JSON cannot carry"), ("key", None)):
        said = facts(request=[fields[0] | {"role": role}, fields[1]], steps=[])
        artifact = pack(stage.artifacts, LinearRegression().fit(X, [1, 2, 3]), X=X, modules=[], facts=said)
        if why:
            with pytest.raises(ArtifactError, match=why):
                load_served_model("m", TargetVersion(1, "d", artifact), artifacts=stage.artifacts, online="", limits=LIMITS)
        else:
            load_served_model("m", TargetVersion(1, "d", artifact), artifacts=stage.artifacts, online="", limits=LIMITS)


WORKER_IMPORTS = """
import sys
import mlops_assets.serving.http.worker, mlops_assets.serving.http.supervisor
from mlops_assets.serving.http.served_model import load_served_model
from mlops_assets.serving.http.service_folder import RequestLimits, TargetVersion
from mlops_assets.stores.artifacts.store import open_artifacts
load_served_model("m", TargetVersion(1, "d", sys.argv[1]), artifacts=open_artifacts(sys.argv[2]), online=sys.argv[3], limits=RequestLimits())
print(" ".join({name.split(".")[0] for name in sys.modules}))
"""


def test_a_worker_imports_no_dagster_and_nothing_of_the_lake(stage) -> None:
    command = [sys.executable, "-W", "ignore", "-c", WORKER_IMPORTS, stage.artifact(1), stage.platform.artifacts, stage.platform.online]
    loaded = set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert loaded & {"dagster", "duckdb", "sqlalchemy", "pandera", "matplotlib", "evidently", "bentoml", "mlflow"} == set()


def test_a_supervisor_imports_no_model_library() -> None:
    code = "import sys, mlops_assets.serving.http.supervisor, mlops_assets.stores.registry.registry; print(' '.join({name.split('.')[0] for name in sys.modules}))"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert loaded & {"dagster", "numpy", "polars", "pandas", "sklearn", "skops", "uvicorn"} == set()


def test_answered_refused_and_failed_requests_are_counted_by_version(tmp_path, models) -> None:
    log, requests = InferenceLog(tmp_path / "log"), RequestLog(tmp_path / "requests", interval=3_600)
    app = App(log=log, metrics=Metrics(tmp_path / "metrics", 0), limits=LIMITS, versions=dict, requests=requests)
    assert predict(app, row(0))[0] == 503
    app.model = models[1]
    assert predict(app, [row(0), row(1), row(2)])[0] == 200
    assert predict(app, row(distance="x"))[0] == 422
    assert predict(app, b"{")[0] == 400
    app.model = models[2]
    assert predict(app, row(0))[0] == 200
    for each in (log, requests):
        each.close()
    found = {counts.version: counts for path in (tmp_path / "requests").rglob("*.jsonl") for counts in read_request_file(path)}
    assert {version: counts.codes for version, counts in found.items()} == {
        0: {"503": 1},
        1: {"200": 1, "422": 1, "400": 1},
        2: {"200": 1},
    }
    assert (found[1].rows, found[1].looked_up, found[1].missing) == (3, 6, 3)
    assert sum(found[1].seconds.values()) == 1
