"""Columns of a user under names of the package, and under every name that is accepted, are trained, predicted, served, brought in and monitored."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression, LogisticRegression

import mlops_assets as ml
from mlops_assets.compute.features.assemble import assemble
from mlops_assets.compute.features.point_in_time import ViewRows, sort_as_of
from mlops_assets.compute.tables.own_columns import PREDICTION_COLUMNS, TRAINING_SET_COLUMNS, rename_from_table
from mlops_assets.errors import DefinitionError
from mlops_assets.serving.formats.packaging import pack
from mlops_assets.serving.http.app import App
from mlops_assets.serving.http.metrics import Metrics
from mlops_assets.serving.http.served_model import load_served_model
from mlops_assets.serving.http.service_folder import RequestLimits, TargetVersion
from mlops_assets.serving.logs.inference_log import InferenceLog
from mlops_assets.stores.artifacts.store import open_artifacts
from mlops_assets.stores.lake.ducklake import DuckLake
from mlops_assets.stores.lake.protocol import Partition
from mlops_assets.stores.online.opening import open_online
from mlops_assets.stores.platform.stores import Stores, open_stores
from mlops_assets.values.names import check_columns
from tests.conftest import Runner, metadata

DAY, START, ROWS = "2024-01-02", datetime(2024, 1, 1, tzinfo=UTC), 120
DAILY = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-01-04")
KEY, TIME, LABEL, SLICE = "prediction_id", "logged_at", "predicted_at", "run_id"
OWN = [
    name.removeprefix("__")
    for name in (*TRAINING_SET_COLUMNS, *PREDICTION_COLUMNS)
    if name.removeprefix("__") not in (KEY, TIME, LABEL, SLICE)
]
REPORTS = ["version", "window_start", "rows", "column", "kind", "state", "metric", "value", "label", "key", "id", "at", "x", "model", "row"]
ODD = [
    *(
        "wind speed",
        " led by a space",
        "a.b",
        ".",
        "x[0]",
        "]",
        "$ref",
        "$.x",
        "$",
        "a`b",
        "it's",
        "a/b",
        "~",
        "a:b",
        "a,b",
        "a;b",
        "(x)",
        "{y}",
    ),
    *(
        "%",
        "#",
        "@",
        "**",
        "^a",
        "b$",
        "a-b",
        "<",
        "=",
        "?",
        "100",
        "1e5",
        "NaN",
        "null",
        "true",
        "None",
        "class",
        "lambda",
        "self",
        "select",
        "from",
    ),
    *("order by", "index", "columns", "dtype", "level_0", "µ", "é", "温度", "Ω", "😀", "ß", "x" * 200),
]
NAMES = [*OWN, *REPORTS, *ODD]
LIMITS = RequestLimits(max_rows=ROWS, max_bytes=10**7)


@ml.dataset(partitions=DAILY, key=KEY, event_timestamp=TIME)
def events(window: ml.TimeWindow) -> pl.DataFrame:
    day = (window.start - START).days
    rng = np.random.default_rng(day)
    columns = {name: rng.normal(size=ROWS) for name in NAMES}
    at = [window.start + timedelta(minutes=10 * n) for n in range(ROWS)]
    own = {KEY: [f"{day}-{n}" for n in range(ROWS)], TIME: pl.Series(at, dtype=pl.Datetime("us", "UTC"))}
    return pl.DataFrame(
        {**own, SLICE: [f"s{n % 2}" for n in range(ROWS)], **columns, LABEL: columns["prediction"] + columns["wind speed"] > 0}
    )


@ml.training_set(columns=NAMES, features=[], label=LABEL, event_timestamp=TIME, split=ml.TimeSplit(holdout=timedelta(hours=3)))
def examples(events: pl.LazyFrame) -> pl.LazyFrame:
    return events


@ml.model(training_set=examples, metrics=["roc_auc"], slices=[SLICE])
def clf(train: ml.Split) -> LogisticRegression:
    return LogisticRegression(C=0.1).fit(train.X, train.y)


EXPECTED = (ml.Drift(), ml.Performance("roc_auc", at_least=0.5, min_labels=10))
api, batch = ml.Service("api", model=clf), ml.BatchPrediction("batch", model=clf, dataset=events)
api_watch = ml.Monitor("api_watch", of=api, partitions=DAILY, expectations=EXPECTED, min_rows=10)
batch_watch = ml.Monitor("batch_watch", of=batch, expectations=EXPECTED, min_rows=10)


def post(app: App, body: object) -> tuple[int, dict]:
    """Send one request to the application, in this process."""
    sent: list[dict] = []

    async def receive() -> dict:
        return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}

    async def send(message: dict) -> None:
        sent.append(message)

    asyncio.run(app({"type": "http", "method": "POST", "path": "/predict", "headers": []}, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])


def serve(at: Stores, rows: pl.DataFrame) -> list[dict]:
    """Answer rows as a worker does, with its log; return the replies."""
    version = at.registry.champion("clf")
    folder = Path(at.platform.home) / "services" / "api"
    log = InferenceLog(folder / "log")
    app = App(log=log, metrics=Metrics(folder / "metrics", 0), limits=LIMITS, versions=lambda: {0: 1})
    wanted = TargetVersion(version.version, version.digest, version.artifact)
    app.model = load_served_model("clf", wanted, artifacts=at.artifacts, online=at.platform.online, limits=LIMITS)
    status, reply = post(app, [row | {TIME: row[TIME].isoformat()} for row in rows.to_dicts()])
    assert status == 200, reply
    for name in NAMES:
        status, refused = post(app, rows.row(0, named=True) | {TIME: rows[TIME][0].isoformat(), name: "no number"})
        assert (status, refused["field"]) == (422, name)
    log.close()
    return reply["predictions"]


def test_names_of_the_package_and_odd_names_go_all_the_way(platform, instance) -> None:
    definitions = ml.build_definitions([events, examples, clf, api, batch, api_watch, batch_watch], platform=platform)
    runner, at = Runner(definitions, instance), open_stores(platform)
    runner("dataset/events", partitions="2024-01-01")
    runner("training_set/examples", "model/clf", "version/clf", "champion/clf")
    runner("dataset/events", "predictions/batch", "drift_report/batch_watch", "performance_report/batch_watch", partitions=DAY)
    given = at.lake.read("dataset/events").filter(pl.col(TIME) >= START + timedelta(days=1)).sort(KEY)
    replies = serve(at, given.drop(LABEL, SLICE))
    runner("predictions/api", partitions=DAY)
    result = runner("drift_report/api_watch", "performance_report/api_watch", partitions=DAY)

    batched, served = (rename_from_table(at.lake.read(f"predictions/{name}"), PREDICTION_COLUMNS).sort(KEY) for name in ("batch", "api"))
    for rows in (batched, served):
        assert rows.select(KEY, TIME, *NAMES).equals(given.select(KEY, TIME, *NAMES))
    assert batched["__prediction"].equals(served["__prediction"])
    assert served["__prediction"].to_list() == [reply["prediction"] for reply in replies]
    for watch in ("api_watch", "batch_watch"):
        drift, performance = (at.lake.read(f"{kind}_report/{watch}") for kind in ("drift", "performance"))
        assert set(drift["column"]) == set(NAMES)
        assert performance["labelled"].to_list() == [ROWS]
        assert performance["value"][0] > 0.7
    assert metadata(result, "performance_report/api_watch")["state"] == "good"


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


def accepted(name: str) -> bool:
    try:
        check_columns([name], "a table")
    except DefinitionError:
        return False
    return True


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("names")
    return open_artifacts(str(folder / "artifacts")), DuckLake.open(folder / "lake"), folder


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(names=st.lists(TEXT.filter(accepted), min_size=2, max_size=8, unique_by=lambda name: name.casefold()))
def test_every_accepted_name_is_stored_and_served(stores, names) -> None:
    artifacts, lake, folder = stores
    rng = np.random.default_rng(0)
    X = pl.DataFrame({name: rng.normal(size=20) for name in names})
    lake.write("dataset/names", X, [Partition("")])
    assert lake.read("dataset/names").equals(X)
    model = LinearRegression().fit(X, X.to_numpy()[:, 0])
    request = [{"name": name, "type": "float", "nullable": False, "role": "column"} for name in names]
    artifact = pack(artifacts, model, X=X, modules=[], facts={"model": "m", "event_timestamp": None, "request": request, "steps": []})
    served = load_served_model("m", TargetVersion(1, "digest", artifact), artifacts=artifacts, online=str(folder / "online"), limits=LIMITS)
    answer = served.answer(json.dumps(X.to_dicts()).encode())
    assert list(answer.scores.predictions) == pytest.approx(X.to_numpy()[:, 0].tolist(), abs=1e-9)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(names=st.lists(TEXT.filter(accepted), min_size=3, max_size=6, unique_by=lambda name: name.casefold()))
def test_every_accepted_name_is_looked_up_online_as_offline(stores, names) -> None:
    artifacts, _, folder = stores
    (key, *features), rng = names, np.random.default_rng(0)
    values = pl.DataFrame({key: ["a", "b"], **{name: rng.normal(size=2) for name in features}})
    times = pl.Series("__at", [START, START], dtype=pl.Datetime("us", "UTC"))
    view = ViewRows("view", values.with_columns(times), (key,), "__at", None, None, tuple(features))
    open_online(str(folder / "online")).replace("view", sort_as_of(view), join_keys=[key], features=features)
    spine = pl.DataFrame({key: ["b", "a", "b"], "__at": [START] * 3}, schema_overrides={"__at": pl.Datetime("us", "UTC")})
    offline, _ = assemble(spine, [view], event_timestamp="__at", as_known=True)
    X = offline.select(features)
    step = {"view": "view", "join_keys": [key], "features": features, "ttl": None, "defaults": {}}
    request = [{"name": key, "type": "str", "nullable": False, "role": "join_key"}]
    facts = {"model": "m", "event_timestamp": None, "request": request, "steps": [step]}
    artifact = pack(artifacts, LinearRegression().fit(X, [0.0, 1.0, 0.0]), X=X, modules=[], facts=facts)
    served = load_served_model("m", TargetVersion(1, "digest", artifact), artifacts=artifacts, online=str(folder / "online"), limits=LIMITS)
    answer = served.answer(json.dumps([{key: entity} for entity in spine[key]]).encode())
    assert [list(column) for column in answer.columns] == [X[name].to_list() for name in features]


@given(
    name=TEXT.filter(lambda name: not accepted(name))
    | st.sampled_from(["", "__x", "*", "^a$", "^$", 'a"b', "a\\b", "a\nb", "\x00", "\u200b", "a\u00a0b"])
)
@settings(max_examples=25, deadline=None)
def test_every_refused_name_is_refused_when_the_project_is_built(name) -> None:
    with pytest.raises(DefinitionError, match="has a column named"):
        ml.build_definitions(_declared(name))


def _declared(name: str) -> list:
    @ml.dataset(key="id")
    def rows() -> pl.DataFrame: ...

    @ml.training_set(columns=["x", name], features=[], label="y", split=ml.GroupSplit("id"))
    def learned(rows: pl.LazyFrame) -> pl.LazyFrame: ...

    return [rows, learned]


@pytest.mark.parametrize("name", ["", "__x", 'a"b', "a\nb"])
def test_a_refused_name_of_an_on_demand_feature_is_refused_before_a_training(name) -> None:
    def ratio(x: np.ndarray) -> dict[str, np.ndarray]:
        return {name: x}

    with pytest.raises(DefinitionError, match="the result of the on-demand features 'ratio' has a column named"):
        assemble(pl.DataFrame({"x": [1.0]}), [ratio], event_timestamp=None, as_known=True)
