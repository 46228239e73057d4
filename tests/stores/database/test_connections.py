"""Connections stay open within a process: durable as before, never across a fork, never to a file that was replaced."""

import dataclasses
import multiprocessing
import sqlite3
import sys
import threading

import pytest

from mlops_assets.stores.database.sql import open_database
from mlops_assets.stores.registry.registry import open_registry
from tests.stores.registry.test_registry import GATES, candidate, evidence, passed, promote


def test_a_process_opens_one_connection_for_many_calls_and_every_commit_is_on_the_disk(url) -> None:
    registry = open_registry(url)
    engine, opened = open_database(url).engine, []
    import sqlalchemy as sa

    engine.dispose()
    sa.event.listen(engine, "connect", lambda *_: opened.append(1))
    for number in range(20):
        passed(registry, f"d{number}")
        promote(registry)
    assert len(opened) == 1
    if url.startswith("sqlite"):
        with open_database(url).read_transaction() as connection:
            found = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("synchronous", "journal_mode", "foreign_keys")]
            assert found == [2, "wal", 1]  # 2 is FULL


def _work(url: str, model: str) -> None:
    registry = open_registry(url)  # in a child the parent's own object, as a fork leaves it
    for number in range(10):
        registry.submit(dataclasses.replace(candidate(f"d{number}"), model=model), [evidence(f"d{number}")])
        assert registry.register(model, GATES).version == number + 1
        assert registry.champion("m").version == 1


def _in_child(url: str, model: str) -> None:
    _work(url, model)
    sys.exit(0)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_children_have_connections_of_their_own(url) -> None:
    registry = open_registry(url)
    passed(registry, "first")
    promote(registry)
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_in_child, args=(url, f"child{n}")) for n in range(3)]
    for child in children:
        child.start()
    _work(url, "parent")
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert len(registry.versions()) == 41
    if url.startswith("sqlite"):
        with open_database(url).read_transaction() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"


def test_a_file_that_was_put_back_from_a_backup_is_the_one_that_is_read(tmp_path) -> None:
    path, backup = tmp_path / "registry.sqlite", tmp_path / "backup.sqlite"
    registry = open_registry(f"sqlite:///{path}")
    passed(registry, "a")
    promote(registry)
    source, copy = sqlite3.connect(path), sqlite3.connect(backup)
    source.backup(copy)
    source.close()
    copy.close()
    passed(registry, "b")
    promote(registry)
    assert registry.champion("m").digest == "b"
    open_database(f"sqlite:///{path}").engine.dispose()  # as at the end of the process that restores
    assert registry.champion("m").digest == "b"
    for name in ("registry.sqlite-wal", "registry.sqlite-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    backup.replace(path)
    assert registry.champion("m").digest == "a"
    passed(registry, "c")
    assert [v.digest for v in registry.versions("m")] == ["a", "c"]
    open_database(f"sqlite:///{path}").engine.dispose()


def test_threads_share_what_is_open(url) -> None:
    registry, told = open_registry(url), []
    passed(registry, "first")
    promote(registry)

    def work(mine: int) -> None:
        try:
            _work(url, f"thread{mine}")
        except Exception as error:  # noqa: BLE001  (whatever a thread meets is told)
            told.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == []
    assert len(registry.versions()) == 81
