"""Requests are counted in memory and written in few lines: nothing is lost by a full disk, and damage costs one line."""

import errno
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.serving.logs import request_log
from mlops_assets.serving.logs.request_log import (
    RequestLine,
    RequestLog,
    find_bucket,
    find_bucket_seconds,
    list_hour_files,
    read_request_file,
)

DAY_5 = 5 * 86_400_000_000 + 7


@pytest.fixture
def log(tmp_path, monkeypatch):
    monkeypatch.setattr(request_log, "_now", lambda: DAY_5)
    made = RequestLog(tmp_path / "requests", interval=3_600)
    yield made
    made.close()


def read(folder: Path) -> list[RequestLine]:
    return [counts for path in sorted(folder.rglob("*.jsonl")) for counts in read_request_file(path)]


def test_requests_of_a_version_are_one_line(log, tmp_path) -> None:
    for _ in range(3):
        log.count_rows(1, rows=2, looked_up=8, missing=1)
        log.count_reply(1, 200, 0.01)
    log.count_reply(1, 422, 5.0)
    log.count_reply(0, 503, 0.1)
    log.write_counts()
    log.write_counts()
    found = {counts.version: counts for counts in read(tmp_path / "requests")}
    assert found[1] == RequestLine(DAY_5, 1, os.getpid(), {"200": 3, "422": 1}, {str(find_bucket(0.01)): 3}, 6, 24, 3)
    assert (found[0].codes, found[0].seconds) == ({"503": 1}, {})
    assert [path.parent.name for path in tmp_path.rglob("*.jsonl")] == ["1970-01-06"]


def test_counts_that_a_full_disk_refuses_are_written_later(log, tmp_path, monkeypatch) -> None:
    log.count_reply(1, 200, 0.01)
    with monkeypatch.context() as full:

        def refuse(*_arguments: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        full.setattr(log, "write", refuse)
        log.write_counts()
        assert "No space left" in log.problem
    log.count_reply(1, 200, 0.01)
    log.write_counts()
    assert [counts.codes for counts in read(tmp_path / "requests")] == [{"200": 2}]
    assert log.problem == ""


def test_counts_that_a_full_disk_refuses_keep_their_hours(log, tmp_path, monkeypatch) -> None:
    with monkeypatch.context() as full:

        def refuse(*_arguments: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        full.setattr(log, "write", refuse)
        for hour in range(4):
            full.setattr(request_log, "_now", lambda hour=hour: DAY_5 + hour * 3_600_000_000)
            log.write_counts()
            log.count_reply(1, 200 + hour, 0.01)
            log.write_counts()
    log.write_counts()
    hours = list_hour_files(tmp_path / "requests")
    assert {hour.hour: [line.codes for path, _ in files for line in read_request_file(path)] for hour, files in hours.items()} == {
        hour: [{str(200 + hour): 1}] for hour in range(4)
    }


def test_closing_writes_the_last_counts(log, tmp_path) -> None:
    log.count_reply(1, 200, 0.01)
    log.close()
    assert [counts.codes for counts in read(tmp_path / "requests")] == [{"200": 1}]


def test_each_hour_has_files_of_its_own(log, tmp_path, monkeypatch) -> None:
    for hour in (0, 0, 3):
        monkeypatch.setattr(request_log, "_now", lambda hour=hour: DAY_5 + hour * 3_600_000_000)
        log.write_counts()
        log.count_reply(1, 200, 0.01)
        log.write_counts()
    folder = tmp_path / "requests"
    assert {hour.hour: [len(read_request_file(path)) for path, _ in files] for hour, files in list_hour_files(folder).items()} == {
        0: [2],
        3: [1],
    }
    assert list_hour_files(tmp_path / "none") == {}


def test_a_changed_line_is_left_out_and_named(log, tmp_path) -> None:
    for _ in range(2):
        log.count_reply(1, 200, 0.01)
        log.write_counts()
    (path,) = tmp_path.rglob("*.jsonl")
    path.write_bytes(path.read_bytes().replace(b'"200":1', b'"200":9', 1))
    corrupt: list[int] = []
    assert [counts.codes for counts in read_request_file(path, corrupt)] == [{"200": 1}]
    assert corrupt == [1]


def test_no_request_is_lost_between_threads(log, tmp_path) -> None:
    def count() -> None:
        for _ in range(5_000):
            log.count_reply(1, 200, 0.01)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        log.write_counts()
    log.write_counts()
    assert sum(counts.codes["200"] for counts in read(tmp_path / "requests")) == 20_000


@given(st.floats(1e-6, 1e3))
def test_a_duration_is_known_to_two_and_a_half_percent(seconds) -> None:
    assert find_bucket_seconds(find_bucket(seconds)) == pytest.approx(seconds, rel=0.026)
