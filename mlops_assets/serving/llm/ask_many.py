"""Ask a prompt many times at once; a call that fails is a record, not an exception."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.prompts.version import hash_prompt
from mlops_assets.errors import ProviderError
from mlops_assets.serving.llm.ask import find_cached_completion, parse_answer, request_completion
from mlops_assets.serving.llm.circuit_breaker import MAX_FAILURES, CircuitBreaker
from mlops_assets.serving.llm.failures import HOPELESS
from mlops_assets.stores.llm.response_cache import FIRST_TOKEN

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from mlops_assets.stores.llm.response_cache import CacheScope, ResponseCache
    from mlops_assets.values.llm.prompt import Prompt
    from mlops_assets.values.llm.provider import Completion


@dataclass(frozen=True)
class CallRecord:
    """The outcome of one call of a prompt.

    Parameters
    ----------
    completion
        The model's reply; None when no model answered. If the reply is not of the declared type, ``error`` is set.
    error
        Class and message of the failure, without key, prompt or reply; empty for a valid answer.
    attempts
        Number of requests that were sent; a cached answer needs none.
    seconds
        The duration of the call; None for a cached answer of another endpoint.
    kind
        The kind of the failure, as in :class:`ProviderError`, or ``skipped`` for a call that was not made; empty for a valid answer.
    may_be_billed
        Number of failed requests that the provider may have billed; the last reply is not counted.
    """

    completion: Completion | None
    error: str
    attempts: int
    seconds: float | None
    kind: str = ""
    may_be_billed: int = 0


def ask_many(  # noqa: PLR0913  (how to ask)
    prompt: Prompt[..., Any],
    calls: Sequence[Mapping[str, Any]],
    *,
    cache: ResponseCache | None,
    repeats: int = 1,
    streams: bool = False,
    durations: Collection[str] = (),
) -> Iterator[tuple[int, CallRecord]]:
    """Yield the position and the record of each call, in the order in which the calls end.

    As many calls run at once as the prompt's model has slots. After eight calls in a row that no model answered, because of lost connections
    or status 5xx, the remaining calls are looked up in the cache only, and fail at once when they are not there. When the caller stops early,
    calls that have not begun are dropped.

    Parameters
    ----------
    prompt
        The prompt.
    calls
        Variable → value, for each call.
    cache
        Where answers are looked up, and stored as soon as they arrive; None asks the model in each call.
    repeats
        How often each call is made. The answers of each repeat are cached separately. Positions count the calls of the first repeat, then
        those of the second repeat, and so on.
    streams
        Whether to ask for streams, so that the time to the first token is measured.
    durations
        The durations of interest, as in :class:`CacheScope`; the time to the first token only counts for streams.

    Raises
    ------
    ProviderError
        The model and each fallback lack the environment variable with their key, or are embedded and do not start: no call can succeed.
    DefinitionError, DataError
        A call lacks a variable, or has a value of another type.
    MissingExtraError
        httpx is not installed.
    """
    version, breaker = hash_prompt(prompt), CircuitBreaker()
    measured = [name for name in durations if streams or name != FIRST_TOKEN]
    pairs = [
        (values, None if cache is None else cache.build_scope(version, values, repeat, durations=measured))
        for repeat in range(repeats)
        for values in calls
    ]
    record = partial(_record_call, prompt, breaker, streams=streams)
    with ThreadPoolExecutor(max_workers=prompt.model.slots, thread_name_prefix=prompt.name) as pool:
        futures = {pool.submit(record, *pair): position for position, pair in enumerate(pairs)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _record_call(
    prompt: Prompt[..., Any], breaker: CircuitBreaker, values: Mapping[str, Any], scope: CacheScope | None, *, streams: bool
) -> CallRecord:
    began, completion = time.monotonic(), None
    try:
        completion = (
            find_cached_completion(prompt, values, scope) if breaker.is_open else request_completion(prompt, values, scope, streams=streams)
        )
        if completion is None:
            return CallRecord(None, f"not asked, because the endpoint failed {MAX_FAILURES} times in a row", 0, 0.0, "skipped")
        if not completion.cached:
            breaker.count_answer()
        parse_answer(prompt, completion)
    except ProviderError as error:
        if error.kind in HOPELESS:
            raise
        if completion is None:
            breaker.count_failure(error)
        facts = error if completion is None else completion
        text = f"{type(error).__name__}: {error.message}"
        seconds = time.monotonic() - began if completion is None else completion.seconds
        return CallRecord(completion, text, facts.attempts, seconds, error.kind, facts.may_be_billed)
    return CallRecord(completion, "", completion.attempts, completion.seconds, may_be_billed=completion.may_be_billed)
