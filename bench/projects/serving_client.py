"""The client of the serving benchmark: kept connections on bare sockets, each sends its next request when it has its answer."""

from __future__ import annotations

import json
import re
import select
import socket
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from bench.worker import serve

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_PATIENCE = 120  # seconds without any answer
_PROBABILITIES = {
    "named": lambda reply: [row["probability"] for row in reply["predictions"]],
    "plain": lambda reply: reply,
    "pairs": lambda reply: [pair[1] for pair in reply["predictions"]],
}


class Target:
    """A server and what it is sent."""

    def __init__(self, port: int, path: str, body_key: str | None, reply_format: str, rows: Sequence[Any]) -> None:
        self.port, self._path, self._body_key, self._rows = port, path, body_key, rows
        self.probabilities = _PROBABILITIES.get(reply_format)
        self._made: dict[int, list[bytes]] = {}

    def requests(self, size: int) -> list[bytes]:
        """Return requests of so many rows: 200 of one row, or one of all."""
        if size not in self._made:
            starts = range(200) if size == 1 else range(1)
            self._made[size] = [self.request(self._rows[i : i + size]) for i in starts]
        return self._made[size]

    def request(self, rows: Sequence[Any]) -> bytes:
        """Return a request as bytes."""
        body = json.dumps({self._body_key: rows} if self._body_key else rows, separators=(",", ":")).encode()
        head = f"POST {self._path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        return head.encode() + body


class Connection:
    """A kept connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.begun, self._got, self._end = 0.0, b"", 0

    def send(self, request: bytes) -> None:
        """Send a request."""
        self._got, self._end = b"", 0
        self.begun = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> bytes | None:
        """Take what there is; return the reply when it is whole."""
        data = self.socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the server closed the connection")
        self._got += data
        if not self._end and (at := self._got.find(b"\r\n\r\n")) >= 0:
            found = _LENGTH.search(self._got, 0, at + 2)
            if found is None or self._got[9:12] != b"200":
                raise ConnectionError(f"not answered: {self._got[:300]!r}")
            self._end = at + 4 + int(found[1])
        return self._got if self._end and len(self._got) >= self._end else None

    def ask(self, request: bytes) -> Any:
        """Send a request and return its reply, parsed."""
        self.send(request)
        while (reply := self.receive()) is None:
            pass
        return json.loads(reply.partition(b"\r\n\r\n")[2])


def burst(target: Target, connections: int, total: int, size: int) -> dict[str, Any]:
    """Send requests over kept connections until so many are answered, and return latencies and its own work in seconds, and requests a second."""
    requests, sent, taken = target.requests(size), count(), list[float]()
    opened = [Connection(target.port) for _ in range(connections)]
    by_number = {connection.socket.fileno(): connection for connection in opened}
    poll = select.epoll()
    for number in by_number:
        poll.register(number, select.EPOLLIN)
    begun, busy = time.perf_counter(), time.process_time()
    for connection in opened:
        connection.send(requests[next(sent) % len(requests)])
    while len(taken) < total:
        ready = poll.poll(_PATIENCE)
        if not ready:
            raise TimeoutError(f"no answer in {_PATIENCE} s")
        for number, _ in ready:
            connection = by_number[number]
            if connection.receive() is None:
                continue
            taken.append(time.perf_counter() - connection.begun)
            if (index := next(sent)) < total:
                connection.send(requests[index % len(requests)])
    seconds, busy = time.perf_counter() - begun, time.process_time() - busy
    poll.close()
    for connection in opened:
        connection.socket.close()
    taken.sort()
    latencies = {"p50": taken[len(taken) // 2], "p99": taken[int(len(taken) * 0.99)]}
    return latencies | {"a_second": total / seconds, "requests": total, "client": busy / total}


def check(target: Target, rows: Sequence[Any], expected: Sequence[float]) -> dict[str, Any]:
    """Ask for each row by itself and for all at once, and return the greatest difference from the model's own probabilities."""
    connection = Connection(target.port)
    alone = [connection.ask(target.request([row])) for row in rows]
    together = connection.ask(target.request(rows))
    connection.socket.close()
    if target.probabilities is None:
        return {"difference": None}
    found = [probability for reply in alone for probability in target.probabilities(reply)] + target.probabilities(together)
    difference = max(abs(a - b) for a, b in zip(found, [*expected, *expected], strict=True))
    return {"difference": difference}


def main() -> None:
    """Answer the benchmark."""
    targets: dict[str, Target] = {}
    sent: dict[str, Any] = {}

    def aim(name: str, rows: str, **where: Any) -> dict[str, Any]:
        sent.update(sent or json.loads(Path(rows).read_text(encoding="utf-8")))
        targets[name] = Target(rows=sent["rows"], **where)
        return {}

    def checked(name: str) -> dict[str, Any]:
        return check(targets[name], sent["rows"][: len(sent["expected"])], sent["expected"])

    def awake(name: str) -> dict[str, Any]:
        return {"reply": Connection(targets[name].port).ask(targets[name].requests(1)[0])}

    serve({"aim": aim, "check": checked, "awake": awake, "burst": lambda name, **what: burst(targets[name], **what)})


main()
