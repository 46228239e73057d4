"""Feature views go online by what has changed, late rows included; what is online is what the lake says."""

import json
import random
import signal
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

import mlops_assets as ml
from mlops_assets.cli.features import features
from mlops_assets.cli.project import LoadedProject
from mlops_assets.cli.project_target import ProjectTarget
from mlops_assets.compute.tables.changes import find_changed_rows
from mlops_assets.orchestrate.compiler.build import compiled_projects
from mlops_assets.stores.online.opening import open_online
from mlops_assets.stores.online.protocol import FRESH, Lookup
from mlops_assets.stores.platform.stores import open_stores
from tests.commands import run_code
from tests.conftest import metadata
from tests.projects import positions
from tests.redis_server import redis_server

HOUR = 3_600_000_000
START = round(positions.BASE.timestamp()) * 1_000_000
DAYS = "2024-03-01...2024-03-05"
FIRST = [("a", 1, 1, 1.0, "x"), ("a", 30, 30, 2.0, "x"), ("b", 50, 50, 5.0, None), ("c", 70, 71, 7.0, "y")]


@pytest.fixture(params=["lmdb", "redis"])
def at(request, platform, tmp_path):
    if request.param == "lmdb":
        yield platform
    else:
        with redis_server(tmp_path / "redis") as url:
            yield replace(platform, online=url)


class Ships:
    """A project over rows that a test changes."""

    def __init__(self, at, run, **more) -> None:
        self.at, self.partitions = at, DAYS if more.get("partitioned", True) else None
        self.run = run(positions.project(at, **more))
        self.source = "dataset/positions" if self.partitions else "dataset/everything"

    def lake(self, facts) -> None:
        positions.WORLD[:] = facts
        self.run(self.source, "features/fixes", partitions=self.partitions)

    def online(self, **config) -> dict:
        return metadata(self.run("online/fixes", config={"online__fixes_online": config}), "online/fixes")

    def value(self, ship: str, hour: int, feature: str = "speed"):
        reader = open_online(self.at.online).reader([Lookup("fixes", (feature,), timedelta(days=2))])
        return reader.lookup_one([(ship,)], START + hour * HOUR)[0].values[0]


def test_a_view_that_says_online_goes_online_without_a_service(platform, run, monkeypatch) -> None:
    @ml.dataset(key="shop", event_timestamp="at")
    def sales() -> pl.DataFrame:
        return pl.DataFrame({"shop": ["a"], "at": [positions.BASE], "sold": [3.0]})

    sold = ml.FeatureView(name="sold", source=sales, entity=ml.Entity("shop"), event_timestamp="at", features={"sold": float}, online=True)
    other = ml.FeatureView(name="other", source=sales, entity=ml.Entity("shop"), event_timestamp="at", features={"sold": float})
    definitions = ml.build_definitions([sales, sold, other], platform=platform)
    assert run(definitions)().success
    assert [key.path[-1] for key in definitions.resolve_asset_graph().materializable_asset_keys if key.path[0] == "online"] == [
        "sold_online"
    ]
    loaded = LoadedProject(ProjectTarget(Path("shop.py"), "shop", Path(), in_package=False), definitions, compiled_projects()[-1:])
    monkeypatch.setattr("mlops_assets.cli.features.load", lambda _: loaded)
    shown = CliRunner().invoke(features, ["online", "sold", "--entity", "shop=a", "--json", "-"])
    assert [(row["sold"], row["status"]) for row in json.loads(shown.stdout)] == [(3.0, "FRESH")]
    refused = CliRunner().invoke(features, ["online", "other", "--entity", "shop=a"])
    assert refused.exception.message == "'features/other' is not online"
    assert (
        refused.exception.hint == "set online=True in the feature view 'other', then run `mlops run --select 'key:\"online/other_online\"'`"
    )


def test_only_changed_rows_go_online(at, run) -> None:
    ships = Ships(at, run)
    ships.lake(FIRST)
    shown = ships.online()
    assert (shown["mode"], shown["online rows"], shown["entities written"]) == ("full rebuild: the first materialisation", 4, 3)
    assert shown["watermark on created"] == "2024-03-03 23:00:00+00:00"
    assert shown["newest event"] == "2024-03-03 22:00:00+00:00"
    shown = ships.online()
    assert (shown["mode"], shown["entities written"], shown["rows added"]) == ("incremental", 0, 0)

    late = ("b", 20, 90, 9.9, "z")  # days before what is online, and known last: it was overtaken
    later = ("a", 31, 80, 3.0, "z")  # it happened before others, and nobody knew
    ships.lake([*FIRST, late, later, ("d", 100, 100, 4.0, "w")])
    shown = ships.online()
    assert (shown["mode"], shown["rows added"], shown["entities written"], shown["entities changed"]) == ("incremental", 3, 3, 2)
    assert (shown["watermark on created"], shown["rows gone"]) == ("2024-03-05 04:00:00+00:00", 0)
    assert [ships.value("a", hour) for hour in (0, 1, 30, 79, 80)] == [None, 1.0, 2.0, None, None]
    assert (ships.value("b", 95), ships.value("d", 100)) == (5.0, 4.0)
    assert ships.value("a", 78) == 2.0
    assert int(shown["compared with the lake"]) >= 7


def test_lost_and_corrected_rows_are_rebuilt_exactly(at, run) -> None:
    ships = Ships(at, run, features={"speed": float, "port": str})
    ships.lake(FIRST)
    ships.online()
    ships.lake([("a", 1, 1, 1.0, "x"), ("b", 50, 50, 5.5, "p"), ("c", 70, 71, 7.0, "y")])  # a lost a row, one of b was corrected
    shown = ships.online()
    assert (shown["mode"], shown["rows gone"], shown["entities rebuilt"], shown["entities changed"]) == ("incremental", 2, 2, 2)
    assert [ships.value("a", hour) for hour in (1, 31)] == [1.0, 1.0]
    assert (ships.value("b", 51), ships.value("b", 51, "port")) == (5.5, "p")
    ships.lake([("c", 70, 71, 7.0, "y")])
    ships.online()
    assert open_online(at.online).state("fixes").entities == 1


def test_random_histories_end_as_a_full_rebuild_does(at, run) -> None:
    ships, rng = Ships(at, run, features={"speed": float, "port": str}), random.Random(0)
    facts: dict[tuple, tuple] = {}
    for _ in range(5):
        for _ in range(15):
            key = (rng.choice("abcd"), hour := rng.randrange(0, 110), hour + rng.choice([0, 0, -5, 40]))
            facts[key] = (rng.choice([None, 1.5, float("nan"), rng.random()]), rng.choice([None, "", "p"]))
        for key in rng.sample(sorted(facts), 3):
            del facts[key]
        ships.lake([(*key, *values) for key, values in facts.items()])
        assert ships.online(verify_entities=0)["mode"].startswith(("incremental", "full rebuild: the first"))

    def answers() -> list:
        return [repr(ships.value(s, hour, f)) for s in "abcd" for hour in range(0, 160, 3) for f in ("speed", "port")]

    after = answers()
    assert ships.online(full_rebuild=True)["mode"] == "full rebuild: requested"
    assert answers() == after


def test_an_unpartitioned_view_goes_online_by_changed_rows(at, run) -> None:
    ships = Ships(at, run, partitioned=False)
    ships.lake(FIRST)
    ships.online()
    ships.lake([*FIRST, ("a", 60, 60, 6.0, "x")])
    shown = ships.online()
    assert (shown["mode"], shown["rows added"], shown["entities written"]) == ("incremental", 1, 1)
    assert ships.value("a", 61) == 6.0


def test_other_features_and_a_lost_store_are_rebuilt(platform, run) -> None:
    ships = Ships(platform, run)
    ships.lake(FIRST)
    ships.online()
    ships = Ships(platform, run, features={"speed": float, "port": str})
    ships.lake(FIRST)
    assert ships.online()["mode"] == "full rebuild: the definition has changed"
    assert ships.value("c", 72, "port") == "y"
    moved = replace(platform, online=f"{platform.online}-elsewhere")
    ships = Ships(moved, run, features={"speed": float, "port": str})
    assert ships.online()["mode"] == "full rebuild: the first materialisation"


def test_an_expired_state_of_the_lake_is_no_obstacle(platform, run) -> None:
    ships = Ships(platform, run)
    ships.lake(FIRST)
    ships.online()
    mark = json.loads(open_online(platform.online).state("fixes").mark)
    ships.lake([*FIRST, ("a", 60, 60, 6.0, "x"), ("a", 31, 31, 3.0, "x")])
    lake = open_stores(platform).lake
    lake.maintain([], older_than=timedelta(0))
    with pytest.raises(Exception, match=r"."):
        lake.read("features/fixes", snapshot=mark[1])
    assert ships.online()["mode"] == "full rebuild: an earlier snapshot of the lake has expired"
    assert ships.value("a", 61) == 6.0


def test_a_difference_is_named_and_fixed_by_the_next_attempt(at, run) -> None:
    ships = Ships(at, run)
    ships.lake(FIRST)
    ships.online()
    store = open_online(at.online)
    wrong = pl.DataFrame({"ship": ["a"], "speed": [99.0]}).with_columns(
        pl.lit(positions.BASE + timedelta(hours=30)).cast(positions.UTC_TIME).alias(name)
        for name in ("__valid_from", "__event", "__created")
    )
    store.update("fixes", wrong, join_keys=["ship"], features=["speed"])
    message = ships.run.error("online/fixes")
    assert "feature 'speed' of view 'fixes' is 99.0 online and 2.0 in the lake for {'ship': 'a'} at 2024-03-02 06:00:00+00:00" in message
    assert ships.online()["mode"] == "full rebuild: the first materialisation"
    assert ships.value("a", 31) == 2.0
    extra = wrong.with_columns(pl.lit("ghost").alias("ship"))
    store.update("fixes", extra, join_keys=["ship"], features=["speed"])
    assert "has 4 entities online, and 3 in the lake" in ships.run.error("online/fixes")


def test_ages_and_ttl_are_those_of_the_row(platform, run) -> None:
    ships = Ships(platform, run)
    ships.lake(FIRST)
    ships.online()
    reader = open_online(platform.online).reader([Lookup("fixes", ("speed",), timedelta(days=2))])
    assert reader.lookup_one([("c",)], START + 72 * HOUR)[0] == ((7.0,), FRESH, 2 * HOUR)


def test_changes_know_null_from_nan_and_look_into_lists() -> None:
    old = pl.DataFrame({"k": [1, 2, 3, 4], "v": [None, float("nan"), 0.5, 1.0], "l": [[1], [2], [None], None]})
    new = pl.DataFrame({"k": [1, 2, 3, 5], "v": [float("nan"), float("nan"), 0.5, 1.0], "l": [[1], [2], [3], None]})
    added, gone = find_changed_rows(old, new)
    assert (sorted(added["k"]), sorted(gone["k"])) == ([1, 3, 5], [1, 3, 4])
    assert [part.height for part in find_changed_rows(old, old)] == [0, 0]


KILLED = """
import json, os, signal, sys
from dataclasses import replace
import dagster as dg
import mlops_assets as ml
from mlops_assets.stores.online.lmdb_store import LmdbStore
from mlops_assets.stores.online.redis_store import RedisStore
from tests.conftest import Runner
from tests.projects import positions

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

home, online, facts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
LmdbStore._write_state = die  # the last thing of every transaction
original = RedisStore.__init__
def wired(self, url):
    original(self, url)
    self._rename = die
    self._client.hset = die  # the mark, after all records
RedisStore.__init__ = wired
at = replace(ml.Platform.at(home), online=online)
positions.WORLD[:] = [tuple(fact) for fact in facts]
with dg.DagsterInstance.ephemeral() as instance:
    Runner(positions.project(at), instance)("online/fixes")
"""


def test_a_killed_materialisation_is_finished_by_the_next(at, run) -> None:
    ships = Ships(at, run)

    def killed(facts) -> None:
        code = run_code(KILLED, at.home, at.online, json.dumps(facts))
        assert code.returncode == -signal.SIGKILL, code.stderr[-2000:]

    ships.lake(FIRST)
    killed(FIRST)
    assert open_online(at.online).state("fixes") is None
    assert ships.online()["mode"] == "full rebuild: the first materialisation"
    more = [*FIRST[1:], ("a", 60, 60, 6.0, "x")]
    ships.lake(more)
    killed(more)
    assert ships.value("a", 61) == (
        6.0 if "://" in at.online else 2.0
    )  # in Redis each record is whole, and the mark says that more may lack
    shown = ships.online()
    assert (shown["mode"], shown["rows added"], shown["rows gone"]) == ("incremental", 1, 1)
    assert [ships.value("a", hour) for hour in (2, 31, 61)] == [None, 2.0, 6.0]
