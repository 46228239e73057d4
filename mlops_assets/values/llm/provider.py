"""A language model behind an OpenAI-compatible endpoint, and its completion of a list of messages."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import DefinitionError
from mlops_assets.values.arguments import check_constructor
from mlops_assets.values.llm.endpoint import is_endpoint, is_variable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

EMBEDDED_MODEL = "smollm2"
_EMBEDDED_PIN = "SmolLM2-135M-Instruct.Q4_1"
_OWN_PARAMETERS = {"max_tokens", "messages", "model", "n", "response_format", "seed", "stream", "temperature"}


@check_constructor
@dataclass(frozen=True, init=False)
class LLM:
    """A language model behind an OpenAI-compatible endpoint, or the small model that runs on this machine.

    Parameters
    ----------
    model
        The model's name at the endpoint.
    base_url
        The address before ``/chat/completions``, usually ending in ``/v1``. None is for the model ``smollm2`` only: SmolLM2-135M runs in a
        server on this machine, which starts at the first call and stops when it has had no call for ten minutes.
    api_key_env
        The environment variable that holds the API key; None when the endpoint needs no key. The key itself is never stored.
    pin
        A text that identifies the weights beyond the name, e.g. a revision or a file's hash; it is not sent.
    temperature, max_tokens, seed
        Parameters of the request; a parameter that is None is not sent, so that the endpoint's default applies.
    parameters
        Other parameters of the request, e.g. ``{"top_p": 0.9}``. The value None removes a parameter that the client would send:
        ``{"stream_options": None}`` is for endpoints that refuse to report the usage of streams.
    timeout
        The maximum duration of one attempt.
    stall_timeout
        The maximum time without a byte from a stream: before its first byte, and between two bytes.
    time_limit
        The maximum duration of a call with all its retries and fallbacks.
    retries
        Further attempts at this model after status 429 or 5xx, a lost connection, or a timeout before the reply begins. Other failures, and
        an exhausted quota, are final.
    fallbacks
        Models to ask, in this order, when this one fails after its retries; each has its own ``retries``.
    concurrency
        The maximum number of requests that one process has open at the endpoint.
    max_bytes
        The maximum size of a reply.

    Raises
    ------
    DefinitionError
        A URL, name, limit or parameter is invalid, a model other than ``smollm2`` has no URL, or a fallback has fallbacks of its own.

    See Also
    --------
    Completion : The answer of a model.

    Examples
    --------
    >>> from mlops_assets.values.llm.provider import LLM
    >>> small = LLM("smollm2", base_url="http://127.0.0.1:8080/v1", pin="135m-q8", fallbacks=[LLM("large", base_url="http://gpu:8000/v1")])
    >>> small.endpoint
    'http://127.0.0.1:8080/v1/chat/completions'
    >>> LLM("smollm2").is_embedded
    True
    """

    model: str
    base_url: str | None
    api_key_env: str | None
    pin: str
    temperature: float | None
    max_tokens: int | None
    seed: int | None
    parameters: tuple[tuple[str, Any], ...] = field(hash=False)  # a value may be a list or a dict
    timeout: timedelta
    stall_timeout: timedelta
    time_limit: timedelta
    retries: int
    fallbacks: tuple[LLM, ...]
    concurrency: int
    max_bytes: int

    def __init__(  # noqa: PLR0913  (a flat declaration reads best)
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key_env: str | None = None,
        pin: str = "",
        temperature: float | None = 0.0,
        max_tokens: int | None = 1024,
        seed: int | None = None,
        parameters: Mapping[str, Any] = {},
        timeout: timedelta = timedelta(seconds=60),
        stall_timeout: timedelta = timedelta(seconds=30),
        time_limit: timedelta = timedelta(minutes=2),
        retries: int = 2,
        fallbacks: Sequence[LLM] = (),
        concurrency: int = 8,
        max_bytes: int = 8 * 2**20,
    ) -> None:
        if base_url is None:
            _refuse_unless_embedded(model, api_key_env)
        values = {
            "model": model,
            "base_url": None if base_url is None else _validate_url(model, base_url),
            "api_key_env": _validate_variable(model, api_key_env),
            "pin": _EMBEDDED_PIN if base_url is None and not pin else pin,
            "temperature": temperature,
            "max_tokens": max_tokens,
            "seed": seed,
            "parameters": _validate_parameters(model, dict(parameters)),
            "timeout": timeout,
            "stall_timeout": stall_timeout,
            "time_limit": time_limit,
            "retries": retries,
            "fallbacks": tuple(fallbacks),
            "concurrency": concurrency,
            "max_bytes": max_bytes,
        }
        for attribute, value in values.items():
            object.__setattr__(self, attribute, value)
        _validate_limits(self)

    @property
    def is_embedded(self) -> bool:
        """Whether the model runs in the server that this package starts on this machine."""
        return self.base_url is None

    @property
    def slots(self) -> int:
        """The number of requests that one process may have open: ``concurrency``, and 1 for the embedded model."""
        return 1 if self.is_embedded else self.concurrency

    @property
    def endpoint(self) -> str:
        """The URL to which requests are sent; ``embedded:smollm2`` for the embedded model, whose server chooses its port."""
        return f"embedded:{self.model}" if self.is_embedded else f"{self.base_url}/chat/completions"

    @property
    def request_parameters(self) -> dict[str, Any]:
        """Model and parameters as fields of a request, without those that are None."""
        declared = {"model": self.model, "temperature": self.temperature, "max_tokens": self.max_tokens, "seed": self.seed}
        return {name: value for name, value in {**declared, **dict(self.parameters)}.items() if value is not None}

    @property
    def definition(self) -> str:
        """The sha256 of what decides an answer: name, pin and parameters of this model and its fallbacks, but not URLs, keys or limits."""
        facts = [self.request_parameters, self.pin, [fallback.definition for fallback in self.fallbacks]]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@check_constructor
@dataclass(frozen=True)
class Completion:
    """The answer of a language model to a list of messages.

    Parameters
    ----------
    text
        The answer; never empty.
    finish_reason
        Why the model stopped, as the endpoint reports it: ``"stop"``, or ``"length"`` when ``max_tokens`` cut the text off.
    model
        The declared name of the model that answered: the LLM that was called, or one of its fallbacks.
    reported_model
        The name in the reply, which may be more precise; None when the endpoint does not report it.
    prompt_tokens, completion_tokens
        The usage; None when the endpoint does not report it.
    seconds
        The duration of the call with its retries, in seconds; of a cached answer, that of the original call, and None when another
        endpoint gave it.
    seconds_to_first_token
        The seconds until the first text of a stream; None when the answer came in one piece, or from the cache of another endpoint.
    failures
        One text for each failed attempt of this call.
    attempts
        The number of requests of this call, failed ones included; a cached answer needs none.
    may_be_billed
        How many of the failed requests the provider may have billed: all that were sent and not refused with an error status.
    cached
        Whether the answer comes from the cache and caused no cost. The usage is then that of the original request.
    cached_prompt_tokens
        How many of the prompt's tokens the provider read from its own cache; None when the endpoint does not report it.
    answered_at
        When the model answered, in UTC; of a cached answer, when it was stored.
    endpoint
        The URL that answered.
    streamed
        Whether the answer was requested as a stream; it may have come in one piece all the same.

    See Also
    --------
    LLM : The model that answers.

    Examples
    --------
    >>> from mlops_assets.values.llm.provider import Completion
    >>> Completion(text="42", finish_reason="stop", model="small").prompt_tokens is None
    True
    """

    text: str
    finish_reason: str
    model: str
    reported_model: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float | None = None
    seconds_to_first_token: float | None = None
    failures: tuple[str, ...] = ()
    attempts: int = 1
    may_be_billed: int = 0
    cached: bool = False
    cached_prompt_tokens: int | None = None
    answered_at: datetime | None = field(default=None, compare=False)
    endpoint: str = ""
    streamed: bool = False


def _refuse_unless_embedded(model: str, api_key_env: str | None) -> None:
    """Raise DefinitionError for a model without a URL that is not the embedded one, and for a key, which the embedded model does not need."""
    if model != EMBEDDED_MODEL:
        raise DefinitionError(
            f"the language model '{model}' has no base_url",
            hint=f"give the address of its endpoint; without one, only '{EMBEDDED_MODEL}' runs, on this machine",
        )
    if api_key_env is not None:
        raise DefinitionError(
            f"the language model '{model}' has an api_key_env and no base_url",
            hint="the embedded model needs no key: give a base_url, or drop the key",
        )


def _validate_url(model: str, url: str) -> str:
    """Return the URL without slashes at its end; raise DefinitionError, which does not quote it, when it is not an endpoint."""
    if not is_endpoint(url):
        raise DefinitionError(  # without the value, which may contain a key
            f"the base_url of the language model '{model}' is not an endpoint",
            hint="give scheme, host and path, e.g. http://127.0.0.1:8000/v1; name the variable with the key as api_key_env",
        )
    return url.rstrip("/")


def _validate_variable(model: str, name: str | None) -> str | None:
    if name is not None and not is_variable(name):
        raise DefinitionError(  # without the value, which may be a key
            f"the api_key_env of the language model '{model}' is not the name of an environment variable",
            hint="give its name in upper case, e.g. api_key_env='OPENAI_API_KEY', and never the key itself",
        )
    return name


def _validate_parameters(model: str, parameters: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    for name in parameters:
        if name in _OWN_PARAMETERS:
            raise DefinitionError(
                f"'{name}' is in the parameters of the language model '{model}'",
                hint="temperature, max_tokens and seed are arguments of their own; the client sets the others",
            )
    try:
        copied = json.loads(json.dumps(parameters, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise DefinitionError(
            f"the parameters of the language model '{model}' are not JSON: {error}", hint="give texts, finite numbers, lists and dicts"
        ) from None
    return tuple(sorted(copied.items()))


def _validate_limits(llm: LLM) -> None:
    durations = {name: getattr(llm, name) for name in ("timeout", "stall_timeout", "time_limit")}
    counts = {"concurrency": llm.concurrency, "max_bytes": llm.max_bytes, "max_tokens": 1 if llm.max_tokens is None else llm.max_tokens}
    for name, value in {**durations, **counts}.items():
        if value <= (timedelta() if name in durations else 0):
            raise DefinitionError(f"the language model '{llm.model}': {name}={value} is invalid", hint=f"give a positive {name}")
    if llm.temperature is not None and not 0 <= llm.temperature <= 2:
        raise DefinitionError(f"the language model '{llm.model}': temperature={llm.temperature} is invalid", hint="give 0 to 2, or None")
    if not 0 <= llm.retries <= 10:
        raise DefinitionError(f"the language model '{llm.model}': retries={llm.retries} is invalid", hint="give 0 to 10")
    if any(fallback.fallbacks for fallback in llm.fallbacks):
        raise DefinitionError(
            f"a fallback of the language model '{llm.model}' has fallbacks of its own",
            hint="list all fallbacks, in order, at the first model",
        )
