"""The endpoints of a prompt's service for answers, chats and feedback. They run in threads and do not depend on the transport."""

from __future__ import annotations

import contextlib
import sys
import time
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlops_assets.serving.predict.request_schema import RequestError
from mlops_assets.serving.prompts.answer_format import AnswerFormat
from mlops_assets.serving.prompts.call_runner import PromptCall
from mlops_assets.serving.prompts.chat_format import ChatFormat, describe_models
from mlops_assets.serving.prompts.refusal import RefusalError
from mlops_assets.values.llm.span import make_trace_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mlops_assets.serving.prompts.api_keys import ApiKeys
    from mlops_assets.serving.prompts.call_format import CallFormat
    from mlops_assets.serving.prompts.call_runner import CallResult, CallRunner
    from mlops_assets.serving.prompts.feedback import FeedbackStore
    from mlops_assets.serving.prompts.served_prompt import ServedPrompt
    from mlops_assets.values.llm.provider import Completion

OPENAI = "/v1/"  # the paths whose errors have the form of OpenAI's API
ANSWER, CHAT, MODELS, FEEDBACK_PATH = "/answer", f"{OPENAI}chat/completions", f"{OPENAI}models", "/feedback"
CALLS = (ANSWER, CHAT)  # the paths that call the model
METHODS = {ANSWER: "POST", CHAT: "POST", FEEDBACK_PATH: "POST", MODELS: "GET"}


@dataclass(frozen=True)
class EndpointRequest:
    """One request.

    Parameters
    ----------
    path
        A key of ``METHODS``.
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
    """The reply to one request; ``body`` is empty at the end of a stream, whose events are already sent.

    Parameters
    ----------
    status, body, headers
        As in HTTP.
    completions
        The model's replies within the call; a refused call may have replies.
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    completions: Sequence[Completion] = ()


class PromptEndpoints:
    """Answers the requests of clients. Threads may share it.

    Parameters
    ----------
    runner
        Runs calls.
    feedback
        Stores feedback.
    keys
        The API keys; with None, every client is answered.
    redact
        Whether personal data is replaced in what is sent to the model.
    """

    def __init__(self, runner: CallRunner, feedback: FeedbackStore, *, keys: ApiKeys | None, redact: bool) -> None:
        self._runner, self._feedback, self._keys, self._redact = runner, feedback, keys, redact

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
        try:
            api_key = "" if self._keys is None else self._keys.find_name(request.authorization)
        except RefusalError as error:
            return write_refusal(error, request.path)
        start = time.time_ns()
        trace_id = make_trace_id(start) if self._keys is None else self._keys.sign(make_trace_id(start), api_key)
        form: CallFormat = ChatFormat(trace_id) if request.path.startswith(OPENAI) else AnswerFormat(streams=request.asks_for_events)
        events = _ReplyWriter(form, send_events)
        try:
            if request.path == MODELS:
                return EndpointReply(200, describe_models(served))
            if request.path == FEEDBACK_PATH:
                return EndpointReply(200, self._feedback.store(request.body, api_key))
            parsed = form.parse(served, request.body, redact=self._redact)
            send_text = events.send_text if parsed.streams else None
            call = PromptCall(served, trace_id, start, parsed.messages, parsed.data, parsed.sent, api_key, send_text, is_gone)
            return events.end(self._runner.run(call), streams=parsed.streams)
        except RequestError as error:
            refusal = as_refusal(error)
        except Exception as error:  # noqa: BLE001  (one call must not end the service)
            _print_failure(error)
            refusal = RefusalError(f"the call failed ({type(error).__name__})", hint="the service's log shows where", status=500)
        return events.refuse(refusal)


class _ReplyWriter:
    """Writes the reply of one call in its format: in one piece, or as events once a stream has begun.

    Parameters
    ----------
    form
        The format of the call.
    send
        A function that receives the events.
    """

    def __init__(self, form: CallFormat, send: Callable[[bytes], None]) -> None:
        self._form, self._send, self._began = form, send, False

    def send_text(self, text: str) -> None:
        self._began = True
        self._send(self._form.write_text(text))

    def end(self, result: CallResult, *, streams: bool) -> EndpointReply:
        if not streams:
            return EndpointReply(200, self._form.write_answer(result), {"x-trace-id": result.trace_id}, result.completions)
        self._send(self._form.write_end(result))
        return EndpointReply(200, b"", completions=result.completions)

    def refuse(self, refusal: RefusalError) -> EndpointReply:
        if not self._began:
            return EndpointReply(refusal.status, self._form.write_refusal(refusal), refusal.headers, refusal.completions)
        self._send(self._form.write_break(refusal))
        return EndpointReply(refusal.status, b"", completions=refusal.completions)


def as_refusal(error: RequestError) -> RefusalError:
    """Return an error of a request as a refusal.

    Parameters
    ----------
    error
        The error.
    """
    return error if isinstance(error, RefusalError) else RefusalError(error.message, hint=error.hint, status=error.status)


def write_refusal(refusal: RefusalError, path: str) -> EndpointReply:
    """Return the reply to a request that is refused before it reaches an endpoint, in the error format of its path.

    Parameters
    ----------
    refusal, path
        Why the request is refused, and the path.
    """
    form: CallFormat = ChatFormat() if path.startswith(OPENAI) else AnswerFormat(streams=False)
    return EndpointReply(refusal.status, form.write_refusal(refusal), refusal.headers)


def _print_failure(error: Exception) -> None:
    """Print the type and traceback of an error to stderr, but not its message, which may repeat values of the request."""
    where = "".join(traceback.format_tb(error.__traceback__))
    with contextlib.suppress(OSError):  # its disk may be full
        sys.stderr.write(f"a call failed with {type(error).__name__}:\n{where}")
        sys.stderr.flush()
