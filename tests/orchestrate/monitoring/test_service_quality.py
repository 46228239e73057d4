"""The traces of a real service: a call is one answer with its whole cost, and what clients cause is no fault of a version."""

from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.compute.llm_evaluation.price_rows import read_prices
from mlops_assets.stores.platform.stores import open_stores
from tests.orchestrate.monitoring.test_quality_reports import FACTS, SOURCE, clock, delay_answer, registry
from tests.serving.llm.scripted_server import ScriptedServer, answer, fail
from tests.serving.prompts.support import make_prompt, serve

__all__ = ["clock", "registry"]  # fixtures
CALLS = 30
PRICES = {"model": ["tiny"], "valid_from": [date(2026, 1, 1)], "input_price": [1.0], "output_price": [2.0]}
BODY = {"question": "How late was it?", "facts": FACTS}
ERRORS = ml.llm.QualityExpectation("error_rate", at_most=0.2)


@pytest.fixture
def answers(platform):
    """Return a function that lets version 2 of a real service answer calls, and returns their statuses."""

    def call(server: ScriptedServer, bodies: list[dict], **settings) -> list[int]:
        folder, prompt = (
            Path(platform.home) / "services/bot",
            make_prompt(server.url, delay_answer.function, settings.pop("response", None)),
        )
        folder.mkdir(parents=True, exist_ok=True)
        with serve(folder, prompt, prices=read_prices(pl.DataFrame(PRICES), "prices"), capture=True, **settings) as stand:
            stand.promote(prompt, 2)
            return [stand.answer(body).status_code for body in bodies]

    return call


@pytest.fixture
def watch(platform, run):
    """Return a function that imports the traces of today, reports on them, and returns measure → answers, value and state."""

    def materialise(*expectations: ml.llm.QualityExpectation) -> dict[str, tuple]:
        monitor = ml.llm.QualityMonitor("watch", of=SOURCE, prompt=delay_answer, expectations=expectations, on_breach="rollback")
        execute = run(ml.build_definitions([SOURCE, delay_answer, monitor], platform=platform))
        execute(SOURCE.key, monitor.key, partitions=datetime.now(UTC).date().isoformat())
        rows = open_stores(platform).lake.read(monitor.key)
        assert set(rows["version"]) == {2}
        return {row["measure"]: (row["answers"], row["value"], row["state"]) for row in rows.iter_rows(named=True)}

    return materialise


def test_a_call_of_a_service_is_one_answer_with_the_cost_of_all_its_requests(registry, answers, watch) -> None:
    with ScriptedServer(*[answer("no number"), answer("7")] * 3, default=answer("7")) as server:
        assert answers(server, [BODY] * CALLS, response=int, repairs=1) == [200] * CALLS
        assert len(server.requests) == CALLS + 3
    found = watch(ml.llm.QualityExpectation("cost", at_most=1.0), ERRORS)
    cost = (CALLS + 3) * (7 * 1.0 + 3 * 2.0) / 1e6 / CALLS
    assert found["cost"] == (CALLS, pytest.approx(cost), "good")
    assert {found[measure][0] for measure in ("latency_p95", "error_rate", "output_words", "refusal_rate")} == {CALLS}


def test_a_client_over_its_quota_rolls_nothing_back(registry, answers, watch) -> None:
    limits = {"rate_limits": ml.llm.RateLimits(requests_per_minute=CALLS), "denied_topics": {"wages": ["salary"]}}
    with ScriptedServer() as server:
        statuses = answers(server, [BODY | {"question": "salary"}] * CALLS + [BODY] * 4 * CALLS, **limits)
    assert [statuses.count(status) for status in (422, 200, 429)] == [CALLS, CALLS, 3 * CALLS]
    assert watch(ERRORS)["error_rate"] == (CALLS, 0.0, "good")
    assert registry.champion("delay_answer").version == 2


def test_failures_of_the_model_roll_the_version_back(registry, answers, watch) -> None:
    with ScriptedServer(*[fail(500)] * CALLS) as server:
        assert set(answers(server, [BODY] * 2 * CALLS)) == {502, 200}
    found = watch(ERRORS, ml.llm.QualityExpectation("latency_p95", at_most=60.0))
    assert (found["error_rate"], found["latency_p95"]) == ((2 * CALLS, 0.5, "breach"), (2 * CALLS, None, "breach"))
    assert registry.champion("delay_answer").version == 1
