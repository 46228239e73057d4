"""The two examples: a file that grows, and a real Redis stream; what is read twice counts once."""

import json
from datetime import timedelta

import dagster as dg
import pytest
import redis

import mlops_assets as ml
from mlops_assets.stores.online.opening import open_online
from mlops_assets.stores.online.protocol import Lookup
from tests.conftest import metadata
from tests.projects import redis_stream, tail_file
from tests.projects.stream import BASE
from tests.redis_server import redis_server


@pytest.fixture
def at(platform, monkeypatch) -> ml.Platform:
    monkeypatch.setenv("MLOPS_HOME", platform.home)
    return ml.Platform.from_env()


def speeds(at, *ships) -> list:
    reader = open_online(at.online).reader([Lookup("fixes", ("speed",))])
    return [reader.lookup_one([(ship,)], 2**60)[0].values[0] for ship in ships]


def line(ship: str, hour: int, speed: float) -> str:
    time = (BASE + timedelta(hours=hour)).isoformat()
    return json.dumps({"ship": ship, "at": time, "heard_at": time, "speed": speed}) + "\n"


def test_a_growing_file_is_tailed(at, run, instance, tmp_path, monkeypatch) -> None:
    file = tmp_path / "positions.jsonl"
    monkeypatch.setenv("POSITIONS_FILE", str(file))
    half = line("c", 3, 3.0)
    file.write_text(line("a", 1, 1.0) + line("b", 2, 2.0) + half[:20])
    with dg.build_sensor_context(instance=instance) as context:
        assert "pushed 2 lines" in tail_file.new_positions(context).skip_message
        cursor = context.cursor
    assert speeds(at, "a", "b", "c") == [1.0, 2.0, None]
    with file.open("a") as more:
        more.write(half[20:] + line("a", 4, 4.0))
    for _ in range(2):  # the first one dies before its cursor is kept
        with dg.build_sensor_context(instance=instance, cursor=cursor) as context:
            assert "pushed 2 lines" in tail_file.new_positions(context).skip_message
            after = context.cursor
    with dg.build_sensor_context(instance=instance, cursor=after) as context:
        assert "pushed 0 lines" in tail_file.new_positions(context).skip_message
    assert speeds(at, "a", "b", "c") == [4.0, 2.0, 3.0]
    ship = run(ml.build_definitions([tail_file.positions, tail_file.fixes], platform=at))
    ship("dataset/positions", "features/fixes")
    assert metadata(ship("online/fixes"), "online/fixes")["online rows"] == 4


def test_a_redis_stream_is_read(at, run, tmp_path, monkeypatch) -> None:
    with redis_server(tmp_path / "redis") as url, redis.Redis.from_url(url) as client:
        monkeypatch.setenv("POSITIONS_REDIS", url)
        ship = run(ml.build_definitions([redis_stream.positions, redis_stream.fixes, redis_stream.positions_stream], platform=at))
        for i in range(5):
            client.xadd("positions", {"ship": "abc"[i % 3], "at": (BASE + timedelta(hours=i)).isoformat(), "speed": str(float(i))})
        assert metadata(ship("positions_stream"), "positions_stream")["pushed"] == 5
        assert speeds(at, "a", "b", "c") == [3.0, 4.0, 2.0]
        client.xadd("positions", {"ship": "a", "at": (BASE + timedelta(hours=9)).isoformat(), "speed": "9"})
        # A run took the entry and died.
        client.xreadgroup("mlops", "one", {"positions": ">"})
        assert metadata(ship("positions_stream"), "positions_stream")["pushed"] == 1
        assert metadata(ship("positions_stream"), "positions_stream")["pushed"] == 0
        assert speeds(at, "a") == [9.0]
        ship("dataset/positions", "features/fixes", "online/fixes")
        assert speeds(at, "a", "b", "c") == [9.0, 4.0, 2.0]
