"""What an application may send: odd fields refuse their span alone, personal data is replaced everywhere, and sizes are bounded."""

import json
import tracemalloc

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from mlops_assets.compute.llm_traces import otlp_protobuf
from mlops_assets.compute.llm_traces.otlp_json import read_json_spans
from mlops_assets.compute.llm_traces.otlp_protobuf import read_protobuf_spans
from mlops_assets.compute.llm_traces.received_spans import MAX_SPANS, MAX_TEXT, DecodedSpans, TooManySpansError

GOOD = {"traceId": "a" * 32, "spanId": "b" * 16, "name": "good"}
PHONE, SHOWN = "Call:\n+49 30 1234567", "Call:\n[phone number]"


def read_groups(*groups: tuple[object, list], redact: bool = False) -> DecodedSpans:
    body = {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": spans}]} for resource, spans in groups]}
    return read_json_spans(json.dumps(body).encode(), redact=redact)


def make_attributes(**values: object) -> dict[str, object]:
    return {"attributes": [{"key": name, "value": value} for name, value in values.items()]}


def read_value(value: object) -> object:
    """Return what is stored for a value of JSON; the reason if the span is refused."""
    decoded = read_groups((None, [GOOD | make_attributes(x=value)]))
    return decoded.spans[0].attributes["x"] if decoded.spans else str(decoded.refused)


def read_redacted(**fields: object) -> DecodedSpans:
    return read_groups((None, [GOOD | fields]), redact=True)


def test_each_text_is_redacted_also_within_json_and_events() -> None:
    texts = {
        "gen_ai.input.messages": json.dumps([{"content": PHONE}]),
        "gen_ai.system_instructions": '"Hi\\nfoo@example.org"',
        "slash": r'["0171\/1234567"]',
        "nested": json.dumps([json.dumps({"content": PHONE})]),
        **dict.fromkeys(
            ["ai.prompt.messages", "ai.response.text", "llm.prompt_template.variables", "tool.parameters", "foo@example.org"], PHONE
        ),
        "retrieval.documents.0.document.content": PHONE,
    }
    event = {"name": "note", **make_attributes(body={"stringValue": json.dumps({"content": PHONE})})}
    span = {
        "name": f"chat {PHONE}",
        "status": {"code": 2, "message": PHONE},
        "events": [event],
        "attributes": [{"key": name, "value": {"stringValue": text}} for name, text in texts.items()],
    }
    (read,) = read_redacted(**span).spans
    assert (read.name, read.error) == (f"chat {SHOWN}", SHOWN)
    attributes = read.attributes
    assert json.loads(str(attributes["gen_ai.input.messages"])) == [{"content": SHOWN}]
    assert json.loads(str(attributes["gen_ai.system_instructions"])) == "Hi\n[e-mail address]"
    assert attributes["slash"] == '["[phone number]"]'
    assert json.loads(json.loads(str(attributes["nested"]))[0]) == {"content": SHOWN}
    assert json.loads(json.loads(str(attributes["otel.events"]))[0]["attributes"]["body"]) == {"content": SHOWN}
    assert attributes["[e-mail address]"] == SHOWN
    assert "1234567" not in str(attributes)


def test_a_text_is_redacted_before_it_is_cut() -> None:
    text = "x" * (MAX_TEXT - 6) + " ada@example.org"
    (read,) = read_redacted(**make_attributes(note={"stringValue": text})).spans
    assert "ada@" not in str(read.attributes["note"])


def test_the_reason_for_a_refusal_shows_no_personal_data() -> None:
    assert "example.org" not in str(read_redacted(name="ask ada@example.org", spanId="0").refused)


def test_technical_attributes_stay_as_they_are() -> None:
    sent = {"gen_ai.response.id": "0171 2345678", "gen_ai.request.model": "tiny@example.org"}
    attributes = [{"key": name, "value": {"stringValue": text}} for name, text in sent.items()]
    assert read_redacted(attributes=attributes).spans[0].attributes == sent


def test_spans_cannot_pass_for_those_of_a_service() -> None:
    attributes = [{"key": f"mlops.prompt.{name}", "value": {"stringValue": "1"}} for name in ("name", "version", "digest")]
    assert read_groups((None, [GOOD | {"attributes": attributes}])).spans[0].attributes == {}
    score = {"key": "mlops.feedback", "value": {"doubleValue": 1.0}}
    feedback = GOOD | {"name": "feedback", "attributes": [score]}
    event = GOOD | {"name": "feedback", "events": [{"name": "gen_ai.content.prompt", "attributes": [score]}]}
    for span in (feedback, event):
        assert "'feedback' (bbbbbbbbbbbbbbbb) holds feedback" in str(read_groups((None, [span])).refused)


@pytest.mark.parametrize("value", [{"doubleValue": 10**400}, {"intValue": 10**400}, {"intValue": "1" * 400}])
def test_a_number_that_is_too_large_refuses_its_span_or_those_of_its_resource(value: dict) -> None:
    decoded = read_groups((None, [GOOD | make_attributes(x=value), GOOD]), (make_attributes(x=value), [GOOD, GOOD]), (None, [GOOD]))
    assert (len(decoded.spans), decoded.refused.count) == (2, 3)
    assert str(decoded.refused).count("the span 'good' (bbbbbbbbbbbbbbbb)") == 3


@pytest.mark.parametrize("resource", [3, [], {"attributes": 3}, {"attributes": [3]}, make_attributes(x={"boolValue": "false"})])
def test_a_fault_in_a_resource_refuses_only_its_spans(resource: object) -> None:
    decoded = read_groups((resource, [GOOD]), (None, [GOOD]))
    assert (len(decoded.spans), decoded.refused.count) == (1, 1)
    assert "the span 'good' (bbbbbbbbbbbbbbbb): in its resource" in str(decoded.refused)


def test_a_fault_in_a_resource_in_protobuf_refuses_only_its_spans() -> None:
    request = ExportTraceServiceRequest()
    for depth in (40, 1):
        group = request.resource_spans.add()
        value = group.resource.attributes.add(key="deep").value
        for _ in range(depth):
            value = value.array_value.values.add()
        group.scope_spans.add().spans.add(name=f"depth {depth}", trace_id=b"a" * 16, span_id=b"b" * 8)
    decoded = read_protobuf_spans(request.SerializeToString())
    assert [span.name for span in decoded.spans] == ["depth 1"]
    assert "the span 'depth 40' (6262626262626262): in its resource" in str(decoded.refused)


@pytest.mark.parametrize("depth", [33, 500, 900, 50_000])
def test_an_event_with_deep_json_stays_text(depth: int) -> None:
    text = '{"content": ' * depth + "1" + "}" * depth
    event = {"name": "gen_ai.user.message", "attributes": [{"key": "gen_ai.event.content", "value": {"stringValue": text}}]}
    decoded = read_groups((None, [GOOD | {"events": [event]}, GOOD]))
    assert json.loads(str(decoded.spans[0].attributes["gen_ai.input.messages"])) == [{"role": "user", "content": text}]
    assert len(decoded.spans) == 2


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ({"boolValue": False}, False),
        ({"intValue": "-7"}, -7),
        ({"intValue": str(2**63 - 1)}, 2**63 - 1),
        ({"intValue": 1e3}, 1000),
        ({"intValue": "1e3"}, 1000),
        ({"doubleValue": "1.5e3"}, 1500.0),
        ({"doubleValue": 2}, 2.0),
        ({"doubleValue": "-Infinity"}, "-Infinity"),
        ({"bytesValue": "-_8"}, "+/8="),
        ({"bytesValue": "+/8="}, "+/8="),
        ({"stringValue": None}, None),
        ({"stringValue": None, "intValue": 1}, 1),
        (None, None),
    ],
)
def test_values_are_read_as_json_of_protobuf_allows(value: object, stored: object) -> None:
    read = read_value(value)
    assert (read, type(read)) == (stored, type(stored))


@pytest.mark.parametrize(
    "value",
    [
        {"boolValue": "false"},
        {"boolValue": 0},
        {"stringValue": 0},
        {"stringValue": []},
        {"intValue": " 1_0 "},
        {"intValue": "1_0"},
        {"intValue": 1.5},
        {"intValue": "١"},
        {"intValue": True},
        {"doubleValue": "1_0"},
        {"doubleValue": ""},
        {"doubleValue": False},
        {"bytesValue": "a!b"},
        {"bytesValue": 7},
        {"arrayValue": []},
        {"kvlistValue": "x"},
        0,
        [],
    ],
)
def test_a_value_of_another_type_refuses_its_span(value: object) -> None:
    assert "the span 'good' (bbbbbbbbbbbbbbbb)" in str(read_value(value))


@pytest.mark.parametrize("fields", [{"status": 0}, {"name": 0}, {"attributes": False}, {"events": 0}, {"startTimeUnixNano": "1_0"}])
def test_a_field_that_is_empty_in_another_type_refuses_its_span(fields: dict) -> None:
    assert read_groups((None, [GOOD | fields])).refused.count == 1


def wrap(*fields: tuple[int, bytes]) -> bytes:
    return b"".join(bytes([number << 3 | 2]) + write_size(len(body)) + body for number, body in fields)


def write_size(size: int) -> bytes:
    return bytes([size & 127]) if size < 128 else bytes([size & 127 | 128]) + write_size(size >> 7)


@pytest.mark.parametrize(
    "body",
    [
        wrap((1, wrap((2, wrap((2, b"")) * (MAX_SPANS + 1))))),
        wrap((1, b"\xa3\x06\xa4\x06" + wrap((2, wrap((2, b"")) * (MAX_SPANS + 1))))),  # after an unknown group
        wrap((1, wrap((2, wrap((2, b"")) * (MAX_SPANS + 1))))) + b"\xff",  # before a torn field
        wrap((1, wrap((2, wrap((2, wrap((11, b"")) * 50_001)))))),
    ],
    ids=["spans", "group", "torn", "events"],
)
def test_a_body_of_many_tiny_parts_is_refused_before_they_are_decoded(body: bytes, monkeypatch) -> None:
    monkeypatch.setattr(otlp_protobuf, "MAX_PARTS", 50_000)
    tracemalloc.start()
    with pytest.raises(TooManySpansError):
        read_protobuf_spans(body)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_as_many_spans_as_the_maximum_are_refused_one_by_one_in_little_memory() -> None:
    tracemalloc.start()
    decoded = read_protobuf_spans(wrap((1, wrap((2, wrap((2, b"")) * MAX_SPANS)))))
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
    assert (decoded.refused.count, len(decoded.refused.reasons)) == (MAX_SPANS, 3)
