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


@pytest.mark.parametrize("content", ["", "{", "[]", json.dumps({"table": "dataset/a"})])
def test_a_damaged_record_is_skipped(home, content: str) -> None:
    record_reader(home, ["dataset/a"], "lookup")
    (path,) = Path(home, "readers").iterdir()
    path.write_text(content)
    assert list_readers(home, "dataset/a") == []
