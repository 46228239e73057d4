"""Spans as received over OTLP, in either encoding, and their conversion to spans of a trace log."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from mlops_assets.compute.llm_traces.attribute_sources import EVENTS, MESSAGES_IN, MESSAGES_OUT, is_technical
from mlops_assets.compute.prompts.redaction import redact_json, redact_json_text, redact_text
from mlops_assets.compute.text import replace_controls
from mlops_assets.errors import DataError
from mlops_assets.values.llm.span import AttributeValue, Span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

Encoded = TypeVar("Encoded")

MAX_TEXT = 1_000_000  # characters of a text attribute; the rest is cut off
MAX_SPANS = 20_000  # of a request; batches of a collector have 8192
MAX_ATTRIBUTES = 1000  # of a span
MAX_DEPTH = 32  # of nested lists and objects
RESOURCE = "resource."  # begins the names of the sender's attributes
ERROR_CODE = 2  # STATUS_CODE_ERROR
OWN_PROMPT = "mlops.prompt."  # begins the names of attributes that only our own services and applications write
UNREADABLE = (AttributeError, OverflowError, RecursionError, TypeError, ValueError)  # raised by a field of another type, or one too deep
_MAX_INTEGER = 2**63
_MAX_REASONS = 3  # of refused spans that are reported
_MAX_REASON = 400  # characters
_ROLES = {f"gen_ai.{role}.message": role for role in ("system", "user", "assistant", "tool")}  # names of events
_CHOICE, _EVENT_CONTENT = "gen_ai.choice", "gen_ai.event.content"
_DETAILS = ("gen_ai.content.prompt", "gen_ai.content.completion", "gen_ai.client.inference.operation.details")


@dataclass(frozen=True)
class ReceivedSpan:
    """A span as received over OTLP.

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


class TooManySpansError(Exception):
    """A request has more spans, or more parts of spans, than the limit for one request."""


@dataclass
class RefusedSpans:
    """The number of refused spans of a request, and the first reasons.

    Parameters
    ----------
    count, reasons
        The number of refused spans, and at most three reasons; each reason names its span.
    """

    count: int = 0
    reasons: list[str] = field(default_factory=list)

    def add(self, error: DataError) -> None:
        """Count a refused span; the first three reasons are stored.

        Parameters
        ----------
        error
            The reason; the message names the span.
        """
        self.count += 1
        if len(self.reasons) < _MAX_REASONS:
            reason = f"{error.message} ({error.hint})" if error.hint else error.message
            self.reasons.append(replace_controls(reason[:_MAX_REASON]))

    def __str__(self) -> str:
        more = self.count - len(self.reasons)
        return "; ".join([*self.reasons, *([f"and {more} more"] if more else [])])


@dataclass(frozen=True)
class DecodedSpans:
    """The spans of a request.

    Parameters
    ----------
    spans
        The valid spans.
    refused
        The number of invalid spans, with reasons.
    """

    spans: list[Span]
    refused: RefusedSpans = field(default_factory=RefusedSpans)


def decode_spans(
    items: Iterable[tuple[Encoded, Mapping[str, Any] | DataError]], read: Callable[[Encoded], ReceivedSpan], *, redact: bool = False
) -> DecodedSpans:
    """Return the valid spans of a request, and the refused spans with their reasons.

    Parameters
    ----------
    items
        Each span in its encoding, with the attributes of its sender, or the error if these cannot be read.
    read
        A function that decodes one span; it raises DataError for an invalid span.
    redact
        Whether personal data in texts is replaced.
    """
    decoded = DecodedSpans([])
    for item, resource in items:
        try:
            decoded.spans.append(build_span(read(item), resource, redact=redact))
        except DataError as error:
            decoded.refused.add(DataError(redact_text(error.message), hint=error.hint) if redact else error)
    return decoded


def describe_span(name: object, span_id: object) -> str:
    """Return name and id of a received span on one line, for error messages.

    Parameters
    ----------
    name, span_id
        The received values, valid or not.
    """
    shown, digits = (value[:100] if isinstance(value, str) else "" for value in (name, span_id))
    return f"the span {' '.join(shown.split())!r} ({replace_controls(digits[:16])})"


def build_span(received: ReceivedSpan, resource: Mapping[str, Any] | DataError, *, redact: bool = False) -> Span:
    """Convert a received span to a span of a trace log.

    Lists, objects and bytes become text, and so do numbers that JSON cannot hold. Events that hold messages become attributes. Attributes
    of prompts and their versions are dropped, because only our own services may write them.

    Parameters
    ----------
    received
        The span.
    resource
        Attributes of the sender; they get names that start with ``resource.``. A DataError if they cannot be read.
    redact
        Whether personal data is replaced in texts, except in attributes with technical names.

    Raises
    ------
    DataError
        The span has an invalid id, time or sender, or too many attributes, or it holds feedback.
    """
    where = describe_span(received.name, received.span_id)
    if isinstance(resource, DataError):
        raise DataError(f"{where}: {resource.message}", hint=resource.hint)
    if not received.trace_id.strip("0") or not received.span_id.strip("0"):
        raise DataError(f"{where} has no trace id or no span id", hint="ids of zeros only are invalid")
    clean = _redact_and_clean if redact else _clean_text
    failed = received.code == ERROR_CODE
    try:
        span = Span(
            received.trace_id,
            received.span_id,
            received.parent_id if received.parent_id.strip("0") else None,
            clean(received.name),
            received.start,
            received.end,
            "error" if failed else "ok",
            clean(received.message or (_find_exception(received.events) if failed else "")),
            _build_attributes(received, resource, redact=redact),
        )
    except UNREADABLE as error:
        raise DataError(f"{where} cannot be read ({type(error).__name__})", hint="send it as the OTLP specification describes") from None
    except DataError as error:
        raise DataError(f"{where}: {error.message}", hint=error.hint) from None
    if span.is_feedback:
        raise DataError(f"{where} holds feedback, which this endpoint does not accept", hint="send it to the service's endpoint /feedback")
    return span


def _build_attributes(received: ReceivedSpan, resource: Mapping[str, Any], *, redact: bool) -> dict[str, AttributeValue]:
    events, more = _read_events(received.events)
    attributes = {f"{RESOURCE}{name}": value for name, value in resource.items()} | more | dict(received.attributes)
    if len(attributes) > MAX_ATTRIBUTES:
        raise DataError(f"there are {len(attributes)} attributes", hint=f"send at most {MAX_ATTRIBUTES}")
    if events:
        attributes.setdefault(EVENTS, events)
    names = redact_json(dict.fromkeys(attributes)) if redact else attributes
    return {
        _clean_text(shown): flatten_value(value, redact=redact and not is_technical(name))
        for shown, (name, value) in zip(names, attributes.items(), strict=True)
        if not name.startswith(OWN_PROMPT)
    }


def flatten_value(value: Any, *, redact: bool = False) -> AttributeValue:  # noqa: ANN401  (any value of OTLP)
    """Convert a value of OTLP to an attribute value of a span.

    Parameters
    ----------
    value
        Text, a number, a bool, bytes, None, or lists and dicts of these.
    redact
        Whether personal data in texts is replaced, before a long text is cut.

    Examples
    --------
    >>> from mlops_assets.compute.llm_traces.received_spans import flatten_value
    >>> flatten_value(["stop", 1, float("inf")])
    '["stop", 1, "Infinity"]'
    """
    plain = _to_json_value(value)
    text = json.dumps(plain, ensure_ascii=False) if isinstance(plain, (list, dict)) else plain
    if isinstance(text, str):
        return _redact_and_clean(text) if redact else _clean_text(text)
    number: float | bool | None = text
    return number


def _redact_and_clean(text: str) -> str:
    return _clean_text(redact_json_text(text))


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
    """Return the events without messages, and the attributes that the other events contain."""
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
    """Return the message of an event, from its attributes or from the JSON object in one attribute."""
    content = _parse_object(facts.get(_EVENT_CONTENT))
    message = content or {name: value for name, value in facts.items() if not name.startswith("gen_ai.")}
    if content is None and _EVENT_CONTENT in facts:
        message = {"content": facts[_EVENT_CONTENT], **message}
    if (inner := _parse_object(message.get("message"))) is not None:
        message = message | {"message": inner}
    return message


def _parse_object(value: object) -> dict[str, Any] | None:
    """Return a dict, or the object in a JSON text; None for other values and for JSON that is nested too deeply."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
        if _is_deep(value):
            return None
    return value if isinstance(value, dict) else None


def _is_deep(value: object) -> bool:
    """Return whether a JSON value is nested deeper than an attribute may be."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            item for outer in level if isinstance(outer, (dict, list)) for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return bool(level)


def _find_exception(events: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    """Return the class name of the last exception among events; its message is dropped, because it may hold content."""
    names = [str(facts["exception.type"]) for name, facts in events if name == "exception" and facts.get("exception.type")]
    return names[-1] if names else ""
