"""Each attempt at a model counts: in budgets, in metrics, in traces and in the time of a call. A refusal says who can fix it."""

import socket
import time
from datetime import UTC, datetime, timedelta

import pytest

import mlops_assets as ml
from tests.serving.llm.scripted_server import ScriptedServer, answer, fail, hang_up_in_the_middle, stay_silent
from tests.serving.prompts.support import Stand, make_prompt, serve

LARGE = ml.llm.Budget(tokens_per_day=1_000_000)
OPERATOR = "the operator of the service must fix it: its trace says how"


@pytest.fixture
def server():
    with ScriptedServer() as server:
        yield server


def read_spending(stand: Stand):
    return stand.ledger.read_spending(datetime.now(UTC).date().isoformat())


def read_counter(stand: Stand, name: str) -> int:
    lines = stand.client.get("/metrics").text.splitlines()
    return sum(int(float(line.rpartition(" ")[2])) for line in lines if name in line and not line.startswith("#"))


def find_free_url() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


def test_retries_do_not_overrun_a_budget_of_tokens(server, tmp_path) -> None:
    server.default = hang_up_in_the_middle()
    with serve(tmp_path, make_prompt(server.url, retries=2), budget=ml.llm.Budget(tokens_per_day=600)) as stand:
        replies = [stand.answer() for _ in range(3)]
        spent = read_spending(stand)
        root, request = stand.spans()[:2]
    assert [(reply.status_code, reply.json()["code"]) for reply in replies] == [(429, "budget")] * 3
    assert len(server.requests) == spent.requests == 1
    assert 100 < spent.tokens <= 600
    assert "mlops.refusal" not in root.attributes, "the model failed first"
    assert (request.attributes["mlops.attempts"], request.attributes["mlops.may_be_billed"]) == (1, 1)


def test_retries_do_not_overrun_a_limit_of_requests(server, tmp_path) -> None:
    server.default = fail(500)
    with serve(tmp_path, make_prompt(server.url, retries=2), budget=ml.llm.Budget(requests_per_day=2)) as stand:
        assert stand.answer().status_code == 429
        spent = read_spending(stand)
    assert (len(server.requests), spent.requests, spent.tokens) == (2, 2, 0)


def test_each_attempt_that_was_sent_is_booked(server, tmp_path) -> None:
    server.steps = [fail(500), fail(500), answer()]
    with serve(tmp_path, make_prompt(server.url, retries=2), budget=LARGE) as stand:
        assert stand.answer().status_code == 200
        spent = read_spending(stand)
    assert (spent.requests, spent.tokens) == (3, 10)


def test_attempts_at_an_endpoint_that_cannot_be_reached_are_no_requests(tmp_path) -> None:
    limits = {"budget": ml.llm.Budget(requests_per_day=1), "rate_limits": ml.llm.RateLimits(requests_per_minute=1)}
    with serve(tmp_path, make_prompt(find_free_url(), retries=2), **limits) as stand:
        assert [stand.answer().status_code for _ in range(2)] == [502, 502]
        assert read_spending(stand).requests == 0


@pytest.mark.parametrize(
    ("status", "is_billed"), [(502, True), (504, True), (524, True), (408, True), (500, False), (503, False), (400, False)]
)
def test_a_gateway_that_gave_up_waiting_may_have_cost_money(server, tmp_path, status, is_billed) -> None:
    server.default = fail(status)
    with serve(tmp_path, make_prompt(server.url), budget=LARGE) as stand:
        stand.answer()
        assert (read_spending(stand).tokens > 100) == is_billed
        (request,) = [span for span in stand.spans() if span.parent_id]
    assert request.attributes["mlops.may_be_billed"] == is_billed


@pytest.mark.parametrize(
    ("step", "status", "hint"),
    [
        (fail(400, code="context_length_exceeded"), 413, "send less"),
        (fail(400, code="exceed_context_size_error"), 413, "send less"),
        (fail(401), 503, OPERATOR),
        (fail(404), 503, OPERATOR),
        (
            fail(429, code="insufficient_quota"),
            503,
            OPERATOR,
        ),
        (fail(500), 502, "call again later"),
    ],
)
def test_a_failure_of_the_model_says_who_can_mend_it(server, tmp_path, step, status, hint) -> None:
    server.default = step
    with serve(tmp_path, make_prompt(server.url)) as stand:
        reply = stand.answer()
    assert (reply.status_code, reply.json()["hint"], "retry-after" in reply.headers) == (status, hint, False)


def test_a_missing_key_of_the_model_is_for_the_operator(server, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("TINY_KEY", raising=False)
    with serve(tmp_path, make_prompt(server.url, api_key_env="TINY_KEY")) as stand:
        reply = stand.answer()
        (request,) = [span for span in stand.spans() if span.parent_id]
    assert request.attributes["mlops.may_be_billed"] == 0, "the figures of traces do not call its cost unknown"
    assert (reply.status_code, reply.json()["hint"]) == (503, OPERATOR)
    assert request.attributes["mlops.hint"] == "put the key into TINY_KEY"


def test_a_failure_of_the_model_is_no_refusal_also_when_the_text_is_too_long_for_it(server, tmp_path) -> None:
    server.steps = [fail(400, code="context_length_exceeded"), fail(401)]
    with serve(tmp_path, make_prompt(server.url)) as stand:
        stand.answer()
        stand.answer()
        roots = [span for span in stand.spans() if span.parent_id is None]
    assert [(root.status, root.attributes.get("mlops.refusal")) for root in roots] == [("error", None)] * 2


def test_a_budget_that_ends_the_attempts_of_a_failing_model_does_not_hide_its_failure(server, tmp_path) -> None:
    server.default = fail(500)
    with serve(tmp_path, make_prompt(server.url, retries=2), budget=ml.llm.Budget(requests_per_day=1)) as stand:
        replies = [stand.answer(), stand.answer()]
        roots = [span for span in stand.spans() if span.parent_id is None]
    assert [reply.status_code for reply in replies] == [429, 429]
    assert [root.attributes.get("mlops.refusal") for root in roots] == [None, "budget"], (
        "only the second call was refused by its budget alone"
    )


def test_metrics_count_the_tokens_of_replies_that_did_not_fit(server, tmp_path) -> None:
    server.default = answer("no number")
    with serve(tmp_path, make_prompt(server.url, response=int), repairs=1) as stand:
        assert stand.answer().status_code == 502
        counts = [read_counter(stand, name) for name in ("input_tokens", "output_tokens", "repairs", "answers")]
    assert counts == [14, 6, 1, 0]


def test_repairs_share_the_time_limit_of_a_call(server, tmp_path) -> None:
    def answer_late(exchange) -> None:
        time.sleep(2)
        answer("no number")(exchange)

    server.steps = [answer_late, stay_silent()]
    with serve(tmp_path, make_prompt(server.url, response=int, time_limit=timedelta(seconds=4)), repairs=1) as stand:
        began = time.monotonic()
        assert stand.answer().status_code == 504
        assert time.monotonic() - began < 5.5
    assert len(server.requests) == 2
