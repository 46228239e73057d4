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
_FIXED_SIZES = {1: 8, 3: 0, 4: 0, 5: 4}  # wire type → bytes; the fields of a group are read like those outside
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
        The body is not such a request.
    TooManySpansError
        The request has too many spans, or too many attributes in total.
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
    """Return the number of rejected spans in a collector's ``ExportTraceServiceResponse``; 0 for any other reply.

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
    """Return a ``google.rpc.Status`` with a message, encoded without its package: the message is field 2.

    Parameters
    ----------
    message
        What is wrong with the request.
    """
    text = _clean(message).encode()[:_MAX_MESSAGE]
    return bytes([2 << 3 | 2, len(text) & 0x7F | 0x80, len(text) >> 7]) + text


def _check_size(body: bytes, kind: Any) -> None:  # noqa: ANN401  (a descriptor)
    """Raise TooManySpansError for a body with too many parts: a part of two bytes takes 200 bytes of memory when it is decoded.

    The decoder refuses a body that is not a message.
    """
    parts, spans, outer = 0, 0, list[tuple[Any, int, int]]()
    position, end = 0, len(body)
    while position < end or outer:
        if position >= end:
            kind, position, end = outer.pop()
            continue
        try:
            key, position = _read_varint(body, position)
            wire = key & 7
            size, position = (_FIXED_SIZES[wire], position) if wire in _FIXED_SIZES else _read_varint(body, position)
        except IndexError:
            return
        child = _list_children(kind).get(key >> 3) if wire == _LENGTH else None
        if child is not None:
            parts, spans = parts + 1, spans + (child.name == "Span")
            outer.append((kind, position + size, end))
            kind, end = child, min(position + size, end)
        elif wire != _VARINT:
            position += size
        if spans > MAX_SPANS or parts > MAX_PARTS:
            raise TooManySpansError
        if len(outer) > _MAX_NESTED:
            return


@functools.cache
def _list_children(kind: Any) -> Mapping[int, Any]:  # noqa: ANN401  (a descriptor)
    """Return field number → descriptor of the messages in that field."""
    return {field.number: field.message_type for field in kind.fields if field.message_type is not None}


def _read_varint(body: bytes, position: int) -> tuple[int, int]:
    """Return a varint (a number in groups of seven bits) and the position after it."""
    value, shift = body[position], 7
    if value < 128:
        return value, position + 1
    value &= 127
    while shift <= _MAX_SHIFT:
        position += 1
        value |= (body[position] & 127) << shift
        if body[position] < 128:
            return value, position + 1
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
