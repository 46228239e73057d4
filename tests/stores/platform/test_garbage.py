"""Artifacts that nothing names go; whatever a row names, directly or not, and whatever is being written, stays."""

import json
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops_assets.stores.artifacts.store import open_artifacts
from mlops_assets.stores.base.lock import hold_lock
from mlops_assets.stores.database import schema, sql
from mlops_assets.stores.platform.garbage import collect_garbage, owns_artifacts
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.stores.tracker.tracker import Run
from mlops_assets.values.platform import Platform

DAY = timedelta(days=1)


def path_of(stores: Stores, name: str) -> Path:
    return Path(stores.platform.artifacts) / "sha256" / name[:2] / name


def aged(stores: Stores, name: str, days: float = 10) -> str:
    then = datetime.now(UTC).timestamp() - days * 86_400
    os.utime(path_of(stores, name), (then, then))
    return name


def run_naming(name: str, **more) -> Run:
    at = datetime.now(UTC)
    return Run(f"r{name[:20]}{len(more)}", "m", "", "", at, at, None, {}, {}, {"artifact": name}, **more)


# A forest of artifacts: each names some of those before it; some are named by rows.
@given(
    st.lists(st.tuples(st.sets(st.integers(0, 30), max_size=3), st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=12),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_exactly_what_is_unreachable_and_old_goes(tmp_path_factory, forest) -> None:
    stores = Stores(Platform.at(tmp_path_factory.mktemp("forest")))
    names: list[str] = []
    for number, (below, *_) in enumerate(forest):
        names.append(stores.artifacts.put(json.dumps({"n": number, "names": [names[i] for i in sorted(below) if i < number]}).encode()))
    kept: set[int] = set()

    def keep(number: int) -> None:
        if number not in kept:
            kept.add(number)
            for below in forest[number][0]:
                if below < number:
                    keep(below)

    for number, (_, named, _, young) in enumerate(forest):
        if named:
            stores.tracker.add(run_naming(names[number]))
            keep(number)
        if not young:
            aged(stores, names[number])
    wanted = {names[i] for i, (*_, young) in enumerate(forest) if i not in kept and not young}
    assert {file.name for file in collect_garbage(stores, older_than=DAY, dry_run=True).removed} == wanted
    done = collect_garbage(stores, older_than=DAY)
    assert {file.name for file in done.removed} == wanted
    assert {file.name for file in stores.artifacts.files()} == set(names) - wanted
    assert done.remaining == len(names) - len(wanted)


@pytest.mark.parametrize("table", ["mlops_versions", "mlops_candidates", "mlops_version_files", "mlops_run_artifacts", "mlops_evidence"])
def test_a_row_of_any_table_keeps_what_it_names(platform, table) -> None:
    stores = Stores(platform)
    name = aged(stores, stores.artifacts.put(b"held"))
    columns = {c.name: c for c in schema.META.tables[table].c if not c.nullable}
    made = {n: 0 if isinstance(c.type, (sa.Integer, sa.Float, sa.Boolean)) else "x" for n, c in columns.items() if n != "sequence"}
    held = next(n for n in ("artifact", "sha256", "digest") if n in columns)
    stores.tracker.add(Run("x", "m", "", "", datetime.now(UTC), None, None, {}, {}, {}))
    with sql.open_database(platform.registry).write_transaction() as connection:
        connection.execute(schema.META.tables[table].insert().values(**made | {held: name}))
    assert collect_garbage(stores, older_than=DAY).removed == ()
    assert stores.artifacts.get(name) == b"held"


def test_what_a_killed_process_left_half_written_goes_after_its_grace(platform) -> None:
    stores = Stores(platform)
    kept = stores.artifacts.put(b"kept")
    left = path_of(stores, kept).with_name(".0123456789abcdef")
    left.write_bytes(b"half")
    assert collect_garbage(stores, older_than=DAY).removed == ()
    os.utime(left, (0, 0))
    assert [file.name for file in collect_garbage(stores, older_than=DAY).removed] == [left.name]
    assert not left.exists()


def test_garbage_collection_keeps_what_a_running_training_has_stored(platform) -> None:
    stores = Stores(platform)
    before = aged(stores, stores.artifacts.put(b"before"), days=9)
    locks = Path(platform.home) / "locks"
    locks.mkdir(parents=True)
    with hold_lock(locks / "train_m"):
        os.utime(locks / "train_m", (datetime.now(UTC).timestamp() - 5 * 86_400,) * 2)  # it began five days ago
        during = aged(stores, stores.artifacts.put(b"during"), days=3)
        held = threading.Thread(target=lambda: found.append(collect_garbage(stores, older_than=DAY)))
        found: list = []
        held.start()
        held.join()
    assert [file.name for file in found[0].removed] == [before]
    assert stores.artifacts.get(during) == b"during"
    stores.tracker.add(Run("going", "m", "", "", datetime.now(UTC) - 4 * DAY, None, None, {}, {}, {}, status="running"))
    assert collect_garbage(stores, older_than=DAY).removed == ()
    assert [file.name for file in collect_garbage(Stores(platform), older_than=timedelta(days=20)).removed] == []


def test_storing_what_is_there_already_and_collecting_it_at_the_same_time_loses_nothing(platform) -> None:
    """A training stores bytes that an earlier one left behind, while they are being collected: they are there when it records them."""
    stores, stop, lost = Stores(platform), threading.Event(), []
    stores.artifacts.put(b"the first makes the folder")

    def collect() -> None:
        while not stop.is_set():
            collect_garbage(Stores(platform), older_than=timedelta(hours=1))

    collector = threading.Thread(target=collect)
    collector.start()
    for number in range(60):
        data = f"{number % 3}".encode()
        name = stores.artifacts.put(data)
        aged(stores, name)  # left behind long ago
        again = stores.artifacts.put(data)
        if not stores.artifacts.exists(again):
            lost.append(number)
    stop.set()
    collector.join()
    assert lost == []


def test_artifacts_that_others_may_share_are_collected_only_on_request(tmp_path) -> None:
    assert owns_artifacts(Platform.at(tmp_path))
    assert not owns_artifacts(Platform.from_env({"MLOPS_HOME": str(tmp_path), "MLOPS_ARTIFACTS": "s3://bucket/models"}))
    assert not owns_artifacts(Platform.from_env({"MLOPS_HOME": str(tmp_path / "home"), "MLOPS_ARTIFACTS": str(tmp_path / "elsewhere")}))


def test_files_are_listed_by_their_names(tmp_path) -> None:
    store = open_artifacts(str(tmp_path))
    assert list(store.files()) == []
    name = store.put(b"one")
    assert [(file.name, file.size) for file in store.files()] == [(name, 3)]
    assert not store.remove(name, before=datetime.now(UTC) - DAY)
    assert store.remove(name, before=datetime.now(UTC) + DAY)
    assert list(store.files()) == []
