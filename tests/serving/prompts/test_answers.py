"""`POST /answer`: typed variables in, an answer in its declared type out, and a trace of each call."""

import json
from dataclasses import dataclass
from datetime import timedelta
from threading import Event, Thread

import httpx
import pytest

from mlops_assets.serving.prompts.openapi_document import build_document
from tests.serving.llm.scripted_server import (
    ScriptedServer,
    answer,
    cut_json,
    fail,
    hang_up_in_the_middle,
    meet,
    send_forever,
    send_html,
    send_latin1,
    stay_silent,
)
from tests.serving.prompts.support import Stand, make_prompt, read_events, serve


@dataclass
class Delay:
    minutes: int
    airport: str


@pytest.fixture(scope="module")
def server():
    with ScriptedServer() as server:
        yield server


@pytest.fixture(scope="module")
def shared(server, tmp_path_factory):
    with serve(tmp_path_factory.mktemp("service"), make_prompt(server.url), capture=True) as stand:
        yield stand


@pytest.fixture
def stand(server, shared) -> Stand:
    server.steps.clear()
    server.requests.clear()
    shared.promote(make_prompt(server.url), 7)
    return shared


def test_an_answer_has_version_trace_usage_and_cost(stand, server) -> None:
    reply = stand.answer({"question": "Is JFK late?", "sentences": 2})
    facts = reply.json()
    assert reply.status_code == 200
    trace_id = facts.pop("trace_id")
    assert reply.headers["x-trace-id"] == trace_id
    assert facts == {
        "answer": "yes",
        "version": 7,
        "usage": {"input_tokens": 7, "output_tokens": 3},
        "cost": None,
        "finish_reason": "stop",
    }
    sent = server.requests[0].body
    assert sent["messages"][0]["content"].startswith("Answer the question in 2 sentences.")
    assert "<question>\nIs JFK late?\n</question>" in sent["messages"][1]["content"]
    root, chat = [span for span in stand.spans() if span.trace_id == trace_id]
    assert (root.name, root.parent_id, root.span_id, root.status) == ("answer", None, trace_id[16:], "ok")
    assert (chat.name, chat.parent_id, chat.status) == ("chat tiny", root.span_id, "ok")
    assert root.start <= chat.start <= chat.end <= root.end
    assert {name: root.attributes[name] for name in ("mlops.prompt.name", "mlops.prompt.version", "mlops.output")} == {
        "mlops.prompt.name": "reply",
        "mlops.prompt.version": 7,
        "mlops.output": "yes",
    }
    assert json.loads(root.attributes["mlops.input"]) == {"question": "Is JFK late?", "sentences": 2}
    assert (chat.attributes["gen_ai.operation.name"], chat.attributes["gen_ai.response.model"]) == ("chat", "scripted-1")
    assert (chat.attributes["gen_ai.usage.input_tokens"], chat.attributes["gen_ai.usage.output_tokens"]) == (7, 3)
    assert "mlops.cost" not in chat.attributes
    assert "gen_ai.usage.input_tokens" not in root.attributes, "a sum over all spans counts each token once"


@pytest.mark.parametrize(
    ("body", "status", "variable", "text"),
    [
        ({}, 422, "question", "the variable 'question' is missing"),
        ({"question": "a", "contxt": "b"}, 422, "contxt", "there is no variable 'contxt'"),
        ({"question": 5}, 422, "question", "the variable 'question': Input should be a valid string"),
        ({"question": "a", "sentences": "3"}, 422, "sentences", "the variable 'sentences': Input should be a valid integer"),
        ({"question": None}, 422, "question", "the variable 'question': Input should be a valid string"),
        (["question"], 422, None, "the body is not a JSON object"),
        (b"{question", 400, None, "the body is not JSON"),
        (b'{"question": "a", "question": "b"}', 400, None, "the body is not JSON"),
        (b"", 400, None, "the body is not JSON"),
    ],
)
def test_a_wrong_body_is_refused_and_names_the_variable(stand, server, body, status, variable, text) -> None:
    before = len(stand.spans())
    reply = stand.answer(body)
    assert reply.status_code == status, reply.text
    assert reply.json()["error"] == text
    assert reply.json()["hint"]
    assert reply.json().get("variable") == variable
    assert server.requests == []
    assert len(stand.spans()) == before


def test_a_body_that_is_too_large_or_no_json_by_its_headers_is_refused(stand) -> None:
    assert stand.answer({"question": "x" * 2**20}).status_code == 413
    assert stand.client.post("/answer", content=b"<a/>", headers={"content-type": "text/xml"}).status_code == 415
    assert stand.client.post("/answer", content='{"question": "ä"}'.encode("latin-1")).status_code == 415


def test_an_answer_of_a_type_is_returned_as_an_object(stand, server) -> None:
    stand.promote(make_prompt(server.url, response=Delay))
    server.steps = [answer('{"minutes": 12, "airport": "JFK"}')]
    assert stand.answer().json()["answer"] == {"minutes": 12, "airport": "JFK"}
    assert server.requests[0].body["response_format"]["json_schema"]["schema"]["required"] == ["minutes", "airport"]


def test_an_invalid_answer_is_repaired_once(stand, server) -> None:
    stand.promote(make_prompt(server.url, response=Delay))
    server.steps = [answer('{"minutes": "twelve", "airport": "JFK"}'), answer('{"minutes": 12, "airport": "JFK"}')]
    reply = stand.answer().json()
    assert reply["answer"] == {"minutes": 12, "airport": "JFK"}
    assert reply["usage"] == {"input_tokens": 14, "output_tokens": 6}
    first, second = (request.body["messages"] for request in server.requests)
    assert second[: len(first)] == first
    assert second[-2] == {"role": "assistant", "content": '{"minutes": "twelve", "airport": "JFK"}'}
    assert "['minutes']: Input should be a valid integer" in second[-1]["content"]
    assert [span.name for span in stand.spans() if span.trace_id == reply["trace_id"]] == ["answer", "chat tiny", "chat tiny"]


def test_an_answer_that_stays_invalid_is_a_bad_gateway_with_the_reason(stand, server) -> None:
    stand.promote(make_prompt(server.url, response=Delay))
    server.steps = [answer("no idea"), answer('{"minutes": 1', finish_reason="length")]
    reply = stand.answer()
    assert reply.status_code == 502
    assert reply.json()["error"].startswith("the model's answer does not fit the response type: the whole text: Invalid JSON")
    assert reply.json()["error"].endswith("; max_tokens cut it off")
    assert len(server.requests) == 2
    root = next(span for span in stand.spans() if span.trace_id == reply.json()["trace_id"])
    assert (root.status, root.error) == ("error", reply.json()["error"])
    assert "no idea" not in reply.text


@pytest.mark.parametrize(
    ("step", "status", "reason"),
    [
        (fail(429), 503, "status 429"),
        (fail(500), 502, "status 500"),
        (cut_json(), 502, "reply"),
        (send_html(), 502, "reply"),
        (send_latin1(), 502, "reply"),
        (send_forever(), 502, "reply"),
        (hang_up_in_the_middle(), 502, "broken"),
        (stay_silent(), 504, "timeout"),
        (answer("", finish_reason="stop"), 502, "reply"),
    ],
)
def test_a_failing_endpoint_is_no_answer_and_leaks_nothing(stand, server, step, status, reason) -> None:
    stand.promote(make_prompt(server.url, max_bytes=100_000, timeout=timedelta(seconds=1 if status == 504 else 30)))
    server.steps = [step]
    reply = stand.answer({"question": "the ship is called Aurora"})
    assert reply.status_code == status, reply.text
    assert reply.json()["error"] == f"the model 'tiny' failed ({reason})"
    assert "Aurora" not in reply.text
    root, chat = [span for span in stand.spans() if span.trace_id == reply.json()["trace_id"]]
    assert (root.status, chat.status, chat.error) == ("error", "error", reason)


def test_missing_usage_is_null_and_never_zero(stand, server) -> None:
    server.steps = [answer("yes", usage=None)]
    reply = stand.answer().json()
    assert reply["usage"] == {"input_tokens": None, "output_tokens": None}
    assert all("gen_ai.usage.input_tokens" not in span.attributes for span in stand.spans() if span.trace_id == reply["trace_id"])


@pytest.mark.parametrize("by", ["accept", "query"])
def test_a_stream_sends_texts_and_then_the_answer(stand, server, by) -> None:
    server.steps = [answer("It is late, by far")]
    path, headers = ("/answer", {"accept": "text/event-stream"}) if by == "accept" else ("/answer?stream=true", {})
    reply = stand.post(path, {"question": "Is it late?"}, **headers)
    assert reply.headers["content-type"] == "text/event-stream"
    *pieces, (name, last) = read_events(reply)
    assert [data["text"] for event, data in pieces if event == "delta"] == ["It", " is", " late,", " by", " far"]
    assert (name, last["answer"], last["version"]) == ("answer", "It is late, by far", 7)
    assert last["usage"] == {"input_tokens": 7, "output_tokens": 3}
    _, chat = [span for span in stand.spans() if span.trace_id == last["trace_id"]]
    assert chat.attributes["mlops.seconds_to_first_token"] > 0


def test_the_first_text_of_a_stream_arrives_before_the_last_is_made(stand, server) -> None:
    received = Event()
    server.steps = [answer("one two", before_end=lambda _: received.wait(60))]
    with stand.client.stream("POST", "/answer?stream=true", json={"question": "a"}) as reply:
        chunks = reply.iter_text()
        assert '"one"' in next(chunks)
        received.set()
        assert "event: answer" in "".join(chunks)


def test_a_stream_that_breaks_ends_with_an_error_event(stand, server) -> None:
    server.steps = [hang_up_in_the_middle()]
    reply = stand.post("/answer?stream=true", {"question": "a"})
    (first, text), (name, last) = read_events(reply)
    assert (first, text, name) == ("delta", {"text": "ye"}, "error")
    assert last["error"] == "the model 'tiny' failed (broken)"
    assert last["trace_id"]


def test_a_stream_of_an_invalid_answer_ends_with_an_error_event(stand, server) -> None:
    stand.promote(make_prompt(server.url, response=Delay))
    server.steps = [answer("no idea")]
    *_, (name, last) = read_events(stand.post("/answer?stream=true", {"question": "a"}))
    assert name == "error"
    assert last["error"].startswith("the model's answer does not fit")
    assert len(server.requests) == 1


def test_a_failure_before_the_first_text_of_a_stream_has_its_status(stand, server) -> None:
    server.steps = [fail(500)]
    assert stand.post("/answer?stream=true", {"question": "a"}).status_code == 502


def test_a_client_that_leaves_a_stream_ends_the_request_to_the_model(stand, server) -> None:
    ended = Event()

    def send_until_closed(exchange) -> None:
        try:
            send_forever()(exchange)
        finally:
            ended.set()

    stand.promote(make_prompt(server.url, max_bytes=2**40))
    server.steps = [send_until_closed]
    with stand.client.stream("POST", "/answer?stream=true", json={"question": "a"}) as reply:
        next(reply.iter_bytes())
    assert ended.wait(60)


def test_without_a_version_nothing_is_answered(stand, server) -> None:
    stand.app.model = None
    reply = stand.answer()
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
    assert stand.client.get("/readyz").status_code == stand.client.get("/openapi.json").status_code == 503
    assert stand.client.get("/v1/models").status_code == 503
    assert stand.client.get("/livez").status_code == 200
    assert server.requests == []


def test_a_call_that_cannot_be_traced_is_not_answered(stand, monkeypatch) -> None:
    def fail_to_write(_: object) -> None:
        raise OSError

    monkeypatch.setattr(stand.log, "write", fail_to_write)
    reply = stand.answer()
    assert reply.status_code == 503
    assert "yes" not in reply.text


def test_the_loop_stays_free_and_the_queue_is_bounded(tmp_path) -> None:
    with ScriptedServer(default=meet(3)) as server, serve(tmp_path, make_prompt(server.url, concurrency=2), max_waiting=1) as stand:
        replies: list[httpx.Response] = []
        threads = [Thread(target=lambda: replies.append(stand.answer())) for _ in range(3)]
        for thread in threads:
            thread.start()
        server.wait_for_requests(2)
        while stand.app._running < 3:
            assert stand.client.get("/livez").status_code == 200
        full = stand.answer()
        assert (full.status_code, full.headers["retry-after"]) == (503, "1")
        with server.changed:
            server.peak = 3
            server.changed.notify_all()
        for thread in threads:
            thread.join()
        assert [reply.status_code for reply in replies] == [200] * 3
        assert len(server.requests) == 3


def test_the_openapi_document_has_the_variables_and_the_response(stand, server) -> None:
    stand.promote(make_prompt(server.url, response=Delay))
    document = stand.client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert schemas["Variables"]["required"] == ["question"]
    assert schemas["Variables"]["properties"]["sentences"] == {"type": "integer"}
    assert schemas["Answer"]["properties"]["answer"]["required"] == ["minutes", "airport"]
    assert set(document["paths"]) >= {"/answer", "/v1/chat/completions", "/feedback", "/v1/models"}


def test_the_openapi_document_asks_for_a_key_where_one_is_needed(server) -> None:
    prompt = make_prompt(server.url)
    open_to_all, with_key = (build_document(prompt, 1, needs_key=needs_key) for needs_key in (False, True))
    assert "securitySchemes" not in open_to_all["components"]
    assert with_key["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    secured = {
        path for path, item in with_key["paths"].items() for operation in item.values() if operation.get("security") == [{"key": []}]
    }
    assert secured == {"/answer", "/v1/chat/completions", "/v1/models", "/feedback"}


def test_other_paths_and_methods_are_refused(stand) -> None:
    assert stand.client.get("/answer").status_code == 405
    assert stand.post("/metrics", {}).status_code == 405
    assert stand.post("/predict", {}).status_code == 404


def test_counters_are_in_the_metrics(stand) -> None:
    def read() -> dict[str, float]:
        lines = stand.client.get("/metrics").text.splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}

    before = read()
    stand.answer()
    stand.answer({})
    after = read()
    assert after["mlops_answers_total"] - before["mlops_answers_total"] == 1
    assert after["mlops_input_tokens_total"] - before["mlops_input_tokens_total"] == 7
    assert after['mlops_requests_total{code="422"}'] - before['mlops_requests_total{code="422"}'] == 1
    assert after['mlops_worker_version{worker="0"}'] == 7
