"""Spans as OTLP sends them, in either encoding, and their conversion to spans of a trace log."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from mlops_assets.compute.llm_traces.attribute_sources import EVENTS, MESSAGES_IN, MESSAGES_OUT
from mlops_assets.errors import DataError
from mlops_assets.values.llm.span import AttributeValue, Span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

Item = TypeVar("Item")

MAX_TEXT = 1_000_000  # characters of a text attribute; the rest is cut off
MAX_ATTRIBUTES = 1000  # of a span
MAX_DEPTH = 32  # of nested lists and objects
RESOURCE = "resource."  # begins the names of the sender's attributes
ERROR_CODE = 2  # STATUS_CODE_ERROR
_MAX_INTEGER = 2**63
_ROLES = {f"gen_ai.{role}.message": role for role in ("system", "user", "assistant", "tool")}  # names of events
_CHOICE, _EVENT_CONTENT = "gen_ai.choice", "gen_ai.event.content"
_DETAILS = ("gen_ai.content.prompt", "gen_ai.content.completion", "gen_ai.client.inference.operation.details")


@dataclass(frozen=True)
class ReceivedSpan:
    """A span as OTLP sends it.

    Parameters
    ----------
    trace_id, span_id, parent_id
        Hexadecimal digits; ``parent_id`` is empty for a root.
    name
        What the step does.
    start, end
        Nanoseconds since 1970.
    code, message
        The status: 2 is an error.
    attributes
        Name → value: text, number, bool, bytes, None, or lists and dicts of these.
    events
        Name and attributes of each event.
    """

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    start: int
    end: int
    code: int = 0
    message: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    events: Sequence[tuple[str, Mapping[str, Any]]] = ()


@dataclass(frozen=True)
class DecodedSpans:
    """The spans of a request.

    Parameters
    ----------
    spans
        The valid ones.
    refused
        The reason for each span that is not among them.
    """

    spans: list[Span]
    refused: list[str]


def decode_spans(items: Iterable[tuple[Item, Mapping[str, Any]]], read: Callable[[Item], ReceivedSpan]) -> DecodedSpans:
    """Return the spans of a request; a span that is invalid is refused, and the others are kept.

    Parameters
    ----------
    items
        Each span in its encoding, with the attributes of its sender.
    read
        Reads one span; raises DataError for values that no span can have.
    """
    decoded = DecodedSpans([], [])
    for item, resource in items:
        try:
            decoded.spans.append(build_span(read(item), resource))
        except DataError as error:
            decoded.refused.append(error.message)
    return decoded


def build_span(received: ReceivedSpan, resource: Mapping[str, Any]) -> Span:
    """Return a received span as a span of a trace log.

    Lists, objects and bytes become text, and so do numbers that JSON cannot hold. Events that hold messages become attributes.

    Parameters
    ----------
    received
        The span.
    resource
        Attributes of the sender; they get names that start with ``resource.``.

    Raises
    ------
    DataError
        The span has an invalid id or time, or too many attributes.
    """
    where = f"the span {received.name[:100]!r} ({received.span_id[:16]})"
    if not received.trace_id.strip("0") or not received.span_id.strip("0"):
        raise DataError(f"{where} has no trace id or no span id", hint="ids of zeros only are invalid")
    events, more = _read_events(received.events)
    attributes = {f"{RESOURCE}{name}": value for name, value in resource.items()} | more | dict(received.attributes)
    if len(attributes) > MAX_ATTRIBUTES:
        raise DataError(f"{where} has {len(attributes)} attributes", hint=f"send at most {MAX_ATTRIBUTES}")
    if events:
        attributes.setdefault(EVENTS, events)
    failed = received.code == ERROR_CODE
    try:
        return Span(
            received.trace_id,
            received.span_id,
            received.parent_id if received.parent_id.strip("0") else None,
            _clean_text(received.name),
            received.start,
            received.end,
            "error" if failed else "ok",
            _clean_text(received.message or (_find_exception(received.events) if failed else "")),
            {_clean_text(name): flatten_value(value) for name, value in attributes.items()},
        )
    except DataError as error:
        raise DataError(f"{where}: {error.message}", hint=error.hint) from None


def flatten_value(value: Any) -> AttributeValue:  # noqa: ANN401  (any value of OTLP)
    """Return a value as an attribute of a span.

    Parameters
    ----------
    value
        Text, a number, a bool, bytes, None, or lists and dicts of these.

    Examples
    --------
    >>> from mlops_assets.compute.llm_traces.received_spans import flatten_value
    >>> flatten_value(["stop", 1, float("inf")])
    '["stop", 1, "Infinity"]'
    """
    plain = _to_json_value(value)
    text = json.dumps(plain, ensure_ascii=False) if isinstance(plain, (list, dict)) else plain
    return _clean_text(text) if isinstance(text, str) else text


def _to_json_value(value: Any) -> Any:  # noqa: ANN401  (any value of OTLP)
    if isinstance(value, dict):
        return {name: _to_json_value(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json_value(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, int) and not -_MAX_INTEGER <= value < _MAX_INTEGER:
        return str(value)
    return value


def _clean_text(text: str) -> str:
    """Return a text without lone surrogates, which UTF-8 cannot hold, and cut to its maximum length."""
    cut = text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}… ({len(text)} characters)"
    return cut if cut.isascii() else cut.encode("utf-8", "replace").decode()


def _read_events(events: Iterable[tuple[str, Mapping[str, Any]]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the events that hold no messages, and the attributes that the others stand for."""
    rest, attributes, sent, received = list[dict[str, Any]](), dict[str, Any](), list[Any](), list[Any]()
    for name, facts in events:
        if name in _DETAILS:
            attributes |= facts
        elif name in _ROLES:
            sent.append({"role": _ROLES[name], **_read_event_message(facts)})
        elif name == _CHOICE:
            received.append(_read_event_message(facts))
        else:
            rest.append({"name": name, "attributes": dict(facts)})
    messages = {MESSAGES_IN: sent, MESSAGES_OUT: received}
    return rest, attributes | {name: items for name, items in messages.items() if items}


def _read_event_message(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the message of an event, whose fields are its attributes or one attribute with JSON."""
    content = _parse_object(facts.get(_EVENT_CONTENT))
    message = {name: value for name, value in facts.items() if not name.startswith("gen_ai.")} if content is None else content
    if (inner := _parse_object(message.get("message"))) is not None:
        message = message | {"message": inner}
    return message


def _parse_object(value: object) -> dict[str, Any] | None:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, dict) else None


def _find_exception(events: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    """Return the class of the last exception among events; its message may hold content."""
    names = [str(facts["exception.type"]) for name, facts in events if name == "exception" and facts.get("exception.type")]
    return names[-1] if names else ""
