"""The doctor reads every line of the logs of predictions, pushes and traces."""

from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from mlops_assets.orchestrate.upkeep.doctor_files import check_logs
from mlops_assets.serving.logs.day_log import DAY, list_files
from mlops_assets.serving.logs.erasure import erase_predictions
from mlops_assets.serving.logs.inference_log import InferenceLog, PredictionRecord
from mlops_assets.serving.logs.push_log import PushLog
from mlops_assets.serving.logs.trace_log import TraceLog
from mlops_assets.values.llm.span import Span
from mlops_assets.values.platform import Platform

AT = int(datetime(2024, 1, 1, 12, tzinfo=UTC).timestamp()) * 1_000_000


@pytest.fixture
def platform(tmp_path):
    platform = Platform.at(tmp_path)
    log = InferenceLog(tmp_path / "services/api/log")
    log.append([PredictionRecord(str(n), AT, AT + n, 1, {"id": n}, {"x": 1234.5}, 0.5, None, [], 0) for n in range(5)])
    log.close()
    pushes = PushLog(tmp_path / "push/live")
    pushes.append("a", AT, {"x": [1234.5]}, [AT])
    pushes.append("b", AT, {"x": [1.0, 2.0]}, [AT, AT + DAY])
    return platform


def only_file(folder: Path) -> Path:
    (path,) = list_files(folder, date.min, date.max)
    return path


def examine(platform: Platform) -> list[tuple[str, str]]:
    return [(found.state, found.text) for found in check_logs(platform)]


def test_a_changed_line_is_named_with_its_file(platform, tmp_path) -> None:
    assert examine(platform) == [("ok", "no line of the logs is changed")]
    path = only_file(tmp_path / "services/api/log")
    whole = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*whole[:2], whole[2].replace(b"1234.5", b"1234.6"), *whole[3:]]))
    (found,) = check_logs(platform)
    assert (found.state, found.text) == ("failure", f"{path}:3 is not what was written to the prediction log")
    assert found.advice == "restore the file from a backup; until then, an import of that day skips such lines"
    path.write_bytes(b"\n".join([*whole[:2], b"{", whole[3][:-20], *whole[4:]]))
    assert examine(platform) == [
        ("failure", f"{path}:3 is not what was written to the prediction log; 1 later line(s) have changed as well")
    ]


def test_a_changed_push_is_named_with_its_file(platform, tmp_path) -> None:
    path = next(path for path in list_files(tmp_path / "push/live", date.min, date.max) if ".days" not in path.name)
    path.write_bytes(path.read_bytes().replace(b"1234.5", b"1234.6"))
    assert examine(platform) == [("failure", f"{path}:1 is not what was written to the push log")]


def test_a_changed_trace_is_named_with_its_file(platform, tmp_path) -> None:
    log = TraceLog(tmp_path / "services/answers/traces")
    log.write([Span("0" * 32, "0" * 16, None, "chat", 0, 1, "ok")])
    log.close()
    (tmp_path / "services/answers/traces/old").mkdir()
    assert examine(platform) == [
        ("warning", f"'{tmp_path}/services/answers/traces/old' is not a day of the trace log and is ignored"),
    ]
    (tmp_path / "services/answers/traces/old").rmdir()
    path = only_file(tmp_path / "services/answers/traces")
    path.write_bytes(path.read_bytes().replace(b"chat", b"shat"))
    assert examine(platform) == [("failure", f"{path}:1 is not what was written to the trace log")]


def test_an_empty_file_is_a_warning(platform, tmp_path) -> None:
    path = only_file(tmp_path / "services/api/log")
    path.write_bytes(b"")
    assert examine(platform) == [("warning", f"the prediction log file '{path}' is empty")]


def test_erased_and_torn_lines_are_sound(platform, tmp_path) -> None:
    folder = tmp_path / "services/api/log"
    assert erase_predictions(folder, {"id": "2"}) == 1
    with only_file(folder).open("ab") as file:
        file.write(b'{"id":"torn')
    assert [state for state, _ in examine(platform)] == ["ok"]
