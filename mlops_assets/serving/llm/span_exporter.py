"""Send spans to an OpenTelemetry collector over OTLP/HTTP, in the background and within bounds, after they are in a trace log."""

from __future__ import annotations

import gzip
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
MAX_QUEUE_BYTES = 64 * 2**20
_BATCH, _BATCH_BYTES = 512, 4 * 2**20  # spans of a request, and their bytes before compression
_ID_BYTES = 100  # of ids, times and status of a span
_VALUE_BYTES = 16  # of an attribute without its texts
_INTERVAL = 1.0  # seconds that a span waits for others
_TIMEOUT = 10.0  # seconds of one attempt
_MAX_ATTEMPTS = 6
_FIRST_PAUSE = 0.5  # seconds between attempts
_MAX_PAUSE = 3600.0  # seconds that a collector may ask to wait
_FLUSH_SECONDS = 3.0  # at the end of the process
_MAX_REPLY = 65_536  # bytes
_RETRYABLE = (429, 502, 503, 504)
_TOO_LARGE = 413


@dataclass(frozen=True)
class ExportFailure:
    """Why a request with spans failed.

    Parameters
    ----------
    reason
        The reason as text, without values of the request or of the reply.
    retryable
        Whether another attempt may succeed.
    pause
        Seconds that the collector asks to wait; None if it does not ask.
    too_large
        Whether the collector may accept fewer spans.
    """

    reason: str
    retryable: bool
    pause: float | None = None
    too_large: bool = False


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
        A function of the name of a counter, ``exported_spans`` or ``unexported_spans``, and a number to add; one thread calls it at a time.

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
        self._changed, self._queue, self._sending = threading.Condition(), deque[tuple[Span, int]](), 0
        self._queue_bytes = 0
        self._paused_until = 0.0  # by time.monotonic(): a pause that the collector asks for holds for all batches
        self._counting = threading.Lock()
        self._deadline: float | None = None  # by time.monotonic(), while the process ends
        self._reported = self._abandoned = False
        self._thread = threading.Thread(target=self._run, name="span export", daemon=True)
        self._thread.start()

    def add(self, spans: Sequence[Span]) -> None:
        """Queue spans to be sent; spans that do not fit into the queue are dropped.

        Parameters
        ----------
        spans
            Spans that are in the trace log.
        """
        sized, added = [(span, _estimate_bytes(span)) for span in spans], 0
        with self._changed:
            for span, size in sized:
                if self._deadline is not None or len(self._queue) >= MAX_QUEUE or self._queue_bytes + size > MAX_QUEUE_BYTES:
                    break
                self._queue.append((span, size))
                self._queue_bytes, added = self._queue_bytes + size, added + 1
            self._changed.notify_all()
        if added < len(spans):
            self._drop(len(spans) - added, "the queue is full")

    def close(self, seconds: float = _FLUSH_SECONDS) -> None:
        """Send queued spans for at most ``seconds``, and drop the rest."""
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
            self._queue_bytes = 0
        if left:
            self._drop(left, "the process ended first")

    def _run(self) -> None:
        while batch := self._take_batch():
            self._send(batch)
        self._client.close()

    def _take_batch(self) -> list[Span]:
        """Wait for spans and return a batch; return an empty one when the process ends and the queue is empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._deadline is not None)
            self._changed.wait_for(self._is_batch_due, _INTERVAL)
            batch, left = list[Span](), _BATCH_BYTES
            while self._queue and len(batch) < _BATCH and (not batch or self._queue[0][1] <= left):
                span, size = self._queue.popleft()
                batch.append(span)
                left, self._queue_bytes = left - size, self._queue_bytes - size
            self._sending = len(batch)
            return batch

    def _is_batch_due(self) -> bool:
        return len(self._queue) >= _BATCH or self._queue_bytes >= _BATCH_BYTES or self._deadline is not None

    def _send(self, batch: list[Span]) -> None:
        """Send a batch, with retries or in halves if needed, and count its spans."""
        rejected, reason = 0, ""
        try:
            rejected, reason = self._send_with_retries(batch)
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

    def _send_with_retries(self, batch: list[Span]) -> tuple[int, str]:
        """Send a batch with retries; return the number of spans that were not accepted, and the reason."""
        body = gzip.compress(write_protobuf_spans(batch, {"service.name": self._service}), compresslevel=1)
        pause, reason = _FIRST_PAUSE, "the collector asks to wait"
        for attempt in range(_MAX_ATTEMPTS):
            if not self._wait_while_paused():
                break
            outcome = self._post(body)
            if isinstance(outcome, int):
                return min(outcome, len(batch)), "the collector rejected them"
            reason = outcome.reason
            if outcome.too_large and len(batch) > 1:
                return self._send_halves(batch)
            wait = pause * random.uniform(0.5, 1.5)  # noqa: S311  (jitter)
            pause *= 2
            if outcome.pause is not None:
                self._paused_until = time.monotonic() + min(max(outcome.pause, wait), _MAX_PAUSE)
            elif not outcome.retryable or attempt == _MAX_ATTEMPTS - 1 or not self._wait(wait):
                break
        return len(batch), reason

    def _send_halves(self, batch: list[Span]) -> tuple[int, str]:
        middle = len(batch) // 2
        (left, reason), (right, other) = self._send_with_retries(batch[:middle]), self._send_with_retries(batch[middle:])
        return left + right, reason if left else other

    def _wait_while_paused(self) -> bool:
        """Wait as long as the collector asks and return True; return False if the process must end before."""
        with self._changed:
            self._changed.wait_for(lambda: self._deadline is not None, self._paused_until - time.monotonic())
            if self._deadline is None:
                return True
            if self._paused_until > self._deadline:
                return False
            self._changed.wait_for(lambda: False, self._paused_until - time.monotonic())
            return True

    def _wait(self, seconds: float) -> bool:
        """Wait for some seconds, less if the process ends, and return whether there is time for another attempt."""
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
            return ExportFailure(f"status {reply.status_code}", retryable=False, too_large=reply.status_code == _TOO_LARGE)
        return count_rejected(content)

    def _drop(self, spans: int, reason: str) -> None:
        """Count spans that are not sent, and report the first ones."""
        with self._counting:
            self._count(UNEXPORTED, spans)
            first, self._reported = not self._reported, True
        if first:
            text = f"{spans} spans of '{self._service}' were not sent to {self._url}: {reason}; the trace log has them, and more are only counted"
            print(f"mlops: {text}", file=sys.stderr, flush=True)  # noqa: T201  (the log of the process)


def _estimate_bytes(span: Span) -> int:
    """Return about how many bytes a span takes in a request."""
    size = _ID_BYTES + _count_bytes(span.name) + _count_bytes(span.error)
    for name, value in span.attributes.items():
        size += _VALUE_BYTES + _count_bytes(name) + (_count_bytes(value) if isinstance(value, str) else 0)
    return size


def _count_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def read_headers(variable: str) -> dict[str, str]:
    """Return the headers in an environment variable: ``name=value`` pairs between commas, values percent-encoded.

    Parameters
    ----------
    variable
        The name of the variable.

    Raises
    ------
    ServiceError
        The variable is not set or has another format. The message quotes no part of its value.
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
    fixed = {"content-type": "application/x-protobuf", "content-encoding": "gzip", "accept-encoding": "identity"}
    return httpx.Client(headers={**headers, **fixed})
