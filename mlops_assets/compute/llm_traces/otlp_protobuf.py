"""OTLP in its protobuf encoding: requests with spans, and replies."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.llm_traces.received_spans import (
    ERROR_CODE,
    MAX_DEPTH,
    MAX_SPANS,
    DecodedSpans,
    ReceivedSpan,
    RefusedSpans,
    TooManySpansError,
    decode_spans,
    describe_span,
    flatten_value,
)
from mlops_assets.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from mlops_assets.values.llm.span import AttributeValue, Span

MAX_PARTS = 50 * MAX_SPANS  # messages within a request: spans, attributes, values, events and links
_MAX_NESTED = 100  # messages within each other that the decoder accepts
_VARINT, _LENGTH = 0, 2  # wire types
_FIXED_SIZES = {1: 8, 3: 0, 4: 0, 5: 4}  # wire type → bytes; what is within a group counts as if it were outside
_MAX_SHIFT = 63  # bits of a number
_MAX_MESSAGE = 2**14 - 1  # bytes whose number fits two bytes of seven bits


def require_protobuf() -> None:
    """Raise MissingExtraError when the messages of OTLP are not installed."""
    try:
        import opentelemetry.proto.collector.trace.v1.trace_service_pb2  # noqa: F401
    except ImportError as error:
        raise MissingExtraError.from_extra("opentelemetry-proto", "otlp") from error


def read_protobuf_spans(body: bytes, *, redact: bool = False) -> DecodedSpans:
    """Return the spans of an ``ExportTraceServiceRequest`` in protobuf.

    Parameters
    ----------
    body
        The request.
    redact
        Whether personal data in texts is replaced.

    Raises
    ------
    DataError
        The body is no such request.
    TooManySpansError
        It has too many spans, or too many attributes in all.
    """
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    _check_size(body, ExportTraceServiceRequest.DESCRIPTOR)
    try:
        request = ExportTraceServiceRequest.FromString(body)
    except DecodeError:
        raise DataError("the body is not an ExportTraceServiceRequest", hint="send one in the protobuf encoding of OTLP") from None
    return decode_spans(_list_spans(request), _read_span, redact=redact)


def write_protobuf_spans(spans: Sequence[Span], resource: Mapping[str, AttributeValue] | None = None) -> bytes:
    """Return an ``ExportTraceServiceRequest`` in protobuf.

    Parameters
    ----------
    spans
        The spans.
    resource
        Attributes of the sender, e.g. ``service.name``.
    """
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    _write_attributes(group.resource, resource or {})
    scope = group.scope_spans.add()
    scope.scope.name = "mlops_assets"
    for span in spans:
        message = scope.spans.add(
            trace_id=bytes.fromhex(span.trace_id),
            span_id=bytes.fromhex(span.span_id),
            parent_span_id=bytes.fromhex(span.parent_id or ""),
            name=_clean(span.name),
            kind=1,
            start_time_unix_nano=span.start,
            end_time_unix_nano=span.end,
        )
        message.status.code = ERROR_CODE if span.status == "error" else 0
        message.status.message = _clean(span.error)
        _write_attributes(message, span.attributes)
    return bytes(request.SerializeToString())


def write_protobuf_reply(refused: RefusedSpans) -> bytes:
    """Return an ``ExportTraceServiceResponse``.

    Parameters
    ----------
    refused
        The spans that were refused.
    """
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    reply = ExportTraceServiceResponse()
    if refused.count:
        reply.partial_success.rejected_spans = refused.count
        reply.partial_success.error_message = _clean(str(refused))
    return bytes(reply.SerializeToString())


def count_rejected(reply: bytes) -> int:
    """Return the number of spans that a collector rejected by its ``ExportTraceServiceResponse``; 0 for a reply of another form.

    Parameters
    ----------
    reply
        The body of a reply with status 200.
    """
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    try:
        return max(0, int(ExportTraceServiceResponse.FromString(reply).partial_success.rejected_spans))
    except DecodeError:
        return 0


def write_protobuf_error(message: str) -> bytes:
    """Return a ``google.rpc.Status`` with a message, whose package is not needed for it: field 2 is the message.

    Parameters
    ----------
    message
        What is wrong with the request.
    """
    text = _clean(message).encode()[:_MAX_MESSAGE]
    return bytes([2 << 3 | 2, len(text) & 0x7F | 0x80, len(text) >> 7]) + text


def _check_size(body: bytes, kind: Any) -> None:  # noqa: ANN401  (a descriptor)
    """Raise TooManySpansError for a body that has too many parts; each costs 200 bytes when it is decoded, and may be sent as two.

    A body that is no message is left to the decoder.
    """
    parts, spans, outer = 0, 0, list[tuple[Any, int, int]]()
    place, end = 0, len(body)
    while place < end or outer:
        if place >= end:
            kind, place, end = outer.pop()
            continue
        try:
            key, place = _read_varint(body, place)
            wire = key & 7
            size, place = (_FIXED_SIZES[wire], place) if wire in _FIXED_SIZES else _read_varint(body, place)
        except IndexError:
            return
        child = _list_children(kind).get(key >> 3) if wire == _LENGTH else None
        if child is not None:
            parts, spans = parts + 1, spans + (child.name == "Span")
            outer.append((kind, place + size, end))
            kind, end = child, min(place + size, end)
        elif wire != _VARINT:
            place += size
        if spans > MAX_SPANS or parts > MAX_PARTS:
            raise TooManySpansError
        if len(outer) > _MAX_NESTED:
            return


@functools.cache
def _list_children(kind: Any) -> Mapping[int, Any]:  # noqa: ANN401  (a descriptor)
    """Return number of field → descriptor of the messages in that field."""
    return {field.number: field.message_type for field in kind.fields if field.message_type is not None}


def _read_varint(body: bytes, place: int) -> tuple[int, int]:
    """Return a number in groups of seven bits, and the place after it."""
    value, shift = body[place], 7
    if value < 128:
        return value, place + 1
    value &= 127
    while shift <= _MAX_SHIFT:
        place += 1
        value |= (body[place] & 127) << shift
        if body[place] < 128:
            return value, place + 1
        shift += 7
    raise IndexError


def _list_spans(request: Any) -> Iterator[tuple[Any, Mapping[str, Any] | DataError]]:  # noqa: ANN401  (a message)
    for group in request.resource_spans:
        resource: Mapping[str, Any] | DataError
        try:
            resource = _read_attributes(group.resource.attributes)
        except DataError as error:
            resource = DataError(f"in its resource, {error.message}", hint=error.hint)
        for scope in group.scope_spans:
            for span in scope.spans:
                yield span, resource


def _read_span(span: Any) -> ReceivedSpan:  # noqa: ANN401  (a message)
    try:
        attributes = _read_attributes(span.attributes)
        events = [(event.name, _read_attributes(event.attributes)) for event in span.events]
    except DataError as error:
        raise DataError(f"{describe_span(span.name, span.span_id.hex())}: {error.message}", hint=error.hint) from None
    return ReceivedSpan(
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.name,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        span.status.code,
        span.status.message,
        attributes,
        events,
    )


def _read_attributes(items: Iterable[Any], depth: int = 0) -> dict[str, Any]:
    return {item.key: _read_value(item.value, depth) for item in items}


def _read_value(value: Any, depth: int) -> Any:  # noqa: ANN401  (a message, and any value of OTLP)
    if depth > MAX_DEPTH:
        raise DataError(f"an attribute is nested deeper than {MAX_DEPTH} levels", hint="send it as JSON text")
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_read_value(item, depth + 1) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _read_attributes(value.kvlist_value.values, depth + 1)
    return None if kind is None else getattr(value, kind)


def _write_attributes(holder: Any, attributes: Mapping[str, AttributeValue]) -> None:  # noqa: ANN401  (a message)
    for name, value in attributes.items():
        attribute, plain = holder.attributes.add(key=_clean(name)), flatten_value(value)
        match plain:
            case bool():
                attribute.value.bool_value = plain
            case int():
                attribute.value.int_value = plain
            case float():
                attribute.value.double_value = plain
            case str():
                attribute.value.string_value = plain
            case _:
                attribute.value.SetInParent()


def _clean(text: str) -> str:
    """Return a text without lone surrogates, which protobuf refuses."""
    return text.encode("utf-8", "replace").decode()
