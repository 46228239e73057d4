"""Write spans in the JSON encoding of OTLP, as applications send them; the product only reads it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mlops_assets.compute.llm_traces.received_spans import ERROR_CODE, flatten_value
from mlops_assets.values.llm.span import AttributeValue, Span


def write_json_spans(spans: Sequence[Span], resource: Mapping[str, AttributeValue] | None = None) -> bytes:
    """Return an ``ExportTraceServiceRequest`` in JSON; ``resource`` are attributes of the sender."""
    scope = {"scope": {"name": "mlops_assets"}, "spans": [_write_span(span) for span in spans]}
    request = {"resourceSpans": [{"resource": {"attributes": _write_attributes(resource or {})}, "scopeSpans": [scope]}]}
    return json.dumps(request).encode()


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
