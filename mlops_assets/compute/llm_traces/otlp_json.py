"""OTLP in its JSON encoding: requests with spans, and replies."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.llm_traces.received_spans import ERROR_CODE, MAX_DEPTH, DecodedSpans, ReceivedSpan, decode_spans, flatten_value
from mlops_assets.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mlops_assets.values.llm.span import AttributeValue, Span

_HINT = "send an ExportTraceServiceRequest in the JSON encoding of OTLP"


def read_json_spans(body: bytes) -> DecodedSpans:
    """Return the spans of an ``ExportTraceServiceRequest`` in JSON.

    Parameters
    ----------
    body
        The request.

    Raises
    ------
    DataError
        The body is no such request.
    """
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DataError(f"the body is not JSON ({type(error).__name__})", hint=_HINT) from None
    if not isinstance(request, dict):
        raise DataError("the body is not a JSON object", hint=_HINT)
    try:
        return decode_spans(_list_spans(request), _read_span)
    except (AttributeError, TypeError, ValueError):  # of a resource: those of a span refuse the span
        raise DataError("a resource has a field of another type", hint=_HINT) from None


def write_json_spans(spans: Sequence[Span], resource: Mapping[str, AttributeValue] | None = None) -> bytes:
    """Return an ``ExportTraceServiceRequest`` in JSON.

    Parameters
    ----------
    spans
        The spans.
    resource
        Attributes of the sender, e.g. ``service.name``.
    """
    scope = {"scope": {"name": "mlops_assets"}, "spans": [_write_span(span) for span in spans]}
    request = {"resourceSpans": [{"resource": {"attributes": _write_attributes(resource or {})}, "scopeSpans": [scope]}]}
    return json.dumps(request).encode()


def write_json_reply(refused: Sequence[str]) -> bytes:
    """Return an ``ExportTraceServiceResponse`` in JSON.

    Parameters
    ----------
    refused
        The reason for each span that was refused; none if all were kept.
    """
    partial = {"partialSuccess": {"rejectedSpans": str(len(refused)), "errorMessage": refused[0]}} if refused else {}
    return json.dumps(partial).encode()


def _list_spans(request: Mapping[str, Any]) -> Iterator[tuple[object, Mapping[str, Any]]]:
    for group in _read_list(request, "resourceSpans"):
        resource = _read_attributes(group.get("resource") or {})
        for scope in _read_list(group, "scopeSpans"):
            for span in _read_list(scope, "spans"):
                yield span, resource


def _read_list(value: Mapping[str, Any], name: str) -> list[Any]:
    items = value.get(name) or []
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise DataError(f"'{name}' is not a list of objects", hint=_HINT)
    return items


def _read_span(item: Any) -> ReceivedSpan:  # noqa: ANN401  (a JSON object)
    status = item.get("status") or {}
    name = _read_text(item, "name")
    try:
        return ReceivedSpan(
            _read_text(item, "traceId").lower(),
            _read_text(item, "spanId").lower(),
            _read_text(item, "parentSpanId").lower(),
            name,
            _read_integer(item.get("startTimeUnixNano", 0)),
            _read_integer(item.get("endTimeUnixNano", 0)),
            ERROR_CODE if status.get("code") in (ERROR_CODE, "STATUS_CODE_ERROR") else 0,
            _read_text(status, "message"),
            _read_attributes(item),
            [(_read_text(event, "name"), _read_attributes(event)) for event in _read_list(item, "events")],
        )
    except (AttributeError, TypeError, ValueError):
        raise DataError(f"the span {name[:100]!r} has a field of another type", hint=_HINT) from None


def _read_text(value: Mapping[str, Any], name: str) -> str:
    text = value.get(name) or ""
    if not isinstance(text, str):
        raise DataError(f"'{name}' is not text", hint=_HINT)
    return text


def _read_integer(value: object) -> int:
    """Return a 64-bit integer, which JSON holds as text or as a number."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise TypeError
    return int(value)


def _read_attributes(holder: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    return {_read_text(item, "key"): _read_value(item.get("value") or {}, depth) for item in _read_list(holder, "attributes")}


def _read_value(value: Mapping[str, Any], depth: int) -> Any:  # noqa: ANN401, PLR0911  (any value of OTLP, one case each)
    if depth > MAX_DEPTH:
        raise DataError(f"an attribute is nested deeper than {MAX_DEPTH} levels", hint="send it as JSON text")
    for name, item in value.items():
        match name:
            case "stringValue":
                return _read_text(value, name)
            case "boolValue":
                return bool(item)
            case "intValue":
                return _read_integer(item)
            case "doubleValue":
                return float(item)
            case "bytesValue":
                return base64.b64decode(item)
            case "arrayValue":
                return [_read_value(entry, depth + 1) for entry in _read_list(item, "values")]
            case "kvlistValue":
                return _read_attributes({"attributes": item.get("values")}, depth + 1)
    return None


def _write_span(span: Span) -> dict[str, Any]:
    return {
        "traceId": span.trace_id,
        "spanId": span.span_id,
        **({} if span.parent_id is None else {"parentSpanId": span.parent_id}),
        "name": span.name,
        "kind": 1,
        "startTimeUnixNano": str(span.start),
        "endTimeUnixNano": str(span.end),
        "attributes": _write_attributes(span.attributes),
        "status": {"code": ERROR_CODE if span.status == "error" else 0, "message": span.error},
    }


def _write_attributes(attributes: Mapping[str, AttributeValue]) -> list[dict[str, Any]]:
    return [{"key": name, "value": _write_value(flatten_value(value))} for name, value in attributes.items()]


def _write_value(value: AttributeValue) -> dict[str, Any]:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case str():
            return {"stringValue": value}
    return {}
