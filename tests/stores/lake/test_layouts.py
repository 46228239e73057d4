"""Layouts on disk hold what the lake holds: after new, rewritten and late partitions, pinned, damaged, killed, and side by side."""

import json
import os
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.compute.features.point_in_time import point_in_time_join
from mlops_assets.errors import LakeError
from mlops_assets.stores.lake.ducklake import DuckLake
from mlops_assets.stores.lake.layout_files import find_damaged_layouts, read_state, write_state
from mlops_assets.stores.lake.layouts import Layouts
from mlops_assets.stores.lake.protocol import Partition
from mlops_assets.values.window import window_of
from tests.commands import warm_context
from tests.compute.features.worlds import START, UTC_TIME, World, agrees, expected

DAILY = dg.DailyPartitionsDefinition("2024-03-01", end_date="2024-04-01")
FEATURES = {"value": int, "text": str, "pair": list[int], "half": float, "even": bool, "then": datetime}
DAY = 86_400


def view(ttl: timedelta | None = None) -> ml.FeatureView:
    source = ml.ExternalDataset("v", partitions=DAILY, key=("k", "event", "created"), event_timestamp="event")
    return ml.FeatureView(
        source=source, entity=ml.Entity("k"), event_timestamp="event", created_timestamp="created", ttl=ttl, features=FEATURES
    )


def entity(number: int) -> str:
    """Names of many lengths: none may decide where another lies."""
    return f"e{number}" * (1 + number % 7) + "ü" * (200 * (number % 11 == 3))


def rows_of(rng: np.random.Generator, day: int, count: int, first: int, entities: int = 40) -> pl.DataFrame:
    """Rows of one day, some of which became known days later; every ``value`` once."""
    at = START // 1_000_000 // DAY * DAY + day * DAY + rng.integers(0, DAY, count)
    late = rng.choice([0, 0, 3600, DAY, 3 * DAY], count)
    value = pl.Series(np.arange(first, first + count))
    frame = pl.DataFrame({"k": pl.Series([entity(n) for n in rng.integers(0, entities, count)], dtype=pl.String), "value": value})
    return frame.with_columns(
        *(pl.Series(n, (t * 1_000_000).astype(np.int64)).cast(UTC_TIME) for n, t in (("event", at), ("created", at + late))),
        text=pl.format("№{}", "value"),
        pair=pl.concat_list("value", pl.col("value") + 1),
        half=pl.when(pl.col("value") % 5 > 0).then(pl.col("value") / 2),
        even=pl.col("value") % 2 == 0,
        then=pl.from_epoch("value", time_unit="s").dt.replace_time_zone("UTC").cast(UTC_TIME),
    )


def keys(first: int, last: int) -> list[str]:
    base = datetime.fromtimestamp(START // 1_000_000 // DAY * DAY, tz=UTC)
    return [(base + timedelta(days=day)).date().isoformat() for day in range(first, last + 1)]


def write(lake: DuckLake, days: dict[int, pl.DataFrame]) -> int:
    parts = [Partition(key, window_of(DAILY, key)) for day in sorted(days) for key in keys(day, day)]
    return lake.write("features/v", pl.concat(days.values()), parts, event_timestamp="event", key=("k", "event", "created")).snapshot


def found(layouts: Layouts, held: pl.DataFrame, ttl: timedelta | None, *, as_known: bool = True, snapshot: int | None = None) -> bool:
    """Return whether lookups in the layout find what the definition finds in ``held``."""
    rng = np.random.default_rng(1)
    at = START // 1_000_000 // DAY * DAY + rng.integers(-DAY, 12 * DAY, 1500)
    spine = pl.DataFrame({"k": [entity(n) for n in rng.integers(0, 45, 1500)], "t": pl.Series(at * 1_000_000).cast(UTC_TIME)})
    joined = point_in_time_join(spine, [layouts.load(view(ttl), snapshot=snapshot, as_known=as_known)], event_timestamp="t")
    world = World(held, spine, ("k",), ttl, "created")
    return agrees(joined, world, expected(world, as_known=as_known))


@pytest.fixture
def lake(tmp_path) -> DuckLake:
    return DuckLake.open(tmp_path / "lake")


@pytest.mark.parametrize("ttl", [None, timedelta(days=2)])
def test_a_layout_follows_new_late_and_rewritten_partitions(lake, tmp_path, ttl, monkeypatch) -> None:
    monkeypatch.setattr("mlops_assets.compute.features.point_in_time.ROWS_PER_BUCKET", 64)
    monkeypatch.setattr("mlops_assets.stores.lake.layouts.ROWS_PER_BUCKET", 64)
    rng, layouts, held, first = np.random.default_rng(3), Layouts(tmp_path / "layouts", lake), dict[int, pl.DataFrame](), 0
    pins = []
    for step in range(14):
        days = [step] if step % 3 else [int(rng.integers(0, step + 1)), step]  # a new day, and often an old one anew
        for day in days:
            held[day] = rows_of(rng, day, int(rng.integers(0, 60)), first)
            first += held[day].height
        snapshot = write(lake, {day: held[day] for day in days})
        pins.append((snapshot, pl.concat(held.values())))
        for as_known in (True, False):
            assert found(layouts, pl.concat(held.values()), ttl, as_known=as_known), (step, as_known)
    for snapshot, then in pins[::4]:
        assert found(layouts, then, ttl, snapshot=snapshot)


def test_a_new_day_touches_the_buckets_of_its_entities_alone(lake, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("mlops_assets.compute.features.point_in_time.ROWS_PER_BUCKET", 64)
    rng, layouts = np.random.default_rng(5), Layouts(tmp_path / "layouts", lake)
    write(lake, {0: rows_of(rng, 0, 2000, 0)})
    layouts.load(view())
    before = {file.name for file in (tmp_path / "layouts" / "v-known").glob("*.arrow")}
    assert len(before) == 16  # of 64 rows or fewer each
    write(lake, {1: rows_of(rng, 1, 20, 2000, entities=1)})
    layouts.load(view())
    after = {file.name for file in (tmp_path / "layouts" / "v-known").glob("*.arrow")}
    assert len(after - before) == 1
    assert len(before - after) == 1


@pytest.mark.parametrize("again", [True, False], ids=["same process", "new process"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "state"])
def test_a_damaged_layout_is_made_again(lake, tmp_path, damage, again) -> None:
    rows, layouts = rows_of(np.random.default_rng(6), 0, 500, 0), Layouts(tmp_path / "layouts", lake)
    write(lake, {0: rows})
    layouts.load(view())
    folder = tmp_path / "layouts" / "v-known"
    file = next(folder.glob("*.arrow"))
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 4
        file.write_bytes(content)
    elif damage == "truncate":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "remove":
        file.unlink()
    else:
        (folder / "state.json").write_text((folder / "state.json").read_text()[:40])
    assert found(layouts if again else Layouts(tmp_path / "layouts", lake), rows, None)


@pytest.mark.parametrize("how", ["one key instead of all", "without one key", "a file with another key", "a text", "no object"])
def test_a_layout_whose_state_has_other_keys_is_named_and_made_again(lake, tmp_path, how) -> None:
    rows = rows_of(np.random.default_rng(6), 0, 500, 0)
    write(lake, {0: rows})
    Layouts(tmp_path / "layouts", lake).load(view())
    folder = tmp_path / "layouts" / "v-known"
    state = read_state(folder)
    others = {
        "one key instead of all": {"defined": state["definition"]},
        "without one key": {name: value for name, value in state.items() if name != "definition"},
        "a file with another key": {**state, "buckets": [{**file, "colour": "red"} for file in state["buckets"]]},
        "a text": "text",
    }
    if how in others:
        write_state(folder, others[how])  # as another version of the program may have written it, checksum included
    else:
        (folder / "state.json").write_text("[]")
    assert list(find_damaged_layouts(tmp_path / "layouts")) == [(folder / "state.json", "its content has changed")]
    assert found(Layouts(tmp_path / "layouts", lake), rows, None)
    assert list(find_damaged_layouts(tmp_path / "layouts")) == []


def test_what_rots_unseen_is_found_when_its_minute_is_over(lake, tmp_path, monkeypatch) -> None:
    rows, layouts = rows_of(np.random.default_rng(6), 0, 500, 0), Layouts(tmp_path / "layouts", lake)
    write(lake, {0: rows})
    layouts.load(view())
    file = next((tmp_path / "layouts" / "v-known").glob("*.arrow"))
    stat, content = file.stat(), bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # no trace but the bit
    layouts.load(view())
    assert file.exists()  # trusted: verified a moment ago, and not touched since
    monkeypatch.setattr("mlops_assets.stores.lake.layouts.MAX_TRUST_SECONDS", 0.0)
    assert found(layouts, rows, None)
    assert not file.exists()


def test_a_view_without_rows_in_a_state_is_named(lake, tmp_path) -> None:
    with pytest.raises(LakeError, match="the lake has no table 'features/v'"):
        Layouts(tmp_path / "layouts", lake).load(view())
    write(lake, {0: rows_of(np.random.default_rng(6), 0, 0, 0)})
    assert found(Layouts(tmp_path / "layouts", lake), rows_of(np.random.default_rng(6), 0, 0, 0), None)


def _keep_updating(folder: Path) -> None:
    lake = DuckLake.open(folder / "lake")
    layouts = Layouts(folder / "layouts", lake)
    while True:
        layouts.load(view())


def test_killed_while_it_is_brought_up_to_date(lake, tmp_path) -> None:
    rng, held = np.random.default_rng(7), dict[int, pl.DataFrame]()
    context = warm_context()
    for day in range(8):
        held[day] = rows_of(rng, day, 300, day * 300)
        write(lake, {day: held[day]})
        process = context.Process(target=_keep_updating, args=(tmp_path,))
        process.start()
        state = tmp_path / "layouts" / "v-known" / "state.json"
        deadline = time.monotonic() + 60
        while not list((tmp_path / "layouts").glob("v-known/*")) and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(float(rng.random()) * 0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert not state.exists() or json.loads(state.read_text())["state"]["partitions"]
        assert found(Layouts(tmp_path / "layouts", lake), pl.concat(held.values()), None)
    files = list((tmp_path / "layouts" / "v-known").iterdir())
    assert len(files) == 2 + len(json.loads(state.read_text())["state"]["buckets"])  # what the killed ones left is gone


def _update_and_check(folder: Path, failed) -> None:
    lake = DuckLake.open(folder / "lake")
    layouts = Layouts(folder / "layouts", lake)
    for _ in range(20):
        snapshot = lake.snapshot()
        held = lake.read("features/v", snapshot=snapshot)
        if not found(layouts, held, None, snapshot=snapshot):
            failed.set()


def test_processes_side_by_side_while_days_arrive(lake, tmp_path) -> None:
    rng = np.random.default_rng(11)
    write(lake, {0: rows_of(rng, 0, 200, 0)})
    context = warm_context()
    failed = context.Event()
    processes = [context.Process(target=_update_and_check, args=(tmp_path, failed)) for _ in range(2)]
    for process in processes:
        process.start()
    for day in range(1, 10):
        write(lake, {day: rows_of(rng, day, 200, day * 200)})
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert not failed.is_set()
