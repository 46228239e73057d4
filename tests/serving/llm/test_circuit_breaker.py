"""Many calls of an endpoint that does not work: a few fail, the others are not made, and stored answers are found."""

import socket

import pytest

import mlops_assets as ml
from mlops_assets.serving.llm.ask_many import CallRecord, ask_many
from mlops_assets.serving.llm.circuit_breaker import MAX_FAILURES
from tests.serving.llm.scripted_server import ScriptedServer, answer, fail, hang_up_in_the_middle

CALLS = [{"question": str(number)} for number in range(20)]


def ask_all(url: str, cache=None, calls: int = 20, response=None, **model) -> list[CallRecord]:
    @ml.llm.prompt(model=ml.llm.LLM("tiny", base_url=url, **({"retries": 0, "concurrency": 1} | model)), response=response)
    def reply(question: str) -> None:
        """Answer."""

    return [record for _, record in sorted(ask_many(reply, CALLS[:calls], cache=cache))]


@pytest.mark.parametrize("step", [fail(500), fail(503), hang_up_in_the_middle()])
def test_after_failures_in_a_row_no_call_is_made(step) -> None:
    with ScriptedServer(default=step) as server:
        records = ask_all(server.url)
        assert len(server.requests) == MAX_FAILURES
    assert all(record.completion is None and record.error for record in records)
    skipped = records[MAX_FAILURES:]
    assert {(record.error, record.kind, record.attempts) for record in skipped} == {
        ("not asked, because the endpoint failed 8 times in a row", "skipped", 0)
    }


def test_an_endpoint_that_is_not_there_fails_each_call_once() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # not listening
        records = ask_all(f"http://127.0.0.1:{reserved.getsockname()[1]}/v1")
    assert [record.kind for record in records] == ["connection"] * MAX_FAILURES + ["skipped"] * (20 - MAX_FAILURES)


@pytest.mark.parametrize("step", [answer("yes"), fail(400), fail(429)])
def test_an_answer_or_another_failure_between_them_keeps_asking(step) -> None:
    with ScriptedServer(*[*[fail(500)] * (MAX_FAILURES - 1), step] * 2, default=fail(500)) as server:
        ask_all(server.url)
        assert len(server.requests) == 20


def test_a_fallback_that_answers_keeps_asking() -> None:
    with ScriptedServer(default=fail(500)) as server, ScriptedServer() as second:
        records = ask_all(server.url, fallbacks=[ml.llm.LLM("large", base_url=second.url)])
    assert {record.error for record in records} == {""}


def test_a_fallback_without_its_key_does_not_end_the_other_calls() -> None:
    with ScriptedServer(answer("yes"), fail(500)) as server:
        records = ask_all(server.url, fallbacks=[ml.llm.LLM("large", base_url=server.url, api_key_env="NOT_SET")])
        assert len(server.requests) == 20
    assert [number for number, record in enumerate(records) if record.error] == [1]
    assert records[1].kind == "status"
    assert "status 500" in records[1].error
    assert "NOT_SET is not set" in records[1].error


def test_without_any_key_the_calls_end_at_once() -> None:
    with ScriptedServer() as server, pytest.raises(ml.errors.ProviderError, match="NOT_SET is not set") as caught:
        ask_all(server.url, api_key_env="NOT_SET", fallbacks=[ml.llm.LLM("large", base_url=server.url, api_key_env="NOT_SET")])
    assert caught.value.kind == "configuration"
    assert server.requests == []


def test_a_stored_answer_of_the_wrong_type_has_the_duration_of_its_call(tmp_path) -> None:
    cache = ml.llm.ResponseCache(tmp_path / "responses.sqlite")
    with ScriptedServer(default=answer("no number")) as server:
        first, again = (ask_all(server.url, cache, calls=1, response=int)[0] for _ in range(2))
    assert (first.kind, again.kind) == ("reply", "reply")
    assert again.completion.cached
    assert again.seconds == first.seconds == again.completion.seconds


def test_stored_answers_are_found_when_no_call_is_made(tmp_path) -> None:
    cache = ml.llm.ResponseCache(tmp_path / "responses.sqlite")
    with ScriptedServer(*[fail(400)] * MAX_FAILURES) as server:
        ask_all(server.url, cache)
    with ScriptedServer(default=fail(500)) as server:
        records = ask_all(server.url, cache)
        assert len(server.requests) == MAX_FAILURES
    assert [record.error == "" for record in records] == [False] * MAX_FAILURES + [True] * (20 - MAX_FAILURES)
    assert records[-1].completion.cached
    assert records[-1].attempts == 0
