"""A degraded version is found on its first day and rolled back once; versions are never mixed, and nothing else moves the champion."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.monitoring import quality_reports
from mlops_assets.serving.logs.trace_log import TraceLog
from mlops_assets.stores.database import sql
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.stores.registry.records import CandidateRecord, Evidence
from mlops_assets.values.llm.span import SECOND, Span, make_span_id, make_trace_id
from tests.conftest import metadata, records

SOURCE = ml.llm.TraceSource("bot", start="2024-05-01")
NOON = int(datetime(2024, 5, 1, 12, tzinfo=UTC).timestamp()) * SECOND
DAY = 86_400 * SECOND
FACTS = "Flight AA12 from JFK left 25 minutes late."
GOOD, BAD = "Flight AA12 left 25 minutes late.", "Flight DL99 from Boston left 3 hours early."


@ml.llm.prompt(model=ml.llm.LLM("tiny", base_url="http://127.0.0.1:1/v1"))
def delay_answer(question: str, facts: str) -> None:
    """Answer the question from the facts alone."""


@ml.dataset(key="case")
def cases() -> pl.DataFrame:
    return pl.DataFrame({"case": ["a"], "question": ["How late was it?"], "facts": [FACTS], "expected": [GOOD]})


def declare(**more) -> ml.llm.QualityMonitor:
    arguments = {"expectations": ml.llm.QualityExpectation("groundedness", at_least=0.6), "on_breach": "rollback"} | more
    return ml.llm.QualityMonitor("watch", of=SOURCE, prompt=delay_answer, context="facts", **arguments)


MONITOR = declare()


def write(platform, version: int | None, output: str, day: int = 0, count: int = 40) -> None:
    log = TraceLog(Path(platform.home) / "services/bot/traces")
    for number in range(count):
        start = NOON + day * DAY + number * SECOND
        facts = {"mlops.prompt.name": "delay_answer", "mlops.prompt.version": version, "mlops.output": output}
        content = {"mlops.input": json.dumps({"question": "How late was it?", "facts": FACTS})}
        log.write([Span(make_trace_id(start), make_span_id(), None, "answer", start, start + SECOND, "ok", "", facts | content)])
    log.close()


class Clock(datetime):
    """The clock of the monitor and of the registry; a test may set it."""

    time = datetime(2024, 5, 1, 6, tzinfo=UTC)

    @classmethod
    def now(cls, _: object = None) -> datetime:
        return cls.time


@pytest.fixture
def clock(monkeypatch) -> type[Clock]:
    monkeypatch.setattr(Clock, "time", Clock.time)
    monkeypatch.setattr(quality_reports, "datetime", Clock)
    monkeypatch.setattr(sql, "timestamp", lambda: Clock.time.isoformat(timespec="microseconds"))
    return Clock


@pytest.fixture
def registry(platform, clock):
    """The registry with versions 1 and 2 of the prompt; 2 is the champion since the morning of the first day."""
    registry = open_stores(platform).registry
    for digest in ("first", "second"):
        candidate = CandidateRecord("delay_answer", digest, f"run-{digest}", f"artifact-{digest}", 1, datetime.now(UTC))
        registry.submit(candidate, [Evidence("gate", "definition", digest, True, False, "", 1.0, 0.5, "")])
        registry.register("delay_answer", {"gate": "definition"})
        registry.promote("delay_answer", {"gate": "definition"}, actor="ada", reason="test")
    return registry


@pytest.fixture
def materialise(platform, run):
    return run(ml.build_definitions([SOURCE, delay_answer, MONITOR], platform=platform))


def report(platform) -> list[tuple]:
    rows = open_stores(platform).lake.read(MONITOR.key).drop_nulls("version")
    return sorted(rows.filter(rows["measure"] == "groundedness").select("version", "answers", "state").rows())


def test_a_bad_version_is_found_on_its_first_day_and_rolled_back(platform, registry, materialise) -> None:
    write(platform, 1, GOOD)
    write(platform, 2, BAD)
    result = materialise(SOURCE.key, MONITOR.key, partitions="2024-05-01")
    assert report(platform) == [(1, 40, "good"), (2, 40, "breach")]
    assert registry.champion("delay_answer").version == 1
    (event,) = [event for event in registry.history("delay_answer") if event.kind == "rollback"]
    assert event.actor == "monitor watch"
    assert event.reason.startswith("quality_report/watch, 2024-05-01, version 2: groundedness 0.")
    (decision,) = open_stores(platform).decisions.decisions("delay_answer")
    assert (decision.version, decision.partition, decision.closed) == (2, "2024-05-01", "rolled back to version 1")
    check = next(found for found in result.get_asset_check_evaluations() if found.check_name == "groundedness_at_least")
    assert not check.passed
    assert metadata(result, MONITOR.key)["state"] == "breach"


PARTIAL = ml.llm.QualityExpectation("groundedness", no_worse_than_before_by=0.05)


@pytest.mark.parametrize("day", [0, 6, 8])
def test_a_version_that_is_bad_in_part_is_found_by_the_version_before_it_within_a_week(day, platform, registry, run) -> None:
    write(platform, 1, GOOD)
    for output in (GOOD, BAD):
        write(platform, 2, output, day, count=30)
    first, last = "2024-05-01", f"2024-05-0{1 + day}"
    bounded = declare(expectations=ml.llm.QualityExpectation("groundedness", at_least=0.5))
    run(ml.build_definitions([SOURCE, delay_answer, bounded], platform=platform))(SOURCE.key, bounded.key, partitions=f"{first}...{last}")
    assert registry.champion("delay_answer").version == 2, "the bound is too far"
    monitor = declare(expectations=PARTIAL)
    execute = run(ml.build_definitions([SOURCE, delay_answer, monitor], platform=platform))
    result = execute(monitor.key, partitions=f"{first}...{last}")
    states = {version: state for version, _, state in report(platform)}
    assert states == {1: "not enough data", 2: "breach" if day < 8 else "not enough data"}
    assert registry.champion("delay_answer").version == (1 if day < 8 else 2)
    check = next(found for found in result.get_asset_check_evaluations() if found.check_name == PARTIAL.name)
    assert check.passed == (day == 8)


def test_a_version_like_the_one_before_is_no_breach(platform, registry, run) -> None:
    write(platform, 1, GOOD)
    write(platform, 2, GOOD, day=1)
    monitor = declare(expectations=PARTIAL)
    execute = run(ml.build_definitions([SOURCE, delay_answer, monitor], platform=platform))
    execute(SOURCE.key, monitor.key, partitions="2024-05-01...2024-05-02")
    assert (2, 40, "good") in report(platform)
    assert registry.champion("delay_answer").version == 2


def test_a_version_that_a_person_promotes_again_is_not_rolled_back_for_the_same_day(platform, registry, materialise) -> None:
    write(platform, 2, BAD)
    materialise(SOURCE.key, MONITOR.key, partitions="2024-05-01")
    registry.promote("delay_answer", {"gate": "definition"}, actor="ada", reason="the provider has mended it", version=2)
    write(platform, 2, BAD, count=5)
    materialise(SOURCE.key, MONITOR.key, partitions="2024-05-01")
    assert registry.champion("delay_answer").version == 2
    write(platform, 2, BAD, day=1)
    materialise(SOURCE.key, MONITOR.key, partitions="2024-05-02")
    assert registry.champion("delay_answer").version == 1


@pytest.mark.parametrize(
    ("promoted", "measured", "outcome"),
    [
        ("2024-05-01", "2024-05-08", "rolled back to version 1"),
        ("2024-05-01", "2024-05-09", "rolled back to version 1"),
        ("2024-05-01", "2024-05-10", "not rolled back: the day ended more than 7 days ago"),
        ("2024-05-02", "2024-05-03", "not rolled back: the day ended before version 2 became champion, on 2024-05-02 00:00 UTC"),
    ],
)
def test_a_day_of_long_ago_or_before_the_promotion_moves_no_champion(
    promoted, measured, outcome, platform, registry, clock, materialise
) -> None:
    clock.time = datetime.fromisoformat(f"{promoted}T00:00+00:00")
    registry.promote("delay_answer", {"gate": "definition"}, actor="ada", reason="test", version=1)
    registry.promote("delay_answer", {"gate": "definition"}, actor="ada", reason="test", version=2)
    write(platform, 2, BAD)
    clock.time = datetime.fromisoformat(f"{measured}T00:00+00:00")
    materialise(SOURCE.key, MONITOR.key, partitions="2024-05-01")
    (decision,) = open_stores(platform).decisions.decisions("delay_answer")
    assert decision.closed == outcome
    assert registry.champion("delay_answer").version == (1 if outcome.startswith("rolled") else 2)
    assert report(platform) == [(2, 40, "breach")], "the day is reported all the same"


def test_a_version_that_a_rollback_made_champion_is_rolled_back_for_later_days_only(platform, registry, clock, materialise) -> None:
    write(platform, 1, BAD)
    clock.time = datetime(2024, 5, 2, 6, tzinfo=UTC)
    registry.rollback("delay_answer", actor="ada", reason="test")
    materialise(SOURCE.key, MONITOR.key, partitions="2024-05-01")
    (decision,) = open_stores(platform).decisions.decisions("delay_answer")
    assert decision.closed.startswith("not rolled back: the day ended before version 1 became champion")


def test_a_field_that_a_release_adds_to_expectations_makes_no_report_stale() -> None:
    @dataclass(frozen=True)
    class NewExpectation(ml.llm.QualityExpectation):
        new: float | None = None

    def define(expectation: ml.llm.QualityExpectation) -> str:
        return str(quality_reports.quality_node(Project.from_items([SOURCE, delay_answer]), declare(expectations=expectation)).definition)

    declared = define(ml.llm.QualityExpectation("groundedness", at_least=0.6))
    assert declared == define(NewExpectation("groundedness", at_least=0.6))
    assert declared != define(NewExpectation("groundedness", at_least=0.6, new=1.0))
    assert declared != define(ml.llm.QualityExpectation("groundedness", at_least=0.7))


def test_twenty_clean_days_move_nothing_and_an_unchanged_day_is_not_written_again(platform, registry, materialise) -> None:
    for day in range(20):
        write(platform, 2, GOOD, day)
    materialise(SOURCE.key, MONITOR.key, partitions="2024-05-01...2024-05-20")
    before = records(platform, MONITOR.key)
    materialise(SOURCE.key, MONITOR.key, partitions="2024-05-01...2024-05-20")
    assert (len(before), records(platform, MONITOR.key)) == (20, before)
    assert registry.champion("delay_answer").version == 2
    assert open_stores(platform).decisions.decisions("delay_answer") == ()


def test_a_breach_of_an_earlier_version_leaves_the_champion(platform, registry, materialise) -> None:
    write(platform, 1, BAD)
    write(platform, 2, GOOD)
    materialise(SOURCE.key, MONITOR.key, partitions="2024-05-01")
    assert registry.champion("delay_answer").version == 2
    (decision,) = open_stores(platform).decisions.decisions("delay_answer")
    assert decision.closed == "not rolled back: version 1 is not the champion"


def test_a_first_version_has_nothing_to_roll_back_to(platform, registry, materialise) -> None:
    registry.rollback("delay_answer", actor="ada", reason="test")
    write(platform, 1, BAD)
    materialise(SOURCE.key, MONITOR.key, partitions="2024-05-01")
    assert registry.champion("delay_answer").version == 1
    (decision,) = open_stores(platform).decisions.decisions("delay_answer")
    assert decision.closed.startswith("not rolled back: ")


def test_an_alert_moves_nothing(platform, registry, run) -> None:
    write(platform, 2, BAD)
    run(ml.build_definitions([SOURCE, delay_answer, declare(on_breach="alert")], platform=platform))(
        SOURCE.key, MONITOR.key, partitions="2024-05-01"
    )
    assert registry.champion("delay_answer").version == 2
    (decision,) = open_stores(platform).decisions.decisions("delay_answer")
    assert decision.closed == "alert"


def test_a_monitor_of_traces_outside_the_project_is_refused(platform) -> None:
    with pytest.raises(DefinitionError, match="refers to the source of its traces 'traces/bot'"):
        ml.build_definitions([delay_answer, MONITOR], platform=platform)


def test_the_traces_of_a_service_are_measured(platform, registry, run) -> None:
    service = ml.llm.PromptService("bot", prompt=delay_answer, capture=True)
    monitor = ml.llm.QualityMonitor("watch", of=service, context="facts", expectations=MONITOR.expectations, on_breach="rollback")
    write(platform, 2, BAD, day=366)
    evaluation = ml.llm.PromptEvaluation("answers", prompt=delay_answer, cases=cases, scorers=[ml.llm.ExactMatch("expected")])
    definitions = ml.build_definitions([service, delay_answer, monitor, cases, evaluation], platform=platform)
    graph = definitions.resolve_asset_graph()
    assert graph.get(asset_key(MONITOR.key)).parent_keys == {asset_key("traces/bot")}
    run(definitions)("traces/bot", MONITOR.key, partitions="2025-05-02")
    assert report(platform) == [(2, 40, "breach")]
    assert registry.champion("delay_answer").version == 1
