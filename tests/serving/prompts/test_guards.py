"""What a service refuses before any request to the model, what it hides from it, and what feedback it stores."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from threading import Event
from typing import Annotated, Literal

import pydantic
import pytest

import mlops_assets as ml
from mlops_assets.compute.llm_evaluation.prices import Price, PriceTable
from mlops_assets.compute.llm_traces.trace_rows import build_trace_rows
from mlops_assets.errors import ServiceError
from mlops_assets.serving.prompts.api_keys import ApiKeys
from tests.serving.llm.scripted_server import ScriptedServer, answer, fail, hang_up_in_the_middle
from tests.serving.prompts.support import make_prompt, serve

START = datetime(2020, 1, 1, tzinfo=UTC)
PRICES = PriceTable((Price("tiny", START, Decimal(1), Decimal(2)),))  # 7 and 3 tokens cost 13 millionths


@pytest.fixture(scope="module")
def server():
    with ScriptedServer() as server:
        yield server


@pytest.fixture
def open_stand(server, tmp_path):
    server.steps.clear()
    server.requests.clear()

    def open_(prompt=None, **settings):
        return serve(tmp_path, prompt or make_prompt(server.url), **settings)

    return open_


def test_a_denied_topic_is_refused_before_any_request(open_stand, server) -> None:
    topics = {"wages": ["salary", "hourly wage"], "weapons": r"\bguns?\b"}
    with open_stand(denied_topics=topics) as stand:
        for text, topic in (
            ("The SALARY of a pilot?", "wages"),
            ("his hourly\n wage", "wages"),
            ("a gun", "weapons"),
            ("ｇｕｎｓ", "weapons"),
        ):
            reply = stand.answer({"question": "Is it late?", "context": text})
            assert (reply.status_code, reply.json()["topic"]) == (422, topic)
            assert reply.json()["error"] == f"the call is about the denied topic '{topic}'"
            root = next(span for span in stand.spans() if span.trace_id == reply.json()["trace_id"])
            assert (root.status, root.error) == ("error", reply.json()["error"])
        assert stand.answer({"question": "the salaryman begun"}).status_code == 200
        chat = stand.post("/v1/chat/completions", {"model": "reply", "messages": [{"role": "user", "content": "salary"}]})
        assert chat.json()["error"]["code"] == "denied_topic"
    assert len(server.requests) == 1


def test_the_root_of_a_refused_call_says_why_and_that_of_a_failed_one_does_not(open_stand, server) -> None:
    server.steps = [answer(), fail(500)]
    limits = {"budget": ml.llm.Budget(tokens_per_day=2000), "rate_limits": ml.llm.RateLimits(requests_per_minute=2)}
    with open_stand(denied_topics={"wages": ["salary"]}, **limits) as stand:
        stand.answer()
        refused = [stand.answer({"question": text}) for text in ("salary", "x" * 3000, "late?")]
        refused.append(stand.answer())
        roots = [span for span in stand.spans() if span.parent_id is None]
    assert [reply.status_code for reply in refused] == [422, 413, 502, 429]
    shown = [root.attributes.get("mlops.refusal") for root in roots]
    assert shown == [None, "denied_topic", "budget", None, "rate_limit"]
    assert build_trace_rows({datetime.now(UTC).date(): roots}).frame["refusal"].to_list() == shown


def test_personal_data_reaches_neither_the_model_nor_the_traces(open_stand, server) -> None:
    text = "Write to ada@example.org, call +49 30 1234567, pay to DE89 3704 0044 0532 0130 00 by 2024-05-01"
    server.steps = [answer("ask bob@example.org"), answer()]
    with open_stand(capture=True) as stand:
        reply = stand.answer({"question": text})
        assert reply.json()["answer"] == "ask bob@example.org"
        stand.post("/v1/chat/completions", {"model": "reply", "messages": [{"role": "user", "content": text}]})
        shown = json.dumps([request.body for request in server.requests]) + str(stand.spans())
    for secret in ("ada@", "bob@", "1234567", "3704"):
        assert secret not in shown
    assert shown.count("2024-05-01") == 4


def test_personal_data_in_json_reaches_no_trace_and_no_model(open_stand, server) -> None:
    text = r'{"a": "x\n+49 30 1234567", "ada@example.org": 1, "bob@example.org": 2}'
    server.default = answer(text)
    with open_stand(capture=True) as stand:
        assert stand.answer({"question": text}).json()["answer"] == text
        root = stand.spans()[0]
    expected = {"a": "x\n[phone number]", "[e-mail address]": 1, "[e-mail address] 2": 2}
    assert json.loads(root.attributes["mlops.output"]) == expected
    shown = server.requests[0].body["messages"][-1]["content"] + root.attributes["mlops.input"]
    assert not [secret for secret in ("1234567", "ada@", "bob@") if secret in shown]


def test_redaction_of_what_is_sent_can_be_off_but_traces_stay_redacted(open_stand, server) -> None:
    with open_stand(redact=False, capture=True) as stand:
        stand.answer({"question": "ada@example.org"})
        assert "ada@example.org" in server.requests[0].body["messages"][-1]["content"]
        assert "ada@" not in str(stand.spans())


def test_without_capture_traces_hold_no_text(open_stand) -> None:
    with open_stand() as stand:
        stand.answer({"question": "Aurora"})
        assert "Aurora" not in str(stand.spans())
        assert "yes" not in str([span.attributes for span in stand.spans()])


@pytest.fixture
def _keys(monkeypatch) -> None:
    monkeypatch.setenv("REPLY_KEYS", "ada:key-of-ada, bob:key-of-bob")


@pytest.mark.usefixtures("_keys")
def test_a_key_is_required_and_traces_hold_its_name(open_stand, server) -> None:
    with open_stand(keys_env="REPLY_KEYS") as stand:
        for headers in ({}, {"authorization": "Bearer nonsense"}, {"authorization": "key-of-ada"}):
            reply = stand.answer(**headers)
            assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
            assert stand.post("/feedback", {}, **headers).status_code == 401
            assert stand.client.get("/v1/models", headers=headers).status_code == 401
        assert server.requests == stand.spans() == []
        assert stand.answer(authorization="Bearer key-of-bob").status_code == 200
        assert stand.client.get("/v1/models", headers={"authorization": "bearer key-of-ada"}).status_code == 200
        assert stand.client.get("/readyz").status_code == 200
        assert [span.attributes.get("mlops.api_key") for span in stand.spans()] == ["bob", "bob"]
        assert "key-of" not in str(stand.spans())
    assert "key-of" not in str(server.requests)


@pytest.mark.parametrize("value", ["", "ada", "ada:", "Ada:x", "ada:x,ada:y", "ada:x bob:x", ":x"])
def test_keys_that_cannot_be_read_are_an_error_that_shows_none(monkeypatch, value) -> None:
    monkeypatch.setenv("REPLY_KEYS", value.replace("x", "very-secret"))
    with pytest.raises(ServiceError) as caught:
        ApiKeys("REPLY_KEYS")
    assert "secret" not in str(caught.value)


@pytest.mark.usefixtures("_keys")
def test_requests_of_a_minute_are_limited_for_each_key(open_stand, server) -> None:
    with open_stand(keys_env="REPLY_KEYS", rate_limits=ml.llm.RateLimits(requests_per_minute=3)) as stand:
        ada = [stand.answer(authorization="Bearer key-of-ada") for _ in range(5)]
        assert [reply.status_code for reply in ada] == [200, 200, 200, 429, 429]
        assert ada[-1].json()["code"] == "rate_limit"
        assert 40 <= int(ada[-1].headers["retry-after"]) <= 61
        assert stand.answer(authorization="Bearer key-of-bob").status_code == 200
    assert len(server.requests) == 4


def test_sixteen_clients_on_a_budget_for_a_hundred_calls_get_exactly_a_hundred(open_stand, server) -> None:
    with open_stand(budget=ml.llm.Budget(requests_per_day=100)) as stand, ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda _: stand.answer(), range(160)))
    assert sorted(reply.status_code for reply in replies) == [200] * 100 + [429] * 60
    refused = next(reply for reply in replies if reply.status_code == 429)
    assert refused.json()["code"] == "budget"
    assert 0 < int(refused.headers["retry-after"]) <= 86_400
    assert len(server.requests) == 100


def test_a_budget_of_tokens_is_settled_with_what_was_used(open_stand) -> None:
    with open_stand(budget=ml.llm.Budget(tokens_per_day=600)) as stand:
        replies = [stand.answer() for _ in range(60)]
        spent = stand.ledger.read_spending(datetime.now(UTC).date().isoformat())
    answered = [reply for reply in replies if reply.status_code == 200]
    assert spent.tokens == 10 * len(answered) <= 600
    assert 0 < len(answered) < 60
    assert [reply.status_code for reply in replies] == [200] * len(answered) + [429] * (60 - len(answered))


def test_costs_are_known_by_the_prices_and_limited_in_dollars(open_stand) -> None:
    with open_stand(budget=ml.llm.Budget(usd_per_day=0.001), prices=PRICES) as stand:
        reply = stand.answer().json()
        assert reply["cost"] == pytest.approx(13e-6)
        _, chat = stand.spans()
        assert chat.attributes["mlops.cost"] == pytest.approx(13e-6)
        assert chat.attributes["mlops.price.version"] == PRICES.version
        statuses = [stand.answer().status_code for _ in range(80)]
        spent = stand.ledger.read_spending(datetime.now(UTC).date().isoformat())
    assert {200, 429} == set(statuses)
    assert spent.pico == 13_000_000 * spent.requests <= 10**9


def test_a_version_without_a_price_is_refused_by_a_budget_in_dollars(open_stand, server) -> None:
    with open_stand(budget=ml.llm.Budget(usd_per_day=100.0), prices=PRICES) as stand:
        other = ml.llm.LLM("other", base_url=server.url)
        stand.promote(make_prompt(server.url, fallbacks=[other]))
        reply = stand.answer()
        assert (reply.status_code, reply.json()["code"]) == (503, "price")
        assert reply.json()["error"] == "the model 'other' has no price, and the service has a budget in US dollars"
        stand.promote(make_prompt(server.url, max_tokens=None))
        reply = stand.answer()
        assert (reply.status_code, reply.json()["code"]) == (503, "budget")
    assert server.requests == []


def test_failed_requests_are_settled_and_repairs_count(open_stand, server) -> None:
    today = datetime.now(UTC).date().isoformat()
    server.steps = [fail(500), answer(usage=None), answer("no"), answer("1")]
    with open_stand(budget=ml.llm.Budget(tokens_per_day=100_000)) as stand:
        assert stand.answer().status_code == 502
        assert stand.ledger.read_spending(today).tokens == 0
        assert stand.answer().status_code == 200
        reserved = stand.ledger.read_spending(today).tokens
        assert reserved > 100, "a reply without usage costs what was reserved"
        stand.promote(make_prompt(server.url, response=int))
        assert stand.answer().json()["answer"] == 1
        spent = stand.ledger.read_spending(today)
    assert (spent.tokens, spent.requests) == (reserved + 20, 4)


def test_every_attempt_that_may_have_been_billed_is_settled_at_its_maximum(open_stand, server) -> None:
    today, broken = datetime.now(UTC).date().isoformat(), hang_up_in_the_middle()
    server.steps = [answer(usage=None), broken, fail(500), broken, broken, fail(500), answer()]
    with open_stand(budget=ml.llm.Budget(usd_per_day=1.0), prices=PRICES) as stand:
        stand.promote(make_prompt(server.url, retries=2))
        stand.answer()
        maximum = stand.ledger.read_spending(today)
        assert stand.answer().status_code == 502
        assert stand.ledger.read_spending(today).tokens == 3 * maximum.tokens, "two of the three attempts"
        reply = stand.answer().json()
        spent = stand.ledger.read_spending(today)
    assert (spent.tokens, spent.pico) == (4 * maximum.tokens + 10, 4 * maximum.pico + 13_000_000)
    assert (reply["cost"], reply["usage"]) == (None, {"input_tokens": 7, "output_tokens": 3})


def test_a_call_that_is_larger_than_a_whole_limit_is_not_asked_to_wait(open_stand, server) -> None:
    limits = [
        ({"budget": ml.llm.Budget(tokens_per_day=2000)}, "budget: the request needs up to", "the budget is 2000 tokens a day"),
        (
            {"rate_limits": ml.llm.RateLimits(tokens_per_minute=2000)},
            "rate limit: the request needs up to",
            "the limit is 2000 tokens a minute",
        ),
        (
            {"budget": ml.llm.Budget(usd_per_day=0.002), "prices": PRICES},
            "budget: the request needs up to",
            "the budget is 0.002000 US dollars",
        ),
    ]
    for settings, *texts in limits:
        with open_stand(**settings) as stand:
            reply = stand.answer({"question": "x" * 2000})
            assert (reply.status_code, "retry-after" in reply.headers) == (413, False)
            assert all(text in reply.json()["error"] for text in texts)
            assert stand.answer().status_code == 200
    assert len(server.requests) == 3


def test_a_budget_that_running_calls_fill_asks_to_wait_a_moment(open_stand, server) -> None:
    ended = Event()
    server.steps = [lambda exchange: (ended.wait(60), answer()(exchange))]
    with open_stand(budget=ml.llm.Budget(tokens_per_day=600)) as stand, ThreadPoolExecutor(1) as pool:
        first = pool.submit(stand.answer)
        server.wait_for_requests(1)
        reply = stand.answer()
        assert (reply.status_code, reply.headers["retry-after"]) == (429, "1")
        ended.set()
        assert first.result(60).status_code == 200
        assert stand.answer().status_code == 200


def test_a_call_that_was_never_sent_does_not_use_up_the_requests_of_a_day(open_stand, server, monkeypatch) -> None:
    monkeypatch.delenv("TINY_KEY", raising=False)
    limits = {"budget": ml.llm.Budget(requests_per_day=1), "rate_limits": ml.llm.RateLimits(requests_per_minute=1)}
    with open_stand(make_prompt(server.url, api_key_env="TINY_KEY"), **limits) as stand:
        assert [stand.answer().json()["error"] for _ in range(2)] == ["the model 'tiny' failed (configuration)"] * 2
        monkeypatch.setenv("TINY_KEY", "key-of-tiny")
        assert [stand.answer().status_code for _ in range(2)] == [200, 429]


def test_what_a_request_carries_apart_from_its_messages_counts_too(open_stand, server) -> None:
    tools = [{"type": "function", "function": {"name": "find_flights", "description": "x" * 5000}}]
    server.steps = [answer(usage=None)] * 2
    with open_stand(make_prompt(server.url, parameters={"tools": tools})) as stand:
        assert stand.answer().status_code == 200
        spent = stand.ledger.read_spending(datetime.now(UTC).date().isoformat()).tokens
        assert spent > 5000
        stand.promote(make_prompt(server.url))
        assert stand.answer().status_code == 200
        assert stand.ledger.read_spending(datetime.now(UTC).date().isoformat()).tokens < spent + 1000


def test_a_text_that_a_prompts_function_adds_is_redacted_before_it_leaves(open_stand, server) -> None:
    def reply(question: str) -> str:
        """Answer. The author is ada@example.org."""
        return f"{question}\nTimetable: call bob@example.org or 0171 1234567."

    example = ml.llm.FewShotExample({"question": "Late? Ask dan@example.org."}, "No.")
    with open_stand(make_prompt(server.url, reply, examples=[example])) as stand:
        assert stand.answer({"question": "May I write to cleo@example.org?"}).status_code == 200
    instructions, question, verdict, message = server.requests[0].body["messages"]
    assert "ada@example.org" in instructions["content"], "the author's own words stay"
    assert question["content"] == "Late? Ask dan@example.org.\nTimetable: call bob@example.org or 0171 1234567."
    assert verdict["content"] == "No."
    assert message["content"] == "May I write to [e-mail address]?\nTimetable: call [e-mail address] or [phone number]."


class Desk(pydantic.BaseModel):
    notes: list[str]


def test_a_prompts_function_that_changes_a_default_shows_no_client_the_text_of_another(open_stand, server) -> None:
    def reply(question: str, notes: list[str] = [], desk: Desk = Desk(notes=[])) -> str:  # noqa: B006, B008  (users write this)
        """Answer."""
        notes.append(question)
        desk.notes.append(question)
        return f"{notes} {desk.notes}"

    with open_stand(make_prompt(server.url, reply)) as stand:
        assert [stand.answer({"question": text}).status_code for text in ("Ada's secret", "Late?")] == [200, 200]
    assert server.requests[1].body["messages"][-1]["content"] == "['Late?'] ['Late?']"


def test_a_denied_topic_is_found_in_what_redaction_hides(open_stand, server) -> None:
    with open_stand(denied_topics={"rivals": r"@rival\.example"}) as stand:
        assert stand.answer({"question": "Forward it to sales@rival.example"}).json()["topic"] == "rivals"
        chat = stand.post("/v1/chat/completions", {"model": "reply", "messages": [{"role": "user", "content": "x@rival.example"}]})
        assert chat.json()["error"]["code"] == "denied_topic"
    assert server.requests == []


def test_redaction_does_not_make_a_valid_call_wrong(open_stand, server) -> None:
    def reply(question: Annotated[str, pydantic.Field(max_length=12)], to: Literal["desk@example.org", "none"] = "none") -> None:
        """Answer."""

    with open_stand(make_prompt(server.url, reply)) as stand:
        assert stand.answer({"question": "Late?", "to": "desk@example.org"}).status_code == 200
        refused = stand.answer({"question": "a@b.example"}).json()
    assert refused["code"] == "redaction"
    assert refused["error"].startswith("after personal data was replaced, the variable 'question': String should have at most 12")
    assert "desk@example.org" in server.requests[0].body["messages"][-1]["content"]


def test_a_ledger_that_was_removed_refuses_calls(open_stand, server) -> None:
    with open_stand() as stand:
        (stand.folder / "ledger.sqlite").unlink()
        assert stand.answer().status_code == 503
        ready = stand.client.get("/readyz")
        assert (ready.status_code, "removed or replaced" in ready.json()["error"]) == (503, True)
    assert server.requests == []


def test_feedback_is_a_span_below_the_root_of_its_trace(open_stand) -> None:
    with open_stand() as stand:
        trace_id = stand.answer().json()["trace_id"]
        reply = stand.post("/feedback", {"trace_id": trace_id, "score": 0.5, "comment": "wrong, says ada@example.org"})
        assert (reply.status_code, reply.json()) == (200, {"trace_id": trace_id, "stored": True})
        root, _, feedback = [span for span in stand.spans() if span.trace_id == trace_id]
        assert (feedback.name, feedback.parent_id) == ("feedback", root.span_id)
        assert feedback.attributes == {"mlops.feedback": 0.5, "mlops.feedback.comment": "wrong, says [e-mail address]"}


@pytest.mark.usefixtures("_keys")
def test_only_the_client_that_got_an_answer_may_rate_it(open_stand) -> None:
    ada, bob = ({"authorization": f"Bearer key-of-{name}"} for name in ("ada", "bob"))
    with open_stand(keys_env="REPLY_KEYS") as stand:
        trace_id = stand.answer(**ada).json()["trace_id"]
        assert trace_id in {span.trace_id for span in stand.spans()}
        for headers, text in ((bob, trace_id), (ada, trace_id[:-1] + ("0" if trace_id[-1] != "0" else "1"))):
            reply = stand.post("/feedback", {"trace_id": text, "score": 0}, **headers)
            assert (reply.status_code, reply.json()["error"]) == (404, "there is no such trace")
        assert stand.post("/feedback", {"trace_id": trace_id, "score": 1}, **ada).status_code == 200
        assert [span.attributes["mlops.api_key"] for span in stand.spans() if span.name == "feedback"] == ["ada"]


def test_feedback_is_limited_for_itself(open_stand) -> None:
    with open_stand(rate_limits=ml.llm.RateLimits(requests_per_minute=2)) as stand:
        trace_id = stand.answer().json()["trace_id"]
        replies = [stand.post("/feedback", {"trace_id": trace_id, "score": 1}) for _ in range(3)]
        assert [reply.status_code for reply in replies] == [200, 200, 429]
        assert int(replies[-1].headers["retry-after"]) > 1
        assert stand.answer().status_code == 200, "requests are counted by themselves"


def test_feedback_and_the_list_of_models_do_not_wait_for_the_model(open_stand, server) -> None:
    ended = Event()
    with open_stand(make_prompt(server.url, concurrency=1), max_waiting=0) as stand, ThreadPoolExecutor(1) as pool:
        trace_id = stand.answer().json()["trace_id"]
        server.steps = [lambda exchange: (ended.wait(60), answer()(exchange))]
        running = pool.submit(stand.answer)
        server.wait_for_requests(2)
        assert stand.answer().status_code == 503
        assert stand.post("/feedback", {"trace_id": trace_id, "score": 1}).status_code == 200
        assert stand.client.get("/v1/models").status_code == 200
        ended.set()
        assert running.result(60).status_code == 200


def test_traces_and_ledger_are_for_their_owner_only(open_stand) -> None:
    with open_stand() as stand:
        stand.answer()
        paths = [stand.folder / "ledger.sqlite", stand.folder / "traces", *(stand.folder / "traces").rglob("*")]
        assert len(paths) == 4
        assert {path.name: path.stat().st_mode & 0o077 for path in paths} == dict.fromkeys((path.name for path in paths), 0)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"score": 1.1}, 422),
        ({"score": True}, 422),
        ({"score": None}, 422),
        ({"trace_id": "../../etc"}, 422),
        ({"trace_id": "f" * 32}, 404),
        ({"comment": 5}, 422),
        ({"comment": "x" * 20_000}, 422),
        ({"scores": 1}, 422),
    ],
)
def test_wrong_feedback_is_refused(open_stand, change, status) -> None:
    with open_stand() as stand:
        trace_id = stand.answer().json()["trace_id"]
        assert stand.post("/feedback", {"trace_id": trace_id, "score": 1} | change).status_code == status
        assert [span.name for span in stand.spans()] == ["answer", "chat tiny"]


def test_no_exception_of_a_prompts_function_shows_the_variables(open_stand, server, capfd) -> None:
    def reply(question: str) -> str:
        return {}[question]

    with open_stand(make_prompt(server.url, reply)) as stand:
        refused = stand.answer({"question": "Aurora"})
    assert refused.status_code == 500
    assert "Aurora" not in refused.text + "".join(capfd.readouterr())
