"""A scripted OpenAI-compatible server on a free port of 127.0.0.1, for tests of everything that asks a language model.

Each request plays the next step of the script; after the last one, every request plays ``default``::

    with ScriptedServer(fail(429, retry_after="1"), answer("Paris")) as server:
        llm = LLM("tiny", base_url=server.url)
        assert complete(llm, [{"role": "user", "content": "Capital of France?"}]).text == "Paris"
    assert len(server.requests) == 2

A step is a function of the :class:`Exchange`. The steps below reply in one piece, or as server-sent events when the request says
``"stream": true``. Error replies repeat the prompt and the key, as some endpoints do, so that a test can prove that nothing leaks.
"""

import json
import re
import socket
import socketserver
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, Self

PATIENCE = 60  # seconds that a step waits for other requests before the test fails


@dataclass(frozen=True)
class Seen:
    """A request that the server has seen."""

    path: str
    headers: dict[str, str]  # names in lower case
    body: dict[str, Any]


@dataclass
class Exchange:
    """One request, and the means to reply."""

    server: "ScriptedServer"
    handler: BaseHTTPRequestHandler
    seen: Seen
    chunked: bool = field(default=False, init=False)

    @property
    def streams(self) -> bool:
        return bool(self.seen.body.get("stream"))

    def begin(self, status: int = 200, content_type: str | None = None, length: int | None = None, **headers: str) -> None:
        """Send the head of a reply; without a length, its body is chunked."""
        self.chunked = length is None
        self.handler.send_response(status)
        default = "text/event-stream; charset=utf-8" if self.streams else "application/json"
        self.handler.send_header("content-type", content_type or default)
        self.handler.send_header(*(("transfer-encoding", "chunked") if length is None else ("content-length", str(length))))
        for name, value in headers.items():
            self.handler.send_header(name.replace("_", "-"), value)
        self.handler.end_headers()

    def write(self, data: bytes) -> None:
        """Send a piece of the body."""
        self.handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data) if self.chunked else data)

    def end(self) -> None:
        """End a chunked body."""
        if self.chunked:
            self.handler.wfile.write(b"0\r\n\r\n")

    def send(self, data: bytes, status: int = 200, content_type: str | None = None, **headers: str) -> None:
        """Send a whole reply."""
        self.begin(status, content_type, len(data), **headers)
        self.write(data)

    def hang_up(self) -> None:
        """Close the connection after what has been sent."""
        self.handler.close_connection = True

    def wait_for_the_client_to_leave(self) -> None:
        """Wait until the client closes the connection, or the server is closed."""
        self.handler.connection.recv(1)
        self.hang_up()


Step = Callable[[Exchange], None]


class ScriptedServer:
    """The server; a context manager.

    Parameters
    ----------
    steps
        What it replies to the first requests, in order.
    default
        What it replies to the others; :func:`answer` when None.
    """

    def __init__(self, *steps: Step, default: Step | None = None) -> None:
        self.steps = list(steps)
        self.default = default or answer()
        self.requests: list[Seen] = []
        self.connections: list[socket.socket] = []  # accepted so far
        self.peak = 0  # requests in flight at once, at most
        self.changed = threading.Condition()
        self._in_flight = 0
        self._server = _TcpServer(("127.0.0.1", 0), _handler_of(self))

    @property
    def url(self) -> str:
        """The base URL of the API."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()

    def wait_for_requests(self, count: int) -> None:
        """Wait until a number of requests has arrived: a client may leave before the server has read what it sent."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.requests) >= count, timeout=PATIENCE)

    def play(self, exchange: Exchange) -> None:
        with self.changed:
            self.requests.append(exchange.seen)
            step = self.steps.pop(0) if self.steps else self.default
            self._in_flight += 1
            self.peak = max(self.peak, self._in_flight)
            self.changed.notify_all()
        exchange.handler.wfile = _Counted(exchange.handler.wfile, self._leave_flight)
        try:
            step(exchange)
        finally:
            exchange.handler.wfile.leave()
            exchange.handler.wfile = exchange.handler.wfile.file

    def _leave_flight(self) -> None:
        with self.changed:
            self._in_flight -= 1
            self.changed.notify_all()


class _Counted:
    """A file whose request leaves the flight just before the first write, so that the client cannot send another one earlier."""

    def __init__(self, file: Any, on_leave: Callable[[], None]) -> None:
        self.file = file
        self._on_leave: Callable[[], None] | None = on_leave

    def leave(self) -> None:
        leave, self._on_leave = self._on_leave, None
        if leave is not None:
            leave()

    def write(self, data: bytes) -> int:
        self.leave()
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


class _TcpServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128


def _handler_of(server: ScriptedServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            server.connections.append(self.connection)

        def handle(self) -> None:
            with suppress(ConnectionError):  # clients leave in the middle of replies
                super().handle()

        def finish(self) -> None:
            with suppress(ConnectionError):
                super().finish()

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            headers = {name.lower(): value for name, value in self.headers.items()}
            server.play(Exchange(server, self, Seen(self.path, headers, body)))

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def answer(
    text: str = "yes",
    *,
    finish_reason: str | None = "stop",
    usage: tuple[int, int] | None = (7, 3),
    model: str = "scripted-1",
    before_end: Step | None = None,
) -> Step:
    """Reply with a text.

    Parameters
    ----------
    text
        The answer; streams send it word by word.
    finish_reason
        Left out when None.
    usage
        Tokens of prompt and completion; left out when None.
    model
        The name in the reply.
    before_end
        Called in a stream after the first word.
    """
    counts = {} if usage is None else {"usage": dict(zip(("prompt_tokens", "completion_tokens"), usage, strict=True))}
    ending = {} if finish_reason is None else {"finish_reason": finish_reason}

    def play(exchange: Exchange) -> None:
        if not exchange.streams:
            message = {"role": "assistant", "content": text}
            exchange.send(json.dumps({"model": model, "choices": [{"message": message, **ending}], **counts}).encode())
            return
        wants_usage = (exchange.seen.body.get("stream_options") or {}).get("include_usage")
        words = re.findall(r"\s*\S+|\s+$", text)
        events = [{"choices": [{"delta": {"content": word}, "finish_reason": None}]} for word in words]
        events += [{"choices": [{"delta": {}, **ending}]}, *([{"choices": [], **counts}] if counts and wants_usage else [])]
        exchange.begin()
        for number, event in enumerate(events):
            if number == 1 and before_end is not None:
                before_end(exchange)
            exchange.write(b"data: " + json.dumps({"model": model, **event}).encode() + b"\n\n")
        exchange.write(b"data: [DONE]\n\n")
        exchange.end()

    return play


def fail(status: int, *, retry_after: str | None = None, code: str | None = None) -> Step:
    """Reply with an error status, and a body that repeats the key and the prompt."""

    def play(exchange: Exchange) -> None:
        message = f"refused {exchange.seen.headers.get('authorization')}: {exchange.seen.body['messages']}"
        body = json.dumps({"error": {"message": message, "type": message, "code": code or message}}).encode()
        exchange.send(body, status, "application/json", **({} if retry_after is None else {"retry_after": retry_after}))

    return play


def send(body: bytes, content_type: str | None = None) -> Step:
    """Reply with any bytes and status 200."""
    return lambda exchange: exchange.send(body, content_type=content_type)


def stay_silent() -> Step:
    """Send no byte until the client leaves."""
    return lambda exchange: exchange.wait_for_the_client_to_leave()


def cut_json() -> Step:
    """Reply with JSON that ends in the middle, in a whole HTTP message."""
    return lambda exchange: exchange.send((b"data: " if exchange.streams else b"") + b'{"choices": [{"message": {"content": "ye')


def send_html() -> Step:
    """Reply with a page and status 200, as a wrong proxy does."""
    return send(b"<html>Welcome</html>", "text/html")


def send_latin1() -> Step:
    """Reply with a text that is not UTF-8."""
    body = '{"choices": [{"%s": {"content": "caf\xe9"}, "finish_reason": "stop"}]}'

    def play(exchange: Exchange) -> None:
        text = "data: " + body % "delta" + "\n\n" if exchange.streams else body % "message"
        exchange.send(text.encode("latin-1"))

    return play


def send_forever() -> Step:
    """Reply without an end, until the client leaves."""

    def play(exchange: Exchange) -> None:
        event = b'data: {"choices": [{"delta": {"content": "again"}, "finish_reason": null}]}\n\n'
        exchange.begin()
        exchange.write(event if exchange.streams else b'{"choices": [{"message": {"content": "')
        exchange.hang_up()
        while True:  # until the write fails
            exchange.write(event * 64 if exchange.streams else b"again" * 1024)

    return play


def hang_up_in_the_middle() -> Step:
    """Close the connection after a part of the reply."""

    def play(exchange: Exchange) -> None:
        exchange.begin()
        exchange.write(b'data: {"choices": [{"delta": {"content": "ye"}}]}\n\n' if exchange.streams else b'{"choices": [{"mess')
        exchange.hang_up()

    return play


def meet(count: int, then: Step | None = None) -> Step:
    """Wait until a number of requests has been in flight at once, then play another step."""

    def play(exchange: Exchange) -> None:
        with exchange.server.changed:
            met = exchange.server.changed.wait_for(lambda: exchange.server.peak >= count, timeout=PATIENCE)
        (then or answer())(exchange) if met else exchange.send(b"", 400)

    return play


def messages(text: str = "Is it late?") -> Sequence[dict[str, str]]:
    """Return one message of a user."""
    return [{"role": "user", "content": text}]
