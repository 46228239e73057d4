"""Every trace of an answered request is in the log once, whatever happens to the process, the disk, or a line."""

import dataclasses
import signal
import subprocess
import sys
import threading
from datetime import UTC, date, datetime

import pytest

from mlops_assets.errors import DataError, ServiceError
from mlops_assets.serving.logs import day_log
from mlops_assets.serving.logs.damage import find_changed_traces
from mlops_assets.serving.logs.trace_log import TraceLog, read_traces
from mlops_assets.values.llm.span import FEEDBACK, SECOND, Span, make_span_id, make_trace_id, read_start_second

FIRST, SECOND_DAY = date(2013, 4, 1), date(2013, 4, 2)
NOON = int(datetime(2013, 4, 1, 12, tzinfo=UTC).timestamp()) * SECOND
DAY = 86_400 * SECOND


def make_span(trace_id: str = "", start: int = NOON, **more) -> Span:
    fields = {"span_id": make_span_id(), "parent_id": None, "name": "chat", "end": start + SECOND // 4, "status": "ok", **more}
    return Span(trace_id or make_trace_id(start), start=start, **fields)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "traces"


def write(folder, *batches) -> None:
    log = TraceLog(folder)
    for spans in batches:
        log.write(spans)
    log.close()


def read_all(folder, corrupt=None):
    return {day: spans for day, spans in read_traces(folder, FIRST, date(2014, 1, 1), corrupt).items() if spans}


def test_spans_come_back_as_they_were_written(folder) -> None:
    attributes = {"gen_ai.usage.input_tokens": 12, "mlops.cost": 1.0, "mlops.cached": False, "mlops.output": "ärrived\n", "none": None}
    root = make_span(attributes=attributes)
    child = make_span(root.trace_id, parent_id=root.span_id, status="error", error="timeout")
    write(folder, [root, child])
    assert read_all(folder) == {FIRST: [root, child]}
    assert [type(value) for value in read_all(folder)[FIRST][0].attributes.values()] == [int, float, bool, str, type(None)]
    assert root.seconds == 0.25


def test_a_write_is_one_line_for_each_trace_in_the_folder_of_its_first_day(folder) -> None:
    late = make_span(start=NOON + DAY // 2 - 1)
    child = make_span(late.trace_id, start=NOON + DAY // 2 + SECOND)  # after midnight
    other = make_span(start=NOON + DAY)
    write(folder, [late, other, child])
    assert read_all(folder) == {FIRST: [late, child], SECOND_DAY: [other]}
    assert [len(path.read_bytes().splitlines()) for path in sorted(folder.glob("*/*.jsonl"))] == [1, 1]


def test_feedback_is_filed_with_its_trace(folder) -> None:
    root = make_span()
    feedback = make_span(root.trace_id, start=NOON + 5 * DAY, name=FEEDBACK, attributes={"mlops.feedback": 1.0})
    foreign = make_span("0" * 32, start=NOON + DAY, name=FEEDBACK, attributes={"mlops.feedback": 1.0})
    write(folder, [root], [feedback], [foreign])
    assert read_all(folder) == {FIRST: [root, feedback], SECOND_DAY: [foreign]}


def test_only_own_trace_ids_name_a_second() -> None:
    assert read_start_second(make_trace_id(NOON)) == NOON // SECOND
    assert read_start_second("0af7651916cd43dd8448eb211c80319c") is None


def test_a_repeated_span_counts_once_and_a_torn_last_line_not_at_all(folder) -> None:
    span = make_span()
    write(folder, [span], [span])
    with next(folder.glob("*/*.jsonl")).open("ab") as file:
        file.write(b'{"spans":[{"trace_id"')
    assert read_all(folder) == {FIRST: [span]}


@pytest.mark.parametrize("broken", [b"{", b"\xff\xfe", b"", b'{"spans":[{"trace_id":3}]}', b'{"spans":[{"trace_id":"no hex"}]}'])
def test_a_damaged_line_is_reported_and_the_others_are_read(folder, broken) -> None:
    spans = [make_span(), make_span(), make_span()]
    write(folder, *[[span] for span in spans])
    path = next(folder.glob("*/*.jsonl"))
    first, _, third = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([first, broken, third, b""]))
    with pytest.raises(DataError, match=r"1 lines of the trace log .* the first is 2013-04-01/.*\.jsonl:2"):
        read_all(folder)
    corrupt: list[str] = []
    assert read_all(folder, corrupt) == {FIRST: [spans[0], spans[2]]}
    assert [place.rpartition(":")[2] for place in corrupt] == ["2"]
    assert [damage.lines for damage in find_changed_traces(folder)] == [(2,)]


def test_any_changed_byte_of_a_line_is_noticed(folder) -> None:
    write(folder, [make_span(attributes={"mlops.cost": 0.25})])
    path = next(folder.glob("*/*.jsonl"))
    line = path.read_bytes()
    for place in range(len(line) - 1):
        changed = line[:place] + bytes([line[place] ^ 1]) + line[place + 1 :]
        path.write_bytes(changed)
        corrupt: list[str] = []
        assert (read_all(folder, corrupt), len(corrupt)) == ({}, changed[:-1].count(b"\n") + 1), changed


def test_half_a_pair_of_surrogates_does_not_lose_the_trace(folder) -> None:
    span = make_span(attributes={"mlops.output": "a\ud83d"})
    write(folder, [span])
    assert read_all(folder) == {FIRST: [dataclasses.replace(span, attributes={"mlops.output": "a?"})]}


def test_threads_share_a_log(folder) -> None:
    log = TraceLog(folder)
    threads = [threading.Thread(target=lambda: [log.write([make_span()]) for _ in range(50)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert len(read_all(folder)[FIRST]) == 400


def test_a_full_disk_raises_and_leaves_no_half_line(folder, monkeypatch) -> None:
    log, write_bytes = TraceLog(folder), day_log.os.write
    log.write([make_span()])

    def write_half(descriptor, data):
        if len(data) > 100:
            return write_bytes(descriptor, data[:100])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(day_log.os, "write", write_half)
        with pytest.raises(OSError, match="No space left"):
            log.write([make_span()])
    assert "No space left on device" in log.problem
    log.write([make_span()])
    assert log.problem == ""
    log.close()
    assert len(read_all(folder)[FIRST]) == 2


def test_a_folder_that_cannot_be_made_is_refused(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServiceError, match="the trace log in .* cannot be written"):
        TraceLog(tmp_path / "file" / "traces")


KILLED = """
import sys
from pathlib import Path
from mlops_assets.serving.logs.trace_log import TraceLog
from mlops_assets.values.llm.span import Span
log = TraceLog(Path(sys.argv[1]))
for i in range(1_000_000):
    log.write([Span(f"{i:032x}", f"{n:016x}", None, "chat", 0, 1, "ok") for n in range(3)])
    print(i, flush=True)
"""


def test_what_was_written_before_a_kill_is_there(folder) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.strip() == "200":
            break
    process.send_signal(signal.SIGKILL)
    answered = 201 + len(process.stdout.read().splitlines())
    process.wait()
    process.stdout.close()
    spans = read_traces(folder, date(1970, 1, 1), date(1970, 1, 1))[date(1970, 1, 1)]
    assert len(spans) % 3 == 0  # no half trace
    assert {f"{i:032x}" for i in range(answered)} <= {span.trace_id for span in spans}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trace_id": "0AF7"}, "trace id '0AF7'"),
        ({"span_id": "x"}, "span id 'x'"),
        ({"parent_id": "x"}, "parent id 'x'"),
        ({"status": "fine"}, "status 'fine'"),
        ({"end": NOON - 1}, "ends at"),
        ({"end": 2**63}, "ends at"),
    ],
)
def test_an_invalid_span_is_refused(change, message) -> None:
    with pytest.raises(DataError, match=message):
        dataclasses.replace(make_span(), **change)
