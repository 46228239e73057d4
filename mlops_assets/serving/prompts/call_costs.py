"""Compute the tokens and costs of a prompt's calls: the maximum before a request is sent, and the spending after its reply."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mlops_assets.serving.prompts.refusal import RefusalError
from mlops_assets.stores.llm.budget_ledger import Spending

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from decimal import Decimal

    from mlops_assets.serving.prompts.served_prompt import ServedPrompt
    from mlops_assets.serving.prompts.settings import PromptSettings
    from mlops_assets.values.llm.prompt import Message
    from mlops_assets.values.llm.provider import LLM, Completion

_MESSAGE_TOKENS = 16  # the maximum that a chat template adds to a message
_TEMPLATE_TOKENS = 128  # the maximum that a chat template adds to a request: date, default instructions, start of the answer
_TOOL_TOKENS = 512  # the maximum that a chat template adds to a request with tools, apart from their text


class CallCosts:
    """Computes the tokens and costs of requests.

    Parameters
    ----------
    settings
        The settings of the service, with its prices.
    """

    def __init__(self, settings: PromptSettings) -> None:
        self._settings = settings

    def find_maximum(self, served: ServedPrompt, messages: Sequence[Message]) -> Spending:
        """Return the maximum that a request may use: a token for each sent byte, those that the chat template adds, and ``max_tokens``.

        The bytes are those of the messages, the response schema and the model's parameters. The cost is that of the most expensive model
        that may answer; the cost is unknown if any of these models has no price.

        Parameters
        ----------
        served, messages
            The version that answers, and the messages of the request.

        Raises
        ------
        RefusalError
            503: a model has no ``max_tokens``, and the service limits tokens or cost; or it has no price, and the service limits cost.
        """
        text = served.schema_bytes + sum(len(message.content.encode(errors="replace")) + _MESSAGE_TOKENS for message in messages)
        models = (served.prompt.model, *served.prompt.model.fallbacks)
        self._refuse_unlimited(models)
        sizes = [(text + _count_parameter_tokens(model), _find_max_tokens(model)) for model in models]
        costs = [self._find_pico_cost(model.model, *size) for model, size in zip(models, sizes, strict=True)]
        self._refuse_unpriced(models, costs)
        known = [cost for cost in costs if cost is not None]
        return Spending(max(sent + (received or 0) for sent, received in sizes), max(known) if len(known) == len(costs) else None)

    def find_spending(self, maximum: Spending, completion: Completion) -> Spending:
        """Return the spending of an answered attempt: the tokens that its reply reports, or the maximum when they are unknown.

        Parameters
        ----------
        maximum
            The maximum of the attempt.
        completion
            The reply.
        """
        sent, received = completion.prompt_tokens, completion.completion_tokens
        if sent is None or received is None:
            return maximum
        return Spending(sent + received, self._find_pico_cost(completion.model, sent, received))

    def find_cost(self, completions: Sequence[Completion]) -> Decimal | None:
        """Return the cost of requests, in the currency of the prices; None when the cost of a request or of a failed attempt is unknown.

        Parameters
        ----------
        completions
            The replies.
        """
        prices, now = self._settings.prices, datetime.now(UTC)
        if prices is None or not completions or any(completion.may_be_billed for completion in completions):
            return None
        costs = [prices.price_call(c.model, now, c.prompt_tokens, c.completion_tokens, c.cached_prompt_tokens).amount for c in completions]
        known = [cost for cost in costs if cost is not None]
        return sum(known[1:], known[0]) if len(known) == len(costs) else None

    def make_attributes(self, completions: Sequence[Completion]) -> dict[str, Any]:
        """Return the cost of requests and the version of the prices as attributes of a span; no attributes when the cost is unknown.

        Parameters
        ----------
        completions
            The replies.
        """
        cost, prices = self.find_cost(completions), self._settings.prices
        return {} if cost is None or prices is None else {"mlops.cost": float(cost), "mlops.price.version": prices.version}

    def _refuse_unlimited(self, models: Sequence[LLM]) -> None:
        budget, limits = self._settings.budget, self._settings.rate_limits
        counts_tokens = limits is not None and limits.tokens_per_minute is not None
        if budget is not None:
            counts_tokens = counts_tokens or budget.limits_tokens or budget.limits_cost
        if counts_tokens and any(model.max_tokens is None for model in models):
            raise RefusalError(
                "the model of this version has no max_tokens, and the service limits tokens or cost",
                hint="promote a version with max_tokens",
                status=503,
                code="budget",
            )

    def _refuse_unpriced(self, models: Sequence[LLM], costs: Sequence[int | None]) -> None:
        budget = self._settings.budget
        if budget is not None and budget.limits_cost and None in costs:
            raise RefusalError(
                f"the model '{models[costs.index(None)].model}' has no price, and the service has a budget in US dollars",
                hint="add its price to the dataset of prices, and start the service again",
                status=503,
                code="price",
            )

    def _find_pico_cost(self, model: str, sent: int, received: int | None) -> int | None:
        """Return the cost of a request at undiscounted prices, in picounits of the currency; None when it is unknown."""
        prices = self._settings.prices
        return None if prices is None else prices.price_call(model, datetime.now(UTC), sent, received, 0).pico


def _count_parameter_tokens(model: LLM) -> int:
    """Return the maximum number of tokens that a model's parameters, e.g. tools, and its chat template add to a request."""
    parameters = dict(model.parameters)
    tools = _TOOL_TOKENS if parameters.keys() & {"tools", "functions"} else 0
    return _TEMPLATE_TOKENS + tools + (len(json.dumps(parameters)) if parameters else 0)


def _find_max_tokens(model: LLM) -> int | None:
    """Return the maximum number of tokens of an answer, including those for reasoning; None when it is unlimited."""
    limits = [limit for limit in (model.max_tokens, dict(model.parameters).get("max_completion_tokens")) if isinstance(limit, int)]
    return max(limits) if limits else None


def sum_tokens(counts: Iterable[int | None]) -> int | None:
    """Return the sum of token counts; None when a count is unknown.

    Parameters
    ----------
    counts
        The counts.
    """
    listed = list(counts)
    known = [count for count in listed if count is not None]
    return sum(known) if len(known) == len(listed) else None
