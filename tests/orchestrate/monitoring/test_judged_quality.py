"""Judges of traced answers: a sample by trace ids, failures that are no scores, and a rollback by calibrated judges only."""

from datetime import date
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.core.graph import compute_fingerprints
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.monitoring.quality_reports import quality_node
from mlops_assets.serving.logs.trace_log import TraceLog
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.values.llm.span import SECOND, Span, make_span_id, make_trace_id
from tests.conftest import metadata
from tests.orchestrate.llm.judged import VERDICTS
from tests.orchestrate.monitoring.test_quality_reports import BAD, FACTS, GOOD, NOON, SOURCE, cases, clock, delay_answer, registry, write
from tests.serving.llm.scripted_server import Exchange, ScriptedServer, answer, fail

__all__ = ["clock", "registry"]  # fixtures
DAY = "2024-05-01"


def check_support(answer: str, facts: str) -> None:
    """Do the facts support the answer? Reply with one line: `verdict: supported` or `verdict: unsupported`."""


def judge_by_flight(exchange: Exchange) -> None:
    """Call the answers on flight AA12 supported."""
    shown = exchange.seen.body["messages"][-1]["content"].partition("</answer>")[0]
    answer(f"verdict: {'supported' if 'AA12' in shown else 'unsupported'}")(exchange)


def declare_judge(url: str, **more) -> ml.llm.Judge:
    model = ml.llm.LLM("large", base_url=url, retries=0, concurrency=1)
    return ml.llm.Judge("support", prompt=ml.llm.prompt(model=model)(check_support), verdicts=VERDICTS, **{"repeats": 1} | more)


def declare_calibration(judge: ml.llm.Judge) -> list:
    """Return labelled answers and the calibration."""
    kinds = ["supported", "unsupported"] * 20
    rows = {
        "case": list(range(40)),
        "facts": [f"{FACTS} ({number})" for number in range(40)],
        "answer": [GOOD if kind == "supported" else BAD for kind in kinds],
        "label": kinds,
    }

    @ml.dataset(key="case")
    def labelled() -> pl.DataFrame:
        return pl.DataFrame(rows)

    return [labelled, ml.llm.Calibration("support", judge=judge, cases=labelled, label="label")]


def declare_monitor(judge: ml.llm.Judge, **more) -> ml.llm.QualityMonitor:
    expectation = ml.llm.QualityExpectation("support", at_least=0.6)
    arguments = {"expectations": expectation, "judges": [judge], "on_breach": "rollback"} | more
    return ml.llm.QualityMonitor("watch", **{"of": SOURCE, "prompt": delay_answer} | arguments)


@pytest.fixture
def watch(platform, run):
    """Return a function that calibrates a judge, imports the traces and makes the report of the first day."""

    def materialise(judge: ml.llm.Judge, *, calibrated: bool = True, **more):
        calibration = declare_calibration(judge) if calibrated else []
        execute = run(ml.build_definitions([SOURCE, delay_answer, declare_monitor(judge, **more), *calibration], platform=platform))
        if calibrated:
            execute("dataset/labelled", "calibration/support")
        return execute(SOURCE.key, "quality_report/watch", partitions=DAY)

    return materialise


def report(platform) -> dict[tuple[int, str], tuple]:
    rows = open_stores(platform).lake.read("quality_report/watch").filter(pl.col("measure").str.starts_with("support"))
    return {(row["version"], row["measure"]): (row["answers"], row["value"], row["state"]) for row in rows.iter_rows(named=True)}


def vary(platform, version: int, text: str, day: int = 0) -> None:
    """Write answers that differ, so that each has a verdict of its own."""
    for number in range(40):
        write(platform, version, f"{text} {number}", day, count=1)


def test_a_calibrated_judge_finds_the_bad_version_and_rolls_it_back(platform, registry, watch) -> None:
    vary(platform, 1, GOOD)
    vary(platform, 2, BAD)
    with ScriptedServer(default=judge_by_flight) as server:
        judge = declare_judge(server.url)
        result = watch(judge)
        assert len(server.requests) == 40 + 2 * 40
        again = watch(judge)
        assert len(server.requests) == 40 + 2 * 40, "stored verdicts are not asked again"
    assert report(platform) == {
        (1, "support"): (40, 1.0, "good"),
        (1, "support_failure_rate"): (40, 0.0, None),
        (2, "support"): (40, 0.0, "breach"),
        (2, "support_failure_rate"): (40, 0.0, None),
    }
    assert registry.champion("delay_answer").version == 1
    (row,) = [record.data for record in metadata(result, "quality_report/watch")["judges"].records]
    assert (row["verdicts"], row["requests"], row["input tokens"]) == ("supported 40, unsupported 40", "80", "560")
    assert row["spent by this run"] == "unknown: the service declares no prices"
    (row,) = [record.data for record in metadata(again, "quality_report/watch")["judges"].records]
    assert (row["requests"], row["cached verdicts"], row["input tokens"]) == ("0", "80", "0")


@pytest.mark.parametrize("calibrated", [True, False])
def test_a_judge_that_may_only_report_neither_breaches_nor_rolls_back(calibrated, platform, registry, watch) -> None:
    vary(platform, 2, BAD)
    with ScriptedServer(default=answer("verdict: unsupported")) as server:
        result = watch(declare_judge(server.url), calibrated=calibrated)
    assert report(platform)[2, "support"] == (40, 0.0, "cannot be measured")
    assert registry.champion("delay_answer").version == 2
    (check,) = [found for found in result.get_asset_check_evaluations() if found.check_name == "support_at_least"]
    assert not check.passed
    reason = "its lower end is below 0.6" if calibrated else "the project has no calibration of this version of the judge"
    assert f"the judge 'support' may not decide a gate: {'' if calibrated else reason}" in check.description
    assert reason in check.description
    assert "it reports: support 0" in check.description


def test_the_sample_depends_on_the_trace_ids_alone(platform, registry, watch) -> None:
    vary(platform, 2, GOOD)
    with ScriptedServer(default=judge_by_flight) as server:
        judge = declare_judge(server.url)
        watch(judge, judged_answers=10, expectations=ml.llm.QualityExpectation("support", at_least=0.5, min_answers=10))
        first = {str(request.body) for request in server.requests[40:]}
        open_stores(platform).responses.path.unlink()
        server.requests.clear()
        watch(judge, judged_answers=10, expectations=ml.llm.QualityExpectation("support", at_least=0.6, min_answers=10))
        assert len(first) == 10
        assert first <= {str(request.body) for request in server.requests}
    assert report(platform)[2, "support"] == (10, 1.0, "good")


@pytest.mark.parametrize(
    ("failures", "state", "scored"), [(2, "good", 38), (4, "cannot be measured", 36)], ids=["few failures", "many failures"]
)
def test_a_failure_is_counted_and_never_a_score(failures, state, scored, platform, registry, watch) -> None:
    vary(platform, 2, GOOD)
    faults = [fail(500), answer("perhaps")] * 2
    with ScriptedServer(*[judge_by_flight] * 40, *faults[:failures], default=judge_by_flight) as server:
        watch(declare_judge(server.url))
    found = report(platform)
    assert found[2, "support"] == (scored, 1.0, state)
    assert found[2, "support_failure_rate"] == (40, failures / 40, None)
    assert registry.champion("delay_answer").version == 2


def test_an_endpoint_without_a_key_leaves_the_other_measures(platform, registry, watch, monkeypatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    vary(platform, 2, GOOD)
    model = ml.llm.LLM("large", base_url="http://127.0.0.1:1/v1", api_key_env="NO_SUCH_KEY")
    judge = ml.llm.Judge("support", prompt=ml.llm.prompt(model=model)(check_support), verdicts=VERDICTS)
    watch(judge, calibrated=False)
    rows = open_stores(platform).lake.read("quality_report/watch")
    assert rows.filter(measure="support")["value"].to_list() == [None]
    assert rows.filter(measure="refusal_rate")["answers"].to_list() == [40]


def test_answers_whose_trace_lacks_a_variable_are_not_judged(platform, registry, watch) -> None:
    vary(platform, 2, GOOD)
    log = TraceLog(Path(platform.home) / "services/bot/traces")
    start = NOON + 100 * SECOND
    facts = {"mlops.prompt.name": "delay_answer", "mlops.prompt.version": 2, "mlops.output": BAD, "mlops.input": '[{"role": "user"}]'}
    log.write([Span(make_trace_id(start), make_span_id(), None, "answer", start, start + SECOND, "ok", "", facts)])
    log.close()
    with ScriptedServer(default=judge_by_flight) as server:
        watch(declare_judge(server.url))
    assert report(platform)[2, "support"] == (40, 1.0, "good")


@pytest.mark.parametrize(
    ("prices", "spent"),
    [
        ({"output_price": [2.0]}, "0.000520000000 USD"),
        ({"output_price": [-1.0]}, "unknown: "),
        ({}, "unknown: "),
        (None, "unknown: "),
    ],
    ids=["prices", "a row that is no price", "a missing column", "no table"],
)
def test_judges_of_a_service_have_the_cost_of_its_prices_and_a_report_without_them(prices, spent, platform, registry, run) -> None:
    @ml.dataset
    def judge_prices() -> pl.DataFrame:
        return pl.DataFrame({"model": ["large"], "valid_from": [date(2024, 1, 1)], "input_price": [1.0]} | (prices or {}))

    vary(platform, 2, BAD, day=366)
    with ScriptedServer(default=judge_by_flight) as server:
        judge = declare_judge(server.url)
        service = ml.llm.PromptService("bot", prompt=delay_answer, capture=True, prices=judge_prices)
        monitor = declare_monitor(judge, of=service)
        evaluation = ml.llm.PromptEvaluation("answers", prompt=delay_answer, cases=cases, scorers=[ml.llm.ExactMatch("expected")])
        items = [service, delay_answer, monitor, cases, evaluation, judge_prices, *declare_calibration(judge)]
        definitions = ml.build_definitions(items, platform=platform)
        assert asset_key("dataset/judge_prices") in definitions.resolve_asset_graph().get(asset_key(monitor.key)).parent_keys
        execute = run(definitions)
        execute("dataset/labelled", "calibration/support", *([] if prices is None else ["dataset/judge_prices"]))
        result = execute("traces/bot", monitor.key, partitions="2025-05-02")
    (row,) = [record.data for record in metadata(result, monitor.key)["judges"].records]
    assert row["spent by this run"].startswith(spent)
    assert (row["requests"], registry.champion("delay_answer").version) == ("40", 1)


def test_new_prices_neither_delay_a_report_nor_make_it_stale(platform, registry, run) -> None:
    @ml.dataset(partitions=dg.DailyPartitionsDefinition("2025-05-01"), event_timestamp="valid_from")
    def judge_prices(window: ml.TimeWindow) -> pl.DataFrame:
        return pl.DataFrame({"model": ["large"], "valid_from": [window.start], "input_price": [1.0], "output_price": [2.0]})

    vary(platform, 2, GOOD, day=366)
    with ScriptedServer(default=judge_by_flight) as server:
        service = ml.llm.PromptService("bot", prompt=delay_answer, capture=True, prices=judge_prices)
        monitor = declare_monitor(declare_judge(server.url), of=service, expectations=(), on_breach="alert")
        evaluation = ml.llm.PromptEvaluation("answers", prompt=delay_answer, cases=cases, scorers=[ml.llm.ExactMatch("expected")])
        items = [service, delay_answer, monitor, cases, evaluation, judge_prices]
        execute = run(ml.build_definitions(items, platform=platform))
        execute("dataset/judge_prices", partitions="2025-05-01")
        result = execute("traces/bot", monitor.key, partitions="2025-05-02")
    (row,) = [record.data for record in metadata(result, monitor.key)["judges"].records]
    assert row["spent by this run"] == "0.000520000000 USD"
    node, lake = quality_node(Project.from_items(items), monitor), open_stores(platform).lake
    recorded = lake.records(monitor.key)["2025-05-02"].inputs
    assert recorded
    assert compute_fingerprints(node, ["2025-05-02"], lake) == {"2025-05-02": recorded}
    execute("dataset/judge_prices", partitions="2025-05-02")
    assert compute_fingerprints(node, ["2025-05-02"], lake) == {"2025-05-02": recorded}


def reads_more(answer: str, weather: str) -> None:
    """Is it good?"""


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"expectations": ml.llm.QualityExpectation("suport", at_least=0.5)}, "expects 'suport', an unknown measure"),
        ({"judges": []}, "expects 'support', an unknown measure"),
        ({"judges": [declare_judge("http://127.0.0.1:1/v1")] * 2}, "two measures named 'support'"),
        ({"judges": ["support"]}, "was given 'support' as a judge"),
        ({"judged_answers": 0}, "judged_answers=0"),
    ],
)
def test_a_monitor_with_impossible_judges_is_refused(change, problem) -> None:
    with pytest.raises(DefinitionError) as caught:
        declare_monitor(declare_judge("http://127.0.0.1:1/v1"), **change)
    assert problem in caught.value.message


def test_a_judge_reads_variables_of_the_prompt_only() -> None:
    model = ml.llm.LLM("large", base_url="http://127.0.0.1:1/v1")
    judge = ml.llm.Judge("support", prompt=ml.llm.prompt(model=model)(reads_more), verdicts=VERDICTS)
    with pytest.raises(DefinitionError, match="which reads 'weather': not a variable of 'prompt/delay_answer'"):
        declare_monitor(judge)
