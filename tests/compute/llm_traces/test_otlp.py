"""Spans survive both encodings of OTLP; what a span cannot hold is stored as text, or the span is refused and named."""

import base64
import contextlib
import json
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse

from mlops_assets.compute.llm_traces import received_spans
from mlops_assets.compute.llm_traces.otlp_json import read_json_spans
from mlops_assets.compute.llm_traces.otlp_protobuf import read_protobuf_spans, write_protobuf_reply, write_protobuf_spans
from mlops_assets.compute.llm_traces.received_spans import DecodedSpans, RefusedSpans
from mlops_assets.errors import DataError
from mlops_assets.values.llm.span import Span
from tests.compute.llm_traces.otlp_json_writer import write_json_spans

TRACE, SPAN, START = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", 1_714_564_800_000_000_000
ON_A_BUSY_MACHINE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
ENCODINGS = {"json": (write_json_spans, read_json_spans), "protobuf": (write_protobuf_spans, read_protobuf_spans)}


def ids(digits: int) -> st.SearchStrategy[str]:
    return st.integers(1, 16**digits - 1).map(lambda number: f"{number:0{digits}x}")


@st.composite
def spans(draw: st.DrawFn) -> Span:
    start, end = sorted(draw(st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))))
    attributes = draw(st.dictionaries(TEXT, TEXT | NUMBERS | st.booleans() | st.none(), max_size=5))
    status = draw(st.sampled_from(["ok", "error"]))
    return Span(draw(ids(32)), draw(ids(16)), draw(st.none() | ids(16)), draw(TEXT), start, end, status, draw(TEXT), attributes)


@pytest.mark.parametrize(("write", "read"), ENCODINGS.values(), ids=ENCODINGS)
@ON_A_BUSY_MACHINE
@given(sent=st.lists(spans(), max_size=4))
def test_spans_survive_an_encoding(write: Callable[..., bytes], read: Callable[..., DecodedSpans], sent: list[Span]) -> None:
    decoded = read(write(sent))
    assert decoded == DecodedSpans(sent)
    kinds = [[type(value) for value in span.attributes.values()] for span in sent]
    assert [[type(value) for value in span.attributes.values()] for span in decoded.spans] == kinds


@ON_A_BUSY_MACHINE
@given(body=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    for read in (read_json_spans, read_protobuf_spans):
        with contextlib.suppress(DataError):
            assert read(body).spans == []


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["key", "value", "values", "arrayValue"]), inner, max_size=3)
    ),
)


@ON_A_BUSY_MACHINE
@given(
    fields=st.dictionaries(
        st.sampled_from(["traceId", "spanId", "parentSpanId", "name", "startTimeUnixNano", "attributes", "events", "status"]), JSON_VALUES
    )
)
def test_a_field_of_any_type_refuses_its_span_only(fields: dict) -> None:
    good = {"traceId": TRACE, "spanId": SPAN, "name": "good", "startTimeUnixNano": START, "endTimeUnixNano": str(START)}
    decoded = read_json_spans(encode_json({**good, "name": "bad", **fields}, good))
    assert decoded.spans[-1].name == "good"
    assert len(decoded.spans) + decoded.refused.count == 2


def encode_json(*items: dict, resource: object = None) -> bytes:
    return json.dumps({"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": items}]}]}).encode()


def make_request(**fields: object) -> tuple[ExportTraceServiceRequest, object]:
    request = ExportTraceServiceRequest()
    facts = {"name": "chat", "trace_id": bytes.fromhex(TRACE), "span_id": bytes.fromhex(SPAN), **fields}
    times = {"start_time_unix_nano": START, "end_time_unix_nano": START + 1}
    return request, request.resource_spans.add().scope_spans.add().spans.add(**{**times, **facts})


def read_one(request: ExportTraceServiceRequest) -> Span:
    (span,) = read_protobuf_spans(request.SerializeToString()).spans
    return span


def test_lists_objects_bytes_and_non_finite_numbers_become_text() -> None:
    request, span = make_request()
    values = [span.attributes.add(key=name).value for name in ("bytes", "nan", "list", "object", "empty")]
    values[0].bytes_value = b"\x00\xff"
    values[1].double_value = float("nan")
    values[2].array_value.values.add().string_value = "stop"
    values[2].array_value.values.add().double_value = float("-inf")
    values[3].kvlist_value.values.add(key="city").value.string_value = "Zürich"
    expected = {"bytes": "AP8=", "nan": "NaN", "list": '["stop", "-Infinity"]', "object": '{"city": "Zürich"}', "empty": None}
    assert read_one(request).attributes == expected
    as_json = {
        "bytes": {"bytesValue": base64.b64encode(b"\x00\xff").decode()},
        "nan": {"doubleValue": "NaN"},
        "list": {"arrayValue": {"values": [{"stringValue": "stop"}, {"doubleValue": "-Infinity"}]}},
        "object": {"kvlistValue": {"values": [{"key": "city", "value": {"stringValue": "Zürich"}}]}},
        "empty": {},
    }
    item = {
        "traceId": TRACE.upper(),
        "spanId": SPAN,
        "parentSpanId": "0" * 16,
        "startTimeUnixNano": START,
        "endTimeUnixNano": START,
        "attributes": [{"key": name, "value": value} for name, value in as_json.items()],
    }
    (read,) = read_json_spans(encode_json(item)).spans
    assert (read.attributes, read.trace_id, read.parent_id) == (expected, TRACE, None)


def test_a_huge_text_is_cut_and_says_so() -> None:
    request, span = make_request()
    span.attributes.add(key="input.value").value.string_value = "x" * (received_spans.MAX_TEXT + 5)
    text = read_one(request).attributes["input.value"]
    assert text == "x" * received_spans.MAX_TEXT + f"… ({received_spans.MAX_TEXT + 5} characters)"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"trace_id": b"\x01" * 15}, "has the trace id '0101"),
        ({"span_id": b"\x01" * 9}, "the span id '0101"),
        ({"parent_span_id": b"\x01"}, "the parent id '01' is invalid"),
        ({"trace_id": b""}, "has no trace id or no span id"),
        ({"span_id": bytes(8)}, "has no trace id or no span id"),
        ({"end_time_unix_nano": START - 1}, f"ends at {START - 1}"),
        ({"end_time_unix_nano": 2**63}, f"ends at {2**63}"),
    ],
)
def test_an_invalid_span_is_refused_by_name_and_the_others_are_kept(fields: dict, reason: str) -> None:
    request, _ = make_request(**fields)
    request.resource_spans[0].scope_spans[0].spans.add(
        name="good", trace_id=bytes.fromhex(TRACE), span_id=bytes.fromhex(SPAN), start_time_unix_nano=1, end_time_unix_nano=1
    )
    decoded = read_protobuf_spans(request.SerializeToString())
    assert [span.name for span in decoded.spans] == ["good"]
    assert "the span 'chat'" in str(decoded.refused)
    assert reason in str(decoded.refused)


def test_a_span_with_too_many_or_too_deep_attributes_is_refused() -> None:
    request, span = make_request()
    for number in range(received_spans.MAX_ATTRIBUTES + 1):
        span.attributes.add(key=str(number))
    assert "there are 1001 attributes" in str(read_protobuf_spans(request.SerializeToString()).refused)
    deep: dict = {"stringValue": "x"}
    for _ in range(received_spans.MAX_DEPTH + 1):
        deep = {"arrayValue": {"values": [deep]}}
    item = {"traceId": TRACE, "spanId": SPAN, "attributes": [{"key": "deep", "value": deep}]}
    assert "deeper than 32 levels" in str(read_json_spans(encode_json(item)).refused)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"resourceSpans": 1}', b'{"resourceSpans": [1]}', b"[" * 100_000])
def test_a_body_that_is_no_request_is_an_error(body: bytes) -> None:
    with pytest.raises(DataError):
        read_json_spans(body)


def test_the_sender_is_named_on_each_span() -> None:
    body = write_protobuf_spans([Span(TRACE, SPAN, None, "chat", 0, 1, "ok")], {"service.name": "shop"})
    assert read_protobuf_spans(body).spans[0].attributes == {"resource.service.name": "shop"}


def test_messages_in_events_become_attributes_and_other_events_stay_readable() -> None:
    request, span = make_request()
    span.status.code = 2
    for name, facts in [
        ("gen_ai.system.message", {"content": "Be brief."}),
        ("gen_ai.user.message", {"gen_ai.event.content": '{"role": "user", "content": "Is JFK late?"}'}),
        ("gen_ai.choice", {"index": "0", "message": '{"role": "assistant", "content": "Yes."}'}),
        ("exception", {"exception.type": "TimeoutError", "exception.message": "after 3 s"}),
    ]:
        event = span.events.add(name=name)
        for key, value in facts.items():
            event.attributes.add(key=key).value.string_value = value
    read = read_one(request)
    assert json.loads(str(read.attributes["gen_ai.input.messages"])) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Is JFK late?"},
    ]
    assert json.loads(str(read.attributes["gen_ai.output.messages"]))[0]["message"]["content"] == "Yes."
    assert json.loads(str(read.attributes["otel.events"]))[0]["attributes"]["exception.message"] == "after 3 s"
    assert (read.status, read.error) == ("error", "TimeoutError")


def test_a_reply_counts_the_refused_spans_and_names_the_first_three_with_a_hint() -> None:
    refused = RefusedSpans()
    assert write_protobuf_reply(refused) == b""
    for number in range(5):
        refused.add(DataError(f"the span {number} is bad\x1b[2J", hint="send another"))
    partial = ExportTraceServiceResponse.FromString(write_protobuf_reply(refused)).partial_success
    reasons = [f"the span {number} is bad\ufffd[2J (send another)" for number in range(3)]
    assert (partial.rejected_spans, partial.error_message) == (5, "; ".join([*reasons, "and 2 more"]))
