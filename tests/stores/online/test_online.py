"""Online stores find what the point-in-time join finds, and nobody ever reads half of what is written: on LMDB and on a real Redis."""

import random
import signal
import time
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops_assets.compute.features.point_in_time import ViewRows, drop_unreachable, point_in_time_join, sort_as_of
from mlops_assets.errors import InstallationError
from mlops_assets.stores.online.opening import open_online
from mlops_assets.stores.online.protocol import Lookup, OnlineStore
from mlops_assets.stores.online.records import RecordSchema, merge_records
from mlops_assets.testing import ONLINE_STORE_CHECKS, online_layout
from tests.commands import warm_context
from tests.redis_server import free_port, redis_server

BASE = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
TYPES = {"k": pl.String, "event": pl.Datetime("us", "UTC"), "created": pl.Datetime("us", "UTC"), "value": pl.Int64}


def micros(time: datetime) -> int:
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


@pytest.fixture(scope="module", params=["lmdb", "redis"])
def url(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("online")
    if request.param == "lmdb":
        yield str(folder / "store")
    else:
        with redis_server(folder) as found:
            yield found


@pytest.fixture(scope="module")
def store(url) -> OnlineStore:
    return open_online(url)


@pytest.mark.parametrize("check", ONLINE_STORE_CHECKS, ids=lambda check: check.__name__)
def test_a_store_does_what_every_store_must_do(store, check) -> None:
    check(store)


rows = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(-5, 20), st.integers(-2, 6), st.integers(0, 3)), max_size=25, unique_by=lambda r: r[:3]
)
asked = st.lists(st.tuples(st.sampled_from(["a", "b", "c", "d", None]), st.integers(-8, 30)), min_size=1, max_size=15)


def as_view(made, ttl) -> ViewRows:
    frame = pl.DataFrame([(k, BASE + e * HOUR, BASE + (e + late) * HOUR, v) for k, e, late, v in made], schema=TYPES, orient="row")
    return ViewRows("v", frame, ("k",), "event", "created", ttl, ("value",))


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(rows, asked, st.sampled_from([None, timedelta(0), 4 * HOUR]), st.integers(0, 25))
def test_a_lookup_finds_what_the_join_finds_however_the_rows_came(store, made, wanted, ttl, first) -> None:
    view = as_view(made, ttl)
    store.replace("v", sort_as_of(as_view(made[first:], ttl)), join_keys=["k"], features=["value"])
    store.update("v", sort_as_of(as_view(made[:first], ttl)), join_keys=["k"], features=["value"])
    spine = pl.DataFrame(
        {"k": [k for k, _ in wanted], "at": [BASE + t * HOUR for _, t in wanted]}, schema={"k": pl.String, "at": TYPES["event"]}
    )
    joined = point_in_time_join(spine, [view], event_timestamp="at")["value"].to_list()
    times, reader = [micros(BASE + t * HOUR) for _, t in wanted], store.reader([Lookup("v", ("value",), ttl)])
    assert [reader.lookup_one([(k,)], t)[0].values[0] for (k, _), t in zip(wanted, times, strict=True)] == joined
    (found,) = reader.lookup_many([[(k,) for k, _ in wanted]], times)
    assert [None if null else v for v, null in zip(found.values["value"].tolist(), found.nulls["value"], strict=True)] == joined


def test_what_no_lookup_can_reach_is_left_out_and_nothing_else() -> None:
    times = [BASE + n * HOUR for n in range(10)]
    frame = pl.DataFrame({"k": ["a"] * 10, "event": times, "created": times, "value": range(10)}, schema=TYPES)
    view = ViewRows("v", frame, ("k",), "event", "created", 2 * HOUR, ("value",))
    kept = drop_unreachable(sort_as_of(view), ["k"], view.ttl, 3 * HOUR)
    assert kept["value"].to_list() == [6, 7, 8, 9]  # as of 06:00 and later; what held before is over
    ever = drop_unreachable(sort_as_of(ViewRows("v", frame[:1], ("k",), "event", "created", None, ("value",))), ["k"], None, HOUR)
    assert ever.height == 1


def test_updates_drop_what_is_out_of_reach(store) -> None:
    store.replace("history", online_layout([]), join_keys=["k"], features=["value"])
    for day in range(30):
        store.update("history", online_layout([("a", 24 * day, 24 * day, day)]), join_keys=["k"], features=["value"])
    reader = store.reader([Lookup("history", ("value",))])
    found = [reader.lookup_one([("a",)], micros(BASE + timedelta(days=day, hours=1)))[0].values[0] for day in range(30)]
    assert found == [None] * 22 + list(range(22, 30))


def generation(n: int, entities: int = 500) -> pl.DataFrame:
    return online_layout([(f"e{i}", 0, 0, n) for i in range(entities)])


def _read_all(url, ended, torn) -> None:
    reader = open_online(url).reader([Lookup("whole", ("value",))])
    keys, at = [[(f"e{i}",) for i in range(500)]], [micros(BASE)] * 500
    while not ended.is_set():
        if len(set(reader.lookup_many(keys, at)[0].values["value"].tolist())) != 1:
            torn.set()


def test_other_processes_see_all_of_a_view_or_all_of_the_next(url, store) -> None:
    store.replace("whole", generation(0), join_keys=["k"], features=["value"])
    context = warm_context()
    ended, torn = context.Event(), context.Event()
    readers = [context.Process(target=_read_all, args=(url, ended, torn)) for _ in range(2)]
    for reader in readers:
        reader.start()
    until = time.monotonic() + 5
    n = 0
    while n < 100 or time.monotonic() < until:
        n += 1
        store.replace("whole", generation(n), join_keys=["k"], features=["value"])
    ended.set()
    for reader in readers:
        reader.join()
        assert reader.exitcode == 0
    assert not torn.is_set()
    assert store.reader([Lookup("whole", ("value",))]).lookup_one([("e1",)], micros(BASE))[0].values == (n,)


def _push_all(url, seed) -> None:
    store, made = open_online(url), contended(seed)
    for start in range(0, len(made), 9):
        store.update("contended", online_layout(made[start : start + 9]), join_keys=["k"], features=["value"])


def contended(seed: int) -> list[tuple]:
    """Rows of the same few entities, different ones for each writer."""
    rng = random.Random(seed)
    return [(rng.choice("abcdef"), hour * 3 + seed, hour * 3 + seed + rng.choice([0, 0, 4]), hour * 10 + seed) for hour in range(30)]


def test_of_several_writers_none_undoes_another(url, store) -> None:
    store.replace("contended", online_layout([]), join_keys=["k"], features=["value"])
    context = warm_context()
    writers = [context.Process(target=_push_all, args=(url, seed)) for seed in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    store.replace("alone", online_layout([r for seed in range(3) for r in contended(seed)]), join_keys=["k"], features=["value"])
    reader = store.reader([Lookup("contended", ("value",)), Lookup("alone", ("value",))])
    for k in "abcdef":
        for hour in range(110):
            together, alone = reader.lookup_one([(k,), (k,)], micros(BASE + hour * HOUR))
            assert together == alone, (k, hour)


def _write_until_killed(url, how, ready) -> None:
    store, n = open_online(url), 0
    ready.set()
    while True:
        n += 1
        write = store.replace if how == "replace" else store.update
        write("killed", generation(n, 20_000), join_keys=["k"], features=["value"], mark=str(n))


@pytest.mark.parametrize("how", ["replace", "update"])
def test_a_writer_that_is_killed_leaves_the_old_or_the_new(url, store, how) -> None:
    keys, at = [[(f"e{i}",) for i in range(20_000)]], [micros(BASE)] * 20_000
    context = warm_context()
    for round_ in range(4):
        store.replace("killed", generation(0, 20_000), join_keys=["k"], features=["value"], mark="0")
        ready = context.Event()
        process = context.Process(target=_write_until_killed, args=(url, how, ready))
        process.start()
        assert ready.wait(60)
        time.sleep(0.11 + 0.17 * round_)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        (found,) = store.reader([Lookup("killed", ("value",))]).lookup_many(keys, at)
        state = store.state("killed")
        assert state.entities == 20_000
        values = set(found.values["value"].tolist())
        if how == "replace" or "://" not in url:
            assert values == {int(state.mark)}
        else:  # records are atomic one by one, and the mark says that the last update is not done
            assert values <= {int(state.mark), int(state.mark) + 1}
            assert not found.nulls["value"].any()


def test_a_record_of_another_schema_names_its_view() -> None:
    record, other = (RecordSchema((("value", kind),)).id for kind in ("int", "float"))
    with pytest.raises(InstallationError, match="a record of view 'fares' .* has another schema than the view\nHint: materialise .*fares"):
        merge_records(b"row" + other, b"row" + record, RecordSchema((("value", "int"),)), view="fares", before=0)


def test_a_store_that_cannot_be_opened_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InstallationError, match="the online store"):
        open_online(str(tmp_path / "file" / "online"))
    with pytest.raises(InstallationError, match="has an unknown scheme"):
        open_online("mongodb://127.0.0.1")
    with pytest.raises(InstallationError, match="the online store '.*' failed") as caught:
        open_online(f"redis://:secret@127.0.0.1:{free_port()}/0")
    assert "secret" not in str(caught.value)


def test_a_reader_comes_back_when_the_server_does(tmp_path) -> None:
    with redis_server(tmp_path) as url:
        store = open_online(url)
        store.replace("v", generation(1), join_keys=["k"], features=["value"])
        reader = store.reader([Lookup("v", ("value",))])
        assert reader.lookup_one([("e1",)], micros(BASE))[0].values == (1,)
        store._client.client_kill_filter(_type="normal", skipme=False)
        assert reader.lookup_one([("e1",)], micros(BASE))[0].values == (1,)
    with pytest.raises(InstallationError, match="the online store '.*' failed"):
        reader.lookup_one([("e1",)], micros(BASE))
