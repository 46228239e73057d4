"""A collector of OTLP/HTTP on a free port of 127.0.0.1, which decodes what it receives with OpenTelemetry's own messages.

Each request plays the next step of the script; after the last one, every request is taken::

    with Collector(refuse(503, retry_after="0")) as collector:
        ...
    assert [span.name for span in collector.spans] == ["answer"]
"""

import gzip
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse

Step = Callable[["Collector", BaseHTTPRequestHandler, ExportTraceServiceRequest], None]


def reply(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"content-length": str(len(body)), "content-type": "application/x-protobuf", **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def take(collector: "Collector", handler: BaseHTTPRequestHandler, request: ExportTraceServiceRequest) -> None:
    collector.keep(request)
    reply(handler, 200)


def refuse(status: int, **headers: str) -> Step:
    return lambda _collector, handler, _request: reply(handler, status, b"\x12\x04busy", **headers)


def take_at_most(spans: int) -> Step:
    """Take a request, or refuse it as too large."""

    def step(collector: "Collector", handler: BaseHTTPRequestHandler, request: ExportTraceServiceRequest) -> None:
        fits = sum(len(scope.spans) for group in request.resource_spans for scope in group.scope_spans) <= spans
        (take if fits else refuse(413))(collector, handler, request)

    return step


def reject(spans: int) -> Step:
    """Take a request, and say that some of its spans were not kept."""
    body = ExportTraceServiceResponse()
    body.partial_success.rejected_spans = spans
    return lambda _collector, handler, _request: reply(handler, 200, body.SerializeToString())


def hang(collector: "Collector", handler: BaseHTTPRequestHandler, _request: ExportTraceServiceRequest) -> None:
    """Reply nothing until the client leaves or the collector is closed."""
    handler.connection.recv(1)


class Collector:
    """The collector; a context manager."""

    def __init__(self, *steps: Step, default: Step = take) -> None:
        self.steps, self.default = list(steps), default
        self.requests: list[tuple[str, dict[str, str]]] = []  # path and headers
        self.sizes: list[int] = []  # of the bodies, unpacked
        self.spans: list[Any] = []
        self.services: set[str] = set()
        self.changed = threading.Condition()
        self._connections: list[socket.socket] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _make_handler(self))
        self._server.daemon_threads = True

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        for connection in self._connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # the client has closed it

    def keep(self, request: ExportTraceServiceRequest) -> None:
        with self.changed:
            for group in request.resource_spans:
                self.services |= {item.value.string_value for item in group.resource.attributes if item.key == "service.name"}
                self.spans += [span for scope in group.scope_spans for span in scope.spans]
            self.changed.notify_all()

    def play(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["content-length"]))
        if handler.headers["content-encoding"] == "gzip":
            body = gzip.decompress(body)
        request = ExportTraceServiceRequest.FromString(body)
        with self.changed:
            self.requests.append((handler.path, {name.lower(): value for name, value in handler.headers.items()}))
            self.sizes.append(len(body))
            self._connections.append(handler.connection)
            step = self.steps.pop(0) if self.steps else self.default
            self.changed.notify_all()
        step(self, handler, request)

    def wait_for(self, condition: Callable[["Collector"], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: condition(self), timeout=60)


def _make_handler(collector: Collector) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            collector.play(self)

        def log_message(self, *_: object) -> None: ...

    return Handler
