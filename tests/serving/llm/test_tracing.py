"""An application's own steps are spans of one trace, in threads of control of their own, also when they fail."""

import asyncio
from datetime import date

import pytest

import mlops_assets as ml
from mlops_assets.serving.logs.trace_log import read_traces


@ml.llm.trace
def retrieve(question: str) -> str:
    return look_up(question)


@ml.llm.trace
def look_up(question: str) -> str:
    if not question:
        raise ValueError("a secret question")
    return question.upper()


@ml.llm.trace
async def wait_and_answer(question: str) -> str:
    await asyncio.sleep(0)
    return look_up(question)


@pytest.fixture
def source(tmp_path):
    return ml.llm.TraceSource("bot", folder=tmp_path / "traces")


def read(source) -> list:
    return [span for spans in read_traces(source.folder, date.min, date.max).values() for span in spans]


def test_nested_calls_are_nested_spans(source) -> None:
    with ml.llm.start_trace(source, "answer") as root:
        assert retrieve("late?") == "LATE?"
        root.attributes["mlops.output"] = "yes"
    answer, outer, inner = read(source)
    assert [span.name for span in (answer, outer, inner)] == ["answer", "retrieve", "look_up"]
    assert (answer.parent_id, outer.parent_id, inner.parent_id) == (None, answer.span_id, outer.span_id)
    assert {span.trace_id for span in (answer, outer, inner)} == {root.trace_id}
    assert answer.attributes == {"mlops.output": "yes"}
    assert answer.start <= outer.start <= inner.start
    assert all(span.status == "ok" for span in (answer, outer, inner))


def test_an_exception_is_recorded_without_its_message_and_raised(source) -> None:
    with pytest.raises(ValueError, match="secret"), ml.llm.start_trace(source):
        retrieve("")
    assert [(span.name, span.status, span.error) for span in read(source)] == [
        ("request", "error", "ValueError"),
        ("retrieve", "error", "ValueError"),
        ("look_up", "error", "ValueError"),
    ]


def test_coroutines_that_run_together_keep_their_parents(source) -> None:
    async def ask_both() -> None:
        with ml.llm.start_trace(source):
            assert await asyncio.gather(wait_and_answer("a"), wait_and_answer("b")) == ["A", "B"]

    asyncio.run(ask_both())
    spans = read(source)
    by_id = {span.span_id: span for span in spans}
    assert sorted((span.name, by_id[span.parent_id].name) for span in spans if span.parent_id) == [
        *[("look_up", "wait_and_answer")] * 2,
        *[("wait_and_answer", "request")] * 2,
    ]
    assert len({span.parent_id for span in spans if span.name == "look_up"}) == 2


def test_a_call_outside_of_a_trace_is_a_plain_call(source) -> None:
    assert retrieve("late?") == "LATE?"
    assert asyncio.run(wait_and_answer("late?")) == "LATE?"
    assert not source.folder.exists()


def test_a_trace_is_written_where_the_platform_looks_for_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path))
    with ml.llm.start_trace(ml.llm.TraceSource("elsewhere")):
        pass
    assert len(list((tmp_path / "services/elsewhere/traces").glob("*/*.jsonl"))) == 1
