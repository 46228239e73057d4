"""Costs of an evaluation: exact, recomputable, never zero for an unknown model, and read by gates."""

import math
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.compute.llm_evaluation.costs import price_calls
from mlops_assets.compute.llm_evaluation.price_rows import read_prices
from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.compiler.build import compiled_projects
from mlops_assets.orchestrate.llm import evaluation_step, progress
from mlops_assets.orchestrate.tables.automation import find_stale
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import metadata, records
from tests.orchestrate.llm.judged import declare_judge
from tests.orchestrate.llm.replies import ROWS, TABLE, declare
from tests.orchestrate.llm.test_evaluation import checks, table
from tests.serving.llm.scripted_server import Exchange, ScriptedServer, answer, fail, hang_up_in_the_middle

PRICES = {"model": ["tiny", "large"], "valid_from": [date(2024, 1, 1)] * 2, "input_price": [0.15, 1.0], "output_price": [0.6, 2.0]}
COST = (7 * 0.15 + 3 * 0.6) / 1e6  # of an answer of the scripted server


def declare_priced(url: str, prices=None, **more) -> list:
    """Return the project of ``declare`` with prices."""
    frame = pl.DataFrame(PRICES | (prices or {}))

    @ml.dataset
    def llm_prices() -> pl.DataFrame:
        return frame

    return [llm_prices, *declare(url, prices=llm_prices, **more)]


def test_each_answer_has_the_cost_that_its_stored_counts_give(platform, run) -> None:
    before = datetime.now(UTC)
    with ScriptedServer(fail(400)) as server:
        result = run(ml.build_definitions(declare_priced(server.url, max_error_rate=0.5), platform=platform))()
    found = table(platform)
    assert found["cost"].to_list() == [None, *[pytest.approx(COST, rel=1e-12)] * 5]
    assert found["answered_at"].drop_nulls().is_between(before, datetime.now(UTC)).all()
    prices = read_prices(pl.DataFrame(PRICES), "prices")
    calls = found.select("model", "input_tokens", "output_tokens", at="answered_at", cached_tokens="cached_input_tokens")
    assert (price_calls(calls, prices)["cost_pico"] / 1e12).to_list() == found["cost"].to_list()
    assert set(found["price_version"]) == {prices.version}
    facts = metadata(result, TABLE)
    assert (facts["total cost"], facts["spent by this run"]) == ("0.000014250000 USD",) * 2
    assert facts["mean cost per request (USD)"] == pytest.approx(COST)
    assert [record.data["mean cost (USD)"] for record in facts["scores by airline"].records] == ["2.85e-06"] * 2
    assert checks(result)["priced"].passed
    described = {column.name: column.description for column in facts["dagster/column_schema"].columns}
    assert described["price_version"] == "The version of the prices."


def test_a_cached_answer_keeps_its_cost_and_is_not_spent_again(platform, run) -> None:
    with ScriptedServer() as server:
        run(ml.build_definitions(declare_priced(server.url), platform=platform))()
        before, hashes = table(platform), records(platform, TABLE)
        again = run(ml.build_definitions(declare_priced(server.url, slices=[]), platform=platform))()
        assert len(server.requests) == 6
    kept = ["case", "cost", "answered_at", "seconds", "price_version"]
    assert table(platform).select(kept).equals(before.select(kept)), "times and durations are those of the original calls"
    assert records(platform, TABLE) != hashes, "another column makes another table"
    facts = metadata(again, TABLE)
    assert (facts["total cost"], facts["spent by this run"]) == ("0.000017100000 USD", "0.000000000000 USD")


def test_an_unknown_model_and_a_missing_count_have_no_cost_and_fail_the_check(platform, run) -> None:
    with ScriptedServer(answer("yes", usage=None)) as server:
        one = run(ml.build_definitions(declare_priced(server.url), platform=platform))()
        assert table(platform)["cost"].null_count() == 1
        check = checks(one)["priced"]
        assert (check.passed, check.severity, check.blocking) == (False, dg.AssetCheckSeverity.ERROR, False)
        assert "1 of 6 calls is unknown: case 'case 0': the number of input or output tokens is unknown ('tiny')" in check.description
        assert metadata(one, TABLE)["total cost"] == "at least 0.000014250000 USD"
        unknown = run(ml.build_definitions(declare_priced(server.url, {"model": ["other", "large"]}), platform=platform))()
    assert table(platform)["cost"].null_count() == 6
    assert "6 of 6 calls is unknown: case 'case 0': the model has no price ('tiny')" in checks(unknown)["priced"].description
    assert "mean cost per request (USD)" not in metadata(unknown, TABLE)


def test_new_prices_make_the_evaluation_stale_and_cost_no_call(platform, run) -> None:
    with ScriptedServer() as server:
        run(ml.build_definitions(declare_priced(server.url), platform=platform))()
        items = declare_priced(server.url, {"input_price": [0.3, 1.0]})
        materialise = run(ml.build_definitions(items, platform=platform))
        materialise("dataset/llm_prices")
        assert list(find_stale(compiled_projects()[-1].project.node(items[-1]), platform)) == [""]
        materialise(TABLE)
        assert len(server.requests) == 6
    assert table(platform)["cost"].to_list() == [pytest.approx((7 * 0.3 + 3 * 0.6) / 1e6)] * 6


def test_an_answer_has_the_price_of_its_time(platform, run) -> None:
    later = {"model": ["tiny", "tiny"], "valid_from": [date(2024, 1, 1), date.today() + timedelta(days=2)]}  # noqa: DTZ011
    with ScriptedServer() as server:
        run(ml.build_definitions(declare_priced(server.url, later), platform=platform))()
    assert table(platform)["cost"].to_list() == [pytest.approx(COST)] * 6


def test_tokens_from_the_cache_of_the_provider_have_their_own_price(platform, run) -> None:
    counts = b'"usage": {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}'
    body = b'{"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}], %s}' % counts
    with ScriptedServer(lambda exchange: exchange.send(body, content_type="application/json")) as server:
        run(ml.build_definitions(declare_priced(server.url, {"cached_price": [0.05, None]}), platform=platform))()
    found = table(platform)
    assert found["cost"].to_list()[0] == pytest.approx((3 * 0.15 + 4 * 0.05 + 3 * 0.6) / 1e6)
    assert found["cost"].null_count() == 5, "without their number the cost is unknown"


def test_a_judge_is_paid_too_and_no_part_of_the_cost_of_an_answer(platform, run) -> None:
    with ScriptedServer() as server, ScriptedServer(default=answer("verdict: supported")) as judging:
        scorers = [declare_judge(judging.url, repeats=2)]
        rows = ROWS | {"context": [str(number) for number in range(6)]}
        result = run(ml.build_definitions(declare_priced(server.url, rows=rows, scorers=scorers), platform=platform))()
    facts = metadata(result, TABLE)
    assert facts["total cost"] == "0.000017100000 USD"
    assert facts["spent by this run"] == "0.000173100000 USD"  # and that of 12 verdicts, each of 7 and 3 tokens


def test_what_production_and_the_verdicts_on_it_cost_this_run_is_spent_by_it(platform, run) -> None:
    gates = [ml.Gate("exact_match", no_worse_than_champion_by=1)]

    def evaluate(instructions: str, contexts: list[str]):
        scorers = [ml.llm.ExactMatch("expected"), declare_judge(judging.url, repeats=1)]
        rows = ROWS | {"context": contexts}
        items = declare_priced(server.url, rows=rows, scorers=scorers, gates=gates, instructions=instructions)
        return metadata(run(ml.build_definitions(items, platform=platform))(), TABLE)

    def reply(exchange: Exchange) -> None:
        answer("yes" if "at once" in exchange.seen.body["messages"][0]["content"] else "no")(exchange)

    with ScriptedServer(default=reply) as server, ScriptedServer(default=answer("verdict: supported")) as judging:
        evaluate("Answer.", [str(number) for number in range(6)])
        asked, judged = len(server.requests), len(judging.requests)
        facts = evaluate("Answer at once.", [f"new {number}" for number in range(6)])
        answers, verdicts = len(server.requests) - asked, len(judging.requests) - judged
    assert (answers, verdicts) == (12, 12), "production is asked about the new cases, and judged"
    assert facts["total cost"] == "0.000017100000 USD", "that of the prompt alone"
    assert facts["spent by this run"] == f"{(12 * (7 * 0.15 + 3 * 0.6) + 12 * (7 * 1.0 + 3 * 2.0)) / 1e6:.12f} USD"


@pytest.mark.parametrize(("change", "bound", "passed"), [({}, 3e-6, True), ({}, 2e-6, False), ({"model": ["other", "large"]}, 3e-6, False)])
def test_a_gate_reads_the_mean_cost_and_fails_when_it_is_unknown(change, bound, passed, platform, run) -> None:
    gates = [ml.Gate("cost_per_request", at_most=bound)]
    with ScriptedServer() as server:
        result = run(ml.build_definitions(declare_priced(server.url, change, gates=gates), platform=platform))(ok=passed)
    assert checks(result)["cost_per_request_at_most"].passed == passed
    champion = open_stores(platform).registry.champion("reply")
    assert (champion is not None) == passed


def test_a_gate_on_latency_reads_the_original_durations_of_cached_answers(platform, run) -> None:
    with ScriptedServer() as server:
        run(ml.build_definitions(declare(server.url), platform=platform))()
        gates = [ml.Gate("p95_seconds", at_most=1e-5)]  # a look-up in the cache takes longer, the answer took much longer
        result = run(ml.build_definitions(declare(server.url, gates=gates), platform=platform))(ok=False)
        assert len(server.requests) == 6
    slowest = table(platform)["seconds"].max()
    assert checks(result)["p95_seconds_at_most"].metadata["value"].value == pytest.approx(slowest)


def test_a_replay_of_another_endpoint_brings_the_text_and_no_duration(platform, run) -> None:
    with ScriptedServer() as first, ScriptedServer() as second:
        run(ml.build_definitions(declare(first.url), platform=platform))()
        assert set(table(platform)["endpoint"]) == {f"{first.url}/chat/completions"}
        moved = run(ml.build_definitions(declare(second.url, slices=[]), platform=platform))()
        assert (len(second.requests), metadata(moved, TABLE)["cached answers"]) == (0, 6)
        assert table(platform).select("seconds", "seconds_to_first_token").null_count().row(0) == (6, 6)
        gates = [ml.Gate("p95_seconds", at_most=60)]
        gated = run(ml.build_definitions(declare(second.url, gates=gates), platform=platform))()
        assert len(second.requests) == 6, "a gate on durations measures its own endpoint"
        again = run(ml.build_definitions(declare(second.url, gates=gates), platform=platform))()
        assert len(second.requests) == 6
    assert all(checks(result)["p95_seconds_at_most"].passed for result in (gated, again))
    assert table(platform)["seconds"].null_count() == 0


@pytest.mark.parametrize("gate", [ml.Gate("p95_seconds", at_most=60), ml.Gate("p95_seconds_to_first_token", at_most=60)])
@pytest.mark.parametrize("change", ["the endpoint", "the endpoint of a fallback", "no stream"])
def test_durations_of_other_endpoints_and_requests_are_no_evidence(gate, change, platform, run) -> None:
    with ScriptedServer() as server, ScriptedServer() as other:

        def build(url: str = server.url, spare: str = server.url, **more) -> list:
            fallbacks = [ml.llm.LLM("large", base_url=spare)]
            return declare(url, gates=[gate], fallbacks=fallbacks, **more)

        changes = {"the endpoint": {"url": other.url}, "the endpoint of a fallback": {"spare": other.url}, "no stream": {"stream": False}}
        run(ml.build_definitions(build(), platform=platform))()
        items = build(**changes[change])
        materialise = run(ml.build_definitions(items, platform=platform))
        assert list(find_stale(compiled_projects()[-1].project.node(items[-1]), platform)) == [""]
        message = materialise.error("version/reply")
        assert f"gate 'replies.{gate.name}', or what it reads, has changed since it was evaluated" in message
        materialise()
        assert len(other.requests) == (6 if change == "the endpoint" else 0)


def test_without_a_gate_on_durations_the_address_changes_nothing(platform, run) -> None:
    gates = [ml.Gate("exact_match", at_least=0.5)]
    with ScriptedServer() as server, ScriptedServer() as other:
        run(ml.build_definitions(declare(server.url, gates=gates), platform=platform))()
        items = declare(other.url, gates=gates, stream=False)
        materialise = run(ml.build_definitions(items, platform=platform))
        assert list(find_stale(compiled_projects()[-1].project.node(items[-1]), platform)) == []
        materialise("version/reply")
        assert other.requests == []


def test_cost_and_latency_are_reported_for_each_version_and_slice(platform, run) -> None:
    gates = [ml.Gate("exact_match", no_worse_than_champion_by=1)]
    with ScriptedServer() as server:
        run(ml.build_definitions(declare_priced(server.url, gates=gates), platform=platform))()
        server.steps = [answer("yes, indeed", usage=(9, 5)), fail(400), answer(usage=None)]
        declared = declare_priced(server.url, gates=gates, instructions="Answer at once.", max_error_rate=0.5)
        result = run(ml.build_definitions(declared, platform=platform))()
    rows = [record.data for record in metadata(result, TABLE)["cost and latency"].records]
    assert [row["slice"] for row in rows] == ["all", "airline AA", "airline UA"] * 2
    assert [row["version"].endswith("(production)") for row in rows] == [False] * 3 + [True] * 3
    assert [(row["cases"], row["failed calls"], row["mean input tokens"]) for row in rows] == [
        ("6", "1", "unknown"),
        ("3", "1", "unknown"),
        ("3", "0", "7.0"),
        ("6", "0", "7.0"),
        ("3", "0", "7.0"),
        ("3", "0", "7.0"),
    ]
    assert [row["mean cost (USD)"] for row in rows] == ["unknown"] * 2 + ["2.85e-06"] * 4
    assert [row["p95 seconds"] == "unknown" for row in rows] == [True, True, False, False, False, False]
    assert 0 < float(rows[2]["p50 seconds to first token"]) <= float(rows[2]["p95 seconds"])


def test_a_failed_request_that_may_have_been_billed_makes_the_cost_of_its_call_unknown(platform, run) -> None:
    gates, broken = [ml.Gate("cost_per_request", at_most=1)], hang_up_in_the_middle()
    with ScriptedServer(broken, fail(500), answer(), *[broken] * 3, fail(500), answer()) as server:
        declared = declare_priced(server.url, retries=2, max_error_rate=0.5, gates=gates)
        result = run(ml.build_definitions(declared, platform=platform))(ok=False)
        found = table(platform)
        assert found["may_be_billed"].to_list() == [1, 3, 0, 0, 0, 0]
        assert found["cost"].to_list() == [None, None, *[pytest.approx(COST)] * 4]
        assert found["answer"].null_count() == 1, "a status 500 is not billed, a reply that breaks may be"
        priced, gate = checks(result)["priced"], checks(result)["cost_per_request_at_most"]
        assert (priced.passed, gate.passed) == (False, False)
        assert "2 of 6 calls is unknown: case 'case 0': 1 failed request(s) may have been billed; case 'case 1': 3" in priced.description
        facts = metadata(result, TABLE)
        assert facts["spent by this run"] == facts["total cost"] == "at least 0.000014250000 USD"
        again = run(ml.build_definitions(declared, platform=platform))()
    assert checks(again)["priced"].passed, "every answer has a known cost; the failed requests are in the spend of the run before"
    assert metadata(again, TABLE)["spent by this run"] == "0.000002850000 USD"


def test_progress_shows_the_cost_so_far(platform, run, monkeypatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(
        evaluation_step, "CallProgress", lambda key, total, _log, **more: progress.CallProgress(key, total, lines.append, **more)
    )
    with ScriptedServer(answer("yes", usage=None)) as server:
        run(ml.build_definitions(declare_priced(server.url), platform=platform))()
    assert lines[-1].endswith("35 input and 15 output tokens, at least 0.000014250000 USD so far")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"model": [None, "large"]}, "row 0: 'model' is None, not text"),
        ({"valid_from": ["2024", "2025"]}, "row 0: 'valid_from' is '2024', not a date or a time"),
        ({"input_price": [0.15, None]}, "row 1: 'input_price' is None, not a number"),
        ({"output_price": [-1.0, 1.0]}, "row 0: the price -1.0 of 'tiny' is not possible"),
        ({"output_price": [math.nan, 1.0]}, "row 0: the price NaN of 'tiny' is not possible"),
    ],
)
def test_rows_that_are_no_prices_are_refused_before_the_first_request(change, problem, platform, run) -> None:
    with ScriptedServer() as server:
        items = declare_priced(server.url, change)
        message = run(ml.build_definitions(items, platform=platform)).error()
        assert server.requests == []
    assert problem in message


def test_prices_must_be_in_the_project_and_have_their_columns(platform, run) -> None:
    with ScriptedServer() as server:
        with pytest.raises(DefinitionError, match="refers to the dataset 'dataset/llm_prices', which is not in the project"):
            ml.build_definitions(declare_priced(server.url)[1:], platform=platform)
        message = run(ml.build_definitions(declare_without_price(server.url), platform=platform)).error()
        assert server.requests == []
    assert "'dataset/llm_prices' has no column 'input_price'" in message


def declare_without_price(url: str) -> list:
    @ml.dataset
    def llm_prices() -> pl.DataFrame:
        return pl.DataFrame(PRICES).drop("input_price")

    return [llm_prices, *declare(url, prices=llm_prices)]
