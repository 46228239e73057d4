"""Records of the programs that read tables: one file for each, written at most once an hour, and never a reason for a read to fail."""

import json
from pathlib import Path

import pytest

from mlops_assets.stores.platform import readers
from mlops_assets.stores.platform.readers import list_readers, record_reader


@pytest.fixture
def home(tmp_path, monkeypatch) -> str:
    monkeypatch.setattr(readers, "_RECORDED", {})
    return str(tmp_path)


def test_a_program_is_recorded_once_an_hour_for_each_table_and_call(home, monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/weekly_report.py"])
    record_reader(home, ["dataset/a", "dataset/b"], "read_table")
    (first,) = list_readers(home, "dataset/a")
    assert (first.program, first.call) == ("weekly_report.py", "read_table")
    record_reader(home, ["dataset/a"], "read_table")
    assert list_readers(home, "dataset/a") == [first]
    monkeypatch.setattr(readers, "_INTERVAL", 0.0)
    record_reader(home, ["dataset/a"], "read_table")
    (later,) = list_readers(home, "dataset/a")
    assert later.first == first.first
    assert later.last > first.last
    assert [reader.table for reader in list_readers(home, "dataset/b")] == ["dataset/b"]


def test_a_home_that_cannot_be_written_or_does_not_exist_is_left_alone(home) -> None:
    (Path(home) / "readers").write_text("a file where the folder should be")
    record_reader(home, ["dataset/a"], "lookup")
    record_reader(f"{home}/nowhere", ["dataset/a"], "lookup")
    assert list_readers(home, "dataset/a") == []
    assert not Path(home, "nowhere").exists()


RECORD = {"table": "dataset/a", "call": "lookup", "program": "a.py", "user": "u", "host": "h"}
NAIVE = json.dumps(RECORD | {"first": "2024-01-01T00:00:00", "last": "2024-01-01T00:00:00"})
BEFORE_ALL = json.dumps(RECORD | {"first": "0001-01-01T00:00:00+14:00", "last": "2024-01-01T00:00:00+00:00"})
DAMAGED = ["", "{", "[]", "null", "0", '"x"', "[" * 100_000, json.dumps({"table": "dataset/a"}), NAIVE, BEFORE_ALL]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_record_is_skipped_and_replaced_by_the_next_read(home, monkeypatch, content: str) -> None:
    record_reader(home, ["dataset/a"], "lookup")
    (path,) = Path(home, "readers").iterdir()
    good = path.read_text()
    path.write_text(content)
    Path(home, "readers", f"{path.stem}-other.json").write_text(good)
    assert len(list_readers(home, "dataset/a")) == 1
    monkeypatch.setattr(readers, "_RECORDED", {})
    record_reader(home, ["dataset/a"], "lookup")
    assert len(list_readers(home, "dataset/a")) == 2


def test_a_process_without_a_program_name_is_recorded_too(home, monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", [])
    record_reader(home, ["dataset/a"], "lookup")
    assert list_readers(home, "dataset/a")[0].program == "interactive Python"
