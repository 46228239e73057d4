"""The response cache: keys, threads, processes and damage."""

import multiprocessing
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import date
from pathlib import Path

import pytest

from mlops_assets.errors import InstallationError
from mlops_assets.stores.llm.response_cache import ResponseCache
from mlops_assets.values.llm.provider import Completion

BODY = {"model": "tiny", "temperature": 0.0, "messages": [{"role": "user", "content": "late?"}]}
YES = Completion("yes", "stop", "tiny", "tiny-1", 7, 3, seconds=2.0, failures=("once",), attempts=2)


def fill(path: Path, writer: int) -> None:
    """Write and read entries of one writer, and one that all writers share."""
    cache = ResponseCache(path)
    for number in range(30):
        for key in (f"{writer}-{number}", "shared"):
            cache.write(key, Completion(key, "stop", "tiny"))
            assert (found := cache.read(key)) is not None
            assert found.text == key


def test_an_answer_is_read_as_it_was_written(tmp_path: Path) -> None:
    scope = ResponseCache(tmp_path / "new" / "responses.sqlite").build_scope("v1", {"city": "Rome"})
    assert scope.read(BODY, "r1", "") is None
    scope.write(BODY, "r1", YES)
    again = ResponseCache(tmp_path / "new" / "responses.sqlite").build_scope("v1", {"city": "Rome"})
    assert again.read(dict(reversed(BODY.items())), "r1", "") == Completion(
        "yes", "stop", "tiny", "tiny-1", 7, 3, 2.0, attempts=2, cached=True
    )


def test_the_key_follows_all_that_decides_an_answer(tmp_path: Path) -> None:
    cache = ResponseCache(tmp_path / "responses.sqlite")
    keys = [
        cache.build_scope("v1", {"city": "Rome"}).hash_request(BODY, "r1"),
        cache.build_scope("v2", {"city": "Rome"}).hash_request(BODY, "r1"),
        cache.build_scope("v1", {"city": "Oslo"}).hash_request(BODY, "r1"),
        cache.build_scope("v1", {"city": "Rome", "day": date(2024, 1, 1)}).hash_request(BODY, "r1"),
        cache.build_scope("v1", {"city": "Rome"}).hash_request(BODY, "r2"),
        cache.build_scope("v1", {"city": "Rome"}).hash_request({**BODY, "temperature": 1.0}, "r1"),
        cache.build_scope("v1", {"city": "Rome"}).hash_request({**BODY, "messages": []}, "r1"),
    ]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(("reason", "stored"), [("stop", True), ("length", True), ("content_filter", False), ("tool_calls", False)])
def test_an_answer_that_was_stopped_from_outside_is_not_stored(reason: str, stored: bool, tmp_path: Path) -> None:
    scope = ResponseCache(tmp_path / "responses.sqlite").build_scope("v1", {})
    scope.write(BODY, "", Completion("half", reason, "tiny"))
    assert (scope.read(BODY, "", "") is not None) is stored


def test_threads_share_a_cache(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda writer: fill(tmp_path / "responses.sqlite", writer), range(8)))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_processes_share_a_cache(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=fill, args=(tmp_path / "responses.sqlite", writer)) for writer in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert ResponseCache(tmp_path / "responses.sqlite").read("1-29") == Completion("1-29", "stop", "tiny", cached=True)


def test_the_file_is_readable_by_its_owner_only_and_holds_no_prompt(tmp_path: Path) -> None:
    path = tmp_path / "responses.sqlite"
    ResponseCache(path).build_scope("v1", {"city": "Rome"}).write(BODY, "", YES)
    assert path.stat().st_mode & 0o077 == 0
    files = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"late?" not in files
    assert b"Rome" not in files


@pytest.mark.parametrize("change", ["replace(completion, 'yes', 'no')", "'{'", "'[]'"])
def test_a_damaged_entry_is_a_miss_with_a_warning(change: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = ResponseCache(tmp_path / "responses.sqlite")
    cache.write("a", YES)
    with closing(sqlite3.connect(cache.path)) as connection:
        connection.execute(f"UPDATE completions SET completion = {change}")
        connection.commit()
    assert cache.read("a") is None
    assert "cannot be read" in caplog.text
    cache.write("a", YES)
    assert cache.read("a") is not None


def test_a_file_that_was_deleted_is_created_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = ResponseCache(tmp_path / "responses.sqlite")
    cache.write("a", YES)
    for file in tmp_path.iterdir():
        file.unlink()
    assert cache.read("a") is None
    cache.write("a", YES)
    assert cache.read("a") is not None
    assert cache.path.stat().st_mode & 0o077 == 0
    assert caplog.text == ""


def test_a_file_that_cannot_be_written_costs_no_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = ResponseCache(tmp_path / "responses.sqlite")
    with closing(sqlite3.connect(cache.path)) as connection:
        connection.execute("DROP TABLE completions")
    cache.write("a", YES)
    assert cache.read("a") is None
    assert "cannot be written: no such table" in caplog.text


def test_a_file_that_is_no_cache_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database, and long enough to be read as one" * 99)
    with pytest.raises(InstallationError, match="cannot be opened"):
        ResponseCache(tmp_path / "notes.txt")
