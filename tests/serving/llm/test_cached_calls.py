"""Calls with the response cache: a stored answer sends no request."""

from dataclasses import replace
from pathlib import Path

import pytest

from mlops_assets.errors import ProviderError
from mlops_assets.serving.llm.client import complete
from mlops_assets.stores.llm.response_cache import CacheScope, ResponseCache
from mlops_assets.values.llm.provider import LLM
from tests.serving.llm.scripted_server import ScriptedServer, answer, fail, messages, send_html


@pytest.fixture
def scope(tmp_path: Path) -> CacheScope:
    return ResponseCache(tmp_path / "responses.sqlite").build_scope("v1", {"city": "Rome"})


def test_the_second_call_sends_no_request_and_a_bypass_does(scope: CacheScope) -> None:
    with ScriptedServer(answer("first"), answer("second")) as server:
        llm = LLM("tiny", base_url=server.url)
        first, again = (complete(llm, messages(), cache=scope) for _ in range(2))
        assert len(server.requests) == 1
        assert complete(llm, messages()).text == "second"
        assert len(server.requests) == 2
        assert complete(llm, messages(), cache=scope).text == "first"
    assert (first.cached, again.cached, again.attempts) == (False, True, 0)
    assert replace(again, seconds=first.seconds) == replace(first, cached=True, attempts=0)


def test_other_variables_schemas_and_parameters_are_asked_for(scope: CacheScope) -> None:
    with ScriptedServer() as server:
        llm = LLM("tiny", base_url=server.url)
        complete(llm, messages(), cache=scope)
        complete(llm, messages(), cache=replace(scope, variables={"city": "Oslo"}))
        complete(llm, messages(), cache=scope, response_schema={"type": "string"})
        complete(replace(llm, temperature=1.0), messages(), cache=scope)
        complete(replace(llm, pin="r2"), messages(), cache=scope)
        assert len(server.requests) == 5


def test_an_answer_does_not_depend_on_the_address(scope: CacheScope) -> None:
    with ScriptedServer() as first, ScriptedServer() as second:
        complete(LLM("tiny", base_url=first.url), messages(), cache=scope)
        assert complete(LLM("tiny", base_url=second.url, api_key_env="NOT_SET"), messages(), cache=scope).cached
    assert second.requests == []


def test_the_answer_of_a_fallback_is_stored_as_its_own(scope: CacheScope) -> None:
    with ScriptedServer(fail(401), answer("spare"), answer("main")) as server:
        spare = LLM("spare", base_url=server.url)
        llm = LLM("tiny", base_url=server.url, fallbacks=[spare])
        assert complete(llm, messages(), cache=scope).model == "spare"
        assert complete(llm, messages(), cache=scope).text == "main"
        assert complete(spare, messages(), cache=scope).text == "spare"
        assert len(server.requests) == 3


def test_a_failure_is_not_stored(scope: CacheScope) -> None:
    with ScriptedServer(send_html(), answer("late")) as server:
        llm = LLM("tiny", base_url=server.url)
        with pytest.raises(ProviderError):
            complete(llm, messages(), cache=scope)
        assert complete(llm, messages(), cache=scope).text == "late"
