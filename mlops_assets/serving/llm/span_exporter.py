"""Send spans to an OpenTelemetry collector over OTLP/HTTP, in the background and within bounds, after they are in a trace log."""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from mlops_assets.compute.llm_traces.otlp_protobuf import count_rejected, require_protobuf, write_protobuf_spans
from mlops_assets.errors import MissingExtraError, ServiceError
from mlops_assets.serving.llm.failures import read_pause
from mlops_assets.values.llm.endpoint import OTLP_PATH
from mlops_assets.values.llm.span import Span

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import httpx

EXPORTED, UNEXPORTED = "exported_spans", "unexported_spans"  # names of counters
MAX_QUEUE = 8192  # spans that wait; more are dropped
_BATCH = 512  # spans of a request
_INTERVAL = 1.0  # seconds that a span waits for others
_TIMEOUT = 10.0  # seconds of one attempt
_MAX_ATTEMPTS = 6
_FIRST_PAUSE, _MAX_PAUSE = 0.5, 30.0  # seconds between attempts
_FLUSH_SECONDS = 3.0  # at the end of the process
_MAX_REPLY = 65_536  # bytes
_RETRYABLE = (429, 502, 503, 504)


@dataclass(frozen=True)
class ExportFailure:
    """Why a request with spans failed.

    Parameters
    ----------
    reason
        For people; without values of the request or of the reply.
    retryable
        Whether another attempt may succeed.
    pause
        Seconds to wait, as the collector asks; None if it does not.
    """

    reason: str
    retryable: bool
    pause: float | None = None


class SpanExporter:
    """Sends spans in batches from a thread of its own. Threads may share it.

    Parameters
    ----------
    endpoint
        The base URL of the collector.
    service
        The name under which the collector shows the spans: ``service.name``.
    headers_env
        The environment variable with headers; None for no headers.
    count
        Receives the name of a counter, ``exported_spans`` or ``unexported_spans``, and a number to add; one thread calls it at a time.

    Raises
    ------
    MissingExtraError
        httpx or opentelemetry-proto is not installed.
    ServiceError
        The variable holds no headers.
    """

    def __init__(
        self, endpoint: str, service: str, *, headers_env: str | None = None, count: Callable[[str, int], None] = lambda _name, _by: None
    ) -> None:
        self._url, self._service, self._count = f"{endpoint}{OTLP_PATH}", service, count
        self._client = _open_client({} if headers_env is None else read_headers(headers_env))
        self._changed, self._queue, self._sending = threading.Condition(), deque[Span](), 0
        self._counting = threading.Lock()
        self._deadline: float | None = None  # by time.monotonic(), while the process ends
        self._reported = self._abandoned = False
        self._thread = threading.Thread(target=self._run, name="span export", daemon=True)
        self._thread.start()

    def add(self, spans: Sequence[Span]) -> None:
        """Send spans later; those that the queue has no room for are dropped.

        Parameters
        ----------
        spans
            Spans that are in the trace log.
        """
        with self._changed:
            room = 0 if self._deadline is not None else max(0, MAX_QUEUE - len(self._queue))
            self._queue.extend(spans[:room])
            self._changed.notify_all()
        if len(spans) > room:
            self._drop(len(spans) - room, "the queue is full")

    def close(self, seconds: float = _FLUSH_SECONDS) -> None:
        """Send what waits, for at most some seconds, and drop the rest."""
        with self._changed:
            if self._deadline is not None:
                return
            self._deadline = time.monotonic() + seconds
            self._changed.notify_all()
        self._thread.join(seconds)
        with self._changed:
            self._abandoned = True
            left, self._sending = len(self._queue) + self._sending, 0
            self._queue.clear()
        if left:
            self._drop(left, "the process ended first")

    def _run(self) -> None:
        while batch := self._take_batch():
            self._send(batch)
        self._client.close()

    def _take_batch(self) -> list[Span]:
        """Wait for spans and return some; return none when the process ends and the queue is empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._deadline is not None)
            self._changed.wait_for(lambda: len(self._queue) >= _BATCH or self._deadline is not None, _INTERVAL)
            batch = [self._queue.popleft() for _ in range(min(_BATCH, len(self._queue)))]
            self._sending = len(batch)
            return batch

    def _send(self, batch: list[Span]) -> None:
        """Send a batch, several times if it has to be, and count its spans."""
        rejected, reason = 0, ""
        try:
            body = write_protobuf_spans(batch, {"service.name": self._service})
            rejected, reason = self._try_often(body, len(batch))
        except Exception as error:  # noqa: BLE001  (one batch must not end the thread)
            rejected, reason = len(batch), f"it failed ({type(error).__name__})"
        with self._changed:
            self._sending = 0
            if self._abandoned:  # close() has counted them
                return
        if len(batch) > rejected:
            with self._counting:
                self._count(EXPORTED, len(batch) - rejected)
        if rejected:
            self._drop(rejected, reason)

    def _try_often(self, body: bytes, size: int) -> tuple[int, str]:
        """Return the number of spans that the collector has not taken, and the reason."""
        pause, reason = _FIRST_PAUSE, ""
        for attempt in range(_MAX_ATTEMPTS):
            outcome = self._post(body)
            if isinstance(outcome, int):
                return min(outcome, size), "the collector rejected them"
            reason = outcome.reason
            wait = pause * random.uniform(0.5, 1.5) if outcome.pause is None else outcome.pause  # noqa: S311  (jitter)
            if not outcome.retryable or wait > _MAX_PAUSE or attempt == _MAX_ATTEMPTS - 1 or not self._wait(wait):
                break
            pause *= 2
        return size, reason

    def _wait(self, seconds: float) -> bool:
        """Wait, and return whether there is time for another attempt; the end of the process shortens the wait."""
        with self._changed:
            if self._deadline is None:
                self._changed.wait_for(lambda: self._deadline is not None, seconds)
            else:
                self._changed.wait_for(lambda: False, min(seconds, self._deadline - time.monotonic()))
            return self._deadline is None or time.monotonic() < self._deadline

    def _post(self, body: bytes) -> int | ExportFailure:
        """Send a request once; return the number of rejected spans, or the failure."""
        import httpx

        now = time.monotonic()
        until = now + _TIMEOUT if self._deadline is None else min(now + _TIMEOUT, self._deadline)
        try:
            with self._client.stream("POST", self._url, content=body, timeout=max(0.1, until - now)) as reply:
                content = b""
                for chunk in reply.iter_raw():
                    content += chunk
                    if len(content) > _MAX_REPLY or time.monotonic() > until:
                        return ExportFailure("the reply is endless", retryable=False)
        except httpx.TransportError as error:
            return ExportFailure(f"no connection or reply ({type(error).__name__})", retryable=True)
        if reply.status_code in _RETRYABLE:
            return ExportFailure(f"status {reply.status_code}", retryable=True, pause=read_pause(reply.headers.get("retry-after", "")))
        if not reply.is_success:
            return ExportFailure(f"status {reply.status_code}", retryable=False)
        return count_rejected(content)

    def _drop(self, spans: int, reason: str) -> None:
        """Count spans that are not sent, and report the first ones."""
        with self._counting:
            self._count(UNEXPORTED, spans)
            first, self._reported = not self._reported, True
        if first:
            text = f"{spans} spans of '{self._service}' were not sent to {self._url}: {reason}; the trace log has them, and more are only counted"
            print(f"mlops: {text}", file=sys.stderr, flush=True)  # noqa: T201  (the log of the process)


def read_headers(variable: str) -> dict[str, str]:
    """Return the headers in an environment variable: ``name=value`` pairs between commas, values percent-encoded.

    Parameters
    ----------
    variable
        The name of the variable.

    Raises
    ------
    ServiceError
        The variable is not set, or holds something else. The message quotes no part of it.
    """
    pairs = [pair.strip().partition("=") for pair in os.environ.get(variable, "").split(",") if pair.strip()]
    headers = {name.strip().lower(): unquote(value.strip()) for name, _, value in pairs}
    if (
        not headers
        or not all(mark for _, mark, _ in pairs)
        or not all(
            name.replace("-", "").replace("_", "").isalnum() and name.isascii() and value.isascii() and value.isprintable()
            for name, value in headers.items()
        )
    ):
        raise ServiceError(
            f"the environment variable {variable} holds no headers",
            hint="set it to name=value pairs between commas, values percent-encoded",
        )
    return headers


def _open_client(headers: Mapping[str, str]) -> httpx.Client:
    require_protobuf()
    try:
        import httpx
    except ImportError as error:
        raise MissingExtraError.from_extra("httpx", "otlp") from error
    return httpx.Client(headers={**headers, "content-type": "application/x-protobuf", "accept-encoding": "identity"})
