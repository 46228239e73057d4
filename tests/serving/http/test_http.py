"""What arrives on a connection: offers of other protocols, compressed and oddly encoded bodies, endless headers."""

import asyncio
import gzip
import json
import socket
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from mlops_assets.serving.http.app import App
from mlops_assets.serving.http.server import Acceptor, make_server
from mlops_assets.serving.http.service_folder import RequestLimits
from mlops_assets.serving.predict.request_schema import RequestError

LIMITS = RequestLimits(max_rows=10, max_bytes=100_000)


class Metrics:
    def count(self, *_) -> None: ...
    def count_reply(self, *_) -> None: ...


class Echo(App):
    """The application, which answers with what it was sent."""

    def __init__(self) -> None:
        log = SimpleNamespace(ready=lambda: True, problem="")
        super().__init__(log=log, metrics=Metrics(), limits=LIMITS, versions=dict, push_endpoint=Endpoint())

    def predict(self, body: bytes) -> tuple[int, bytes]:
        try:
            return 200, json.dumps(json.loads(body.decode())).encode()
        except ValueError:
            error = RequestError("the body is not JSON", hint="send one object", status=400)
            return error.status, error.body


class Endpoint:
    names = frozenset(["rows"])

    def answer(self, view: str, body: bytes, call: str | None) -> tuple[int, bytes]:
        if body == b"fail":
            raise ZeroDivisionError
        return 200, json.dumps([view, json.loads(body), call]).encode()


@contextmanager
def serving():
    """Serve on a port of its own, in a thread."""
    listener, loop, ready = socket.create_server(("127.0.0.1", 0)), asyncio.new_event_loop(), threading.Event()
    listener.setblocking(False)

    async def serve() -> None:
        server, stopped = make_server(Echo()), asyncio.Event()
        acceptor = Acceptor(server, listener, lambda: 0.0)
        state["stop"] = lambda: loop.call_soon_threadsafe(stopped.set)
        ready.set()
        await stopped.wait()
        await acceptor.close()
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)

    state: dict = {}
    port = listener.getsockname()[1]
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(60)
    try:
        yield port
    finally:
        state["stop"]()
        thread.join(60)
        loop.close()


@pytest.fixture(scope="module")
def port():
    with serving() as number:
        yield number


class Connection:
    """A raw socket."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.file = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def reply(self) -> tuple[int, object]:
        status = int(self.file.readline().split()[1])
        headers = dict(line.decode().lower().rstrip("\r\n").split(": ", 1) for line in iter(self.file.readline, b"\r\n"))
        return status, json.loads(self.file.read(int(headers["content-length"])))


def post(body: bytes, *headers: str, path: str = "/predict") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: x", *headers, f"content-length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


OFFER = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA")


@pytest.mark.parametrize(
    "offer", [OFFER, ("Connection: keep-alive, Upgrade", "Upgrade: websocket"), ("Upgrade: h2c", "Connection: upgrade")]
)
def test_an_offer_of_another_protocol_is_ignored_and_the_connection_is_kept(port, offer) -> None:
    with Connection(port) as connection:
        for number in range(3):
            connection.send(post(b'{"a": %d}' % number, *offer))
            assert connection.reply() == (200, {"a": number})
            head, body = post(b'{"b": [1, 2]}', *offer)[:-13], b'{"b": [1, 2]}'
            connection.send(head)
            connection.send(body[:5])
            connection.send(body[5:])
            assert connection.reply() == (200, {"b": [1, 2]})
            connection.send(post(b"[]"))
            assert connection.reply() == (200, [])


def test_requests_that_arrive_together_with_an_offer_are_all_answered(port) -> None:
    with Connection(port) as connection:
        connection.send(post(b"1", *OFFER) + post(b"2") + post(b"3", *OFFER))
        assert [connection.reply() for _ in range(3)] == [(200, 1), (200, 2), (200, 3)]


def test_an_offer_that_arrives_byte_by_byte_is_ignored(port) -> None:
    with Connection(port) as connection:
        for byte in post(b'{"a": 1}', *OFFER):
            connection.send(bytes([byte]))
        assert connection.reply() == (200, {"a": 1})


def test_a_chunked_body_after_an_offer_is_read(port) -> None:
    with Connection(port) as connection:
        head = "\r\n".join(["POST /predict HTTP/1.1", "host: x", *OFFER, "transfer-encoding: chunked", "", ""]).encode()
        connection.send(head + b'3\r\n{"a\r\n5\r\n": 1}\r\n0\r\n\r\n')
        assert connection.reply() == (200, {"a": 1})


@pytest.mark.parametrize("endless", [b"x: " + b"a" * 1000, b"x: y\r\n" * 200], ids=["one value", "many headers"])
@pytest.mark.parametrize("start", ["head", "trailer", "path"])
def test_endless_headers_are_refused(port, endless, start) -> None:
    heads = {
        "head": b"POST /predict HTTP/1.1\r\nhost: x\r\n",
        "trailer": b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n",
        "path": b"POST /",
    }
    with Connection(port) as connection:
        connection.send(heads[start])
        sent = 0
        try:
            while sent < 20_000_000:
                connection.send(b"a" * 1000 if start == "path" else endless)
                sent += 1000
        except OSError:
            pass
        assert sent < 20_000_000, "the connection was closed"


def test_headers_within_the_bound_and_large_bodies_are_answered(port) -> None:
    with Connection(port) as connection:
        connection.send(post(b"1", "cookie: " + "x" * 30_000))
        assert connection.reply() == (200, 1)
        body = json.dumps("x" * 90_000).encode()
        connection.send(post(body) + post(body, *OFFER) + post(body))
        assert [connection.reply()[0] for _ in range(3)] == [200, 200, 200]
        head = b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        connection.send(head + b"".join(b"2\r\n%b\r\n" % body[i : i + 2] for i in range(0, len(body), 2)) + b"0\r\n\r\n")
        assert connection.reply()[0] == 200


def answer(port, body: bytes, *headers: str, path: str = "/predict") -> tuple[int, object]:
    with Connection(port) as connection:
        connection.send(post(body, *headers, path=path))
        return connection.reply()


def test_gzip_and_a_byte_order_mark_are_accepted(port) -> None:
    text = '{"a": "é"}'.encode()
    expected = (200, {"a": "é"})
    assert answer(port, gzip.compress(text), "content-encoding: gzip") == expected
    assert answer(port, gzip.compress(text[:4]) + gzip.compress(text[4:]), "Content-Encoding: GZIP") == expected
    assert answer(port, b"\xef\xbb\xbf" + text) == expected
    assert answer(port, text, "content-type: application/json; charset=UTF-8") == expected
    assert answer(port, text, "content-type: application/x-www-form-urlencoded") == expected
    assert answer(port, gzip.compress(b"1", mtime=0), "content-encoding: gzip", path="/features/rows") == (200, ["rows", 1, None])


@pytest.mark.parametrize(
    ("body", "headers", "status", "names"),
    [
        (b"x", ["content-encoding: br"], 415, "'br'"),
        ('{"a": "é"}'.encode("latin-1"), ["content-type: application/json; charset=ISO-8859-1"], 415, "'iso-8859-1'"),
        ('{"a": "é"}'.encode("latin-1"), [], 415, "not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), [], 415, "UTF-16"),
        ('{"a": 1}'.encode("utf-16-le"), ["content-type: application/json"], 415, "UTF-16"),
        (b"a,b\n1,2\n", ["content-type: text/csv"], 415, "'text/csv'"),
        (b"{", ["content-type: application/json"], 400, "not JSON"),
        (b"{}", ["content-encoding: gzip"], 400, "not gzip"),
        (gzip.compress(b"[1, 2]", mtime=0)[:-9], ["content-encoding: gzip"], 400, "cut off"),
        (gzip.compress(b" " * 50_000_000, mtime=0), ["content-encoding: gzip"], 413, "larger than 100000"),
        (gzip.compress(b"", mtime=0) * 4000, ["content-encoding: gzip"], 400, "more than 64 members"),
    ],
)
def test_what_is_not_accepted_is_named(port, body, headers, status, names) -> None:
    found, reply = answer(port, body, *headers)
    assert found == status
    assert names in reply["error"]
    assert reply["hint"]


def test_a_failed_push_is_logged_as_a_push(port, capfd) -> None:
    assert answer(port, b"fail", path="/features/rows")[0] == 500
    told = capfd.readouterr().err
    assert "a push failed with ZeroDivisionError" in told
    assert "a prediction failed" not in told
