"""The client: one answer, whatever one endpoint does."""

import multiprocessing
import pickle
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from email.utils import formatdate

import pytest

from mlops_assets.errors import DefinitionError, MissingExtraError, ProviderError
from mlops_assets.serving.llm import client
from mlops_assets.serving.llm.client import complete, stream
from mlops_assets.serving.llm.connections import CONNECTIONS, EndpointSlots
from mlops_assets.serving.llm.failures import AttemptError
from mlops_assets.values.llm.provider import LLM, Completion
from tests.serving.llm.scripted_server import (
    ScriptedServer,
    Step,
    answer,
    cut_json,
    fail,
    hang_up_in_the_middle,
    meet,
    messages,
    send,
    send_forever,
    send_html,
    send_latin1,
    stay_silent,
)

KEY = "sk-very-secret-1234"
PROMPT = "the ship in the harbour is called Aurora"


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the pauses between attempts instead of waiting."""
    found: list[float] = []
    monkeypatch.setattr(client, "_pause", found.append)
    monkeypatch.setenv("TINY_KEY", KEY)
    return found


def tiny(server: ScriptedServer, **arguments: object) -> LLM:
    return LLM("tiny", base_url=server.url, api_key_env="TINY_KEY", **arguments)


def ask(llm: LLM, *, streams: bool = False, **arguments: object) -> Completion:
    if not streams:
        return complete(llm, messages(PROMPT), **arguments)
    with stream(llm, messages(PROMPT), **arguments) as pieces:
        text = "".join(pieces)
    assert pieces.completion is not None
    assert pieces.completion.text == text
    return pieces.completion


def refuse(llm: LLM, *, streams: bool = False, **arguments: object) -> ProviderError:
    """Return the error of a call, after a search for the key and the prompt in all that it holds."""
    with pytest.raises(ProviderError) as caught:
        ask(llm, streams=streams, **arguments)
    error: BaseException | None = caught.value
    while error is not None:
        shown = f"{error} {error!r} {vars(error)}"
        assert KEY not in shown
        assert "Aurora" not in shown
        error = error.__cause__ or error.__context__
    return caught.value


def test_an_answer_has_its_facts() -> None:
    with ScriptedServer(answer("Paris, of course")) as server:
        llm = tiny(server, seed=7, parameters={"top_p": 0.5})
        completion = complete(llm, messages("Capital?"), response_schema={"type": "string"})
    expected = Completion("Paris, of course", "stop", "tiny", "scripted-1", 7, 3, endpoint=f"{server.url}/chat/completions")
    assert replace(completion, seconds=None) == expected
    assert completion.seconds > 0
    seen = server.requests[0]
    assert (seen.path, seen.headers["authorization"]) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert seen.body == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Capital?"}],
        "temperature": 0.0,
        "max_tokens": 1024,
        "seed": 7,
        "top_p": 0.5,
        "response_format": {"type": "json_schema", "json_schema": {"name": "response", "schema": {"type": "string"}, "strict": True}},
    }


@pytest.mark.parametrize("usage", [(11, 5), None])
def test_a_stream_gives_what_one_piece_gives(usage: tuple[int, int] | None) -> None:
    text = "Zürich is  late,\n  again "
    with ScriptedServer(default=answer(text, usage=usage)) as server:
        whole, streamed = ask(tiny(server)), ask(tiny(server), streams=True)
    assert whole.text == streamed.text == text
    assert streamed.seconds_to_first_token is not None
    assert whole.seconds_to_first_token is None
    assert (streamed.streamed, whole.streamed) == (True, False)
    assert replace(streamed, seconds=0.0, seconds_to_first_token=None, streamed=False) == replace(whole, seconds=0.0)
    assert (whole.prompt_tokens, whole.completion_tokens) == (usage or (None, None))


def test_the_first_piece_of_a_stream_comes_before_the_second_is_sent() -> None:
    released = threading.Event()
    with ScriptedServer(answer("one two", before_end=lambda _: released.wait(60))) as server:
        pieces = stream(tiny(server), messages())
        assert next(pieces) == "one"
        released.set()
        assert list(pieces) == [" two"]
        assert list(pieces) == []


@pytest.mark.parametrize("streams", [False, True])
def test_a_text_that_was_cut_off_is_reported_as_such(streams: bool) -> None:
    with ScriptedServer(answer("half a sen", finish_reason="length")) as server:
        assert ask(tiny(server), streams=streams).finish_reason == "length"


BAD_REPLIES: dict[str, tuple[Step, str]] = {
    "truncated JSON": (cut_json(), "sent incomplete or invalid JSON"),
    "HTML": (send_html(), "sent text/html instead of"),
    "not UTF-8": (send_latin1(), "sent bytes that are not UTF-8"),
    "endless": (send_forever(), "sent more than 65536 bytes"),
    "no text": (answer("", finish_reason="length"), "sent no text (finish_reason 'length')"),
    "no reason": (answer(finish_reason=None), "sent a reply without finish_reason"),
}


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("fault", BAD_REPLIES)
def test_a_bad_reply_is_an_error_and_is_not_paid_for_twice(fault: str, streams: bool) -> None:
    step, problem = BAD_REPLIES[fault]
    with ScriptedServer(step) as server:
        error = refuse(tiny(server, max_bytes=65_536), streams=streams)
    assert error.message.startswith(f"the language model 'tiny' at {server.url}/chat/completions {problem}")
    assert (error.kind, error.status, error.attempts, len(server.requests)) == ("reply", None, 1, 1)
    assert error.hint


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"{}", "sent a reply without choices"),
        (b'{"choices": []}', "sent a reply without choices"),
        (b'{"choices": ["a"]}', "sent a reply without choices"),
        (b"[1]", "sent JSON that is not an object"),
        (b"", "sent incomplete or invalid JSON"),
        (b"[" * 100_000, "sent incomplete or invalid JSON"),
        (b'{"error": {"message": "the ship is called Aurora"}}', "reported an error within a reply of status 200"),
        (b'{"choices": [{"message": {"content": null}, "finish_reason": "Aurora"}]}', "sent no text (finish_reason 'unknown')"),
        (b'{"choices": [{"message": null, "finish_reason": "stop"}]}', "sent no text (finish_reason 'stop')"),
    ],
)
def test_a_reply_without_an_answer_is_an_error(body: bytes, problem: str) -> None:
    with ScriptedServer(send(body)) as server:
        assert problem in refuse(tiny(server)).message


@pytest.mark.parametrize("usage", ["null", '"many"', "{}", '{"prompt_tokens": -1, "completion_tokens": true}', '{"prompt_tokens": "3"}'])
def test_a_usage_that_is_no_number_is_none_and_never_zero(usage: str) -> None:
    body = f'{{"choices": [{{"message": {{"content": "yes"}}, "finish_reason": "stop"}}], "usage": {usage}}}'
    with ScriptedServer(send(body.encode())) as server:
        completion = ask(tiny(server))
    assert (completion.prompt_tokens, completion.completion_tokens, completion.reported_model) == (None, None, None)


@pytest.mark.parametrize(
    ("fault", "streams"),
    [
        (fail(429), False),
        (fail(429), True),
        (fail(500), False),
        (fail(503), True),
        (lambda exchange: exchange.hang_up(), False),
        (lambda exchange: exchange.hang_up(), True),
        (hang_up_in_the_middle(), False),  # of a stream: see the next test
    ],
)
def test_a_fault_that_may_pass_is_tried_again(fault: Step, streams: bool, pauses: list[float]) -> None:
    with ScriptedServer(fault, fault, answer("late")) as server:
        completion = ask(tiny(server), streams=streams)
    assert (completion.text, completion.attempts, len(completion.failures), len(server.requests)) == ("late", 3, 2, 3)
    assert "(attempt 2 of 3)" in completion.failures[1]
    assert 0.125 <= pauses[0] <= 0.25 <= pauses[1] <= 0.5


def test_a_stream_that_breaks_after_its_first_piece_fails_and_is_not_asked_for_again() -> None:
    with ScriptedServer(fail(500), hang_up_in_the_middle()) as server:
        error = refuse(tiny(server), streams=True)
    assert "closed the connection before the end of its reply (attempt 2 of 3)" in error.message
    assert (error.kind, error.attempts, len(server.requests)) == ("broken", 2, 2)


def test_a_fallback_whose_stream_breaks_is_named_with_its_own_attempt() -> None:
    with ScriptedServer(fail(500), fail(500), fail(500), hang_up_in_the_middle()) as server:
        error = refuse(tiny(server, fallbacks=[replace(tiny(server), model="second", retries=1)]), streams=True)
    assert error.message.startswith("the language model 'second'")
    assert "(attempt 1 of 2)" in error.message
    assert error.attempts == 4


@pytest.mark.parametrize(
    ("fault", "billed"),
    [
        (fail(500), 0),
        (fail(429), 0),
        (hang_up_in_the_middle(), 1),
        (cut_json(), 1),
        (send_html(), 1),
        (stay_silent(), 1),
    ],
)
def test_an_attempt_may_be_billed_unless_it_was_refused(fault: Step, billed: int) -> None:
    with ScriptedServer(fault, fail(503), hang_up_in_the_middle()) as server:
        backup = replace(tiny(server), model="second", retries=2)
        call = tiny(server, retries=0, timeout=timedelta(seconds=0.3), fallbacks=[backup])
        completion = ask(call)
        assert (completion.attempts, completion.may_be_billed) == (4, billed + 1)
        server.steps = [fault, fail(400)]
        error = refuse(call)
    assert (error.attempts, error.may_be_billed) == (2, billed)


def test_a_request_that_was_not_sent_is_not_billed(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer() as server:
        url = server.url
    assert refuse(LLM("tiny", base_url=url, retries=1)).may_be_billed == 0
    monkeypatch.delenv("TINY_KEY")
    assert refuse(LLM("tiny", base_url=url, api_key_env="TINY_KEY")).may_be_billed == 0


def test_a_stream_that_breaks_counts_its_own_attempt_and_the_earlier_ones() -> None:
    with ScriptedServer(hang_up_at_once(), hang_up_in_the_middle()) as server:
        error = refuse(tiny(server), streams=True)
    assert (error.attempts, error.may_be_billed) == (2, 2)


def hang_up_at_once() -> Step:
    return lambda exchange: exchange.hang_up()


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_the_retries_are_bounded(retries: int, pauses: list[float]) -> None:
    with ScriptedServer(default=fail(500)) as server:
        error = refuse(tiny(server, retries=retries))
    assert (len(server.requests), len(pauses)) == (retries + 1, retries)
    assert (error.status, error.attempts) == (500, retries + 1)
    assert f"(attempt {retries + 1} of {retries + 1})" in error.message


@pytest.mark.parametrize(
    ("status", "code", "hint"),
    [
        (400, "context_length_exceeded", "shorten the messages"),
        (401, None, "api_key_env"),
        (404, "model_not_found", "check the model's name"),
        (422, None, "check model, parameters"),
        (302, None, "check base_url"),
        (429, "insufficient_quota", "raise its limit"),
    ],
)
def test_a_refusal_is_final_and_its_hint_fits(status: int, code: str | None, hint: str) -> None:
    with ScriptedServer(fail(status, code=code)) as server:
        error = refuse(tiny(server))
    assert len(server.requests) == 1
    assert (error.status, error.kind) == (status, "status")
    assert hint in error.hint
    assert f"answered status {status}" + (f" ({code})" if code else "") in error.message


def test_the_pause_that_an_endpoint_asks_for_is_kept(pauses: list[float]) -> None:
    dates = [formatdate(time.time() + 25), formatdate(0)]
    with ScriptedServer(*(fail(429, retry_after=pause) for pause in ("7", *dates, "soon"))) as server:
        ask(tiny(server, retries=4))
    assert pauses[0::2] == [7.0, 0.0]
    assert 0 < pauses[1] <= 25
    assert 1 <= pauses[3] <= 2


@pytest.mark.parametrize("pause", ["31", "1e999"])
def test_an_endpoint_that_asks_for_a_long_pause_is_not_waited_for(pause: str, pauses: list[float]) -> None:
    with ScriptedServer(fail(429, retry_after=pause)) as server:
        error = refuse(tiny(server))
    assert pauses == []
    assert len(server.requests) == 1
    assert "answered status 429 and asked to wait " in error.message


def test_a_pause_beyond_the_time_limit_is_not_begun(pauses: list[float]) -> None:
    with ScriptedServer(fail(429, retry_after="9")) as server:
        refuse(tiny(server), time_limit=timedelta(seconds=8))
    assert (pauses, len(server.requests)) == ([], 1)


@pytest.mark.parametrize("streams", [False, True])
def test_a_slow_first_byte_is_a_timeout(streams: bool) -> None:
    with ScriptedServer(default=stay_silent()) as server:
        limits = {"stall_timeout": timedelta(milliseconds=50)} if streams else {"timeout": timedelta(milliseconds=50)}
        error = refuse(tiny(server, retries=1, **limits), streams=streams)
        server.wait_for_requests(2)
    assert (error.kind, error.attempts, len(server.requests)) == ("timeout", 2, 2)
    assert "gave no whole reply within 0." in error.message


def test_the_time_limit_ends_attempts_and_fallbacks() -> None:
    with ScriptedServer(default=stay_silent()) as server:
        llm = tiny(server, retries=10, fallbacks=[tiny(server)])
        error = refuse(llm, time_limit=timedelta(milliseconds=200))
    assert (error.kind, error.attempts) == ("timeout", 1)


@pytest.mark.parametrize("streams", [False, True])
def test_a_reply_that_never_ends_is_stopped_in_time(streams: bool) -> None:
    with ScriptedServer(send_forever()) as server:
        error = refuse(tiny(server, timeout=timedelta(seconds=1), max_bytes=2**40), streams=streams)
    assert (error.kind, error.attempts, len(server.requests)) == ("timeout", 1, 1)


def test_a_call_without_time_left_sends_nothing() -> None:
    with ScriptedServer() as server:
        error = refuse(tiny(server, fallbacks=[tiny(server)]), time_limit=timedelta())
    assert (error.kind, server.requests) == ("timeout", [])


def test_the_fallbacks_are_asked_in_order() -> None:
    with ScriptedServer(fail(401), send_html(), answer("late")) as server:
        second, third = (replace(tiny(server), model=name) for name in ("second", "third"))
        completion = ask(tiny(server, fallbacks=[second, third]))
    assert [seen.body["model"] for seen in server.requests] == ["tiny", "second", "third"]
    assert (completion.model, completion.text, completion.attempts) == ("third", "late", 3)
    assert [failure.split("'")[1] for failure in completion.failures] == ["tiny", "second"]


def test_when_no_model_answers_the_error_names_all() -> None:
    with ScriptedServer(default=fail(503)) as server:
        error = refuse(tiny(server, retries=1, fallbacks=[replace(tiny(server), model="second", retries=0)]))
    assert error.message.count("answered status 503") == 2
    assert "'tiny'" in error.message
    assert "'second'" in error.message
    assert (error.attempts, len(server.requests)) == (3, 3)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301  (our own error)
    assert (str(again), vars(again)) == (str(error), vars(error))


def test_an_endpoint_that_does_not_run_is_named() -> None:
    with ScriptedServer() as server:
        llm = tiny(server, retries=1)
    error = refuse(llm)
    assert f"at {llm.endpoint} cannot be reached" in error.message
    assert (error.kind, error.attempts) == ("connection", 2)


@pytest.mark.parametrize(("key", "problem"), [(None, "is not set"), (" ", "is not set"), (f"{KEY}\nAurora", "is not a valid key")])
def test_a_key_that_cannot_be_sent_is_named_by_its_variable(key: str | None, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TINY_KEY") if key is None else monkeypatch.setenv("TINY_KEY", key)
    with ScriptedServer() as server:
        error = refuse(tiny(server))
    assert f"the environment variable TINY_KEY {problem}" in error.message
    assert (error.kind, server.requests) == ("configuration", [])


def test_sixteen_threads_have_no_more_requests_open_than_the_limit() -> None:
    with ScriptedServer(default=meet(3)) as server, ThreadPoolExecutor(16) as threads:
        llm = tiny(server, concurrency=3)
        found = list(threads.map(lambda number: ask(llm, streams=number % 2 == 0).text, range(64)))
    assert found == ["yes"] * 64
    assert (server.peak, len(server.requests)) == (3, 64)


def test_a_full_endpoint_is_an_error_when_the_time_is_up() -> None:
    slots = EndpointSlots()
    full = (slots.hold("a", 2, 0), slots.hold("a", 2, 0), slots.hold("b", 1, 0))
    with full[0], full[1], full[2], pytest.raises(AttemptError, match="no free slot of 2"), slots.hold("a", 2, 0):
        pass
    with slots.hold("a", 1, 0):
        pass


def test_a_stream_that_is_closed_frees_its_slot() -> None:
    with ScriptedServer(send_forever(), answer("late")) as server:
        llm = tiny(server, concurrency=1)
        with stream(llm, messages()) as pieces:
            assert next(pieces) == "again"
        assert pieces.completion is None
        assert list(pieces) == []
        assert ask(llm).text == "late"


@pytest.mark.parametrize("streams", [False, True])
def test_connections_are_used_again(streams: bool) -> None:
    with ScriptedServer() as server:
        for _ in range(5):
            ask(tiny(server), streams=streams)
        assert len(server.connections) == 1


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_shares_no_connection_and_no_slot() -> None:
    with ScriptedServer() as server:
        llm = tiny(server, concurrency=1)
        ask(llm)
        with CONNECTIONS.slots.hold(llm.endpoint, 1, 0):
            process = multiprocessing.get_context("fork").Process(target=ask, args=(llm,))
            process.start()
            process.join(60)
        ask(llm)
    assert process.exitcode == 0
    assert (len(server.requests), len(server.connections)) == (3, 2)


@pytest.mark.parametrize("bad", [[], "late?", [{"content": "late?"}], [{"role": "user", "content": {1, 2}}]])
def test_messages_that_cannot_be_sent_are_refused(bad: object) -> None:
    with ScriptedServer() as server, pytest.raises(DefinitionError) as caught:
        complete(tiny(server), bad)
    assert "late?" not in str(caught.value)
    assert server.requests == []


def test_a_missing_extra_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    monkeypatch.setattr(CONNECTIONS, "_client", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mlops_assets\[llm\]'"):
        complete(LLM("tiny", base_url="http://127.0.0.1:9/v1"), messages())
