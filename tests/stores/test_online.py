"""The online store finds what the point-in-time join finds, and a refreshed view is seen whole or not at all."""

import multiprocessing
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops_assets.compute.point_in_time import View, as_of_layout, point_in_time_join, reachable
from mlops_assets.errors import PlatformError
from mlops_assets.stores.online import LmdbStore, open_online

BASE = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
TYPES = {"k": pl.String, "event": pl.Datetime("us", "UTC"), "created": pl.Datetime("us", "UTC"), "value": pl.Int64}


def micros(time: datetime) -> int:
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def fill(store: LmdbStore, rows: pl.DataFrame, ttl: timedelta | None) -> View:
    view = View("v", rows, ("k",), "event", "created", ttl, ("value",))
    store.replace("v", as_of_layout(view), join_keys=["k"], features=["value"])
    return view


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> LmdbStore:
    return LmdbStore(tmp_path_factory.mktemp("online"))


rows = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(-5, 20), st.integers(0, 6), st.integers(0, 3)), max_size=25, unique_by=lambda r: r[:3]
)
asked = st.lists(st.tuples(st.sampled_from(["a", "b", "c", "d", None]), st.integers(-8, 30)), min_size=1, max_size=15)


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(rows, asked, st.sampled_from([None, timedelta(0), 4 * HOUR]))
def test_a_lookup_finds_what_the_join_finds(shared, made, wanted, ttl) -> None:
    frame = pl.DataFrame([(k, BASE + e * HOUR, BASE + (e + late) * HOUR, v) for k, e, late, v in made], schema=TYPES, orient="row")
    view = fill(shared, frame, ttl)
    spine = pl.DataFrame(
        {"k": [k for k, _ in wanted], "at": [BASE + t * HOUR for _, t in wanted]}, schema={"k": pl.String, "at": TYPES["event"]}
    )
    joined = point_in_time_join(spine, [view], event_timestamp="at")["value"].to_list()
    times = [micros(BASE + t * HOUR) for _, t in wanted]
    found = shared.read("v", [(k,) for k, _ in wanted], times)
    limit = None if ttl is None else ttl // timedelta(microseconds=1)
    alive = [None if f is None or (limit is not None and t - f[0] > limit) else f[1][0] for f, t in zip(found, times, strict=True)]
    assert alive == joined


def test_what_no_lookup_can_reach_is_left_out_and_nothing_else() -> None:
    times = [BASE + n * HOUR for n in range(10)]
    frame = pl.DataFrame({"k": ["a"] * 10, "event": times, "created": times, "value": range(10)}, schema=TYPES)
    view = View("v", frame, ("k",), "event", "created", 2 * HOUR, ("value",))
    kept = reachable(as_of_layout(view), ["k"], view.ttl, 3 * HOUR)
    assert kept["value"].to_list() == [6, 7, 8, 9]  # as of 06:00 and later; what held before is over
    ever = reachable(as_of_layout(View("v", frame[:1], ("k",), "event", "created", None, ("value",))), ["k"], None, HOUR)
    assert ever.height == 1


def test_entities_are_told_apart_by_type_and_length(tmp_path) -> None:
    store = LmdbStore(tmp_path / "online")
    keys = [("ab", "c"), ("a", "bc"), ("x" * 2000, "y"), ("x" * 2000, "z")]
    layout = pl.DataFrame({"p": [p for p, _ in keys], "q": [q for _, q in keys], "n": [0, 1, 2, 3]}).with_columns(
        pl.lit(BASE).cast(TYPES["event"]).alias("__valid_from"), pl.lit(BASE).cast(TYPES["event"]).alias("__event")
    )
    assert store.replace("v", layout, join_keys=["p", "q"], features=["n"]) == 4
    assert [found[1][0] for found in store.read("v", keys, [micros(BASE)] * 4)] == [0, 1, 2, 3]
    assert store.read("v", [("abc", "")], [micros(BASE)]) == [None]
    assert store.read("never written", keys[:1], [micros(BASE)]) == [None]


def _generation(n: int) -> pl.DataFrame:
    times = pl.Series([BASE] * 500, dtype=TYPES["event"])
    return pl.DataFrame({"k": [f"e{i}" for i in range(500)], "__valid_from": times, "__event": times, "value": [n] * 500})


def _read_all(folder, ended, torn) -> None:
    store = LmdbStore(folder)
    keys, at = [(f"e{i}",) for i in range(500)], [micros(BASE)] * 500
    while not ended.is_set():
        if len({found and found[1][0] for found in store.read("v", keys, at)}) != 1:
            torn.set()


def test_another_process_sees_all_of_a_view_or_all_of_the_next(tmp_path) -> None:
    store = LmdbStore(tmp_path / "online")
    store.replace("v", _generation(0), join_keys=["k"], features=["value"])
    context = multiprocessing.get_context("spawn")
    ended, torn = context.Event(), context.Event()
    reader = context.Process(target=_read_all, args=(tmp_path / "online", ended, torn))
    reader.start()
    for n in range(1, 200):
        store.replace("v", _generation(n), join_keys=["k"], features=["value"])
    ended.set()
    reader.join()
    assert reader.exitcode == 0
    assert not torn.is_set()
    assert store.read("v", [("e1",)], [micros(BASE)])[0][1] == (199,)


def test_a_store_that_cannot_be_opened_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PlatformError, match="the online store"):
        LmdbStore(tmp_path / "file" / "online")
    with pytest.raises(PlatformError, match="is not a folder"):
        open_online("redis://127.0.0.1")
