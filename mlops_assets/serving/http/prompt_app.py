"""The service of a prompt as an ASGI application: calls run in threads, so that the event loop stays free while models answer."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from mlops_assets.serving.http.app import answer_lifespan, receive_body
from mlops_assets.serving.http.request_body import explain_not_json, read_body
from mlops_assets.serving.predict.request_schema import RequestError
from mlops_assets.serving.prompts.endpoints import CALLS, METHODS, EndpointReply, EndpointRequest, as_refusal, write_refusal
from mlops_assets.serving.prompts.refusal import RefusalError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlops_assets.serving.http.app import Receive, Scope, Send
    from mlops_assets.serving.http.metrics import Metrics
    from mlops_assets.serving.logs.trace_log import TraceLog
    from mlops_assets.serving.prompts.endpoints import PromptEndpoints
    from mlops_assets.serving.prompts.served_prompt import ServedPrompt
    from mlops_assets.stores.llm.budget_ledger import BudgetLedger

MAX_WAITING = 32  # calls of a process that wait for a slot of the model, before others are refused
_MAX_THREADS = 1024
_JSON, _EVENTS, _TEXT = "application/json", "text/event-stream", "text/plain; version=0.0.4; charset=utf-8"
_GET = ("/readyz", "/livez", "/metrics", "/openapi.json")


class PromptApp:
    """Answers requests with the current version of a prompt.

    Parameters
    ----------
    endpoints
        The endpoints that answer requests, each in a thread.
    ledger, log
        The ledger and the log of calls; while either has a problem, ``/readyz`` answers 503.
    metrics
        The counters of this process.
    max_bytes
        The maximum size of a body.
    versions
        A function that returns the version of each worker, for the metrics.
    max_waiting
        The number of calls that may wait for the model; others are refused with 503.

    Notes
    -----
    ``model``, ``draining`` and ``end`` are as in :class:`mlops_assets.serving.http.app.App`.
    """

    def __init__(  # noqa: PLR0913  (each has its role)
        self,
        endpoints: PromptEndpoints,
        *,
        ledger: BudgetLedger,
        log: TraceLog,
        metrics: Metrics,
        max_bytes: int,
        versions: Callable[[], Mapping[int, int | None]],
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self.model: ServedPrompt | None = None
        self.draining = False
        self.end: Callable[[], None] = lambda: None  # set by the worker
        self._endpoints, self._ledger, self._log, self._metrics = endpoints, ledger, log, metrics
        self._max_bytes, self._versions, self._max_waiting = max_bytes, versions, max_waiting
        self._threads = ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="call")
        self._running = 0  # calls in threads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or the server's start and end (``lifespan``)."""
        if scope["type"] == "lifespan":
            await answer_lifespan(receive, send)
        elif scope["type"] == "http" and METHODS.get(scope["path"]) == scope["method"]:
            began = time.perf_counter()
            reply = await self._answer(scope, receive, send)
            if reply is not None:
                self._count(reply, time.perf_counter() - began)
        elif scope["type"] == "http":
            self._metrics.count("other_requests")
            await self._send(send, *await self._answer_other(scope["path"], scope["method"]))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> EndpointReply | None:
        """Answer one call, and return its reply; None when the client has left."""
        body = await receive_body(receive, self._max_bytes)
        if body is None:
            return None
        served = self.model
        try:
            request = self._read_request(scope, body)
        except RequestError as error:
            refusal = as_refusal(error)
        else:
            if served is None:
                refusal = _build_busy_refusal("no version of the prompt is loaded", "promote one, and try again when /readyz answers 200")
            elif request.path in CALLS and self._running >= served.prompt.model.slots + self._max_waiting:
                refusal = _build_busy_refusal("too many calls wait for the model", "try again, or raise the concurrency of the model")
            else:
                return await self._run(served, request, receive, send)
        reply = write_refusal(refusal, scope["path"])
        await self._send(send, reply, close=reply.status == 413)
        return reply

    def _read_request(self, scope: Scope, body: bytes) -> EndpointRequest:
        """Return a request with its decompressed body; raise RequestError when the body is too large, or not JSON by its headers."""
        headers = scope["headers"]
        if len(body) > self._max_bytes:
            raise RequestError(f"the body is larger than {self._max_bytes} bytes", hint="send less", status=413)
        unpacked = read_body(headers, body, self._max_bytes)
        if scope["method"] == "POST" and (reason := explain_not_json(headers, unpacked)) is not None:
            raise reason
        named = {name: value.decode("latin-1") for name, value in headers if name in (b"authorization", b"accept")}
        return EndpointRequest(
            scope["path"],
            unpacked,
            named.get(b"authorization", ""),
            named.get(b"accept", ""),
            scope.get("query_string", b"").decode("latin-1"),
        )

    async def _run(self, served: ServedPrompt, request: EndpointRequest, receive: Receive, send: Send) -> EndpointReply:
        """Run a call in a thread, and send its events and its reply as they come."""
        loop, gone = asyncio.get_running_loop(), threading.Event()
        queue = asyncio.Queue[bytes | EndpointReply]()

        def run() -> None:
            reply = _refuse(request.path, 500, "the call failed", "the log of the service says why")
            try:
                reply = self._endpoints.handle(served, request, post, gone.is_set)
            finally:  # also when the prompt's function ends the thread: the client must not wait for ever
                post(reply)

        def post(item: bytes | EndpointReply) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, item)

        counted = int(request.path in CALLS)  # feedback and the list of models do not wait for the model
        self._running += counted
        watcher: asyncio.Task[None] | None = None
        try:
            self._threads.submit(run)
            while not isinstance(item := await queue.get(), EndpointReply):
                if watcher is None:
                    watcher = asyncio.create_task(_watch_client(receive, gone))
                    await self._begin_events(send)
                await send({"type": "http.response.body", "body": item, "more_body": True})
        finally:
            self._running -= counted
            gone.set()
            if watcher is not None:
                watcher.cancel()
        if watcher is None:
            await self._send(send, item)
        else:
            await send({"type": "http.response.body", "body": b""})
        return item

    async def _begin_events(self, send: Send) -> None:
        headers = {"content-type": _EVENTS, "cache-control": "no-store", "x-accel-buffering": "no"}
        await send({"type": "http.response.start", "status": 200, "headers": self._encode_headers(headers)})

    async def _answer_other(self, path: str, method: str) -> tuple[EndpointReply, str]:
        """Return the reply and its content type for a request that is not a call."""
        if path == "/metrics" and method in ("GET", "HEAD"):
            return EndpointReply(200, self._metrics.render(self._versions()).encode()), _TEXT
        if path not in (*_GET, *METHODS):
            return _refuse(path, 404, "there is no such path", "POST /answer; /openapi.json describes it"), _JSON
        if path in METHODS or method not in ("GET", "HEAD"):
            return _refuse(path, 405, f"{path} accepts only {METHODS.get(path, 'GET')}", "/openapi.json describes it"), _JSON
        return await self._describe_state(path), _JSON

    async def _describe_state(self, path: str) -> EndpointReply:
        if path == "/livez":
            return EndpointReply(200, b'{"live":true}')
        if self.model is None:
            return _refuse(path, 503, "no version of the prompt is loaded", "the service's status says why")
        if path == "/openapi.json":
            return EndpointReply(200, self.model.openapi)
        return await asyncio.to_thread(self._check_readiness, self.model)

    def _check_readiness(self, served: ServedPrompt) -> EndpointReply:
        """Return 200 when the process is not ending, and calls can be traced and counted; else 503."""
        if self.draining:
            return _refuse("/readyz", 503, "the process is ending", "another worker answers")
        if not self._log.is_ready():
            return _refuse("/readyz", 503, self._log.problem, "free disk space, or make the folder writable")
        if problem := self._ledger.find_problem():
            return _refuse("/readyz", 503, problem, "restart the service")
        return EndpointReply(200, json.dumps({"ready": True, "prompt": served.name, "version": served.version}).encode())

    def _count(self, reply: EndpointReply, seconds: float) -> None:
        self._metrics.count_reply(reply.status, seconds)
        if reply.completions:  # also of a refusal, because they cost
            self._metrics.count("answers", int(reply.status == 200))
            self._metrics.count("repairs", len(reply.completions) - 1)
            self._metrics.count("input_tokens", sum(completion.prompt_tokens or 0 for completion in reply.completions))
            self._metrics.count("output_tokens", sum(completion.completion_tokens or 0 for completion in reply.completions))

    async def _send(self, send: Send, reply: EndpointReply, content_type: str = _JSON, *, close: bool = False) -> None:
        headers = {"content-type": content_type, "content-length": str(len(reply.body)), **reply.headers}
        await send({"type": "http.response.start", "status": reply.status, "headers": self._encode_headers(headers, close=close)})
        await send({"type": "http.response.body", "body": reply.body})

    def _encode_headers(self, headers: Mapping[str, str], *, close: bool = False) -> list[tuple[bytes, bytes]]:
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        return [*encoded, (b"connection", b"close")] if self.draining or close else encoded


async def _watch_client(receive: Receive, gone: threading.Event) -> None:
    """Set ``gone`` when the client closes its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
    gone.set()


def _refuse(path: str, status: int, error: str, hint: str) -> EndpointReply:
    return write_refusal(RefusalError(error, hint=hint, status=status), path)


def _build_busy_refusal(error: str, hint: str) -> RefusalError:
    return RefusalError(error, hint=hint, status=503, seconds=1)
