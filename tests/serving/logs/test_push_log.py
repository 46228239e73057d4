"""The push log holds values exactly, and says when it cannot be read."""

from datetime import date

import polars as pl
import pytest

from mlops_assets.errors import DataError
from mlops_assets.serving.logs.push_log import LOGGED_AT, PushLog, hash_push_files, read_pushed_rows

DAY, FIRST = 86_400_000_000, date(1970, 1, 2)
TYPES = {"at": pl.Datetime("us", "UTC"), "n": pl.Int64(), "x": pl.Float64(), "s": pl.String(), "l": pl.List(pl.Float64)}


def test_values_come_back_exactly(tmp_path) -> None:
    log = PushLog(tmp_path)
    columns = {
        "at": [DAY, DAY + 1, DAY + 2],
        "n": [2**53 + 1, -(2**63), None],
        "x": [float("nan"), float("-inf"), None],
        "s": ["007", "NaN", None],
        "l": [[0.1, float("nan"), None], [], None],
    }
    log.append("one", 5, columns, columns["at"])
    found = read_pushed_rows(tmp_path, FIRST, FIRST, TYPES)
    assert repr({name: found[name].to_list() for name in ("n", "x", "s", "l")}) == repr(
        {name: columns[name] for name in ("n", "x", "s", "l")}
    )
    assert found["at"].dt.epoch("us").to_list() == columns["at"]
    assert found[LOGGED_AT].to_list() == [5] * 3
    later = read_pushed_rows(tmp_path, FIRST, FIRST, TYPES | {"new": pl.Int64()})
    assert later["new"].to_list() == [None] * 3
    assert read_pushed_rows(tmp_path, date(1970, 1, 3), date(1970, 1, 9), TYPES).is_empty()


def test_calls_are_read_once_and_in_the_order_in_which_they_were_made(tmp_path) -> None:
    log = PushLog(tmp_path)
    for call, logged, n in (("b", 20, 2), ("a", 10, 1), ("b", 30, 3)):
        log.append(call, logged, {"at": [DAY], "n": [n]}, [DAY])
    assert read_pushed_rows(tmp_path, FIRST, FIRST, TYPES)["n"].to_list() == [1, 2]


def test_a_call_over_several_days_counts_when_all_of_its_lines_are_there(tmp_path) -> None:
    log = PushLog(tmp_path)
    log.append("one", 1, {"at": [DAY, 3 * DAY], "n": [1, 2]}, [DAY, 3 * DAY])
    before = hash_push_files(tmp_path, FIRST, FIRST)
    assert read_pushed_rows(tmp_path, FIRST, FIRST, TYPES)["n"].to_list() == [1]
    (other,) = (tmp_path / "1970-01-04").glob("*.jsonl")
    text = other.read_bytes()
    other.write_bytes(text[:-2])  # torn
    assert read_pushed_rows(tmp_path, FIRST, date(1970, 1, 9), TYPES).is_empty()
    assert hash_push_files(tmp_path, FIRST, FIRST) != before
    other.write_bytes(text)
    assert hash_push_files(tmp_path, FIRST, FIRST) == before
    assert read_pushed_rows(tmp_path, FIRST, date(1970, 1, 9), TYPES)["n"].to_list() == [1, 2]


def test_a_line_that_cannot_be_read_is_named(tmp_path) -> None:
    PushLog(tmp_path).append("one", 1, {"at": [DAY], "n": [1]}, [DAY])
    (file,) = (path for path in (tmp_path / "1970-01-02").glob("*.jsonl") if path.stat().st_size)
    file.write_bytes(b"{]\n" + file.read_bytes() + b'{"id": "torn')
    with pytest.raises(DataError, match="1 lines of the push log cannot be read, the first is 1970-01-02/.*:1"):
        read_pushed_rows(tmp_path, FIRST, FIRST, TYPES)
    corrupt: list[str] = []
    assert read_pushed_rows(tmp_path, FIRST, FIRST, TYPES, corrupt)["n"].to_list() == [1]
    assert len(corrupt) == 1
