"""A language model: what identifies its answers, and what it refuses."""

from dataclasses import replace
from datetime import timedelta

import pytest

from mlops_assets.errors import DefinitionError
from mlops_assets.values.llm.provider import LLM

URL = "http://127.0.0.1:8000/v1"
TINY = LLM("tiny", base_url=URL, parameters={"top_p": 0.9, "logit_bias": {"5": 1}})


def test_the_definition_follows_what_decides_the_answer() -> None:
    changes = [
        {"model": "other"},
        {"pin": "r2"},
        {"temperature": 0.5},
        {"max_tokens": 5},
        {"seed": 1},
        {"parameters": {"top_p": 0.8}},
        {"fallbacks": [TINY]},
        {"fallbacks": [replace(TINY, pin="r2")]},
    ]
    definitions = {TINY.definition, *(replace(TINY, **change).definition for change in changes)}
    assert len(definitions) == len(changes) + 1


def test_the_definition_does_not_follow_where_and_how_long() -> None:
    second = timedelta(seconds=1)
    elsewhere = LLM(
        "tiny",
        base_url="https://llm.example.org/api",
        api_key_env="TINY_KEY",
        parameters={"logit_bias": {"5": 1}, "top_p": 0.9},
        timeout=second,
        stall_timeout=second,
        time_limit=second,
        retries=0,
        concurrency=1,
        max_bytes=10,
    )
    assert elsewhere.definition == TINY.definition


def test_a_language_model_is_a_value() -> None:
    given = {"stop": ["a"]}
    llm = LLM("tiny", base_url=f"{URL}/", parameters=given)
    given["stop"].append("b")
    assert llm == replace(llm) == LLM("tiny", base_url=URL, parameters={"stop": ["a"]})
    assert len({llm, replace(llm)}) == 1
    assert (llm.endpoint, llm.parameters) == (f"{URL}/chat/completions", (("stop", ["a"]),))


def test_a_parameter_that_is_none_is_not_sent() -> None:
    llm = LLM("tiny", base_url=URL, temperature=None, max_tokens=None, parameters={"stream_options": None, "top_p": 1})
    assert llm.request_parameters == {"model": "tiny", "top_p": 1}


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000/v1",
        "ftp://host/v1",
        "http://",
        "http://user:sk-secret@host/v1",
        "https://host/v1?api-key=sk-secret",
        "http://host/v1#sk-secret",
        "http://a..b/v1",
        "http://host:port/v1",
        "http://host:70000/v1",
        "http://[12345::]/v1",
        "http://ho st/v1",
        "http://host/v1\nsk-secret",
    ],
)
def test_a_url_that_is_no_endpoint_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(DefinitionError, match="the base_url of the language model 'tiny' is not an endpoint") as caught:
        LLM("tiny", base_url=url)
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://localhost/v1", "https://api.example.org", "http://[::1]:8000/v1", "http://my_service:80/a/b-c/"])
def test_a_url_of_an_endpoint_is_accepted(url: str) -> None:
    assert LLM("tiny", base_url=url).base_url == url.rstrip("/")


@pytest.mark.parametrize("key", ["sk-secret", "secret", "", "MY KEY"])
def test_a_key_in_place_of_its_variable_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(DefinitionError, match="never the key itself") as caught:
        LLM("tiny", base_url=URL, api_key_env=key)
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"timeout": timedelta()}, "timeout=0:00:00"),
        ({"stall_timeout": timedelta(seconds=-1)}, "stall_timeout"),
        ({"time_limit": timedelta()}, "time_limit"),
        ({"concurrency": 0}, "concurrency=0"),
        ({"max_bytes": 0}, "max_bytes=0"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"retries": -1}, "retries=-1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"parameters": {"n": 2}}, "'n' is in the parameters"),
        ({"parameters": {"stream": True}}, "'stream' is in the parameters"),
        ({"parameters": {"stop": {1}}}, "are not JSON"),
        ({"parameters": {"top_p": float("inf")}}, "are not JSON"),
        ({"fallbacks": [replace(TINY, fallbacks=[TINY])]}, "has fallbacks of its own"),
        ({"fallbacks": TINY}, "fallbacks"),
        ({"timeouts": 3}, "no argument 'timeouts'"),
    ],
)
def test_an_invalid_argument_is_refused(arguments: dict, problem: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        LLM("tiny", base_url=URL, **arguments)
    assert problem in caught.value.message


def test_the_embedded_model_has_one_slot_and_others_as_many_as_they_declare() -> None:
    assert LLM("smollm2").slots == 1
    assert LLM("small", base_url="http://127.0.0.1:9/v1", concurrency=3).slots == 3
