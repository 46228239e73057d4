"""The service of a prompt: its address, what its clients may spend, and what it refuses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import DefinitionError
from mlops_assets.values.arguments import check_constructor
from mlops_assets.values.llm.endpoint import is_variable, validate_otlp
from mlops_assets.values.names import validate_name
from mlops_assets.values.options import AssetArguments, AssetOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_assets.values.dataset import Dataset
    from mlops_assets.values.llm.prompt import Prompt
    from mlops_assets.values.llm.provider import LLM

MAX_REPAIRS = 5


@check_constructor
@dataclass(frozen=True)
class RateLimits:
    """The maximum that one client may send within any 60 seconds.

    Parameters
    ----------
    requests_per_minute
        The maximum number of requests to the model, with retries and repairs. Feedback has the same limit, counted separately.
    tokens_per_minute
        The maximum number of tokens. A request counts with its maximum until its reply arrives, and then with the tokens that were used.

    Raises
    ------
    DefinitionError
        A limit is not positive.

    See Also
    --------
    Budget : Limits what may be spent within a day.
    PromptService : Applies both.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.llm.RateLimits(requests_per_minute=60).requests_per_minute
    60
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def __post_init__(self) -> None:
        """Refuse limits that are not positive."""
        _check_positive("rate limits", requests_per_minute=self.requests_per_minute, tokens_per_minute=self.tokens_per_minute)


@check_constructor
@dataclass(frozen=True)
class Budget:
    """The maximum that a service may spend on its model within a day of UTC.

    A request is refused before it is sent if its maximum exceeds the rest of the budget. The maximum is one token for each byte that is
    sent, an allowance for the chat template, and ``max_tokens``. When the reply arrives, the unused part is available again.

    Parameters
    ----------
    usd_per_day
        The maximum cost, in US dollars. Requests to a model without a price are refused.
    tokens_per_day
        The maximum number of tokens.
    requests_per_day
        The maximum number of requests to the model; a repair of an invalid answer is a request too, and so is a
        retry if the endpoint was reached.
    per_key
        The budget of each single API key; it has no ``per_key`` of its own.

    Raises
    ------
    DefinitionError
        A limit is not positive, or the budget of a key has a ``per_key`` of its own.

    See Also
    --------
    RateLimits : Limits what may be sent within a minute.
    PromptService : Applies both.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.llm.Budget(tokens_per_day=1_000_000, per_key=ml.llm.Budget(requests_per_day=500)).per_key.requests_per_day
    500
    """

    usd_per_day: float | None = None
    tokens_per_day: int | None = None
    requests_per_day: int | None = None
    per_key: Budget | None = None

    def __post_init__(self) -> None:
        """Refuse limits that are not positive, and budgets in the budget of a key."""
        limits = {"tokens_per_day": self.tokens_per_day, "requests_per_day": self.requests_per_day}
        _check_positive("a budget", usd_per_day=self.usd_per_day, **limits)
        if self.per_key is not None and self.per_key.per_key is not None:
            raise DefinitionError("the budget of a key cannot have a per_key= of its own", hint="give one budget, and one as its per_key=")

    @property
    def parts(self) -> tuple[Budget, ...]:
        """The budget itself, and that of each key if there is one."""
        return (self,) if self.per_key is None else (self, self.per_key)

    @property
    def limits_cost(self) -> bool:
        """Whether the cost is limited, for the service or for each key."""
        return any(part.usd_per_day is not None for part in self.parts)

    @property
    def limits_tokens(self) -> bool:
        """Whether the tokens are limited, for the service or for each key."""
        return any(part.tokens_per_day is not None for part in self.parts)


@check_constructor
@dataclass(frozen=True, init=False)
class PromptService:
    """Serves the promoted version of a prompt over HTTP, on workers that load each promotion and rollback without a restart.

    ``POST /answer`` takes the prompt's variables as JSON, ``POST /v1/chat/completions`` is for clients of OpenAI's API, and ``POST
    /feedback`` stores a score for an answer. ``/openapi.json`` describes these routes. Without a promoted version, every call gets 503.

    Parameters
    ----------
    name
        Names the asset ``service/<name>``, and the folder below the platform's home.
    prompt
        The prompt whose production version answers.
    host, port
        The address to listen on. Port 0 takes any free port; a restart takes the same port again while it is free.
    workers
        Number of worker processes.
    max_bytes
        The maximum size of one request.
    keys_env
        The environment variable with the API keys of the clients, as ``name:key`` pairs between commas or spaces. Traces hold the name of
        a key, never the key. Only the client that got an answer may rate it. None answers every client.
    budget
        What may be spent within a day; None does not limit it.
    rate_limits
        What each API key may send within a minute; without ``keys_env``, all clients share the limits. None does not limit it.
    denied_topics
        Topic → a regular expression, or a list of words, in any case. A call whose text has a match is refused with 422, before any
        request to the model.
    redact
        Whether e-mail addresses, IBANs and phone numbers are replaced in requests to the model. In traces they are always replaced.
    capture
        Whether traces hold variables and answers.
    repairs
        The maximum number of further calls when an answer does not fit the response type of the prompt.
    prices
        The dataset of prices, as in :class:`PromptEvaluation`, for the cost of each call; without it, costs are unknown. The service reads
        it when it starts, and starts again after the dataset has changed.
    otlp_endpoint
        The base URL of an OpenTelemetry collector, e.g. ``http://127.0.0.1:4318``, which receives each trace as well. An answer never waits
        for it.
    otlp_headers_env
        The environment variable with headers for the collector, as ``name=value`` pairs between commas.
    **options
        Passed to Dagster, as in :func:`mlops_assets.dataset`.

    Raises
    ------
    DefinitionError
        A limit, the port or a denied topic is invalid; or a budget cannot be kept, because a model has no ``max_tokens`` or there are no prices.

    See Also
    --------
    prompt : Declares a prompt.
    Budget : Limits what may be spent within a day.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> @ml.llm.prompt(model=ml.llm.LLM("smollm2", base_url="http://127.0.0.1:8080/v1"))
    ... def summary(report: str) -> None:
    ...     '''Summarise the report in one sentence.'''
    >>> api = ml.llm.PromptService(
    ...     "summary_api", prompt=summary, budget=ml.llm.Budget(requests_per_day=1000), denied_topics={"wages": ["salary", "wage"]}
    ... )
    >>> api.key
    'service/summary_api'
    """

    name: str
    prompt: Prompt[..., Any]
    host: str
    port: int
    workers: int
    max_bytes: int
    keys_env: str | None
    budget: Budget | None
    rate_limits: RateLimits | None
    denied_topics: tuple[tuple[str, str], ...]
    redact: bool
    capture: bool
    repairs: int
    prices: Dataset[..., Any] | None
    otlp_endpoint: str | None
    otlp_headers_env: str | None
    options: AssetOptions = field(default=AssetOptions(), compare=False)

    def __init__(  # noqa: PLR0913  (a flat declaration reads best)
        self,
        name: str,
        *,
        prompt: Prompt[..., Any],
        host: str = "127.0.0.1",
        port: int = 0,
        workers: int = 2,
        max_bytes: int = 2**20,
        keys_env: str | None = None,
        budget: Budget | None = None,
        rate_limits: RateLimits | None = None,
        denied_topics: Mapping[str, str | Sequence[str]] = {},
        redact: bool = True,
        capture: bool = False,
        repairs: int = 1,
        prices: Dataset[..., Any] | None = None,
        otlp_endpoint: str | None = None,
        otlp_headers_env: str | None = None,
        **options: object,
    ) -> None:
        values = {
            "name": validate_name(name, "a service"),
            "prompt": prompt,
            "host": host,
            "port": port,
            "workers": workers,
            "max_bytes": max_bytes,
            "keys_env": keys_env,
            "budget": budget,
            "rate_limits": rate_limits,
            "denied_topics": tuple((topic, _build_pattern(name, topic, words)) for topic, words in dict(denied_topics).items()),
            "redact": redact,
            "capture": capture,
            "repairs": repairs,
            "prices": prices,
            "otlp_endpoint": validate_otlp(f"the service '{name}'", otlp_endpoint, otlp_headers_env),
            "otlp_headers_env": otlp_headers_env,
            "options": AssetOptions.from_arguments(AssetArguments(**options)),  # type: ignore[typeddict-item]
        }
        for attribute, value in values.items():
            object.__setattr__(self, attribute, value)
        self._check()

    @property
    def key(self) -> str:
        """``service/<name>``: the running service."""
        return f"service/{self.name}"

    def _check(self) -> None:
        where = f"the service '{self.name}'"
        _check_positive(where, workers=self.workers, max_bytes=self.max_bytes)
        if not 0 <= self.port < 65_536:
            raise DefinitionError(f"{where}: port={self.port} is invalid", hint="give a port from 0 to 65535")
        if not 0 <= self.repairs <= MAX_REPAIRS:
            raise DefinitionError(f"{where}: repairs={self.repairs} is invalid", hint=f"give 0 to {MAX_REPAIRS}")
        if self.keys_env is not None and not is_variable(self.keys_env):
            raise DefinitionError(  # without the value, which may be a key
                f"the keys_env of {where} is not the name of an environment variable",
                hint="give its name in upper case, e.g. keys_env='SUMMARY_KEYS', and never a key itself",
            )
        if self.budget is not None and self.budget.per_key is not None and self.keys_env is None:
            raise DefinitionError(
                f"{where} has a budget per key, but keys_env= is not set", hint="name the variable with the keys as keys_env="
            )
        for model in (self.prompt.model, *self.prompt.model.fallbacks):
            self._check_model(where, model)

    def _check_model(self, where: str, model: LLM) -> None:
        """Refuse a model whose requests have no known maximum of tokens or cost, if the service limits these; prices are read at the start."""
        budget, limits = self.budget or Budget(), self.rate_limits or RateLimits()
        counts_tokens = budget.limits_tokens or budget.limits_cost or limits.tokens_per_minute is not None
        if counts_tokens and model.max_tokens is None:
            raise DefinitionError(
                f"{where} limits tokens or cost, but max_tokens= of its model '{model.model}' is not set",
                hint="give the model max_tokens=, so that the maximum of a request is known",
            )
        if budget.limits_cost and self.prices is None:
            raise DefinitionError(f"{where} has a budget in US dollars, but prices= is not set", hint="give a dataset of prices as prices=")


def _check_positive(subject: str, **limits: float | None) -> None:
    for name, limit in limits.items():
        if limit is not None and not 0 < limit < float("inf"):
            raise DefinitionError(f"{subject}: {name}={limit} is invalid", hint=f"give a positive {name}")


def _build_pattern(service: str, topic: str, words: str | Sequence[str]) -> str:
    """Return the regular expression of a denied topic: the one that was given, or one that finds any of the words."""
    where = f"the denied topic '{topic}' of the service '{service}'"
    if isinstance(words, str):
        pattern = words
    else:
        phrases = [r"\s+".join(map(re.escape, word.split())) for word in words]
        pattern = rf"(?<!\w)(?:{'|'.join(phrases)})(?!\w)" if phrases and all(phrases) else ""
    try:
        matches_everything = re.search(pattern, "") is not None
    except re.error as error:
        raise DefinitionError(f"{where} is not a regular expression: {error}", hint="correct it, or give a list of words") from None
    if not topic.strip():
        raise DefinitionError(f"{where} has an empty name", hint="give the topic a name")
    if matches_everything:
        raise DefinitionError(f"{where} matches every text, so that every call is refused", hint="give words that are not empty")
    return pattern
