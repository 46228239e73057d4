"""Spans of a trace go to one day, in whatever order they arrive, also after a restart of the receiver."""

import tracemalloc
from dataclasses import replace
from datetime import UTC, date, datetime

import pytest

from mlops_assets.serving.logs import trace_days
from mlops_assets.serving.logs.trace_days import TraceDays
from mlops_assets.serving.logs.trace_log import TraceLog, read_traces
from mlops_assets.values.llm.span import SECOND, Span, make_span_id

MIDNIGHT = int(datetime(2024, 5, 2, tzinfo=UTC).timestamp()) * SECOND
BEFORE, AFTER = date(2024, 5, 1), date(2024, 5, 2)
TRACE = "0af7651916cd43dd8448eb211c80319c"


def make_span(start: int, trace_id: str = TRACE) -> Span:
    return Span(trace_id, make_span_id(), None, "step", start, start, "ok")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "traces"


def store(folder, *batches: list[Span], restart: bool = False) -> dict[date, list[Span]]:
    days = TraceDays(folder, AFTER)
    for spans in batches:
        log = TraceLog(folder)
        log.write(spans, days.choose_days(spans))
        log.close()
        if restart:
            days = TraceDays(folder, AFTER)
    return {day: spans for day, spans in read_traces(folder, BEFORE, AFTER).items() if spans}


@pytest.mark.parametrize("restart", [False, True])
def test_a_root_from_before_midnight_follows_its_children(folder, restart) -> None:
    child, root = make_span(MIDNIGHT + 1), make_span(MIDNIGHT - 1)
    assert store(folder, [child], [root], restart=restart) == {AFTER: [child, root]}


@pytest.mark.parametrize("restart", [False, True])
def test_later_spans_follow_the_first_ones(folder, restart) -> None:
    first, last = make_span(MIDNIGHT - 1), make_span(MIDNIGHT + 1)
    assert store(folder, [first], [last], restart=restart) == {BEFORE: [first, last]}


def test_other_traces_have_days_of_their_own(folder) -> None:
    one, other = make_span(MIDNIGHT - 1), make_span(MIDNIGHT + 1, "1" * 32)
    assert store(folder, [one, other]) == {BEFORE: [one], AFTER: [other]}


def test_a_span_that_is_sent_twice_is_read_once(folder) -> None:
    child, root = make_span(MIDNIGHT + 1), make_span(MIDNIGHT - 1)
    assert store(folder, [child], [child, root], [root], restart=True) == {AFTER: [child, root]}


def test_a_damaged_line_of_the_log_does_not_stop_the_receiver(folder) -> None:
    (folder / AFTER.isoformat()).mkdir(parents=True)
    (folder / AFTER.isoformat() / "1.jsonl").write_bytes(b"{damaged\n\xff\n")
    assert TraceDays(folder, AFTER).choose_days([make_span(MIDNIGHT)]) == {TRACE: MIDNIGHT // SECOND // 86_400}


def test_a_restart_remembers_the_newest_traces_of_a_large_log_in_little_memory(folder, monkeypatch) -> None:
    monkeypatch.setattr(trace_days, "MAX_TRACES", 2)
    for number in range(3):
        log = TraceLog(folder)
        span = replace(make_span(MIDNIGHT + number, f"{number:032x}"), attributes={"mlops.output": "x" * 100_000})
        for _ in range(60):
            log.write([span])
        log.close()
    tracemalloc.start()
    days = TraceDays(folder, AFTER)
    spans = read_traces(folder, BEFORE, AFTER)[AFTER]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000 < sum(path.stat().st_size for path in folder.glob("*/*.jsonl"))
    assert len(spans) == 3
    later = 3 * 86_400 * SECOND
    chosen = [days.choose_days([make_span(MIDNIGHT + later, f"{number:032x}")])[f"{number:032x}"] for number in (1, 2, 0)]
    assert chosen == [MIDNIGHT // SECOND // 86_400] * 2 + [(MIDNIGHT + later) // SECOND // 86_400]


def test_the_oldest_traces_are_forgotten(folder, monkeypatch) -> None:
    monkeypatch.setattr(trace_days, "MAX_TRACES", 1)
    days = TraceDays(folder, AFTER)
    first = days.choose_days([make_span(MIDNIGHT - 1)])[TRACE]
    days.choose_days([make_span(MIDNIGHT, "1" * 32)])
    assert days.choose_days([make_span(MIDNIGHT)])[TRACE] == first + 1
