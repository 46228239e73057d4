"""What was answered or pushed reaches the lake and stays there, whatever becomes of a line of the log or of the log."""

import json
import shutil
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.errors import DataError
from mlops_assets.orchestrate.tables import stored_rows
from mlops_assets.serving.http.app import App
from mlops_assets.serving.http.metrics import Metrics
from mlops_assets.serving.http.served_model import load_served_model
from mlops_assets.serving.http.service_folder import RequestLimits, TargetVersion
from mlops_assets.serving.logs.inference_log import InferenceLog, PredictionRecord
from mlops_assets.serving.push.spec import find_push_log_folder
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.values.platform import Platform
from tests.conftest import Runner, metadata
from tests.memory_instance import open_memory_instance
from tests.projects import parcels as project
from tests.projects import stream

FIRST, SECOND = "2024-03-01", "2024-03-02"


class Trained:
    """A platform with a champion, and a service's App in this process."""

    def __init__(self, platform: Platform, runner: Runner) -> None:
        self.platform, self.run = platform, runner
        self.folder = Path(platform.home) / "services" / "parcel_api" / "log"

    def app(self, log: InferenceLog) -> App:
        at = open_stores(self.platform)
        version = at.registry.champion("lateness")
        app = App(log=log, metrics=Metrics(self.folder.parent, 0), limits=RequestLimits(), versions=dict)
        wanted = TargetVersion(version.version, version.digest, version.artifact)
        app.model = load_served_model("lateness", wanted, artifacts=at.artifacts, online=self.platform.online, limits=RequestLimits())
        return app

    def ask(self, *rows: dict) -> list[int]:
        log = InferenceLog(self.folder)
        app = self.app(log)
        replies = [app.predict(json.dumps(row).encode()) for row in rows]
        log.close()
        self.replies = [json.loads(body) for _, body in replies]
        return [status for status, _ in replies]

    def log(self, *records: PredictionRecord) -> None:
        log = InferenceLog(self.folder)
        log.append(list(records))
        log.close()

    def bring_in(self, partition: str = FIRST):
        return self.run(project.PREDICTIONS, partitions=partition)

    def readable(self, partition: str = FIRST):
        result = self.bring_in(partition)
        return result, next(e for e in result.get_asset_check_evaluations() if e.check_name == "log_readable")

    @property
    def rows(self) -> pl.DataFrame:
        return open_stores(self.platform).lake.read(project.PREDICTIONS).sort("prediction_id")


def asked(parcel: str = "p1", **more) -> dict:
    return {"parcel": parcel, "sent_on": FIRST, "at": "2024-03-01T12:00:00Z", "weight": 3.0} | more


def answered(identity: str, **more) -> PredictionRecord:
    at = round(datetime(2024, 3, 1, 12, tzinfo=UTC).timestamp()) * 1_000_000
    values = {"at": at, "logged_at": at, "version": 1, "key": {"parcel": identity, "sent_on": FIRST}, "x": {"weight": 1.0}}
    return PredictionRecord(**{"id": identity, **values, "prediction": False, "probability": 0.25, "missing": [], "worker": 1, **more})


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A platform on which the model was trained once."""
    platform = Platform.at(tmp_path_factory.mktemp("trained") / "home")
    with open_memory_instance() as instance:
        runner = Runner(ml.build_definitions(project.NOUNS, platform=platform), instance)
        runner(project.TRAIN[0], partitions="2024-03-01...2024-03-04")
        runner(*project.TRAIN[1:])
    return platform


@pytest.fixture
def trained(home, platform, run) -> Trained:
    """The trained model, with a lake and a log of the test's own."""
    platform = replace(platform, registry=home.registry, artifacts=home.artifacts)
    return Trained(platform, run(ml.build_definitions(project.NOUNS, platform=platform)))


def test_rows_that_were_brought_in_stay_when_the_log_is_gone(trained) -> None:
    trained.log(answered("a"), answered("b"))
    trained.bring_in()
    before = trained.rows
    shutil.rmtree(trained.folder)
    shown = metadata(trained.bring_in(), project.PREDICTIONS)
    assert trained.rows.equals(before)
    assert (before.height, shown["rows that the log lacks"]) == (2, 2)
    trained.log(answered("c"), answered("a"))
    shown = metadata(trained.bring_in(), project.PREDICTIONS)
    assert trained.rows["prediction_id"].to_list() == ["a", "b", "c"]
    assert shown["rows that the log lacks"] == 1


def test_a_type_of_the_log_that_would_change_a_stored_value_is_refused() -> None:
    step = SimpleNamespace(node=SimpleNamespace(key="predictions/parcel_api"))
    fitting = pl.DataFrame({"weight": [1.0, None, 3.0]})
    wanted = pl.DataFrame(schema={"weight": pl.Int64})
    assert stored_rows._cast_to_log_types(step, fitting, wanted)["weight"].to_list() == [1, None, 3]
    with pytest.raises(
        DataError, match=r"column 'weight' of 'predictions/parcel_api' is Float64 in the lake and Int64 in the log.*with 1\.5 among"
    ):
        stored_rows._cast_to_log_types(step, pl.DataFrame({"weight": [1.0, 1.5]}), wanted)
    with pytest.raises(DataError, match="with 9007199254740993 among"):
        stored_rows._cast_to_log_types(step, pl.DataFrame({"weight": [2**53 + 1]}), pl.DataFrame(schema={"weight": pl.Float64}))


def test_rows_of_one_partition_stay_when_another_is_brought_in(trained) -> None:
    later = answered("x").at + round(timedelta(days=1).total_seconds()) * 1_000_000
    trained.log(answered("a"), answered("x", at=later, version=1))
    trained.bring_in("2024-03-01...2024-03-02")
    shutil.rmtree(trained.folder / FIRST)
    trained.bring_in("2024-03-01...2024-03-02")
    assert trained.rows["prediction_id"].to_list() == ["a", "x"]


def test_a_damaged_partition_is_never_rebuilt_from_a_log_that_has_less(trained) -> None:
    trained.log(answered("a"), answered("b"))
    trained.bring_in()
    lake = open_stores(trained.platform).lake
    record = lake.records(project.PREDICTIONS)[FIRST]
    lake.mark_damaged([record])
    shutil.rmtree(trained.folder)
    message = trained.run.error(project.PREDICTIONS, partitions=FIRST)
    assert "partition '2024-03-01' of 'predictions/parcel_api' is damaged in the lake: 2 rows were written, and the log has 0" in message
    trained.log(answered("a"), answered("b"))
    trained.bring_in()
    assert trained.rows["prediction_id"].to_list() == ["a", "b"]


def test_what_the_lake_cannot_store_is_refused_and_is_not_logged(trained) -> None:
    refused = [("parcel", "p\x001"), ("sent_on", "yesterday"), ("sent_on", "2024-02-30")]
    looks_like_an_escape = ["p\\u0000", "é\u2028"]
    rows = [*(asked(**{name: value}) for name, value in refused), *(asked(text) for text in looks_like_an_escape)]
    assert trained.ask(*rows) == [422, 422, 422, 200, 200]
    assert [(reply["row"], reply["field"]) for reply in trained.replies[:3]] == [(0, name) for name, _ in refused]
    assert all(reply["hint"] for reply in trained.replies[:3])
    trained.bring_in()
    assert sorted(trained.rows["parcel"]) == looks_like_an_escape
    assert trained.rows["sent_on"].to_list() == [date(2024, 3, 1)] * 2


def test_a_logged_row_that_the_lake_cannot_hold_is_set_aside_and_named(trained) -> None:
    bad = {
        "parcel": {"key": {"parcel": "p\0", "sent_on": FIRST}},
        "sent_on": {"key": {"parcel": "p", "sent_on": "soon"}},
        "weight": {"x": {"weight": "heavy"}},
        "prediction": {"prediction": "perhaps"},
    }
    lists = answered("list", x={"weight": [1.0]})
    trained.log(answered("a"), *(answered(f"bad {name}", **more) for name, more in bad.items()), lists, answered("b"))
    result, check = trained.readable()
    assert trained.rows["prediction_id"].to_list() == ["a", "b"]
    assert trained.rows["prediction"].to_list() == [False, False]
    assert not check.passed
    assert check.metadata["lines set aside"].value == 5
    reasons = metadata(result, project.PREDICTIONS)["lines set aside"]
    assert all(f"prediction 'bad {name}': '{name}' has a value that a column of type" in reasons for name in bad)


def test_a_changed_digit_of_a_line_is_noticed_and_the_other_lines_are_brought_in(trained) -> None:
    trained.log(answered("a"), answered("b"), answered("c"))
    path = next(trained.folder.glob("*/*.jsonl"))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[1].replace(b'"probability":0.25', b'"probability":0.75'), lines[2]]))
    result, check = trained.readable()
    assert trained.rows["prediction_id"].to_list() == ["a", "c"]
    assert not check.passed
    place = f"{FIRST}/{path.name}:2"
    assert place in check.metadata["message"].value if "message" in check.metadata else place in check.description
    assert place in metadata(result, project.PREDICTIONS)["lines set aside"]


def test_a_row_that_was_brought_in_stays_when_its_line_is_damaged_later(trained) -> None:
    trained.log(answered("a"), answered("b"))
    trained.bring_in()
    path = next(trained.folder.glob("*/*.jsonl"))
    path.write_bytes(path.read_bytes().replace(b'"id":"a"', b'"id":"z"'))
    trained.bring_in()
    assert trained.rows["prediction_id"].to_list() == ["a", "b"]


def test_pushed_rows_stay_when_their_log_is_gone_and_a_bad_line_keeps_no_day_out(platform, run) -> None:
    streams = stream.Project(platform)
    at = run(streams.definitions)
    for ship in "abc":
        streams.push(stream.row(ship, 1, 1, 5.0))
    folder = find_push_log_folder(platform.home, "positions")
    path = next(folder.glob("*/*.jsonl"))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[1].replace(b"5.0", b"6.0"), lines[2]]))
    result = at("dataset/positions", partitions=FIRST)
    check = next(e for e in result.get_asset_check_evaluations() if e.check_name == "log_readable")
    assert not check.passed
    read = lambda: open_stores(platform).lake.read("dataset/positions").sort("ship")
    assert read()["ship"].to_list() == ["a", "c"]
    shutil.rmtree(folder / FIRST)
    streams.push(stream.row("d", 2, 2, 7.0))
    at("dataset/positions", partitions=FIRST)
    assert read()["ship"].to_list() == ["a", "c", "d"]


def test_a_pushed_row_with_a_nul_character_is_refused_and_nothing_is_pushed(platform) -> None:
    streams = stream.Project(platform)
    with pytest.raises(ml.DataError, match="row 1, column 'ship' holds a NUL character"):
        streams.push([stream.row("a", 1, 1), stream.row("b\0", 1, 1)])
    assert list(find_push_log_folder(platform.home, "positions").glob("*/*.jsonl")) == []
