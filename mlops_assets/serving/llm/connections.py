"""Connections to endpoints: one pool for a process, and a limit on the requests that are open at each endpoint."""

from __future__ import annotations

import os
import threading
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mlops_assets.errors import MissingExtraError
from mlops_assets.serving.llm.failures import AttemptError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

_MAX_IDLE = 32  # connections that a process keeps open


class EndpointSlots:
    """Slots that limit how many requests are open at each endpoint at the same time."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open: Counter[str] = Counter()

    @contextmanager
    def hold(self, endpoint: str, limit: int, seconds: float) -> Iterator[None]:
        """Wait for a free slot of an endpoint, and hold it.

        Parameters
        ----------
        endpoint
            The URL of the endpoint.
        limit
            The maximum number of open requests.
        seconds
            The maximum time to wait.

        Raises
        ------
        AttemptError
            No slot became free in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._open[endpoint] < limit, timeout=max(0.0, seconds)):
                raise AttemptError(
                    "busy", f"had no free slot of {limit} within {seconds:.2g} s", "raise concurrency or time_limit, or send fewer calls"
                )
            self._open[endpoint] += 1
        try:
            yield
        finally:
            with self._changed:
                self._open[endpoint] -= 1
                self._changed.notify_all()


class Connections:
    """The connections of one process: an HTTP client that keeps them open, and the slots of endpoints."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget connections and locks, which a forked process must not share with its parent."""
        self.slots = EndpointSlots()
        self._lock = threading.Lock()
        self._client: httpx.Client | None = None

    def client(self) -> httpx.Client:
        """Return the HTTP client, which any thread may use; it is created at the first call.

        Raises
        ------
        MissingExtraError
            httpx is not installed.
        """
        with self._lock:
            if self._client is None:
                self._client = _open_client()
            return self._client


def _open_client() -> httpx.Client:
    try:
        import httpx
    except ImportError as error:
        raise MissingExtraError.from_extra("httpx", "llm") from error
    return httpx.Client(limits=httpx.Limits(max_connections=None, max_keepalive_connections=_MAX_IDLE))


CONNECTIONS = Connections()
os.register_at_fork(after_in_child=CONNECTIONS.reset)
