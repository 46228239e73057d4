"""Answers of an evaluation as streams: the time to the first token is measured, and no broken stream is an answer."""

import json
import time
from datetime import timedelta

import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.stores.platform.stores import open_stores
from tests.orchestrate.llm.replies import ROWS, declare
from tests.orchestrate.llm.test_evaluation import checks, table
from tests.serving.llm.scripted_server import Exchange, ScriptedServer, answer, fail, send_forever


def cut_stream(exchange: Exchange) -> None:
    """Send the first word of a stream, and end the body."""
    exchange.begin()
    exchange.write(b'data: {"choices": [{"delta": {"content": "ye"}}]}\n\n')
    exchange.end()


def slow_first_byte(exchange: Exchange) -> None:
    """Send the head of a stream, and no event until the client leaves."""
    exchange.begin()
    exchange.wait_for_the_client_to_leave()


def test_answers_arrive_as_streams_so_that_the_time_to_the_first_token_is_measured(platform, run) -> None:
    gates = [ml.Gate("p50_seconds_to_first_token", at_most=60), ml.Gate("p95_seconds_to_first_token", at_most=60)]
    with ScriptedServer(default=answer("yes indeed", before_end=lambda _: time.sleep(0.01))) as server:
        result = run(ml.build_definitions(declare(server.url, gates=gates), platform=platform))()
        assert {request.body["stream_options"]["include_usage"] for request in server.requests} == {True}
    found = table(platform)
    assert found.select((pl.col("seconds") > pl.col("seconds_to_first_token")).all()).item()
    assert set(found["output_tokens"]) == {3}
    assert all(checks(result)[gate.name].passed for gate in gates)
    measured = open_stores(platform).tracker.list("reply")[0].metrics
    assert 0 < measured["p50_seconds_to_first_token"] <= measured["p95_seconds_to_first_token"] < measured["p95_seconds"]


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_in_one_piece_has_no_time_to_the_first_token(stream, platform, run) -> None:
    gates = [ml.Gate("p95_seconds_to_first_token", at_most=60)]
    with ScriptedServer(default=answer_whole) as server:
        result = run(ml.build_definitions(declare(server.url, gates=gates, stream=stream), platform=platform))(ok=False)
        assert {"stream" in request.body for request in server.requests} == {stream}
    found = table(platform)
    assert (found["seconds_to_first_token"].null_count(), found["seconds"].null_count(), set(found["output_tokens"])) == (6, 0, {3})
    assert "6 of 6 answers did not arrive as a stream" in checks(result)["p95_seconds_to_first_token_at_most"].description


def test_with_a_gate_on_the_first_token_answers_that_were_no_streams_are_asked_for_once(platform, run) -> None:
    gates = [ml.Gate("p95_seconds_to_first_token", at_most=60)]

    def evaluate(*, ok: bool, gates=gates, **more):
        return checks(run(ml.build_definitions(declare(server.url, gates=gates, **more), platform=platform))(ok=ok))

    with ScriptedServer() as server:
        evaluate(ok=True, stream=False, gates=[])
        evaluate(ok=False, stream=False)
        assert len(server.requests) == 6, "no stream can be asked for"
        assert evaluate(ok=True)["p95_seconds_to_first_token_at_most"].passed
        assert len(server.requests) == 12
        evaluate(ok=True, slices=[])
        assert len(server.requests) == 12
    assert table(platform)["seconds_to_first_token"].null_count() == 0


def test_an_endpoint_that_replies_to_a_stream_in_one_piece_is_asked_once(platform, run) -> None:
    gates = [ml.Gate("p95_seconds_to_first_token", at_most=60)]
    with ScriptedServer(default=answer_whole) as server:
        for slices in (["airline"], []):
            run(ml.build_definitions(declare(server.url, gates=gates, slices=slices), platform=platform))(ok=False)
        assert len(server.requests) == 6


def answer_whole(exchange: Exchange) -> None:
    """Reply with one JSON document, also to a request for a stream."""
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    document = {"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}], "usage": usage}
    exchange.send(json.dumps(document).encode(), content_type="application/json")


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (send_forever(), "sent more than 10000 bytes"),
        (cut_stream, "without finish_reason"),
        (slow_first_byte, "gave no whole reply within"),
    ],
)
def test_a_stream_that_is_not_whole_is_an_error_and_no_answer(fault, problem, platform, run) -> None:
    with ScriptedServer(fault) as server:
        declared = declare(server.url, timeout=timedelta(seconds=0.5), max_bytes=10_000)
        result = run(ml.build_definitions(declared, platform=platform))(ok=False)
    failed = table(platform).row(0, named=True)
    assert problem in failed["error"]
    assert [failed[name] for name in ("answer", "exact_match", "seconds_to_first_token")] == [None] * 3
    assert not checks(result)["complete"].passed


def test_durations_of_failed_calls_do_not_improve_a_percentile(platform, run) -> None:
    gate = ml.Gate("p95_seconds", at_most=60)
    rows = {name: values * 7 for name, values in ROWS.items()} | {"case": [f"case {number:02}" for number in range(42)]}
    with ScriptedServer(fail(400), fail(400)) as server:
        declared = declare(server.url, rows, gates=[gate], max_error_rate=0.5)
        result = run(ml.build_definitions(declared, platform=platform))()
        assert checks(result)[gate.name].passed, "the slowest 5 % may have failed"
    with ScriptedServer(*[fail(400)] * 3) as server:
        declared = declare(server.url, rows, instructions="Answer at once.", gates=[gate], max_error_rate=0.5)
        result = run(ml.build_definitions(declared, platform=platform))(ok=False)
    failed = checks(result)[gate.name]
    assert not failed.passed
    assert "3 of 42 calls failed" in failed.description
