"""Receive traces over OTLP/HTTP: an application of any language sends its spans, and they are in a trace log before the reply is sent."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.llm_traces.otlp_json import read_json_spans, write_json_reply
from mlops_assets.compute.llm_traces.otlp_protobuf import read_protobuf_spans, write_protobuf_error, write_protobuf_reply
from mlops_assets.compute.llm_traces.received_spans import MAX_SPANS, TooManySpansError, describe_span
from mlops_assets.compute.text import replace_controls
from mlops_assets.errors import DataError, ServiceError
from mlops_assets.serving.http.app import answer_lifespan
from mlops_assets.serving.http.request_body import read_body
from mlops_assets.serving.http.server import make_server
from mlops_assets.serving.predict.request_schema import RequestError
from mlops_assets.values.llm.span import SECOND, Span

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mlops_assets.serving.http.app import Receive, Scope, Send
    from mlops_assets.serving.logs.trace_days import TraceDays
    from mlops_assets.serving.logs.trace_log import TraceLog

PATH = "/v1/traces"
MAX_BYTES = 16 * 2**20  # of a request, also decompressed
_MAX_DECODING = 2  # requests that are decoded and written at a time; others wait
_MAX_BUFFERED = 8  # times max_bytes: the bodies of all requests in memory
_BODY_SECONDS = 60.0  # for the whole body of a request
_MAX_AHEAD = 86_400 * SECOND  # nanoseconds that the clock of an application may be ahead
_RETRY_SECONDS = 1  # senders of the SDK try for ten seconds
_JSON, _PROTOBUF = "application/json", "application/x-protobuf"


@dataclass(frozen=True)
class ReceiverReply:
    """The reply to one request.

    Parameters
    ----------
    status, content_type, body
        As in HTTP.
    retry
        Whether the sender may send the same request again.
    """

    status: int
    content_type: str
    body: bytes
    retry: bool = False


class TraceReceiver:
    """Answers OTLP requests with spans as an ASGI application.

    Parameters
    ----------
    log
        The log that spans are written to before the reply is sent.
    days
        The days of recent traces.
    first_start
        The earliest accepted start of a span, in nanoseconds since 1970.
    redact
        Whether e-mail addresses, IBANs and phone numbers are replaced in all texts, except in technical attributes.
    max_bytes
        The maximum size of a request.
    """

    def __init__(self, log: TraceLog, days: TraceDays, *, first_start: int = 0, redact: bool = True, max_bytes: int = MAX_BYTES) -> None:
        self._log, self._days, self._first_start, self._redact, self._max_bytes = log, days, first_start, redact, max_bytes
        self._buffered, self._decoding, self._lock = 0, asyncio.Semaphore(_MAX_DECODING), threading.Lock()
        self.requests, self.spans, self.refused = 0, 0, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or the server's start and end (``lifespan``)."""
        if scope["type"] == "lifespan":
            await answer_lifespan(receive, send)
        elif scope["type"] == "http":
            headers = dict(scope["headers"])
            kind = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
            reply = await self._answer(scope, receive, kind)
            if reply is not None:
                await _send(send, reply)

    async def _answer(self, scope: Scope, receive: Receive, kind: str) -> ReceiverReply | None:
        """Return the reply to one request; None when the client has left."""
        refusal = _refuse_head(scope, kind)
        if refusal is not None:
            return refusal
        chunks = list[bytes]()
        try:
            refusal = await self._receive_in_time(receive, kind, chunks)
            if refusal is not None or not chunks:
                return refusal
            async with self._decoding:
                return await asyncio.to_thread(self._store, kind, scope["headers"], b"".join(chunks))
        finally:
            self._buffered -= sum(map(len, chunks))

    async def _receive_in_time(self, receive: Receive, kind: str, chunks: list[bytes]) -> ReceiverReply | None:
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                return await self._receive(receive, kind, chunks)
        except TimeoutError:
            return _refuse(kind, 408, f"the body has not arrived within {_BODY_SECONDS:.0f} seconds")

    async def _receive(self, receive: Receive, kind: str, chunks: list[bytes]) -> ReceiverReply | None:
        """Receive a body into chunks, which count as buffered, or return the refusal; if the client disconnects, the chunks are dropped."""
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self._buffered -= size
                chunks.clear()
                return None
            chunk, more = message.get("body", b""), message.get("more_body", False)
            size += len(chunk)
            if size > self._max_bytes:
                return _refuse(kind, 413, f"the body is larger than {self._max_bytes} bytes; send fewer spans in a request")
            if self._buffered + len(chunk) > _MAX_BUFFERED * self._max_bytes:
                return _refuse(kind, 503, "too many requests at a time", retry=True)
            self._buffered += len(chunk)
            chunks.append(chunk)
        return None

    def _store(self, kind: str, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> ReceiverReply:
        """Write the spans of a request, and return its reply."""
        try:
            unpacked = read_body(headers, body, self._max_bytes)
            decoded = (read_json_spans if kind == _JSON else read_protobuf_spans)(unpacked, redact=self._redact)
        except RequestError as error:
            return _refuse(kind, error.status, error.message)
        except DataError as error:
            return _refuse(kind, 400, f"{error.message} ({error.hint})")
        except TooManySpansError:
            return _refuse(
                kind, 413, f"a request has at most {MAX_SPANS} spans, and a million attributes and other parts; send fewer in a request"
            )
        except Exception as error:  # noqa: BLE001  (one request must not look like a fault of the receiver: senders would repeat it)
            _print(f"a request could not be read ({type(error).__name__})")
            return _refuse(kind, 400, f"the body cannot be read ({type(error).__name__})")
        latest = time.time_ns() + _MAX_AHEAD
        spans, refused = list[Span](), decoded.refused
        for span in decoded.spans:
            if self._first_start <= span.start <= latest:
                spans.append(span)
            else:
                where = describe_span(span.name, span.span_id)
                hint = "the start of the source is the first day, and tomorrow the last"
                refused.add(DataError(f"{where} starts at {span.start}, outside of the days of the source", hint=hint))
        try:
            self._log.write(spans, self._days.choose_days(spans))
        except OSError:
            _print(self._log.problem)
            return _refuse(kind, 503, "the spans cannot be stored now", retry=True)
        with self._lock:
            self.requests, self.spans, self.refused = self.requests + 1, self.spans + len(spans), self.refused + refused.count
        if refused.count:
            _print(f"refused {refused.count} of {refused.count + len(spans)} spans of a request: {refused}")
        return ReceiverReply(200, kind, write_json_reply(refused) if kind == _JSON else write_protobuf_reply(refused))


def run_receiver(receiver: TraceReceiver, host: str, port: int, announce: Callable[[int], None]) -> None:
    """Receive traces until SIGINT or SIGTERM; requests in progress are answered.

    Parameters
    ----------
    receiver
        The application.
    host, port
        The address; port 0 is any free one.
    announce
        Called with the port when connections are accepted.

    Raises
    ------
    ServiceError
        The address cannot be used.
    """
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=128)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a host name"
        raise ServiceError(f"port {port} of the host '{host}' cannot be used: {reason}", hint="give another --host or --port") from None
    with listener:
        asyncio.run(_serve(receiver, listener, announce))


async def _serve(receiver: TraceReceiver, listener: socket.socket, announce: Callable[[int], None]) -> None:
    server, loop = make_server(receiver), asyncio.get_running_loop()

    def end() -> None:
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)
    announce(listener.getsockname()[1])
    await server.serve(sockets=[listener])


def _refuse_head(scope: Scope, kind: str) -> ReceiverReply | None:
    """Return the refusal of a request by its path, method or content type; None for a request with spans."""
    if scope["path"] != PATH:
        return _refuse(kind, 404, f"only traces are received, at {PATH}")
    if scope["method"] != "POST":
        return _refuse(kind, 405, f"{PATH} accepts only POST")
    return None if kind in (_JSON, _PROTOBUF) else _refuse(kind, 415, f"the content type is neither {_PROTOBUF} nor {_JSON}")


def _refuse(kind: str, status: int, message: str, *, retry: bool = False) -> ReceiverReply:
    """Return a reply with the reason, in the encoding of the request."""
    if kind == _PROTOBUF:
        return ReceiverReply(status, _PROTOBUF, write_protobuf_error(message), retry)
    return ReceiverReply(status, _JSON, json.dumps({"message": message}).encode(), retry)


async def _send(send: Send, reply: ReceiverReply) -> None:
    headers: Mapping[str, Any] = {
        "content-type": reply.content_type,
        "content-length": len(reply.body),
        **({"retry-after": _RETRY_SECONDS} if reply.retry else {}),
        **({"connection": "close"} if reply.status >= 400 else {}),  # the rest of the body may not have been read
    }
    await send(
        {"type": "http.response.start", "status": reply.status, "headers": [(n.encode(), str(v).encode()) for n, v in headers.items()]}
    )
    await send({"type": "http.response.body", "body": reply.body})


def _print(text: str) -> None:
    print(f"mlops: {replace_controls(text)}", file=sys.stderr, flush=True)  # noqa: T201  (the log of a process in the foreground)
