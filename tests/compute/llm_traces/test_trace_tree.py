"""A trace is a tree of its spans, whatever order they were written in, with totals that never hide an unknown value."""

from datetime import UTC, date, datetime

import polars as pl
import pytest

from mlops_assets.compute.llm_traces.trace_rows import build_trace_rows
from mlops_assets.compute.llm_traces.trace_tree import build_traces, select_answers, select_calls, select_roots
from mlops_assets.values.llm.span import SECOND, Span

NOON = int(datetime(2024, 5, 1, 12, tzinfo=UTC).timestamp()) * SECOND
TRACE = "0af7651916cd43dd8448eb211c80319c"
CALL = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "tiny"}


def span(number: int, parent: int | None, start: float = 0.0, seconds: float = 1.0, trace_id: str = TRACE, **attributes) -> Span:
    begin = NOON + int(start * SECOND)
    parent_id = None if parent is None else f"{parent:016x}"
    return Span(trace_id, f"{number:016x}", parent_id, f"step {number}", begin, begin + int(seconds * SECOND), "ok", "", attributes)


def build(*spans: Span) -> list:
    return build_traces(build_trace_rows({date(2024, 5, 1): spans}).frame)


def test_each_span_is_followed_by_the_steps_that_it_calls() -> None:
    (trace,) = build(span(4, 1, 2.0), span(3, 2, 0.5), span(2, 1, 0.25, 0.5), span(1, None, 0.0, 3.5))
    assert [(step.row["name"], step.depth, step.offset) for step in trace.steps] == [
        ("step 1", 0, 0.0),
        ("step 2", 1, 0.25),
        ("step 3", 2, 0.5),
        ("step 4", 1, 2.0),
    ]
    assert (trace.root["name"], trace.seconds) == ("step 1", 3.5)


def test_a_span_without_its_parent_is_a_root_and_a_circle_of_spans_ends() -> None:
    (orphan,) = build(span(2, 9), span(3, 2, 0.5))
    assert [(step.row["name"], step.depth) for step in orphan.steps] == [("step 2", 0), ("step 3", 1)]
    (circle,) = build(span(1, 2), span(2, 1), span(3, None, 1.0))
    assert sorted(step.row["name"] for step in circle.steps) == ["step 1", "step 2", "step 3"]
    assert circle.root["name"] == "step 3"
    (pure,) = build(span(1, 2), span(2, 1))
    assert len(pure.steps) == 2


def test_figures_and_trees_know_the_same_root_of_a_trace() -> None:
    other = "1" * 32
    frame = build_trace_rows(
        {
            date(2024, 5, 1): [
                *(span(2, 1, 0.5), span(1, 9), span(3, 8, -1.0)),  # two spans that another application called
                *(span(1, 2, trace_id=other), span(2, 1, 0.5, trace_id=other)),
                *(span(4, 7, trace_id="2" * 32), span(1, None, 1.0, trace_id="2" * 32)),  # the parent of the first is lost
            ]
        }
    ).frame
    roots = {row["trace_id"]: row["span_id"] for row in select_roots(frame).to_dicts()}
    assert roots == {trace.trace_id: trace.root["span_id"] for trace in build_traces(frame)}
    assert roots[TRACE] == f"{3:016x}"


def test_a_trace_that_is_filed_on_the_next_day_starts_when_its_first_span_does() -> None:
    spans = [span(1, None), span(2, 1, 0.5, **{"mlops.input": "late?"})]
    (trace,) = build_traces(build_trace_rows({date(2024, 5, 2): spans}).frame)
    assert trace.started_at == datetime(2024, 5, 1, 12, tzinfo=UTC)
    assert [step.offset for step in trace.steps] == [0.0, 0.5]
    assert trace.input == "late?"


def test_a_deep_trace_needs_no_recursion() -> None:
    (trace,) = build(*(span(number, number - 1 or None, number / 1000) for number in range(1, 3000)))
    assert trace.steps[-1].depth == 2998


def test_traces_are_newest_first() -> None:
    traces = build(span(1, None), span(1, None, 5.0, trace_id="1" * 32), span(1, None, 2.0, trace_id="2" * 32))
    assert [trace.trace_id[0] for trace in traces] == ["1", "2", "0"]


@pytest.mark.parametrize(
    ("costs", "total"),
    [([0.25, 0.5], 0.75), ([0.25, None], None), ([], None), ([0.0], 0.0)],
)
def test_a_total_is_unknown_when_one_of_its_calls_is(costs, total) -> None:
    calls = [span(number, 1, **CALL, **({} if cost is None else {"mlops.cost": cost})) for number, cost in enumerate(costs, 2)]
    (trace,) = build(span(1, None), *calls)
    assert trace.sum_calls("cost") == total


def test_an_agent_that_repeats_the_usage_of_its_calls_counts_once() -> None:
    usage = {"gen_ai.usage.input_tokens": 12}
    (trace,) = build(span(1, None, **(CALL | {"gen_ai.operation.name": "invoke_agent"}), **usage), span(2, 1, **CALL, **usage))
    assert trace.sum_calls("input_tokens") == 12
    assert trace.models == ["tiny"]


OPENINFERENCE = {"openinference.span.kind": "LLM", "llm.model_name": "tiny", "llm.token_count.prompt": 7, "llm.token_count.completion": 3}
OPENLLMETRY = {
    "llm.request.type": "completion",
    "gen_ai.request.model": "tiny",
    "gen_ai.usage.prompt_tokens": 7,
    "gen_ai.usage.completion_tokens": 3,
}


@pytest.mark.parametrize("call", [OPENINFERENCE, OPENLLMETRY])
def test_a_trace_of_each_convention_has_models_tokens_and_cost(call) -> None:
    (trace,) = build(span(1, None, **{"openinference.span.kind": "CHAIN"}), span(2, 1, **call, **{"llm.cost.total": 0.5}))
    assert trace.models == ["tiny"]
    assert [trace.sum_calls(name) for name in ("input_tokens", "output_tokens", "cost")] == [7, 3, 0.5]


def test_embeddings_have_no_output_tokens_in_a_total() -> None:
    embedding = {"openinference.span.kind": "EMBEDDING", "embedding.model_name": "small", "llm.token_count.prompt": 5}
    (trace,) = build(span(1, None), span(2, 1, **embedding), span(3, 1, 0.5, **OPENINFERENCE))
    assert trace.models == ["small", "tiny"]
    assert [trace.sum_calls(name) for name in ("input_tokens", "output_tokens")] == [12, 3]


def test_a_call_that_another_call_makes_counts_once() -> None:
    spans = [
        span(1, None, **{"openinference.span.kind": "AGENT"}),
        *(span(2, 1, 0.1, **OPENINFERENCE), span(3, 2, 0.2), span(4, 3, 0.3, **OPENLLMETRY)),  # a framework, and the client below it
        *(span(5, 1, 1.2, **OPENINFERENCE), span(6, 1, 2.3, **{"openinference.span.kind": "TOOL"})),
    ]
    frame = build_trace_rows({date(2024, 5, 1): spans}).frame
    (trace,) = build_traces(frame)
    assert [trace.sum_calls(name) for name in ("input_tokens", "output_tokens")] == [14, 6]
    assert select_calls(frame)["span_id"].to_list() == [row["span_id"] for row in trace.calls] == [f"{2:016x}", f"{5:016x}"]


TOOLS = [{"gen_ai.operation.name": "execute_tool"}, {"gen_ai.operation.name": "invoke_agent"}, {"openinference.span.kind": "TOOL"}]


@pytest.mark.parametrize("tool", [*TOOLS, {"traceloop.span.kind": "agent"}, {"openinference.span.kind": "RETRIEVER"}])
def test_the_calls_of_a_tool_that_a_call_runs_count_too(tool) -> None:
    costs = [CALL | {"mlops.cost": cost} for cost in (0.25, 4.0, 8.0, 16.0, 0.5)]
    spans = [
        *(span(1, None, 0.0, 9.0, **costs[0]), span(2, 1, 1.0, 5.0, **tool), span(3, 2, 1.1, 3.0)),
        *(span(4, 3, 1.2, 2.0, **costs[1]), span(5, 4, 1.3, **costs[2])),  # the client below the framework
        span(6, 1, 7.0, **costs[3]),  # the client of the first call
        span(7, None, 10.0, **costs[4]),
    ]
    frame = build_trace_rows({date(2024, 5, 1): spans}).frame
    (trace,) = build_traces(frame)
    assert trace.sum_calls("cost") == 0.25 + 4.0 + 0.5
    assert select_calls(frame)["cost"].to_list() == [0.25, 4.0, 0.5]
    assert select_answers(frame, "")["cost"].to_list() == [0.25 + 4.0 + 0.5]


def test_an_answer_is_the_first_span_of_its_prompt_with_the_cost_of_the_calls_below_it() -> None:
    ours, theirs = {"mlops.prompt.name": "ours"}, {"mlops.prompt.name": "theirs"}
    frame = build_trace_rows(
        {
            date(2024, 5, 1): [
                span(1, None, 0.0, 9.0),
                *(span(2, 1, 1.0, **ours), span(3, 2, 1.1), span(4, 3, 1.2, **CALL, **ours, **{"mlops.cost": 1.0})),
                span(5, 2, 1.5, **CALL, **ours, **{"mlops.cost": 2.0}),
                *(span(6, 1, 3.0, **CALL, **ours, **{"mlops.cost": 4.0}), span(7, 1, 4.0, **CALL, **theirs, **{"mlops.cost": 8.0})),
                *(span(8, 1, 5.0, **ours), span(9, 8, 5.1, **CALL, **ours)),  # a cost that is unknown
            ]
        }
    ).frame
    assert select_answers(frame, "ours").select("name", "cost").rows() == [("step 2", 3.0), ("step 6", 4.0), ("step 8", None)]
    assert select_answers(frame, "theirs").select("name", "cost").rows() == [("step 7", 8.0)]
    assert select_answers(frame, "").select("name", "cost").rows() == [("step 1", None)]
    assert select_answers(frame.filter(pl.col("name") < "step 8"), "").select("name", "cost").rows() == [("step 1", 15.0)]
    assert select_answers(frame.clear(), "ours").is_empty()
