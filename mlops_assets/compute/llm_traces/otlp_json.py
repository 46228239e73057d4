"""OTLP in its JSON encoding: requests with spans, and replies."""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.llm_traces.received_spans import (
    ERROR_CODE,
    MAX_DEPTH,
    MAX_SPANS,
    UNREADABLE,
    DecodedSpans,
    ReceivedSpan,
    RefusedSpans,
    TooManySpansError,
    decode_spans,
    describe_span,
)
from mlops_assets.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping


_NUMBER = re.compile(r"-?\d{1,400}(\.\d{1,400})?([eE][+-]?\d{1,4})?", re.ASCII)
_NOT_FINITE = ("NaN", "Infinity", "-Infinity")
_KINDS = {str: "text", bool: "true or false", list: "a list", dict: "an object", object: ""}  # in messages
# Kinds of values → their types; numbers may be text.
_VALUES = {
    "stringValue": str,
    "boolValue": bool,
    "intValue": object,
    "doubleValue": object,
    "bytesValue": str,
    "arrayValue": dict,
    "kvlistValue": dict,
}
_INT64 = range(-(2**63), 2**64)  # of a number of OTLP, with or without sign
_HINT = "send an ExportTraceServiceRequest in the JSON encoding of OTLP"


def read_json_spans(body: bytes, *, redact: bool = False) -> DecodedSpans:
    """Return the spans of an ``ExportTraceServiceRequest`` in JSON.

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
        The request has too many spans.
    """
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DataError(f"the body is not JSON ({type(error).__name__})", hint=_HINT) from None
    if not isinstance(request, dict):
        raise DataError("the body is not a JSON object", hint=_HINT)
    return decode_spans(_list_spans(request), _read_span, redact=redact)


def write_json_reply(refused: RefusedSpans) -> bytes:
    """Return an ``ExportTraceServiceResponse`` in JSON.

    Parameters
    ----------
    refused
        The spans that were refused.
    """
    partial = {"partialSuccess": {"rejectedSpans": str(refused.count), "errorMessage": str(refused)}} if refused.count else {}
    return json.dumps(partial).encode()


def _list_spans(request: Mapping[str, Any]) -> list[tuple[object, Mapping[str, Any] | DataError]]:
    spans: list[tuple[object, Mapping[str, Any] | DataError]] = []
    for group in _read_list(request, "resourceSpans"):
        resource = _read_resource(group)
        for scope in _read_list(group, "scopeSpans"):
            items = _read_field(scope, "spans", list) or []
            if len(spans) + len(items) > MAX_SPANS:
                raise TooManySpansError
            spans += [(span, resource) for span in items]
    return spans


def _read_resource(group: Mapping[str, Any]) -> Mapping[str, Any] | DataError:
    """Return the attributes of a sender, or the error if they cannot be read."""
    try:
        return _read_attributes(_read_field(group, "resource", dict) or {})
    except UNREADABLE:
        return DataError("its resource has a field of another type", hint=_HINT)
    except DataError as error:
        return DataError(f"in its resource, {error.message}", hint=error.hint)


def _read_list(value: Mapping[str, Any], name: str) -> list[Any]:
    items = _read_field(value, name, list) or []
    if not all(isinstance(item, dict) for item in items):
        raise DataError(f"'{name}' is not a list of objects", hint=_HINT)
    return items


def _read_field(value: Mapping[str, Any], name: str, kind: type) -> Any:  # noqa: ANN401  (a value of JSON)
    """Return a field of an object; None if it is absent or null."""
    field = value.get(name)
    if field is not None and not isinstance(field, kind):
        raise DataError(f"'{name}' is not {_KINDS[kind]}", hint=_HINT)
    return field


def _read_span(item: Any) -> ReceivedSpan:  # noqa: ANN401  (a value of JSON)
    if not isinstance(item, dict):
        raise DataError("a span is not an object", hint=_HINT)
    where = describe_span(item.get("name", ""), item.get("spanId", ""))
    try:
        status = _read_field(item, "status", dict) or {}
        return ReceivedSpan(
            _read_text(item, "traceId").lower(),
            _read_text(item, "spanId").lower(),
            _read_text(item, "parentSpanId").lower(),
            _read_text(item, "name"),
            _read_integer(item.get("startTimeUnixNano") or 0),
            _read_integer(item.get("endTimeUnixNano") or 0),
            ERROR_CODE if status.get("code") in (ERROR_CODE, "STATUS_CODE_ERROR") else 0,
            _read_text(status, "message"),
            _read_attributes(item),
            [(_read_text(event, "name"), _read_attributes(event)) for event in _read_list(item, "events")],
        )
    except UNREADABLE:
        raise DataError(f"{where} has a field of another type", hint=_HINT) from None
    except DataError as error:
        raise DataError(f"{where}: {error.message}", hint=error.hint) from None


def _read_text(value: Mapping[str, Any], name: str) -> str:
    return _read_field(value, name, str) or ""


def _read_integer(value: object) -> int:
    """Return a 64-bit integer of JSON: text, an integer, or a whole number such as ``1e3``."""
    number = _read_number(value)
    if isinstance(value, str) and value.removeprefix("-").isdecimal():
        value = int(value)
    if not isinstance(value, int) and not number.is_integer():
        raise ValueError
    integer = value if isinstance(value, int) else int(number)
    if integer not in _INT64:
        raise OverflowError
    return integer


def _read_number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or (isinstance(value, str) and not _NUMBER.fullmatch(value)):
        raise TypeError
    return float(value)


def _read_attributes(holder: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    return {_read_text(item, "key"): _read_value(item, depth) for item in _read_list(holder, "attributes")}


def _read_value(holder: Mapping[str, Any], depth: int) -> Any:  # noqa: ANN401  (any value of OTLP)
    value = _read_field(holder, "value", dict) or {}
    return next((_read_item(value, name, depth) for name in value if name in _VALUES and value[name] is not None), None)


def _read_item(value: Mapping[str, Any], name: str, depth: int) -> Any:  # noqa: ANN401  (any value of OTLP)
    if depth > MAX_DEPTH:
        raise DataError(f"an attribute is nested deeper than {MAX_DEPTH} levels", hint="send it as JSON text")
    item = _read_field(value, name, _VALUES[name])
    match name:
        case "intValue":
            return _read_integer(item)
        case "doubleValue":
            return float(item) if item in _NOT_FINITE else _read_number(item)
        case "bytesValue":
            return _read_bytes(item)
        case "arrayValue":
            return [_read_value({"value": entry}, depth + 1) for entry in _read_list(item, "values")]
        case "kvlistValue":
            return _read_attributes({"attributes": item.get("values")}, depth + 1)
    return item


def _read_bytes(text: str) -> bytes:
    """Decode base64 in the standard or the URL-safe alphabet, with or without padding."""
    plain = text.rstrip("=").translate(str.maketrans("-_", "+/"))
    return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
