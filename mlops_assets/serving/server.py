"""The HTTP server in front of the application: uvicorn, without what costs time at every request."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import uvicorn

if TYPE_CHECKING:
    from collections.abc import Iterator

KEEP_ALIVE = 75  # seconds that a connection may be idle
GRACE = 10  # seconds that requests in flight may take when the process ends


class Server(uvicorn.Server):
    """Leaves signals to its process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def make_server(app: Any) -> Server:  # noqa: ANN401  (an ASGI application)
    """Return a server for a socket that is listening already; it logs nothing, counters tell more."""
    config = uvicorn.Config(
        app,
        loop="none",
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=GRACE,
    )
    return Server(config)
