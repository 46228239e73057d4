"""A Redis server of a test's own."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import redis


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """Start a server on a free port and yield its URL; nothing is stored on the disk."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
    with (folder / "redis.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _await(port, process)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(30)


def _await(port: int, process: subprocess.Popen) -> None:
    until = time.monotonic() + 60
    with redis.Redis(port=port) as client:
        while time.monotonic() < until:
            assert process.poll() is None, "redis-server ended"
            with suppress(redis.ConnectionError):
                client.ping()
                return
            time.sleep(0.05)
    raise AssertionError("redis-server does not answer")
