"""The traces of a service from the command line: listed within a moment of the answer, each once, and shown in full."""

import errno
import json
import os
import re
from datetime import UTC, date, datetime

import pytest
from click.testing import CliRunner

from mlops_assets.cli.llm.trace_reading import TraceDay, TraceFilter
from mlops_assets.cli.main import mlops
from mlops_assets.compute.llm_traces.trace_rows import build_trace_rows
from mlops_assets.serving.logs.trace_log import TraceLog
from mlops_assets.stores.lake.ducklake import DuckLake
from mlops_assets.values.llm.span import SECOND, Span, make_span_id, make_trace_id
from tests.serving.llm.scripted_server import ScriptedServer, answer, fail
from tests.serving.prompts.support import make_prompt, serve

PROJECT = """
import mlops_assets as ml
import polars as pl

@ml.dataset(key="case")
def questions() -> pl.DataFrame:
    return pl.DataFrame({"case": ["a"], "question": ["Is it late?"], "expected": ["yes"], "minutes": [15]})

@ml.llm.prompt(model=ml.llm.LLM("tiny", base_url="http://127.0.0.1:9/v1", retries=0, max_tokens=100))
def reply(question: str, context: str = "", sentences: int = 1) -> None:
    '''Answer the question in {sentences} sentences.'''

replies = ml.llm.PromptEvaluation("replies", prompt=reply, cases=questions, scorers=[ml.llm.ExactMatch("expected")])
reply_api = ml.llm.PromptService("reply_api", prompt=reply, capture=True)
bot = ml.llm.TraceSource("bot", start="2024-05-01")
defs = ml.build_definitions([questions, reply, replies, reply_api, bot])
"""
HOSTILE = "\x1b[2J\x1b]0;owned\x07<script>window.ran=1</script>[bold]x[/bold]"
NOON = int(datetime(2024, 5, 1, 12, tzinfo=UTC).timestamp()) * SECOND
DAY = 86_400 * SECOND


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path / "home"))
    (tmp_path / "definitions.py").write_text(PROJECT)
    return tmp_path


@pytest.fixture
def service(folder):
    """A running service, whose traces are in the log of the project's service."""
    logs = folder / "home" / "services" / "reply_api"
    with ScriptedServer(default=answer("JFK")) as server, serve(logs, make_prompt(server.url), capture=True) as stand:
        stand.server = server
        yield stand


def call(*words: str):
    result = CliRunner().invoke(mlops, ["traces", *words])
    assert result.exit_code == 0, result.output + str(result.exception)
    return result


def read_list(*words: str) -> list[dict]:
    return json.loads(call("list", *words, "--json", "-").stdout)


def refuse(*words: str) -> str:
    result = CliRunner().invoke(mlops, ["traces", *words])
    assert result.exit_code, result.output
    return str(result.exception)


def import_traces(source: str, day: str) -> None:
    result = CliRunner().invoke(mlops, ["run", "--select", f'key:"traces/{source}_traces"', "--partitions", day])
    assert result.exit_code == 0, result.output


def write_bot_trace(folder, start: int = NOON, **fields) -> str:
    """Write a trace of an application, and return its id."""
    trace_id = make_trace_id(start)
    values = {"status": "ok", "error": "", "attributes": {}} | fields
    log = TraceLog(folder / "home" / "services" / "bot" / "traces")
    log.write([Span(trace_id, make_span_id(), None, "request", start, start + SECOND, **values)])
    log.close()
    return trace_id


def test_an_answer_is_listed_at_once_and_after_its_import_once(service) -> None:
    first = service.answer({"question": "Which airport is late?"}).json()
    assert [(row["id"], row["status"]) for row in read_list("reply_api")] == [(first["trace_id"], "ok")]
    import_traces("reply_api", datetime.now(UTC).date().isoformat())
    assert [row["id"] for row in read_list("reply_api")] == [first["trace_id"]]
    second = service.answer().json()
    service.post("/feedback", {"trace_id": first["trace_id"], "score": 0.0, "comment": "wrong"})
    newest, oldest = read_list("reply_api")
    assert (newest["id"], oldest["id"], oldest["feedback"]) == (second["trace_id"], first["trace_id"], 0.0)
    assert (oldest["prompt version"], oldest["model"], oldest["cost"]) == (1, "scripted-1", None)
    assert json.loads(oldest["input"])["question"] == "Which airport is late?"
    shown = call("list", "reply_api").stdout
    assert re.search(rf"{first['trace_id'][:16]} .* 1 .*scripted-1.* ok .*Which airport is late\?", shown)


def test_traces_are_chosen_by_status_version_duration_and_day(folder) -> None:
    good = write_bot_trace(folder, attributes={"mlops.prompt.version": 2})
    bad = write_bot_trace(folder, NOON + 86_400 * SECOND, status="error", error="timeout")
    import_traces("bot", "2024-05-01")

    def ids(*words: str) -> list[str]:
        return [row["id"] for row in read_list("bot", *words)]

    assert ids() == [bad, good]
    assert ids("--status", "error") == [bad]
    assert ids("--status", "ok", "--version", "2", "--min-seconds", "1") == [good]
    assert ids("--min-seconds", "1.5") == []
    assert ids("--since", "2024-05-02") == [bad]
    assert ids("--until", "2024-05-01") == [good]
    assert ids("--limit", "1") == [bad]


def test_the_oldest_of_many_traces_is_found(folder) -> None:
    log = TraceLog(folder / "home" / "services" / "bot" / "traces")
    spans = []
    for number in range(1100):
        start, version = NOON + number * SECOND, {"mlops.prompt.version": number // 1000 + 1}
        spans.append(Span(make_trace_id(start), make_span_id(), None, "request", start, start + SECOND, "ok", "", version))
    log.write(spans)
    log.close()
    ids = [span.trace_id for span in spans][::-1]
    assert [row["id"] for row in read_list("bot", "--version", "1", "--limit", "3")] == ids[100:103]
    import_traces("bot", "2024-05-01")
    assert [row["id"] for row in read_list("bot", "--limit", "2000")] == ids
    assert f"trace {ids[-1]}" in call("show", "bot", ids[-1]).stdout


def test_a_trace_is_shown_by_the_start_of_its_id(service) -> None:
    service.server.steps = [answer('{"airport": "EWR"}')]
    trace_id = service.answer({"question": "Is it late?", "context": "line one\nline two"}).json()["trace_id"]
    shown = call("show", "reply_api", trace_id[:14].upper()).stdout
    assert f"trace {trace_id}" in shown
    assert re.search(r"answer .*\+0\.000 s", shown)
    assert re.search(r"│   chat tiny +│ \+\d\.\d{3} s .*│ scripted-1", shown)
    assert '"question": "Is it late?"' in shown
    assert '"airport": "EWR"' in shown
    spans = json.loads(call("show", "reply_api", trace_id, "--json", "-").stdout)["spans"]
    assert [(span["name"], span["depth"]) for span in spans] == [("answer", 0), ("chat tiny", 1)]


def test_a_failed_call_shows_its_reason_and_no_cost(service) -> None:
    service.server.steps = [fail(500)]
    trace_id = service.answer().json()["trace_id"]
    assert re.search(r"chat tiny .*\(?status 500\)?", call("show", "reply_api", trace_id).stdout)
    (row,) = read_list("reply_api", "--status", "error")
    assert (row["input tokens"], row["cost"]) == (None, None)


def test_hostile_content_controls_neither_the_terminal_nor_the_table(folder) -> None:
    attributes = {"mlops.input": json.dumps({"question": HOSTILE}), "mlops.output": HOSTILE, "gen_ai.request.model": HOSTILE}
    trace_id = write_bot_trace(folder, attributes=attributes)
    for shown in (call("list", "bot").stdout, call("show", "bot", trace_id).stdout):
        assert "\x1b" not in shown
        assert "\x07" not in shown
        assert "[bold]x" in shown or "…" in shown


def test_the_page_is_written_and_its_path_printed(service, folder) -> None:
    trace_id = service.answer().json()["trace_id"]
    assert call("show", "reply_api", trace_id, "--html", "trace.html").stdout == "wrote trace.html\n"
    assert trace_id in (folder / "trace.html").read_text()


def test_a_page_that_cannot_be_written_is_an_error_and_leaves_the_earlier_one(folder, monkeypatch) -> None:
    trace_id = write_bot_trace(folder)
    for option in ("--html", "--json"):
        result = CliRunner().invoke(mlops, ["traces", "show", "bot", trace_id, option, str(folder / "missing/a")])
        assert (result.exit_code, result.stdout) == (1, "")
        assert f"there is no folder '{folder}/missing'" in result.stderr
    (folder / "a.html").write_text("earlier")
    monkeypatch.setattr("os.fsync", refuse_to_write)
    result = CliRunner().invoke(mlops, ["traces", "show", "bot", trace_id, "--html", "a.html"])
    assert (result.exit_code, (folder / "a.html").read_text()) == (1, "earlier")
    assert "No space left on device" in result.stderr


def refuse_to_write(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_unreadable_lines_are_named_on_standard_error(service, folder) -> None:
    kept, lost = (service.answer().json()["trace_id"] for _ in range(2))
    (path,) = (folder / "home/services/reply_api/traces").glob("*/*.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"{" + lines[1])
    result = call("list", "reply_api", "--json", "-")
    assert [row["id"] for row in json.loads(result.stdout)] == [kept]
    place = f"{path.relative_to(folder / 'home/services/reply_api/traces')}:2"
    assert "1 lines of the trace log in" in result.stderr
    assert result.stderr.strip().endswith(place)
    refused = CliRunner().invoke(mlops, ["traces", "show", "reply_api", lost])
    assert f"no trace of 'reply_api' starts with '{lost}'" in str(refused.exception)
    assert place in refused.stderr


def test_a_whole_id_is_searched_until_its_day_is_found(folder) -> None:
    foreign = "f" * 32
    write_bot_trace(folder)
    log = TraceLog(folder / "home/services/bot/traces")
    log.write([Span(foreign, make_span_id(), None, "request", NOON + DAY, NOON + DAY, "ok")])
    log.close()
    (path,) = (folder / "home/services/bot/traces/2024-05-01").glob("*.jsonl")
    path.write_bytes(b"{damaged\n" + path.read_bytes())
    assert call("show", "bot", foreign).stderr == "", "the day before is not read"
    assert "1 lines of the trace log" in call("show", "bot", foreign[:31]).stderr, "another id could start so"


def test_only_the_rows_that_are_listed_are_read_from_the_lake(folder, monkeypatch) -> None:
    ids = [write_bot_trace(folder, NOON + n * SECOND, attributes={"mlops.prompt.version": 1 + n // 10}) for n in range(20)]
    import_traces("bot", "2024-05-01")
    heights, read = list[int](), DuckLake.read

    def count_rows(lake, table, **more):
        frame = read(lake, table, **more)
        if "input" in frame.columns:
            heights.append(frame.height)
        return frame

    monkeypatch.setattr(DuckLake, "read", count_rows)
    assert [row["id"] for row in read_list("bot", "--version", "1", "--min-seconds", "1", "--limit", "3")] == ids[9:6:-1]
    assert read_list("bot", "--status", "error") == []
    assert f"trace {ids[0]}" in call("show", "bot", ids[0]).stdout
    assert heights == [3, 1]


def test_spans_of_the_log_are_grouped_once_for_all_batches(folder) -> None:
    class Spans(list):
        reads = 0

        def __iter__(self):
            self.reads += 1
            return super().__iter__()

    start = NOON
    spans = Spans(Span(make_trace_id(start), make_span_id(), None, "request", start, start, "ok") for _ in range(20))
    day = TraceDay(date(2024, 5, 1), spans, build_trace_rows({}).frame, lambda _: build_trace_rows({}).frame)
    assert [len(day.build([trace_id])) for trace_id in day.list_ids(TraceFilter())] == [1] * 20
    assert spans.reads == 2, "for the order and for the groups"


def test_what_does_not_exist_is_named_with_what_does(folder) -> None:
    first, second = write_bot_trace(folder), write_bot_trace(folder)
    assert "no source of traces 'reply_apy'" in refuse("list", "reply_apy")
    assert "'reply_api'" in refuse("list", "reply_apy")
    assert "2 traces of 'bot' start with" in refuse("show", "bot", first[:12])
    assert first in refuse("show", "bot", first[:3])
    assert second in refuse("show", "bot", first[:3])
    assert "no trace of 'bot' starts with 'ffff'" in refuse("show", "bot", "ffff")
    assert "'x y' is not a trace id" in refuse("show", "bot", "x y")
    assert read_list("reply_api") == []


def test_a_day_whose_log_is_gone_is_read_from_the_lake(folder) -> None:
    trace_id = write_bot_trace(folder)
    import_traces("bot", date(2024, 5, 1).isoformat())
    for path in (folder / "home/services/bot/traces").glob("*/*.jsonl"):
        path.unlink()
    assert [row["id"] for row in read_list("bot")] == [trace_id]
    assert f"trace {trace_id}" in call("show", "bot", trace_id).stdout
