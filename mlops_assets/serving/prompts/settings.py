"""The settings of a prompt's service as text, for the state file that its workers read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.llm_evaluation.prices import Price, PriceTable
from mlops_assets.values.llm.prompt_service import Budget, RateLimits
from mlops_assets.values.llm.provider import LLM

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlops_assets.values.llm.prompt_service import PromptService


@dataclass(frozen=True)
class PromptSettings:
    """The settings of a :class:`~mlops_assets.values.llm.prompt_service.PromptService` that its workers need.

    Parameters
    ----------
    model
        The model as the project declares it, with its address; None to use the one that is stored with a version.
    prices
        The prices of models, to compute costs; None when the service declares none.
    keys_env, budget, rate_limits, denied_topics, redact, capture, repairs, otlp_endpoint, otlp_headers_env
        As in :class:`~mlops_assets.values.llm.prompt_service.PromptService`.
    """

    model: LLM | None = None
    keys_env: str | None = None
    budget: Budget | None = None
    rate_limits: RateLimits | None = None
    denied_topics: tuple[tuple[str, str], ...] = ()
    redact: bool = True
    capture: bool = False
    repairs: int = 1
    prices: PriceTable | None = None
    otlp_endpoint: str | None = None
    otlp_headers_env: str | None = None


def encode_settings(service: PromptService, prices: PriceTable | None = None) -> str:
    """Return the settings of a service as JSON.

    Parameters
    ----------
    service
        The declared service.
    prices
        The prices in the dataset that the service declares.
    """
    plain = ("keys_env", "denied_topics", "redact", "capture", "repairs", "otlp_endpoint", "otlp_headers_env")
    return json.dumps(
        {
            **{name: getattr(service, name) for name in plain},
            "model": _encode_model(service.prompt.model),
            "budget": None if service.budget is None else asdict(service.budget),
            "rate_limits": None if service.rate_limits is None else asdict(service.rate_limits),
            "prices": None if prices is None else _encode_prices(prices),
        },
        sort_keys=True,
    )


def decode_settings(text: str) -> PromptSettings:
    """Return the settings that :func:`encode_settings` wrote.

    Parameters
    ----------
    text
        The JSON.
    """
    facts = json.loads(text)
    built = {
        "model": None if facts["model"] is None else _decode_model(facts["model"]),
        "budget": None if facts["budget"] is None else _decode_budget(facts["budget"]),
        "rate_limits": None if facts["rate_limits"] is None else RateLimits(**facts["rate_limits"]),
        "denied_topics": tuple((topic, pattern) for topic, pattern in facts["denied_topics"]),
        "prices": None if facts["prices"] is None else _decode_prices(facts["prices"]),
    }
    return PromptSettings(**{**facts, **built})


def _encode_model(model: LLM) -> dict[str, Any]:
    values = {each.name: getattr(model, each.name) for each in fields(model)}
    seconds = {name: value.total_seconds() for name, value in values.items() if isinstance(value, timedelta)}
    return values | seconds | {"parameters": dict(model.parameters), "fallbacks": [_encode_model(other) for other in model.fallbacks]}


def _decode_model(facts: Mapping[str, Any]) -> LLM:
    durations = {name: timedelta(seconds=facts[name]) for name in ("timeout", "stall_timeout", "time_limit")}
    return LLM(**{**facts, **durations, "fallbacks": [_decode_model(other) for other in facts["fallbacks"]]})


def _decode_budget(facts: Mapping[str, Any]) -> Budget:
    return Budget(**{**facts, "per_key": None if facts["per_key"] is None else Budget(**facts["per_key"])})


def _encode_prices(table: PriceTable) -> dict[str, Any]:
    rows = [
        [p.model, p.valid_from.isoformat(), *(None if x is None else str(x) for x in (p.input_price, p.output_price, p.cached_price))]
        for p in table.prices
    ]
    return {"currency": table.currency, "rows": rows}


def _decode_prices(facts: Mapping[str, Any]) -> PriceTable:
    return PriceTable(tuple(_decode_price(*row) for row in facts["rows"]), facts["currency"])


def _decode_price(model: str, start: str, sent: str, received: str, cached: str | None) -> Price:
    return Price(model, datetime.fromisoformat(start), Decimal(sent), Decimal(received), None if cached is None else Decimal(cached))
