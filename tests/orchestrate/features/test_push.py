"""What is pushed is online at once, in the lake later, and the same in both."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import mlops_assets as ml
from mlops_assets.compute.features.assemble import bind_rows
from mlops_assets.compute.features.point_in_time import point_in_time_join
from mlops_assets.errors import DataError, DefinitionError
from mlops_assets.orchestrate.features.push import build_push_node
from mlops_assets.orchestrate.tables.automation import find_stale
from mlops_assets.serving.push.spec import find_push_log_folder
from mlops_assets.stores.online.opening import open_online
from mlops_assets.stores.online.protocol import Lookup
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import ROOT, metadata
from tests.projects import stream
from tests.projects.stream import BASE, HOUR, row
from tests.redis_server import redis_server

ALL = "2024-03-01...2024-03-10"
LAKE = ("dataset/positions", "features/fixes", "features/speeds")
ONLINE = ("online/fixes", "online/speeds")


def micros(hour: float) -> int:
    return round(BASE.timestamp() * 1_000_000 + hour * 3_600_000_000)


def online(at: ml.Platform, ship: str, hour: float, view: str = "fixes", features=("speed", "port")) -> tuple:
    return open_online(at.online).reader([Lookup(view, features, timedelta(days=2))]).lookup_one([(ship,)], micros(hour))[0].values


@pytest.fixture(scope="module", params=["lmdb", "redis"])
def store(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("push")
    if request.param == "lmdb":
        yield str(folder / "online")
    else:
        with redis_server(folder / "redis") as url:
            yield url


@pytest.fixture
def project(tmp_path, store) -> stream.Project:
    where = store if "://" in store else str(tmp_path / "online")
    if "://" in store:
        open_online(store)._client.flushall()
    return stream.Project(replace(ml.Platform.at(tmp_path / "home"), online=where))


def test_a_pushed_row_is_online_at_once_and_in_the_lake_when_it_is_compacted(project, run) -> None:
    pushed = project.push([row("a", 1, 1, 5.0), row("b", 30, 31, None)])
    assert (pushed.rows, pushed.repeated, pushed.changed) == (2, False, 4)
    assert online(project.platform, "a", 2) == (5.0, "x")
    assert online(project.platform, "a", 2, "speeds", ("speed",)) == (5.0,)
    assert online(project.platform, "b", 30.5) == (None, None)
    assert online(project.platform, "b", 31) == (None, "x")
    at = run(project.definitions)
    assert set(find_stale(build_push_node(project.source, project.platform), project.platform)) == {"2024-03-01", "2024-03-02"}
    at(*LAKE, partitions=ALL)
    assert find_stale(build_push_node(project.source, project.platform), project.platform) == {}
    lake = open_stores(project.platform).lake.read("dataset/positions").sort("ship")
    assert lake["speed"].to_list() == [5.0, None]
    shown = metadata(at(*ONLINE), "online/fixes")
    assert shown["mode"] == "full rebuild: the first materialisation"
    project.push([row("a", 100, 100, 7.0)])
    assert set(find_stale(build_push_node(project.source, project.platform), project.platform)) == {"2024-03-05"}
    for config in ({}, {"full_rebuild": True}):  # neither loses what is not in the lake yet
        at("online/fixes", config={"online__fixes_online": config})
        assert online(project.platform, "a", 100) == (7.0, "x")
    at(*LAKE, partitions=ALL)
    shown = metadata(at("online/fixes"), "online/fixes")
    assert (shown["rows added"], shown["rows pushed, not yet in the lake"]) == (1, 0)


def test_a_call_counts_once_and_wholly(project, run) -> None:
    rows = [row("a", 1, 1, 5.0), row("a", 30, 30, 6.0), row("a", 50, 50, 7.0)]
    first = project.push(rows, id="one")
    again = project.push([row("a", 60, 60, 9.0)], id="one")
    assert (first.repeated, again.repeated, again.rows) == (False, True, 0)
    assert online(project.platform, "a", 61) == (7.0, "x")
    project.push(rows)  # the same once more, under another id
    # A call of which only a part was written, as by a kill between two of its days, counts nowhere.
    folder = find_push_log_folder(project.platform.home, "positions")
    line = json.dumps(
        {"id": "half", "logged_at": 1, "days": [19783, 19784], "columns": {"ship": ["h"], "at": [micros(2)], "heard_at": [micros(2)]}}
    )
    (folder / "2024-03-01" / "1-1.days.jsonl").write_text(f"{line}\n")
    (folder / "2024-03-02" / "1-2.jsonl").write_text('{"id": "torn", "logged')
    at = run(project.definitions)
    at(*LAKE, partitions=ALL)
    lake = open_stores(project.platform).lake.read("dataset/positions")
    assert lake.sort("at")["speed"].to_list() == [5.0, 6.0, 7.0]
    # Once its other half is there, it counts, and automation sees that.
    other = line.replace(str(micros(2)), str(micros(26)))
    (folder / "2024-03-02" / "1-3.days.jsonl").write_text(f"{other}\n")
    assert set(find_stale(build_push_node(project.source, project.platform), project.platform)) == {"2024-03-01", "2024-03-02"}
    at(*LAKE, partitions=ALL)
    assert open_stores(project.platform).lake.read("dataset/positions").height == 5


def test_a_correction_replaces_a_row_and_later_knowledge_adds_one(project, run) -> None:
    project.push([row("a", 1, 1, 5.0)])
    project.push([row("a", 1, 1, 5.5)])
    project.push([row("a", 1, 4, 6.0)])
    assert [online(project.platform, "a", hour)[0] for hour in (1, 3, 4)] == [5.5, 5.5, 6.0]
    run(project.definitions)(*LAKE, *ONLINE[:0], partitions=ALL)
    assert open_stores(project.platform).lake.read("dataset/positions").sort("heard_at")["speed"].to_list() == [5.5, 6.0]
    assert not metadata(run(project.definitions)("online/fixes"), "online/fixes")["mode"].startswith("incremental")


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ({"speed": 61.0}, "row 1 of 2: column 'speed' breaks less_than_or_equal_to"),
        ({"port": "z"}, "column 'port' breaks isin"),
        ({"ship": None}, "column 'ship'"),
        ({"ship": ""}, "column 'ship'"),
        ({"ship": 5}, "column 'ship'"),
        ({"at": None}, "column 'at'"),
        ({"at": datetime(2024, 3, 1)}, "column 'at'"),
        ({"at": BASE - HOUR}, "column 'at'"),
        ({"at": BASE + timedelta(days=10)}, "column 'at'"),
        ({"speed": "fast"}, "column 'speed'"),
        ({"colour": 1}, "no column 'colour'"),
        ({"at": BASE + HOUR, "heard_at": BASE + HOUR, "ship": "a"}, "the key"),
    ],
)
def test_what_breaks_a_rule_is_named_and_nothing_is_pushed(tmp_path, bad, text) -> None:
    project = stream.Project(ml.Platform.at(tmp_path / "home"))
    with pytest.raises(DataError) as caught:
        project.push([row("a", 1, 1), row("b", 2, 2) | bad])
    assert text in caught.value.message
    assert "nothing was pushed" in caught.value.message
    folder = find_push_log_folder(project.platform.home, "positions")
    assert [path for path in folder.rglob("*.jsonl") if path.stat().st_size] == []
    assert open_online(project.platform.online).state("fixes") is None


def test_created_times_are_now_when_they_are_left_out_and_frames_are_rows(tmp_path) -> None:
    project = stream.Project(ml.Platform.at(tmp_path / "home"), partitions=None)
    before = datetime.now(UTC)
    assert project.push(pl.DataFrame([row("a", 1)]).drop("port")).rows == 1
    reader = open_online(project.platform.online).reader([Lookup("speeds", ("speed",))])
    moment = lambda time: round(time.timestamp() * 1_000_000)
    assert reader.lookup_one([("a",)], moment(before))[0].values == (None,)
    assert reader.lookup_one([("a",)], moment(datetime.now(UTC)) + 1)[0].values == (1.0,)
    assert project.push(pl.DataFrame([row("b", 1)]).to_pandas().assign(heard_at=before)).rows == 1
    assert project.push([]).rows == 0
    with pytest.raises(DefinitionError, match="does not accept pushed rows"):
        ml.push(ml.ExternalDataset("other"), [])


def test_a_time_that_its_column_cannot_hold_is_refused_not_cut(tmp_path) -> None:
    project = stream.Project(ml.Platform.at(tmp_path / "home"), partitions=None)
    frame = pl.DataFrame([row("a", 1), row("b", 2)]).with_columns(pl.col("at").cast(pl.Datetime("ns", "UTC")))
    assert project.push(frame.with_columns(pl.col("at").dt.convert_time_zone("Europe/Berlin"))).rows == 2
    finer = pl.col("at") + pl.Series([0, 1], dtype=pl.Int64).cast(pl.Duration("ns"))
    with pytest.raises(DataError, match=r"row 1, column 'at': .* is not a value of Datetime\(time_unit='us', time_zone='UTC'\)"):
        project.push(frame.with_columns(finer))


def test_views_that_could_not_go_online_row_by_row_are_refused(tmp_path) -> None:
    project = stream.Project(ml.Platform.at(tmp_path / "home"))
    given = {"source": project.source, "event_timestamp": "at", "created_timestamp": "heard_at", "features": {"speed": float}}
    for more, text in (
        ({"created_timestamp": None}, "has the times at and None"),
        ({"entity": ml.Entity("port")}, "its key has 'ship'"),
        ({"features": {"depth": float}}, "needs the column 'depth'"),
    ):
        view = ml.FeatureView(**({"entity": ml.Entity("ship"), "name": "v"} | given | more))
        with pytest.raises(DefinitionError, match=text):
            ml.build_definitions([project.source, view], platform=project.platform)


HOURS = st.integers(0, 200)
ROWS = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        HOURS,
        st.sampled_from([0, 0, 0, 3, 50, -2]),
        st.sampled_from([None, 0.5, 1.5]),
        st.sampled_from([None, "x", "y"]),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda r: r[:3],
)


@settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(st.lists(ROWS, min_size=1, max_size=5), st.data())
def test_random_pushes_are_the_same_online_and_in_the_lake(tmp_path_factory, store, run, calls, data) -> None:
    folder = tmp_path_factory.mktemp("random")
    where = store if "://" in store else str(folder / "online")
    if "://" in store:
        open_online(store)._client.flushall()
    project = stream.Project(replace(ml.Platform.at(folder / "home"), online=where), partitions=None)
    at = run(project.definitions)
    for number, call in enumerate(calls):
        rows = [row(ship, hour, hour + late, speed, port) for ship, hour, late, speed, port in call]
        project.push(rows, id=str(number))
        if data.draw(st.booleans()):
            project.push(rows, id=str(number))
        what = data.draw(st.sampled_from(["nothing", "compact", "online", "rebuild"]))
        if what == "compact":
            at(*LAKE)
        if what in ("online", "rebuild") and number:
            at("dataset/positions", "features/fixes")
            at("online/fixes", config={"online__fixes_online": {"full_rebuild": what == "rebuild"}})
    at(*LAKE)
    view = bind_rows(project.fixes, open_stores(project.platform).lake.read("features/fixes"))
    asked = [(ship, hour) for ship in "abcd" for hour in range(0, 260, 3)]
    # Records hold what the last week reaches: what happened before is not asked for.
    newest = max((max(hour, hour + late) for call in calls for _, hour, late, *_ in call), default=0)
    asked = [(ship, hour) for ship, hour in asked if hour > newest - 168]
    spine = pl.DataFrame(
        {"ship": [s for s, _ in asked], "when": pl.Series([BASE + h * HOUR for _, h in asked], dtype=pl.Datetime("us", "UTC"))}
    )
    wanted = point_in_time_join(spine, [view], event_timestamp="when").select("speed", "port").rows()
    assert repr([online(project.platform, *pair) for pair in asked]) == repr(wanted)
    at("online/fixes")  # with its own comparison


KILLED = """
import sys
from dataclasses import replace
import mlops_assets as ml
from tests.projects import stream
project = stream.Project(replace(ml.Platform.at(sys.argv[1]), online=sys.argv[2]))
for n in range(100_000):
    project.push([stream.row("a", n % 200 + n / 1e6, n % 200 + n / 1e6, float(n % 50)), stream.row("b", (n + 30) % 200, n % 200 + 1, 1.0)], id=str(n))
    print(n, flush=True)
"""


def test_nothing_that_was_pushed_is_missing_after_a_kill(project, run) -> None:
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", KILLED, project.platform.home, project.platform.online], stdout=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(30)]
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    lines += process.stdout.read().splitlines()
    process.wait()
    process.stdout.close()
    done = max(int(line) for line in lines if line.strip().isdigit()) + 1
    assert done >= 30
    at = run(project.definitions)
    at(*LAKE, partitions=ALL)
    ships = open_stores(project.platform).lake.read("dataset/positions")["ship"].to_list()
    assert ships.count("a") in (done, done + 1)  # the one under way may have been complete, and then both of its rows are there
    assert ships.count("a") == ships.count("b")
    at(*ONLINE)  # what the kill kept from going online is there now: they compare
