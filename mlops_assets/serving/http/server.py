"""The HTTP server: uvicorn without per-request overhead, and an acceptor that shares connections fairly among workers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from math import ceil
from typing import TYPE_CHECKING, Any

import uvicorn

from mlops_assets.serving.http.protocol import HttpProtocol
from mlops_assets.serving.http.service_folder import MIN_DRAIN_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEEP_ALIVE = 75  # seconds that a connection may be idle
_PAUSE = 0.5  # seconds without new connections after the system refused one, e.g. for lack of descriptors


class Server(uvicorn.Server):
    """Serves connections that an acceptor hands over."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no signal handlers: the worker has its own."""
        yield

    @property
    def connections(self) -> int:
        """Number of open connections."""
        return len(self.server_state.connections)

    async def add_connection(self, connection: socket.socket) -> None:
        """Serve an accepted connection; a connection that the client has already closed is ignored."""
        protocol: Any = self.config.http_protocol_class
        connection.setblocking(False)  # noqa: FBT003
        with contextlib.suppress(OSError):  # it may be gone already
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol(config=self.config, server_state=self.server_state, app_state={}), connection
            )


def make_server(app: Any, drain_seconds: float = MIN_DRAIN_SECONDS) -> Server:  # noqa: ANN401  (an ASGI application)
    """Return a server for HTTP/1.1 only, without access log, because the counters replace it.

    Parameters
    ----------
    app
        The application.
    drain_seconds
        Seconds that requests in flight may take when the server ends.
    """
    config = uvicorn.Config(
        app,
        loop="none",
        http=HttpProtocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=ceil(drain_seconds),
    )
    config.load()
    return Server(config)


class Acceptor:
    """Accepts connections on a socket that several processes share.

    The first process to accept gets a connection. Without a rule, a process that already has many connections would often be first. So a
    process with more than its share waits a moment.

    Parameters
    ----------
    server
        Serves the connections.
    listener
        A bound, listening, non-blocking socket.
    accept_delay
        A function that returns the seconds to wait before accepting.
    """

    def __init__(self, server: Server, listener: socket.socket, accept_delay: Callable[[], float]) -> None:
        self._server, self._listener, self._accept_delay = server, listener, accept_delay
        self._loop = asyncio.get_running_loop()
        self._tasks = set[asyncio.Task[None]]()
        self._timer: asyncio.TimerHandle | None = None
        self._loop.add_reader(listener, self._on_connection)

    async def close(self) -> None:
        """Accept the connections that already wait, close the socket, and return when the server has all of them."""
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._listener)
        while self._accept():
            pass
        self._listener.close()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _on_connection(self) -> None:
        if seconds := self._accept_delay():
            self._pause_accepting(seconds, then=self._accept)
        else:
            self._accept()

    def _pause_accepting(self, seconds: float, *, then: Callable[[], object]) -> None:
        """Stop watching the socket for some seconds, then call ``then`` and watch again."""

        def resume() -> None:
            self._timer = None
            then()
            if self._timer is None:
                self._loop.add_reader(self._listener, self._on_connection)

        self._loop.remove_reader(self._listener)
        self._timer = self._loop.call_later(seconds, resume)

    def _accept(self) -> bool:
        """Accept one connection and return True; return False when there is none, or when the system refuses, which starts a pause."""
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return False  # another process was faster, or the client is gone
        except OSError:
            self._pause_accepting(_PAUSE, then=lambda: None)
            return False
        task = self._loop.create_task(self._server.add_connection(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True
