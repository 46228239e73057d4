"""The service as an ASGI application: it routes requests to the model, the push endpoint and the status pages, without a framework."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import sys
import time
import traceback
from itertools import count
from typing import TYPE_CHECKING, Any

import msgspec

from mlops_assets.errors import InstallationError, MissingExtraError
from mlops_assets.serving.http.reply import ExplainReply, Explanation, Prediction, Reply
from mlops_assets.serving.http.request_body import explain_not_json, read_body
from mlops_assets.serving.logs.inference_log import PredictionRecord
from mlops_assets.serving.predict.predictor import NotFiniteError
from mlops_assets.serving.predict.request_schema import RequestError
from mlops_assets.serving.push.endpoint import PUSH_PATH
from mlops_assets.stores.online.lmdb_check import ReplacedStoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence

    from mlops_assets.serving.http.metrics import Metrics
    from mlops_assets.serving.http.served_model import ModelAnswer, ServedModel
    from mlops_assets.serving.http.service_folder import RequestLimits
    from mlops_assets.serving.logs.inference_log import InferenceLog
    from mlops_assets.serving.logs.request_log import RequestLog
    from mlops_assets.serving.push.endpoint import PushEndpoint

    Headers = Sequence[tuple[bytes, bytes]]
    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_JSON, _TEXT = b"application/json", b"text/plain; version=0.0.4; charset=utf-8"
EXPLAIN_PATH = "/explain"
_GET = ("/smoke", "/readyz", "/livez", "/metrics", "/openapi.json")


class App:
    """Answers requests with the current model.

    Parameters
    ----------
    log
        The log that each prediction is written to before its reply is sent.
    metrics
        The counters of this process.
    limits
        Limits of one request.
    versions
        A function that returns the version of each worker, for the metrics.
    push_endpoint
        Answers requests with pushed rows; None when no view has a push source.
    requests
        The log that counts requests; None to count them in the metrics only.

    Notes
    -----
    ``model`` is replaced by one assignment. A request reads it once, so its reply names exactly the version that answered. While
    ``draining`` is set, every reply closes its connection and ``/readyz`` answers 503. ``end`` ends this process.
    """

    def __init__(  # noqa: PLR0913  (what an application needs)
        self,
        *,
        log: InferenceLog,
        metrics: Metrics,
        limits: RequestLimits,
        versions: Callable[[], Mapping[int, int | None]],
        push_endpoint: PushEndpoint | None = None,
        requests: RequestLog | None = None,
    ) -> None:
        self._requests = requests
        self._push_endpoint = push_endpoint
        self.model: ServedModel | None = None
        self.draining = False
        self.end: Callable[[], None] = lambda: None  # set by the worker
        self._log, self._metrics, self._limits, self._versions = log, metrics, limits, versions
        self._ids, self._prefix = count(), secrets.token_hex(8)
        self._explaining = asyncio.Lock()
        self._encode = msgspec.json.Encoder().encode

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or the server's start and end (``lifespan``)."""
        if scope["type"] == "lifespan":
            await answer_lifespan(receive, send)
        elif scope["type"] == "http" and scope["path"] == "/predict" and scope["method"] == "POST":
            began = time.perf_counter()
            body = await receive_body(receive, self._limits.max_bytes)
            if body is None:
                return  # the client is gone
            status, reply = (
                _refuse_size(self._limits.max_bytes) if len(body) > self._limits.max_bytes else self._predict(scope["headers"], body)
            )
            version = self.model.version if self.model is not None else 0
            await self._send_reply(send, status, reply, _JSON, close=status == 413)
            seconds = time.perf_counter() - began
            self._metrics.count_reply(status, seconds)
            if self._requests is not None:
                self._requests.count_reply(version, status, seconds)
        elif scope["type"] == "http" and scope["path"] == EXPLAIN_PATH and scope["method"] == "POST":
            await self._accept_explanation(scope["headers"], receive, send)
        elif scope["type"] == "http" and scope["path"].startswith(PUSH_PATH):
            await self._accept_push(scope, receive, send)
        elif scope["type"] == "http":
            self._metrics.count("other_requests")
            await self._send_reply(send, *self._answer_other(scope["path"], scope["method"]))

    def _predict(self, headers: Headers, body: bytes) -> tuple[int, bytes]:
        """Return status and reply of one request for predictions, whose body may be compressed."""
        try:
            unpacked = read_body(headers, body, self._limits.max_bytes)
        except RequestError as error:
            return error.status, error.body
        return _explain_refusal(headers, unpacked, *self.predict(unpacked))

    def _push(self, push_endpoint: PushEndpoint, view: str, headers: Headers, body: bytes) -> tuple[int, bytes]:
        """Return status and reply of one request with pushed rows, which may wait for the disk."""
        idempotency_key = next((value.decode("latin-1") for name, value in headers if name == b"idempotency-key"), None)
        try:
            unpacked = read_body(headers, body, self._limits.max_bytes)
            return _explain_refusal(headers, unpacked, *push_endpoint.answer(view, unpacked, idempotency_key))
        except RequestError as error:
            return error.status, error.body
        except Exception as error:  # noqa: BLE001  (one request must not end the service)
            _print_failure(error, "a push")
            return _refuse(500, f"the push failed ({type(error).__name__})", "the service's log shows where")

    async def _accept_push(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request with pushed rows; another thread stores them, so that waiting for the disk does not delay predictions."""
        view, push_endpoint = scope["path"].removeprefix(PUSH_PATH), self._push_endpoint
        self._metrics.count("push_requests")
        body = await receive_body(receive, self._limits.max_bytes)
        if body is None:
            return
        if push_endpoint is None or view not in push_endpoint.names:
            status, reply = _refuse(
                404, "no rows can be pushed to this view", "check its name; its source must be a PushSource of the project"
            )
        elif scope["method"] != "POST":
            status, reply = _refuse(405, f"{PUSH_PATH}<view> accepts only POST", "send one row, or a list of rows")
        elif len(body) > self._limits.max_bytes:
            status, reply = _refuse_size(self._limits.max_bytes)
        else:
            status, reply = await asyncio.to_thread(self._push, push_endpoint, view, scope["headers"], body)
        await self._send_reply(send, status, reply, _JSON, close=status == 413)

    async def _accept_explanation(self, headers: Headers, receive: Receive, send: Send) -> None:
        """Answer a request for explanations in another thread, one at a time, so that predictions are not delayed for long."""
        self._metrics.count("explain_requests")
        body = await receive_body(receive, self._limits.max_bytes)
        if body is None:
            return
        if len(body) > self._limits.max_bytes:
            status, reply = _refuse_size(self._limits.max_bytes)
        else:
            async with self._explaining:
                status, reply = await self._explain(headers, body)
        await self._send_reply(send, status, reply, _JSON, close=status == 413)

    async def _explain(self, headers: Headers, body: bytes) -> tuple[int, bytes]:
        """Return status and reply of one request for explanations, which is not logged."""
        model = self.model
        if model is None:
            return _refuse(503, "no model is loaded", "try again when /readyz answers 200")
        try:
            request = model.read_explain_request(read_body(headers, body, self._limits.max_bytes))
            shap = await asyncio.to_thread(model.explainer, request.columns, request.count)
        except RequestError as error:
            return _explain_refusal(headers, body, error.status, error.body)
        except MissingExtraError as error:
            return _refuse(501, error.message, error.hint)
        except InstallationError as error:
            _print_failure(error, "an explanation")
            if isinstance(error, ReplacedStoreError):
                self.end()
            return _refuse(503, "the online store cannot be read", "the service's log shows where")
        except Exception as error:  # noqa: BLE001  (one request must not end the service)
            _print_failure(error, "an explanation")
            return _refuse(500, f"the explanation failed ({type(error).__name__})", "the service's log shows where")
        classes: Sequence[str | None] = shap.classes or [None] * request.count
        cells = zip(
            shap.outputs.tolist(),
            classes,
            shap.bases.tolist(),
            (dict(zip(model.columns, row, strict=True)) for row in shap.values.tolist()),
            request.missing,
            strict=True,
        )
        return 200, self._encode(ExplainReply(model.name, model.version, [Explanation(*row) for row in cells]))

    def predict(self, body: bytes) -> tuple[int, bytes]:
        """Return status and reply of one request for predictions; if the predictions cannot be logged, the request is refused with 503.

        Parameters
        ----------
        body
            Decompressed: see :func:`mlops_assets.serving.http.request_body.read_body`.
        """
        model = self.model
        if model is None:
            return _refuse(503, "no model is loaded", "try again when /readyz answers 200")
        try:
            answer = model.answer(body)
        except RequestError as error:
            if isinstance(error, NotFiniteError):
                self._metrics.count("not_finite_predictions", error.count)
            return error.status, error.body
        except InstallationError as error:
            _print_failure(error)
            if isinstance(error, ReplacedStoreError):
                self.end()  # the supervisor starts a process that opens the new file; LMDB maps a path once in a process
            return _refuse(503, "the online store cannot be read", "the service's log shows where")
        except Exception as error:  # noqa: BLE001  (one request must not end the service)
            _print_failure(error)
            return _refuse(500, f"the prediction failed ({type(error).__name__})", "the service's log shows where")
        records = self._make_records(model, answer)
        try:
            self._log.append(records)
        except OSError:
            self._metrics.count("log_failures")
            return _refuse(503, "the prediction cannot be logged, so none is returned", "see the service's status")
        self._metrics.count("predictions", len(records))
        self._metrics.count_lookups(answer.lookups)
        if missing := sum(map(len, answer.missing)):
            self._metrics.count("missing_features", missing)
        if self._requests is not None:
            self._requests.count_rows(model.version, len(records), len(records) * model.lookup_count, missing)
        predictions = [Prediction(r.id, r.prediction, r.probability, r.probabilities, r.missing) for r in records]
        return 200, self._encode(Reply(model.name, model.version, model.predictor.positive, predictions))

    def _make_records(self, model: ServedModel, answer: ModelAnswer) -> list[PredictionRecord]:
        """Return a record for each predicted row, with a new id; the log lines and the reply are built from the records."""
        rows, scores, pid, now = answer.rows, answer.scores, os.getpid(), time.time_ns() // 1000
        keys = zip(*(rows.columns[name] for name in model.identity), strict=True) if model.identity else [()] * rows.count
        inputs = zip(*answer.columns, strict=True) if answer.columns else [()] * rows.count
        nothing: list[None] = [None] * rows.count
        cells = zip(
            rows.at,
            keys,
            inputs,
            scores.predictions,
            scores.positive or nothing,
            scores.probabilities or nothing,
            answer.missing,
            strict=True,
        )
        return [
            PredictionRecord(
                f"{self._prefix}-{next(self._ids):x}",
                at,
                now,
                model.version,
                dict(zip(model.identity, key, strict=True)),
                dict(zip(model.columns, x, strict=True)),
                prediction,
                probability,
                missing,
                pid,
                probabilities,
            )
            for at, key, x, prediction, probability, probabilities, missing in cells
        ]

    def _answer_other(self, path: str, method: str) -> tuple[int, bytes, bytes]:
        """Return status, body and content type for a request that is neither a prediction nor a push."""
        if path not in (*_GET, "/predict", EXPLAIN_PATH):
            return *_refuse(404, "there is no such path", "POST /predict; /openapi.json describes it"), _JSON
        if path not in _GET or method not in ("GET", "HEAD"):
            allowed = "GET" if path in _GET else "POST"
            return *_refuse(405, f"{path} accepts only {allowed}", "/openapi.json describes it"), _JSON
        if path == "/livez":
            return 200, b'{"live":true}', _JSON
        if path == "/metrics":
            return 200, self._metrics.render(self._versions()).encode(), _TEXT
        model = self.model
        answers = {"/smoke": self._test_example, "/openapi.json": self._openapi, "/readyz": self._check_readiness}
        return *answers[path](model), _JSON

    def _openapi(self, model: ServedModel | None) -> tuple[int, bytes]:
        return (200, model.openapi) if model else _refuse(503, "no model is loaded", "try again")

    def _test_example(self, model: ServedModel | None) -> tuple[int, bytes]:
        """Predict the stored example row without logging it, and return only whether it works."""
        if model is None or not model.example:
            return _refuse(503, "there is no example row to predict", "POST /predict")
        try:
            model.answer(model.example)
        except Exception as error:  # noqa: BLE001  (any error means that it does not work)
            _print_failure(error)
            return _refuse(500, f"the example row cannot be predicted ({type(error).__name__})", "the service's log shows where")
        return 200, self._encode({"ok": True, "model": model.name, "version": model.version})

    def _check_readiness(self, model: ServedModel | None) -> tuple[int, bytes]:
        """Return 200 when a model is loaded, the process is not ending, and predictions can be logged; else 503."""
        if model is None:
            return _refuse(503, "no model is loaded", "the service's status says why")
        if self.draining:
            return _refuse(503, "the process is ending", "another worker answers")
        if not self._log.is_ready():
            return _refuse(503, self._log.problem, "free disk space, or make the folder writable")
        return 200, self._encode({"ready": True, "model": model.name, "version": model.version})

    async def _send_reply(self, send: Send, status: int, body: bytes, content_type: bytes, *, close: bool = False) -> None:
        headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
        if self.draining or close:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def receive_body(receive: Receive, max_bytes: int) -> bytes | None:
    """Return the body of a request, or its beginning as soon as that exceeds ``max_bytes``; None when the client has disconnected."""
    chunks, size = list[bytes](), 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        chunks.append(chunk)
        if size > max_bytes or not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def answer_lifespan(receive: Receive, send: Send) -> None:
    """Confirm the server's start and end."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _refuse(status: int, error: str, hint: str) -> tuple[int, bytes]:
    return status, json.dumps({"error": error, "hint": hint}).encode()


def _refuse_size(max_bytes: int) -> tuple[int, bytes]:
    return _refuse(413, f"the body is larger than {max_bytes} bytes", "send the rows in several requests")


def _explain_refusal(headers: Headers, body: bytes, status: int, reply: bytes) -> tuple[int, bytes]:
    """Return status and reply unchanged, or a refusal with 415 if content type or encoding explain why a body is not JSON (400)."""
    reason = explain_not_json(headers, body) if status == 400 else None
    return (status, reply) if reason is None else (reason.status, reason.body)


def _print_failure(error: Exception, what: str = "a prediction") -> None:
    """Print the type and traceback of an error to stderr, but not its message, which may repeat values of the request."""
    where = "".join(traceback.format_tb(error.__traceback__))
    with contextlib.suppress(OSError):  # its disk may be as full as the log's
        sys.stderr.write(f"{what} failed with {type(error).__name__}:\n{where}")
        sys.stderr.flush()
