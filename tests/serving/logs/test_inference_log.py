"""What was answered is in the log once, whatever happens to the process, the disk, or a line."""

import re
import resource
import signal
import subprocess
import sys
import time
from datetime import UTC, date, datetime

import polars as pl
import psutil
import pytest

from mlops_assets.errors import DataError, ServiceError
from mlops_assets.serving.logs import day_log
from mlops_assets.serving.logs.day_log import DAY, find_write_problem, hash_log_files, list_log_days
from mlops_assets.serving.logs.inference_log import InferenceLog, PredictionRecord, read_log

FIRST, SECOND = date(2013, 4, 1), date(2013, 4, 2)
AT = int(datetime(2013, 4, 1, 12, tzinfo=UTC).timestamp()) * 1_000_000


def record(identity: str, **more) -> PredictionRecord:
    values = {
        "at": AT,
        "logged_at": AT + 1,
        "version": 1,
        "key": {},
        "x": {"a": 1.0},
        "prediction": True,
        "probability": 0.5,
        "missing": [],
    }
    return PredictionRecord(**{"id": identity, **values, "worker": 7, **more})


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "log"


def written(folder, *records, **options) -> None:
    log = InferenceLog(folder, **options)
    log.append(list(records))
    log.close()


def test_predictions_come_back_by_day_of_their_event(folder) -> None:
    written(folder, record("b", key={"flight": "x"}), record("a", at=AT + DAY, missing=["wind"]), record("c", x={"a": None, "b": "y"}))
    assert list_log_days(folder) == [FIRST, SECOND]
    assert read_log(folder, SECOND, SECOND)["id"].to_list() == ["a"]
    rows = read_log(folder, FIRST, SECOND)
    assert rows["id"].to_list() == ["b", "c", "a"]
    assert rows["at"][0] == datetime(2013, 4, 1, 12, tzinfo=UTC)
    assert rows["x"].to_list() == [{"a": 1.0, "b": None}, {"a": None, "b": "y"}, {"a": 1.0, "b": None}]
    assert rows["key"].to_list() == [{"flight": "x"}, {"flight": None}, {"flight": None}]
    assert rows["missing"].to_list() == [[], [], ["wind"]]


def test_an_empty_log_has_the_columns(folder) -> None:
    assert list_log_days(folder) == []
    rows = read_log(folder, FIRST, SECOND)
    assert (rows.height, rows.columns) == (0, list(PredictionRecord.__struct_fields__))
    written(folder, record("a"))
    assert read_log(folder, FIRST, FIRST)["key"].to_list() == [{}]


def test_versions_that_answer_with_different_types_share_a_column(folder) -> None:
    written(folder, record("a", prediction=3, probability=None), record("b", prediction=1.5), record("c", x={"a": 7}))
    assert read_log(folder, FIRST, FIRST)["x"].struct.field("a").to_list() == [1.0, 1.0, 7.0]
    written(folder, record("d", prediction="late"))
    assert read_log(folder, FIRST, FIRST).height == 4


def test_nan_is_null(folder) -> None:
    written(folder, record("a", x={"a": float("nan")}))
    assert read_log(folder, FIRST, FIRST)["x"].to_list() == [{"a": None}]


def test_a_repeated_id_counts_once_and_a_torn_last_line_not_at_all(folder) -> None:
    written(folder, record("a"), record("b"))
    path = next((folder / "2013-04-01").glob("*.jsonl"))
    (path.parent / "copy.jsonl").write_bytes(path.read_bytes() + b'{"id": "torn", "at"')
    assert read_log(folder, FIRST, FIRST)["id"].to_list() == ["a", "b"]


@pytest.mark.parametrize("broken", [b"{", b"\xff\xfe", b"", b'{"id": 3}'])
def test_a_line_that_cannot_be_read_is_reported(folder, broken) -> None:
    written(folder, record("a"), record("b"))
    path = next((folder / "2013-04-01").glob("*.jsonl"))
    first, second = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([first, broken, second, b""]))
    with pytest.raises(DataError, match=r"1 lines .* the first is 2013-04-01/.*\.jsonl:2"):
        read_log(folder, FIRST, FIRST)
    corrupt: list[str] = []
    assert read_log(folder, FIRST, FIRST, corrupt)["id"].to_list() == ["a", "b"]
    assert [place.rpartition(":")[2] for place in corrupt] == ["2"]


def test_the_fingerprint_changes_with_what_is_logged_and_parses_nothing(folder) -> None:
    before = hash_log_files(folder, FIRST, FIRST)
    written(folder, record("a"))
    one = hash_log_files(folder, FIRST, FIRST)
    written(folder, record("b", at=AT + DAY))
    assert before != one == hash_log_files(folder, FIRST, FIRST) != hash_log_files(folder, FIRST, SECOND)
    next((folder / "2013-04-01").glob("*.jsonl")).write_bytes(b"no line at all")
    assert hash_log_files(folder, FIRST, FIRST) != one


def test_few_files_stay_open_for_events_of_many_days(folder) -> None:
    log = InferenceLog(folder, max_open=4, interval=0.001)
    before = psutil.Process().num_fds()
    for i in range(300):
        log.append([record(f"{i}", at=AT + i % 30 * DAY)])
        assert psutil.Process().num_fds() <= before + 3 * (4 + 1)  # open, given up, being synced
    log.close()
    assert len(list(folder.glob("*/*.jsonl"))) == 30
    assert read_log(folder, FIRST, date(2013, 5, 1)).height == 300


def test_a_deleted_file_is_created_again(folder) -> None:
    log = InferenceLog(folder)
    log.append([record("a")])
    next(folder.glob("*/*.jsonl")).unlink()
    log.append([record("b")])
    log.close()
    assert read_log(folder, FIRST, FIRST)["id"].to_list() == ["b"]


def test_a_folder_that_cannot_be_written_is_reported(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServiceError, match="cannot be written"):
        InferenceLog(tmp_path / "file")
    assert "cannot be written" in find_write_problem(tmp_path / "file" / "below")
    assert find_write_problem(tmp_path) == ""
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def full(size: int | None) -> None:
    """Let no file of this process grow beyond ``size`` bytes."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard if size is None else size, hard))


def test_a_full_disk_refuses_whole_predictions_and_leaves_no_half_line(folder) -> None:
    log = InferenceLog(folder)
    log.append([record("a")])
    size = next(folder.glob("*/*.jsonl")).stat().st_size
    try:
        full(size + 20)  # half of the next line
        with pytest.raises(OSError, match="too large"):
            log.append([record("b")])
        assert not log.is_ready()
        assert "cannot be written" in log.problem
    finally:
        full(None)
    assert log.is_ready()
    log.append([record("c")])
    log.close()
    assert read_log(folder, FIRST, FIRST)["id"].to_list() == ["a", "c"]


def test_a_line_that_the_disk_takes_in_pieces_is_whole(folder, monkeypatch) -> None:
    log, write = InferenceLog(folder), day_log.os.write
    monkeypatch.setattr(day_log.os, "write", lambda descriptor, data: write(descriptor, data[:50]))
    log.append([record("a")])
    monkeypatch.undo()
    log.close()
    assert read_log(folder, date.min, date.max)["id"].to_list() == ["a"]


def test_half_a_line_that_cannot_be_taken_back_is_the_last_of_its_file(folder, monkeypatch) -> None:
    log = InferenceLog(folder)
    log.append([record("a")])
    size = next(folder.glob("*/*.jsonl")).stat().st_size

    def refuse(*_) -> None:
        raise OSError(5, "no")

    monkeypatch.setattr(day_log.os, "ftruncate", refuse)
    try:
        full(size + 20)
        with pytest.raises(OSError):
            log.append([record("b")])
    finally:
        full(None)
    log.append([record("c")])
    log.close()
    assert len(list(folder.glob("*/*.jsonl"))) == 2
    assert read_log(folder, FIRST, FIRST)["id"].to_list() == ["a", "c"]


def test_a_disk_that_cannot_be_synced_is_reported(folder, monkeypatch) -> None:
    def refuse(_) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(day_log, "_sync", refuse)
    log = InferenceLog(folder, interval=0.001)
    log.append([record("a")])
    while not log.problem:
        time.sleep(0.001)
    assert "cannot be synced to the disk" in log.problem
    log.close()


KILLED = """
import sys, pathlib
from tests.serving.logs.test_inference_log import InferenceLog, record
log = InferenceLog(pathlib.Path(sys.argv[1]))
for i in range(10**9):
    log.append([record(str(i)), record(f"{i}+")])
    print(i, flush=True)
"""


def test_what_was_written_before_a_kill_is_there(folder) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.strip() == "200":
            break
    process.send_signal(signal.SIGKILL)
    told = 200 + len(process.stdout.read().splitlines())
    process.wait()
    process.stdout.close()
    ids = set(read_log(folder, FIRST, FIRST)["id"].to_list())
    assert {str(i) for i in range(told)} <= ids
    assert isinstance(read_log(folder, FIRST, FIRST), pl.DataFrame)


def test_any_changed_byte_of_a_line_is_noticed(folder) -> None:
    written(folder, record("a", key={"flight": "x"}, x={"a": 1.25}))
    path = next(folder.glob("*/*.jsonl"))
    line = path.read_bytes()
    for place in range(len(line) - 1):
        for other in (line[place] ^ 1, line[place] ^ 0x20):
            path.write_bytes(line[:place] + bytes([other]) + line[place + 1 :])
            found: list[str] = []
            rows = read_log(folder, FIRST, FIRST, found)
            assert (rows.height, len(found)) == ((0, 1) if b"\n" not in path.read_bytes()[:-1] else (0, 2)), path.read_bytes()


def test_lines_of_before_checksums_are_read(folder) -> None:
    written(folder, record("a"), record("b"))
    path = next(folder.glob("*/*.jsonl"))
    path.write_bytes(b"".join(re.sub(rb',"crc":"[0-9a-f]{8}"}', b"}", line) for line in path.read_bytes().splitlines(keepends=True)))
    assert b"crc" not in path.read_bytes()
    assert read_log(folder, FIRST, FIRST)["id"].to_list() == ["a", "b"]


@pytest.mark.parametrize("name", ["old-logs", "2013-4-1", "2013-13-01", "2013-04-01.bak", "20130401", "README"])
def test_a_foreign_folder_or_file_among_the_days_is_ignored_and_named(folder, name) -> None:
    written(folder, record("a"))
    fingerprint = hash_log_files(folder, FIRST, SECOND)
    foreign = folder / name
    foreign.mkdir()
    (foreign / "1.jsonl").write_text("not ours\n")
    (folder / "2013-04-02").write_text("a file that is named like a day")
    assert list_log_days(folder) == [FIRST]
    assert read_log(folder, FIRST, SECOND)["id"].to_list() == ["a"]
    assert hash_log_files(folder, FIRST, SECOND) == fingerprint
    assert sorted(path.name for path in day_log.list_foreign_entries(folder)) == sorted([name, "2013-04-02"])
