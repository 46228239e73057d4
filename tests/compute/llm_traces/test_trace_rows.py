"""A trace is rows with its measures in columns, whatever its attributes hold."""

import json
from datetime import UTC, date, datetime

import pytest

from mlops_assets.compute.llm_traces.trace_rows import TRACE_COLUMNS, build_trace_rows
from mlops_assets.values.llm.span import FEEDBACK, SECOND, Span

DAY = date(2024, 5, 1)
START = int(datetime(2024, 5, 1, 12, tzinfo=UTC).timestamp()) * SECOND
TRACE = "0" * 32


def make_span(number: int = 0, parent: int | None = None, trace_id: str = TRACE, **more) -> Span:
    start = START + number * SECOND
    fields = {"name": "chat", "start": start, "end": start + SECOND, "status": "ok", **more}
    return Span(trace_id, f"{number:016x}", None if parent is None else f"{parent:016x}", **fields)


def give_feedback(number: int, score: float, comment: str | None = None, trace_id: str = TRACE) -> Span:
    return make_span(
        number, 0, trace_id, name=FEEDBACK, attributes={"mlops.feedback": score, **({"mlops.feedback.comment": comment} if comment else {})}
    )


def read_row(**attributes: object) -> dict:
    (row,) = build_trace_rows(
        {DAY: [make_span(attributes={name.replace("__", "."): value for name, value in attributes.items()})]}
    ).frame.to_dicts()
    return row


def test_measures_are_columns_and_the_others_are_json() -> None:
    row = read_row(
        gen_ai__operation__name="chat",
        gen_ai__request__model="asked",
        gen_ai__response__model="tiny",
        gen_ai__usage__input_tokens=7,
        gen_ai__usage__output_tokens=3,
        gen_ai__response__finish_reasons="stop",
        mlops__prompt__version=2,
        mlops__cost=0.25,
        mlops__cached=False,
        mlops__output="yes",
    )
    assert list(row) == list(TRACE_COLUMNS)
    assert (row["model"], row["operation"], row["input_tokens"], row["output_tokens"]) == ("tiny", "chat", 7, 3)
    assert (row["prompt_version"], row["cost"], row["cached"], row["output"], row["seconds"]) == (2, 0.25, False, "yes", 1.0)
    assert row["started_at"] == row["trace_started_at"] == datetime(2024, 5, 1, 12, tzinfo=UTC)
    assert json.loads(row["attributes"]) == {"gen_ai.request.model": "asked", "gen_ai.response.finish_reasons": "stop"}
    assert row["error"] is row["feedback"] is None


def test_a_value_that_does_not_fit_stays_an_attribute() -> None:
    row = read_row(
        gen_ai__usage__input_tokens="seven",
        gen_ai__usage__output_tokens=2**64,
        mlops__cost=float("inf"),
        mlops__cached=1,
        mlops__prompt__version=True,
    )
    assert [row[name] for name in ("input_tokens", "output_tokens", "cost", "cached", "prompt_version")] == [None] * 5
    assert json.loads(row["attributes"])["gen_ai.usage.input_tokens"] == "seven"


def test_text_with_a_nul_can_be_stored() -> None:
    assert read_row(mlops__output="a\0b")["output"] == "a\ufffdb"


def test_the_last_feedback_is_in_the_row_of_the_root() -> None:
    spans = [make_span(1, 0), give_feedback(9, 0.0, "wrong"), give_feedback(8, 1.0), make_span(0)]
    rows = build_trace_rows({DAY: spans})
    assert rows.frame.select("span_id", "feedback", "feedback_comment").rows() == [(f"{0:016x}", 0.0, "wrong"), (f"{1:016x}", None, None)]
    assert rows.lost_feedback == 0


def test_feedback_to_a_trace_whose_root_was_called_from_outside_finds_the_root() -> None:
    rows = build_trace_rows({DAY: [make_span(1, 77), make_span(2, 1), give_feedback(9, 0.5)]}).frame
    assert rows["feedback"].to_list() == [0.5, None]


def test_feedback_without_its_trace_is_counted() -> None:
    rows = build_trace_rows({DAY: [give_feedback(1, 1.0)]})
    assert (rows.frame.height, rows.lost_feedback, rows.frame.columns) == (0, 1, list(TRACE_COLUMNS))


def test_a_trace_has_one_start_on_each_day_of_the_log() -> None:
    other = date(2024, 5, 2)
    later = START + 86_400 * SECOND
    rows = build_trace_rows({DAY: [make_span(3), make_span(2)], other: [make_span(4, start=later, end=later)]}).frame
    assert rows["trace_started_at"].dt.second().to_list() == [2, 2, 0]
    assert rows["started_at"].dt.second().to_list() == [2, 3, 0]


MESSAGES = '[{"role": "user", "content": "Is JFK late?"}]'


@pytest.mark.parametrize(
    "attributes",
    [
        {
            "gen_ai.usage.input_tokens": 7,
            "gen_ai.usage.output_tokens": 3.0,
            "gen_ai.request.model": "tiny",
            "gen_ai.operation.name": "chat",
        },
        {"gen_ai.usage.prompt_tokens": 7, "gen_ai.usage.completion_tokens": 3, "gen_ai.response.model": "tiny", "llm.request.type": "chat"},
        {"llm.usage.prompt_tokens": 7, "llm.usage.completion_tokens": 3, "llm.request.model": "tiny", "gen_ai.operation.name": "chat"},
        {"llm.token_count.prompt": 7, "llm.token_count.completion": 3, "llm.model_name": "tiny", "openinference.span.kind": "LLM"},
    ],
)
def test_tokens_and_model_have_columns_by_the_names_of_several_conventions(attributes) -> None:
    (row,) = build_trace_rows({DAY: [make_span(attributes=attributes)]}).frame.to_dicts()
    assert (row["input_tokens"], row["output_tokens"], row["model"], row["operation"]) == (7, 3, "tiny", "chat")
    assert row["attributes"] is None


@pytest.mark.parametrize(
    "attributes",
    [
        {"gen_ai.input.messages": MESSAGES, "gen_ai.output.messages": '[{"role": "assistant", "parts": [{"type": "text", "content": "Yes."}]}]'},
        {"gen_ai.input.messages": MESSAGES, "gen_ai.output.messages": '[{"index": 0, "message": {"role": "assistant", "content": "Yes."}}]'},
        {"gen_ai.prompt.0.role": "user", "gen_ai.prompt.0.content": "Is JFK late?", "gen_ai.completion.0.content": "Yes.", "gen_ai.completion.0.role": "a"},
        {
            "llm.input_messages.0.message.role": "user",
            "llm.input_messages.0.message.content": "Is JFK late?",
            "llm.output_messages.0.message.role": "assistant",
            "llm.output_messages.0.message.content": "Yes.",
        },
        {"gen_ai.prompt": MESSAGES, "gen_ai.completion": "Yes."},
        {"input.value": MESSAGES, "output.value": "Yes."},
        {"traceloop.entity.input": MESSAGES, "traceloop.entity.output": "Yes."},
    ],
)  # fmt: skip
def test_input_and_output_have_columns_by_the_names_of_several_conventions(attributes) -> None:
    (row,) = build_trace_rows({DAY: [make_span(attributes=attributes)]}).frame.to_dicts()
    assert (json.loads(row["input"]), row["output"]) == (json.loads(MESSAGES), "Yes.")
    assert row["attributes"] is None


@pytest.mark.parametrize(
    "output",
    ['[{"role": "assistant", "parts": [{"type": "tool_call", "name": "find"}]}]', '[{"content": "a"}, {"content": "b"}]', '{"a": 1', "[1]"],
)
def test_an_output_that_is_not_one_text_stays_as_it_is(output) -> None:
    (row,) = build_trace_rows({DAY: [make_span(attributes={"gen_ai.output.messages": output})]}).frame.to_dicts()
    assert row["output"] == output


def test_operations_have_the_names_of_one_convention() -> None:
    for attributes, operation in [
        ({"llm.request.type": "completion"}, "text_completion"),
        ({"llm.request.type": "embedding"}, "embeddings"),
        ({"llm.request.type": "unknown", "traceloop.span.kind": "workflow"}, None),
        ({"traceloop.span.kind": "tool"}, "execute_tool"),
        ({"openinference.span.kind": "EMBEDDING"}, "embeddings"),
        ({"openinference.span.kind": "TOOL"}, "execute_tool"),
        ({"gen_ai.operation.name": "chat", "openinference.span.kind": "CHAIN"}, "chat"),
        ({"openinference.span.kind": "CHAIN"}, None),
    ]:
        (row,) = build_trace_rows({DAY: [make_span(attributes=attributes)]}).frame.to_dicts()
        assert row["operation"] == operation
    assert json.loads(row["attributes"]) == {"openinference.span.kind": "CHAIN"}


def test_a_useless_value_of_one_convention_hides_none_of_another() -> None:
    (row,) = build_trace_rows(
        {
            DAY: [
                make_span(
                    attributes={
                        "gen_ai.usage.input_tokens": "unknown",
                        "gen_ai.usage.prompt_tokens": "12",
                        "gen_ai.response.model": "",
                        "gen_ai.request.model": "tiny",
                        "mlops.cost": "0.25",
                        "mlops.output": "",
                        "gen_ai.completion": "Yes.",
                    }
                )
            ]
        }
    ).frame.to_dicts()
    assert (row["input_tokens"], row["model"], row["cost"], row["output"]) == (12, "tiny", 0.25, "Yes.")
    rest = {"gen_ai.usage.input_tokens": "unknown", "gen_ai.response.model": "", "mlops.output": ""}
    assert json.loads(row["attributes"]) == rest


def test_an_answer_may_be_empty() -> None:
    (row,) = build_trace_rows({DAY: [make_span(attributes={"mlops.output": ""})]}).frame.to_dicts()
    assert (row["output"], row["attributes"]) == ("", None)


def test_a_step_of_an_application_that_is_named_feedback_is_a_row() -> None:
    rows = build_trace_rows({DAY: [make_span(name=FEEDBACK)]})
    assert (rows.frame["name"].to_list(), rows.lost_feedback) == ([FEEDBACK], 0)


def test_a_trace_that_was_logged_for_another_day_counts_at_the_edge_of_that_day() -> None:
    day_before, day_after = date(2024, 4, 30), date(2024, 5, 2)
    for day, expected in [
        (day_before, datetime(2024, 4, 30, 23, 59, 59, 999_999, UTC)),
        (DAY, datetime(2024, 5, 1, 12, tzinfo=UTC)),
        (day_after, datetime(2024, 5, 2, tzinfo=UTC)),
    ]:
        (row,) = build_trace_rows({day: [make_span()]}).frame.to_dicts()
        assert (row["trace_started_at"], row["started_at"]) == (expected, datetime(2024, 5, 1, 12, tzinfo=UTC))
