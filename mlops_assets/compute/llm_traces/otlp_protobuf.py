"""OTLP in its protobuf encoding: requests with spans, and replies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlops_assets.compute.llm_traces.received_spans import ERROR_CODE, MAX_DEPTH, DecodedSpans, ReceivedSpan, decode_spans, flatten_value
from mlops_assets.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from mlops_assets.values.llm.span import AttributeValue, Span

_MAX_MESSAGE = 2**14 - 1  # bytes whose number fits two bytes of seven bits


def require_protobuf() -> None:
    """Raise MissingExtraError when the messages of OTLP are not installed."""
    try:
        import opentelemetry.proto.collector.trace.v1.trace_service_pb2  # noqa: F401
    except ImportError as error:
        raise MissingExtraError.from_extra("opentelemetry-proto", "otlp") from error


def read_protobuf_spans(body: bytes) -> DecodedSpans:
    """Return the spans of an ``ExportTraceServiceRequest`` in protobuf.

    Parameters
    ----------
    body
        The request.

    Raises
    ------
    DataError
        The body is no such request.
    """
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    try:
        request = ExportTraceServiceRequest.FromString(body)
    except DecodeError:
        raise DataError("the body is not an ExportTraceServiceRequest", hint="send one in the protobuf encoding of OTLP") from None
    return decode_spans(_list_spans(request), _read_span)


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


def write_protobuf_reply(refused: Sequence[str]) -> bytes:
    """Return an ``ExportTraceServiceResponse``.

    Parameters
    ----------
    refused
        The reason for each span that was refused; none if all were kept.
    """
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    reply = ExportTraceServiceResponse()
    if refused:
        reply.partial_success.rejected_spans = len(refused)
        reply.partial_success.error_message = _clean(refused[0])
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


def _list_spans(request: Any) -> Iterator[tuple[Any, Mapping[str, Any]]]:  # noqa: ANN401  (a message)
    for group in request.resource_spans:
        resource = _read_attributes(group.resource.attributes)
        for scope in group.scope_spans:
            for span in scope.spans:
                yield span, resource


def _read_span(span: Any) -> ReceivedSpan:  # noqa: ANN401  (a message)
    return ReceivedSpan(
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.name,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        span.status.code,
        span.status.message,
        _read_attributes(span.attributes),
        [(event.name, _read_attributes(event.attributes)) for event in span.events],
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
