"""A trace is rows with its measures in columns, whatever its attributes hold."""

import json
from datetime import UTC, date, datetime

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
        gen_ai__usage__input_tokens="7",
        gen_ai__usage__output_tokens=2**64,
        mlops__cost=float("inf"),
        mlops__cached=1,
        mlops__prompt__version=True,
    )
    assert [row[name] for name in ("input_tokens", "output_tokens", "cost", "cached", "prompt_version")] == [None] * 5
    assert json.loads(row["attributes"])["gen_ai.usage.input_tokens"] == "7"


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
