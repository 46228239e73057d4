"""Traces as a table: each logged span once, on the day of its trace, with what users said about the answer."""

from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.llm.traces_step import traces_node
from mlops_assets.orchestrate.tables.automation import find_stale
from mlops_assets.serving.logs.trace_days import TraceDays
from mlops_assets.serving.logs.trace_log import TraceLog
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.values.asset_names import build_graph_key
from mlops_assets.values.llm.span import FEEDBACK, SECOND, Span, make_span_id, make_trace_id
from tests.conftest import metadata, records

SOURCE = ml.llm.TraceSource("bot", start="2024-05-01")
NOON = int(datetime(2024, 5, 1, 12, tzinfo=UTC).timestamp()) * SECOND
DAY = 86_400 * SECOND


def make_span(start: int = NOON, trace_id: str = "", parent_id: str | None = None, name: str = "chat", **attributes) -> Span:
    facts = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "tiny", **attributes}
    return Span(trace_id or make_trace_id(start), make_span_id(), parent_id, name, start, start + SECOND, "ok", "", facts)


def folder(platform) -> Path:
    return Path(platform.home) / "services/bot/traces"


def write(platform, *spans: Span) -> None:
    log = TraceLog(folder(platform))
    log.write(spans)
    log.close()


def read(platform) -> pl.DataFrame:
    return open_stores(platform).lake.read(SOURCE.key)


def list_stale(platform) -> list[str]:
    return list(find_stale(traces_node(SOURCE, platform), platform))


@pytest.fixture
def materialise(platform, run):
    return run(ml.build_definitions([SOURCE], platform=platform))


def test_the_label_of_traces_says_what_they_are() -> None:
    assert build_graph_key(SOURCE.key) == "traces/bot_traces"
    assert build_graph_key("traces/bot_traces") == "traces/bot_traces"


def test_logged_spans_are_rows_of_the_day_of_their_trace(platform, materialise) -> None:
    root = make_span(NOON + DAY // 2 - 1)
    child = make_span(NOON + DAY // 2 + 1, root.trace_id, root.span_id)
    write(platform, root, child, make_span(NOON + 2 * DAY))
    assert list_stale(platform) == ["2024-05-01", "2024-05-03"]
    result = materialise(partitions="2024-05-01")
    assert list_stale(platform) == ["2024-05-03"]
    assert read(platform).select("span_id", "model").rows() == [(root.span_id, "tiny"), (child.span_id, "tiny")]
    facts = metadata(result, SOURCE.key)
    assert (facts["traces"], facts["errors"], facts["feedback"]) == (1, 0, 0)
    described = {column.name: column.description for column in facts["dagster/column_schema"].columns}
    assert described["cost"] == "Cost in US dollars; null when it is unknown."
    materialise(partitions="2024-05-03")
    assert list_stale(platform) == []


def test_a_failed_trace_that_another_application_called_is_an_error(platform, materialise) -> None:
    called = replace(make_span(parent_id=make_span_id()), status="error", error="Timeout")
    write(platform, called, replace(make_span(trace_id=called.trace_id, parent_id=called.span_id), status="error", error="Timeout"))
    facts = metadata(materialise(partitions="2024-05-01"), SOURCE.key)
    assert (facts["traces"], facts["errors"]) == (1, 1)


def test_figures_of_traces_count_each_call_of_a_model_once(platform, materialise) -> None:
    usage = {"gen_ai.usage.input_tokens": 7, "gen_ai.usage.output_tokens": 3}
    root = make_span(name="question", **{"gen_ai.operation.name": "invoke_agent"})
    framework = make_span(NOON + 1000, root.trace_id, root.span_id, **usage)
    client = make_span(NOON + 2000, root.trace_id, framework.span_id, **usage)
    write(platform, root, framework, client)
    table = metadata(materialise(partitions="2024-05-01"), SOURCE.key)["models"]
    assert [cell.strip() for cell in table.splitlines()[-1].strip("|").split("|")][:5] == ["tiny", "1", "0", "7", "3"]


def test_figures_of_traces_count_the_requests_whose_cost_is_unknown(platform, materialise) -> None:
    priced, unpriced = make_span(**{"mlops.cost": 0.25}), make_span()
    failed = [replace(make_span(**{"mlops.may_be_billed": count}), status="error", error="timeout") for count in (0, 2)]
    write(platform, priced, unpriced, *failed, replace(make_span(), status="error", error="timeout"))
    facts = metadata(materialise(partitions="2024-05-01"), SOURCE.key)
    assert (facts["known cost"], facts["requests of unknown cost"]) == (0.25, 3)
    assert read(platform)["may_be_billed"].drop_nulls().sort().to_list() == [0, 2]


def test_an_unchanged_log_changes_nothing(platform, materialise) -> None:
    write(platform, make_span())
    materialise(partitions="2024-05-01")
    before = records(platform, SOURCE.key)
    materialise(partitions="2024-05-01")
    assert records(platform, SOURCE.key) == before


def test_later_feedback_makes_the_day_of_its_trace_due(platform, materialise) -> None:
    root = make_span()
    write(platform, root)
    materialise(partitions="2024-05-01")
    write(
        platform,
        make_span(NOON + 3 * DAY, root.trace_id, root.span_id, FEEDBACK, **{"mlops.feedback": 0.0, "mlops.feedback.comment": "late"}),
    )
    assert list_stale(platform) == ["2024-05-01"]
    materialise(partitions="2024-05-01")
    assert read(platform).select("span_id", "feedback", "feedback_comment").rows() == [(root.span_id, 0.0, "late")]


def test_rows_stay_when_their_log_is_gone_and_a_damaged_line_only_warns(platform, materialise) -> None:
    write(platform, make_span())
    materialise(partitions="2024-05-01")
    path = next(folder(platform).glob("*/*.jsonl"))
    path.write_bytes(b"{damaged\n")
    write(platform, make_span())
    result = materialise(partitions="2024-05-01")
    assert read(platform).height == 2
    checks = {found.check_name: found for found in result.get_asset_check_evaluations()}
    assert (checks["log_readable"].passed, checks["key"].passed) == (False, True)
    assert metadata(result, SOURCE.key)["rows that the log lacks"] == 1


def test_today_is_a_partition(platform, materialise) -> None:
    now = datetime.now(UTC)
    write(platform, make_span(int(now.timestamp()) * SECOND))
    assert list_stale(platform) == [now.date().isoformat()]


def test_a_range_of_days_is_one_run(platform, materialise) -> None:
    write(platform, *(make_span(NOON + n * DAY) for n in range(3)))

    materialise(partitions="2024-05-01...2024-05-03")
    assert read(platform).height == 3


def test_a_start_that_is_no_day_is_refused() -> None:
    with pytest.raises(DefinitionError, match="start='yesterday'"):
        ml.llm.TraceSource("bot", start="yesterday")


def test_a_received_trace_is_whole_on_the_day_of_the_spans_that_came_first(platform, materialise) -> None:
    midnight = NOON + DAY // 2
    child = make_span(midnight + 1000)
    root = make_span(midnight - 1000, child.trace_id, name="question")
    for spans in ([child], [root], [root, child]):  # the sender repeats what it got no reply for
        days, log = TraceDays(folder(platform), date(2024, 5, 2)), TraceLog(folder(platform))
        log.write(spans, days.choose_days(spans))
        log.close()
    assert list_stale(platform) == ["2024-05-02"]
    result = materialise(partitions="2024-05-01...2024-05-02")
    assert all(found.passed for found in result.get_asset_check_evaluations())
    rows = read(platform).sort("started_at")
    assert rows["span_id"].to_list() == [root.span_id, child.span_id]
    assert rows["trace_started_at"].unique().to_list() == [datetime(2024, 5, 2, tzinfo=UTC)]
    assert rows["started_at"][0] == datetime(2024, 5, 1, 23, 59, 59, 999_999, tzinfo=UTC)
