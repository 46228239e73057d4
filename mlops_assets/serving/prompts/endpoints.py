"""The endpoints of a prompt's service that take bodies: answers, chats and feedback. They run in threads and know no transport."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlops_assets.compute.prompts.redaction import redact_text
from mlops_assets.serving.predict.request_schema import RequestError
from mlops_assets.serving.prompts.answer_format import AnswerFormat
from mlops_assets.serving.prompts.call_format import parse_object
from mlops_assets.serving.prompts.call_runner import PromptCall
from mlops_assets.serving.prompts.call_trace import find_root_id
from mlops_assets.serving.prompts.chat_format import ChatFormat, describe_models
from mlops_assets.serving.prompts.refusal import RefusalError
from mlops_assets.values.llm.span import FEEDBACK, Span, make_span_id, make_trace_id, read_start_second

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlops_assets.serving.logs.trace_log import TraceLog
    from mlops_assets.serving.prompts.api_keys import ApiKeys
    from mlops_assets.serving.prompts.call_format import CallFormat
    from mlops_assets.serving.prompts.call_runner import CallResult, CallRunner
    from mlops_assets.serving.prompts.served_prompt import ServedPrompt
    from mlops_assets.values.llm.span import AttributeValue

ANSWER, CHAT, MODELS, FEEDBACK_PATH = "/answer", "/v1/chat/completions", "/v1/models", "/feedback"
METHODS = {ANSWER: "POST", CHAT: "POST", FEEDBACK_PATH: "POST", MODELS: "GET"}
_TRACE_ID = re.compile(r"[0-9a-f]{32}")
_MAX_COMMENT = 10_000  # characters


@dataclass(frozen=True)
class EndpointRequest:
    """One request.

    Parameters
    ----------
    path
        One of ``METHODS``.
    body
        The decompressed body.
    authorization, accept, query
        Two headers and the query string; empty without them.
    """

    path: str
    body: bytes
    authorization: str = ""
    accept: str = ""
    query: str = ""

    @property
    def asks_for_events(self) -> bool:
        """Whether the client accepts a stream of events, or asks for one in the query."""
        return "text/event-stream" in self.accept or "stream=true" in self.query.split("&")


@dataclass(frozen=True)
class EndpointReply:
    """What is sent back; ``body`` is empty at the end of a stream, whose events are sent already.

    Parameters
    ----------
    status, body, headers
        As in HTTP.
    result
        The answer of a call, for the metrics; None for other replies.
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    result: CallResult | None = None


class PromptEndpoints:
    """Answers the requests of clients. Threads may share it.

    Parameters
    ----------
    runner
        Runs calls.
    log
        Where feedback is written.
    keys
        The API keys; None answers every client.
    redact
        Whether personal data is replaced in what is sent to the model.
    """

    def __init__(self, runner: CallRunner, log: TraceLog, *, keys: ApiKeys | None, redact: bool) -> None:
        self._runner, self._log, self._keys, self._redact = runner, log, keys, redact

    def handle(
        self, served: ServedPrompt, request: EndpointRequest, send_events: Callable[[bytes], None], is_gone: Callable[[], bool]
    ) -> EndpointReply:
        """Return the reply to a request; no exception is raised.

        Parameters
        ----------
        served
            The version that answers.
        request
            The request.
        send_events
            Receives events before the reply, if the client asked for a stream.
        is_gone
            Whether the client has left.
        """
        start = time.time_ns()
        trace_id = make_trace_id(start)
        form: CallFormat = AnswerFormat(streams=request.asks_for_events) if request.path != CHAT else ChatFormat(trace_id)
        if request.path == MODELS:
            form = ChatFormat(trace_id)
        events = _Events(form, send_events)
        try:
            api_key = "" if self._keys is None else self._keys.find_name(request.authorization)
            if request.path == MODELS:
                return EndpointReply(200, describe_models(served))
            if request.path == FEEDBACK_PATH:
                return self._store_feedback(request.body, api_key)
            parsed = form.parse(served, request.body, redact=self._redact)
            send_text = events.send_text if parsed.streams else None
            call = PromptCall(served, trace_id, start, parsed.messages, parsed.data, parsed.sent, api_key, send_text, is_gone)
            return events.end(self._runner.run(call), streams=parsed.streams)
        except RequestError as error:
            refusal = error if isinstance(error, RefusalError) else RefusalError(error.message, hint=error.hint, status=error.status)
        except Exception as error:  # noqa: BLE001  (one call must not end the service)
            _print_failure(error)
            refusal = RefusalError(f"the call failed ({type(error).__name__})", hint="the service's log shows where", status=500)
        return events.refuse(refusal)

    def _store_feedback(self, body: bytes, api_key: str) -> EndpointReply:
        """Append a span with the score and the redacted comment to a trace of this product."""
        facts = parse_object(body)
        trace_id, score, comment = facts.pop("trace_id", None), facts.pop("score", None), facts.pop("comment", "")
        if facts:
            raise RefusalError(f"there is no field '{next(iter(facts))[:100]}'", hint="send trace_id, score and comment")
        if not isinstance(trace_id, str) or not _TRACE_ID.fullmatch(trace_id):
            raise RefusalError("the field 'trace_id' is no id of a trace", hint="send the trace_id of an answer")
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score <= 1:
            raise RefusalError("the field 'score' is no number from 0 to 1", hint="send 1 for a good answer, 0 for a bad one")
        if not isinstance(comment, str) or len(comment) > _MAX_COMMENT:
            raise RefusalError("the field 'comment' is no text, or too long", hint=f"send at most {_MAX_COMMENT} characters")
        now = time.time_ns()
        if (second := read_start_second(trace_id)) is None or second * 10**9 > now:
            raise RefusalError("there is no such trace", hint="send the trace_id of an answer", status=404)
        attributes: dict[str, AttributeValue] = {"mlops.feedback": float(score)}
        if comment:
            attributes["mlops.feedback.comment"] = redact_text(comment)
        if api_key:
            attributes["mlops.api_key"] = api_key
        try:
            self._log.write([Span(trace_id, make_span_id(), find_root_id(trace_id), FEEDBACK, now, now, "ok", "", attributes)])
        except OSError:
            raise RefusalError("the feedback cannot be stored", hint="see the service's status", status=503) from None
        return EndpointReply(200, json.dumps({"trace_id": trace_id, "stored": True}).encode())


class _Events:
    """Writes the reply of one call in its format, as events after the first piece of a stream.

    Parameters
    ----------
    form
        The format of the call.
    send
        Receives the events.
    """

    def __init__(self, form: CallFormat, send: Callable[[bytes], None]) -> None:
        self._form, self._send, self._began = form, send, False

    def send_text(self, text: str) -> None:
        self._began = True
        self._send(self._form.write_text(text))

    def end(self, result: CallResult, *, streams: bool) -> EndpointReply:
        if not streams:
            return EndpointReply(200, self._form.write_answer(result), {"x-trace-id": result.trace_id}, result)
        self._send(self._form.write_end(result))
        return EndpointReply(200, b"", result=result)

    def refuse(self, refusal: RefusalError) -> EndpointReply:
        if not self._began:
            return EndpointReply(refusal.status, self._form.write_refusal(refusal), refusal.headers)
        self._send(self._form.write_break(refusal))
        return EndpointReply(refusal.status, b"")


def _print_failure(error: Exception) -> None:
    """Print the type and traceback of an error to stderr, but not its message, which may repeat values of the request."""
    where = "".join(traceback.format_tb(error.__traceback__))
    with contextlib.suppress(OSError):  # its disk may be full
        sys.stderr.write(f"a call failed with {type(error).__name__}:\n{where}")
        sys.stderr.flush()
