"""What the console shows of prompts: their versions, their services with clients, and the quality of answers."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.stores.lake.protocol import Partition
from mlops_assets.values.window import TimeWindow
from tests.orchestrate.console.conftest import Console, open_site

TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
SPAN = TimeWindow(TODAY, TODAY + timedelta(days=1))


@ml.llm.prompt(model=ml.llm.LLM("tiny", base_url="http://127.0.0.1:1/v1"))
def delay_answer(question: str) -> None:
    """Answer the question."""


@ml.dataset(key="case")
def cases() -> pl.DataFrame:
    return pl.DataFrame({"case": ["a"], "question": ["How late?"], "expected": ["25 minutes"]})


evaluation = ml.llm.PromptEvaluation("answers", prompt=delay_answer, cases=cases, scorers=[ml.llm.ExactMatch(expected="expected")])
api = ml.llm.PromptService("answer_api", prompt=delay_answer)
quality = ml.llm.QualityMonitor("answer_quality", of=api, expectations=ml.llm.QualityExpectation("error_rate", at_most=0.1))


@pytest.fixture
def console(tmp_path) -> Iterator[Console]:
    for site in open_site(tmp_path / "home", [delay_answer, cases, evaluation, api, quality]):
        yield Console(site)


def write(console: Console, table: str, time: str, **columns: list) -> None:
    frame = pl.DataFrame({time: [TODAY] * len(next(iter(columns.values())))} | columns).with_columns(
        pl.col(time).cast(pl.Datetime("us", "UTC"))
    )
    console.site.stores.lake.write(table, frame, [Partition(f"{TODAY:%Y-%m-%d}", SPAN)], event_timestamp=time)


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def test_the_quality_of_the_newest_day_is_shown_by_version(console) -> None:
    assert "not reported in the last 30 days" in console.read("/monitors")
    figures = {
        "version": [2],
        "measure": ["error_rate"],
        "answers": [40],
        "value": [0.25],
        "state": ["breach"],
        "reason": ["error_rate 0.25 > 0.1"],
    }
    write(console, "quality_report/answer_quality", "window_start", **figures)
    page = console.read("/monitors")
    assert '<span class="bad">error_rate 0.25 &gt; 0.1</span>' in page
    assert f"answer_quality answer_api {TODAY:%Y-%m-%d} 2 error_rate" in text_of(page)


def test_clients_of_a_prompts_service_are_named_by_their_keys(console) -> None:
    assert "name no API key" in console.read("/services/answer_api")
    write(console, "traces/answer_api", "trace_started_at", api_key=["web", "web", "night_batch", None])
    text = text_of(console.read("/services/answer_api"))
    assert "web 2" in text
    assert "night_batch 1" in text


def test_a_prompt_is_listed_with_its_own_commands(console) -> None:
    assert "delay_answer prompt" in text_of(console.read("/models"))
    assert "mlops prompts history delay_answer" in console.read("/models/delay_answer")
