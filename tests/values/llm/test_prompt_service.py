"""Declarations of a prompt's service that cannot work are refused where they are written."""

import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.errors import DefinitionError


def declare(**arguments):
    model = arguments.pop("model", ml.llm.LLM("tiny", base_url="http://127.0.0.1:9/v1"))

    @ml.llm.prompt(model=model)
    def reply(question: str) -> None:
        """Answer the question."""

    return ml.llm.PromptService("reply_api", prompt=reply, **arguments)


@ml.dataset(key="model")
def model_prices() -> pl.DataFrame:
    return pl.DataFrame({"model": ["tiny"]})


UNLIMITED = ml.llm.LLM("tiny", base_url="http://127.0.0.1:9/v1", max_tokens=None)
DOLLARS = ml.llm.Budget(usd_per_day=1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": 0}, "the service 'reply_api': workers=0 is invalid"),
        ({"port": 70_000}, "the service 'reply_api': port=70000 is invalid"),
        ({"repairs": 6}, "the service 'reply_api': repairs=6 is invalid"),
        ({"keys_env": "sk-secret"}, "the keys_env of the service 'reply_api' is not the name of an environment variable"),
        ({"denied_topics": {"x": "("}}, "the denied topic 'x' of the service 'reply_api' is not a regular expression"),
        (
            {"denied_topics": {"x": ["a", " "]}},
            "the denied topic 'x' of the service 'reply_api' matches every text, so that every call is refused",
        ),
        ({"denied_topics": {"x": "a*"}}, "matches every text"),
        ({"denied_topics": {"x": []}}, "matches every text"),
        ({"budget": DOLLARS}, "has a budget in US dollars, but prices= is not set"),
        ({"budget": ml.llm.Budget(per_key=DOLLARS), "keys_env": "KEYS"}, "has a budget in US dollars, but prices= is not set"),
        ({"budget": ml.llm.Budget(tokens_per_day=5), "model": UNLIMITED}, "max_tokens= of its model 'tiny' is not set"),
        ({"rate_limits": ml.llm.RateLimits(tokens_per_minute=5), "model": UNLIMITED}, "max_tokens= of its model 'tiny' is not set"),
        ({"budget": ml.llm.Budget(per_key=ml.llm.Budget())}, "has a budget per key, but keys_env= is not set"),
        ({"unknown": 1}, "has no argument 'unknown'"),
    ],
)
def test_a_service_that_cannot_work_is_refused(arguments, message) -> None:
    with pytest.raises(DefinitionError) as caught:
        declare(**arguments)
    assert message in caught.value.message
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize("limits", [{"usd_per_day": 0.0}, {"usd_per_day": float("inf")}, {"tokens_per_day": -1}, {"requests_per_day": 0}])
def test_a_limit_is_positive(limits) -> None:
    with pytest.raises(DefinitionError, match="a budget: "):
        ml.llm.Budget(**limits)


def test_the_budget_of_a_key_has_no_keys() -> None:
    with pytest.raises(DefinitionError, match="per_key= of its own"):
        ml.llm.Budget(per_key=ml.llm.Budget(per_key=ml.llm.Budget()))


def test_a_whole_declaration_keeps_its_values() -> None:
    service = declare(budget=DOLLARS, prices=model_prices, denied_topics={"wages": ["salary"]}, owners=["ada@example.org"])
    assert (service.key, service.workers, service.redact, service.capture) == ("service/reply_api", 2, True, False)
    assert service.denied_topics == (("wages", r"(?<!\w)(?:salary)(?!\w)"),)
    assert service.options.owners == ("ada@example.org",)
