"""The protocol of a format of calls: how a body becomes a call, and how answers, events and refusals are written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_assets.serving.prompts.call_runner import CallResult
    from mlops_assets.serving.prompts.refusal import RefusalError
    from mlops_assets.serving.prompts.served_prompt import ServedPrompt
    from mlops_assets.values.llm.prompt import Message


@dataclass(frozen=True)
class ParsedBody:
    """The body of a call.

    Parameters
    ----------
    messages
        What is sent to the model.
    data
        What the client sent, JSON-like and redacted if the service redacts.
    sent
        What the client sent, JSON-like.
    streams
        Whether the reply is a stream of events.
    """

    messages: Sequence[Message]
    data: Any
    sent: Any
    streams: bool


class CallFormat(Protocol):
    """Reads the bodies of calls and writes their replies."""

    def parse(self, served: ServedPrompt, body: bytes, *, redact: bool) -> ParsedBody:
        """Return the parsed body; raise RefusalError when the body is not a valid call."""

    def write_answer(self, result: CallResult) -> bytes:
        """Return the body of a reply."""

    def write_refusal(self, refusal: RefusalError) -> bytes:
        """Return the body of a refusal."""

    def write_text(self, text: str) -> bytes:
        """Return the events of a piece of the answer."""

    def write_end(self, result: CallResult) -> bytes:
        """Return the events that end a stream."""

    def write_break(self, refusal: RefusalError) -> bytes:
        """Return the events that end a stream whose answer is incomplete."""


def write_event(data: object, name: str = "") -> bytes:
    """Return one server-sent event with JSON data.

    Parameters
    ----------
    data
        JSON-like.
    name
        The event's name; none when empty.
    """
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data)}\n\n".encode()


def parse_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a body.

    Raises
    ------
    RefusalError
        400: the body is not JSON; 422: it is not a JSON object.
    """
    from mlops_assets.compute.llm_evaluation.json_schema import parse_json
    from mlops_assets.serving.prompts.refusal import RefusalError

    try:
        value = parse_json(body.decode())
    except ValueError:
        raise RefusalError("the body is not JSON", hint="send a JSON object in UTF-8", status=400) from None
    if not isinstance(value, dict):
        raise RefusalError("the body is not a JSON object", hint="/openapi.json describes it")
    return value
