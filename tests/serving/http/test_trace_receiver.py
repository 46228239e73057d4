"""The receiver of traces: spans are in the log before the reply, and a request that cannot be stored is refused with its reason."""

import asyncio
import contextlib
import gzip
import json
import socket
import time
from datetime import UTC, date, datetime

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from mlops_assets.compute.llm_traces.otlp_protobuf import write_protobuf_spans
from mlops_assets.compute.llm_traces.received_spans import MAX_SPANS
from mlops_assets.serving.http import trace_receiver
from mlops_assets.serving.http.trace_receiver import PATH, TraceReceiver
from mlops_assets.serving.logs.trace_days import TraceDays
from mlops_assets.serving.logs.trace_log import TraceLog, read_traces
from mlops_assets.values.llm.span import SECOND, Span, make_span_id, make_trace_id
from tests.compute.llm_traces.otlp_json_writer import write_json_spans
from tests.serving.prompts.support import run_server

JSON, PROTOBUF = {"content-type": "application/json; charset=utf-8"}, {"content-type": "application/x-protobuf"}


def make_span(start: int | None = None, **attributes) -> Span:
    start = time.time_ns() if start is None else start
    return Span(make_trace_id(start), make_span_id(), None, "chat", start, start, "ok", "", attributes)


class Received:
    """A receiver without a socket."""

    def __init__(self, folder, **more) -> None:
        self.folder, self.log = folder, TraceLog(folder)
        self.app = TraceReceiver(self.log, TraceDays(folder, datetime.now(UTC).date()), **more)

    def post(self, content: bytes, headers: dict, path: str = PATH, method: str = "POST") -> httpx.Response:
        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app=self.app), base_url="http://receiver") as client:
                return await client.request(method, path, content=content, headers=headers)

        return asyncio.run(send())

    @property
    def spans(self) -> list[Span]:
        return [span for spans in read_traces(self.folder, date.min, date.max).values() for span in spans]


@pytest.fixture
def receiver(tmp_path):
    opened = Received(tmp_path / "traces")
    yield opened
    opened.log.close()


@pytest.mark.parametrize(("write", "headers"), [(write_json_spans, JSON), (write_protobuf_spans, PROTOBUF)])
@pytest.mark.parametrize("packed", [False, True])
def test_spans_are_in_the_log_when_the_reply_arrives(receiver, write, headers, packed) -> None:
    sent = [make_span(), make_span(**{"gen_ai.usage.input_tokens": 3})]
    body = gzip.compress(write(sent)) if packed else write(sent)
    reply = receiver.post(body, headers | ({"content-encoding": "gzip"} if packed else {}))
    assert (reply.status_code, reply.headers["content-type"]) == (200, headers["content-type"].partition(";")[0])
    assert receiver.spans == sent
    assert (receiver.app.requests, receiver.app.spans, receiver.app.refused) == (1, 2, 0)


def test_a_span_of_another_time_is_refused_and_the_others_are_kept(receiver, capsys) -> None:
    receiver.app._first_start = SECOND
    good, early, late = make_span(), make_span(SECOND - 1), make_span(time.time_ns() + 2 * 86_400 * SECOND)
    reply = receiver.post(write_protobuf_spans([early, good, late]), PROTOBUF)
    partial = ExportTraceServiceResponse.FromString(reply.content).partial_success
    assert (reply.status_code, partial.rejected_spans) == (200, 2)
    assert f"the span 'chat' ({early.span_id}) starts at {early.start}" in partial.error_message
    assert receiver.spans == [good]
    assert json.loads(receiver.post(write_json_spans([late]), JSON).content)["partialSuccess"]["rejectedSpans"] == "1"
    assert "refused 2 of 3 spans" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("body", "headers", "status", "reason"),
    [
        (b"{", JSON, 400, "not JSON"),
        (b"\xff\xff", PROTOBUF, 400, "ExportTraceServiceRequest"),
        (b"{}", {"content-type": "text/plain"}, 415, "content type"),
        (b"{}", {}, 415, "content type"),
        (b"{}", JSON | {"content-encoding": "br"}, 415, "encoding 'br'"),
        (b"{}", JSON | {"content-encoding": "gzip"}, 400, "not gzip"),
        (b" " * 2000, JSON, 413, "larger than 1000 bytes"),
        (gzip.compress(b" " * 2000, mtime=0), JSON | {"content-encoding": "gzip"}, 413, "larger than 1000 bytes"),
    ],
)
def test_a_request_that_cannot_be_read_is_refused(tmp_path, body, headers, status, reason) -> None:
    receiver = Received(tmp_path / "traces", max_bytes=1000)
    reply = receiver.post(body, headers)
    assert reply.status_code == status
    assert reason.encode() in reply.content
    assert receiver.spans == []
    receiver.log.close()


def test_other_paths_and_methods_are_refused(receiver) -> None:
    assert receiver.post(b"{}", JSON, "/v1/metrics").status_code == 404
    assert receiver.post(b"", JSON, method="GET").status_code == 405


def test_a_log_that_cannot_be_written_asks_the_sender_to_try_again(receiver, monkeypatch, capsys) -> None:
    def fail(*_) -> None:
        raise OSError(28, "No space left on device")

    sent = make_span()
    with monkeypatch.context() as patched:
        patched.setattr(receiver.log._log, "write", fail)
        reply = receiver.post(write_protobuf_spans([sent]), PROTOBUF)
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
    assert "No space left on device" in capsys.readouterr().err
    assert receiver.post(write_protobuf_spans([sent]), PROTOBUF).status_code == 200
    assert receiver.spans == [sent]


def test_too_many_requests_at_a_time_are_asked_to_come_again(receiver, monkeypatch) -> None:
    monkeypatch.setattr(trace_receiver, "_MAX_BUFFERED", 0)
    reply = receiver.post(write_protobuf_spans([make_span()]), PROTOBUF)
    assert (reply.status_code, "retry-after" in reply.headers) == (503, True)


def test_personal_data_in_texts_is_replaced_unless_that_is_switched_off(tmp_path) -> None:
    facts = {"gen_ai.prompt.0.content": "Write to ada@example.org", "gen_ai.request.model": "ada@example.org"}
    for redact, text in [(True, "Write to [e-mail address]"), (False, "Write to ada@example.org")]:
        receiver = Received(tmp_path / str(redact), redact=redact)
        receiver.post(write_protobuf_spans([make_span(**facts)]), PROTOBUF)
        assert receiver.spans[0].attributes == facts | {"gen_ai.prompt.0.content": text}
        receiver.log.close()


def test_a_refused_span_controls_no_terminal(receiver, capsys) -> None:
    item = {"traceId": "a" * 32, "spanId": "\x1b]0;title\x07", "name": "\x1b[2J"}
    body = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [item]}]}]}).encode()
    assert receiver.post(body, JSON).json()["partialSuccess"]["rejectedSpans"] == "1"
    error = capsys.readouterr().err
    assert "refused 1 of 1 spans" in error
    assert "\x1b" not in error
    assert "\x07" not in error


def test_a_request_with_too_many_spans_is_refused(receiver) -> None:
    body = gzip.compress(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [{}] * (MAX_SPANS + 1)}]}]}).encode())
    reply = receiver.post(body, JSON | {"content-encoding": "gzip"})
    assert (reply.status_code, b"at most 20000 spans" in reply.content) == (413, True)


def test_an_unexpected_failure_is_the_fault_of_the_request(receiver, monkeypatch) -> None:
    def fail(*_, **__) -> None:
        raise RecursionError

    monkeypatch.setattr(trace_receiver, "read_json_spans", fail)
    assert receiver.post(b"{}", JSON).status_code == 400


HEAD = b"POST /v1/traces HTTP/1.1\r\nhost: receiver\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{"


def test_requests_without_their_body_stop_no_others_and_end(receiver, monkeypatch) -> None:
    monkeypatch.setattr(trace_receiver, "_BODY_SECONDS", 5.0)
    with run_server(receiver.app) as url, contextlib.ExitStack() as stack:
        host, _, port = url.removeprefix("http://").partition(":")
        idle = [stack.enter_context(socket.create_connection((host, int(port)), timeout=60)) for _ in range(40)]
        for connection in idle:
            connection.sendall(HEAD)
        sent = make_span()
        assert httpx.post(f"{url}{PATH}", content=write_json_spans([sent]), headers=JSON, timeout=60).status_code == 200
        assert receiver.spans == [sent]
        assert all(connection.recv(100).startswith(b"HTTP/1.1 408") for connection in idle)
        assert receiver.app._buffered == 0


def test_bodies_in_memory_are_bounded(tmp_path) -> None:
    receiver = Received(tmp_path / "traces", max_bytes=1000)
    with run_server(receiver.app) as url, contextlib.ExitStack() as stack:
        host, _, port = url.removeprefix("http://").partition(":")
        for _ in range(trace_receiver._MAX_BUFFERED):
            stack.enter_context(socket.create_connection((host, int(port)), timeout=60)).sendall(HEAD + b" " * 998)
        until = time.monotonic() + 60
        while receiver.app._buffered < 999 * trace_receiver._MAX_BUFFERED:
            assert time.monotonic() < until
            time.sleep(0.01)
        reply = httpx.post(f"{url}{PATH}", content=b" " * 100, headers=JSON, timeout=60)
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
    receiver.log.close()
