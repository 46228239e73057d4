"""Complete messages with a language model behind an OpenAI-compatible endpoint, in one piece or as a stream."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self, TypeVar

from mlops_assets.errors import DefinitionError
from mlops_assets.serving.llm.connections import CONNECTIONS
from mlops_assets.serving.llm.failures import HOPELESS, AttemptError, combine_failures, count_billable, report_attempt
from mlops_assets.serving.llm.replies import ReplyParts, parse_document, read_events
from mlops_assets.serving.llm.request import CompletionRequest, drain, encode_body, open_reply
from mlops_assets.values.llm.provider import Completion

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
    from datetime import timedelta

    from mlops_assets.serving.llm.failures import AttemptObserver, FailedAttempt
    from mlops_assets.serving.llm.request import OpenReply
    from mlops_assets.stores.llm.response_cache import CacheScope
    from mlops_assets.values.llm.provider import LLM

T = TypeVar("T")
R = TypeVar("R")

MAX_PAUSE = 30.0  # seconds between two attempts; an endpoint that asks for more fails at once
_FIRST_PAUSE = 0.25  # seconds; doubled before each further attempt
_RANDOM = random.SystemRandom()  # not the generator that a training seeds
_pause = time.sleep


def complete(  # noqa: PLR0913  (options of one call)
    llm: LLM,
    messages: Sequence[Mapping[str, Any]],
    *,
    response_schema: Mapping[str, Any] | None = None,
    time_limit: timedelta | None = None,
    cache: CacheScope | None = None,
    streams: bool = False,
    observer: AttemptObserver | None = None,
) -> Completion:
    """Return a model's answer to a list of messages.

    After a transient failure (status 429 or 5xx, lost connection, timeout), the request is retried; then the fallbacks are called, in order.

    Parameters
    ----------
    llm
        The model.
    messages
        Each with ``role`` and ``content``.
    response_schema
        The JSON schema that the endpoint is asked to follow. The answer is not checked against it.
    time_limit
        The maximum duration of the call; that of the model when None. A reply that stalls before its end may exceed it by ``timeout``.
    cache
        Where to look for the answer, and to store it; None bypasses the cache.
    streams
        Whether to ask for a stream, so that the time to the first token is measured. An endpoint may reply in one piece all the same.
    observer
        Follows the attempts; what it raises ends the call.

    Returns
    -------
    Completion
        The answer.

    Raises
    ------
    ProviderError
        No model answered.
    DefinitionError
        The messages are empty or not JSON.
    MissingExtraError
        httpx is not installed.

    See Also
    --------
    stream : Returns the answer piece by piece.
    """
    request = _prepare_request(llm, messages, response_schema, time_limit, observer)

    def attempt(target: LLM, _number: int) -> Completion:
        body = request.to_body(target)
        if cache is not None and (found := cache.read(body, target.pin, target.endpoint)) is not None:
            return found
        completion = replace(_complete_once(target, request, streams=streams), seconds=request.elapsed_seconds())
        if cache is not None:
            cache.write(body, target.pin, completion)
        return completion

    return _try_models(llm, request, attempt, lambda completion, failures: _add_failures(completion, request, failures))


def stream(
    llm: LLM,
    messages: Sequence[Mapping[str, Any]],
    *,
    response_schema: Mapping[str, Any] | None = None,
    time_limit: timedelta | None = None,
    observer: AttemptObserver | None = None,
) -> CompletionStream:
    """Return a model's answer piece by piece, after the first piece has arrived.

    Until the first piece, requests are retried and fallbacks are called as in :func:`complete`; later failures are raised while reading.

    Parameters
    ----------
    llm
        The model.
    messages
        Each with ``role`` and ``content``.
    response_schema
        The JSON schema that the endpoint is asked to follow. The answer is not checked against it.
    time_limit
        The maximum duration of the call, including the time that the reader takes; that of the model when None. A silent endpoint may
        exceed the limit by ``stall_timeout``.
    observer
        Follows the attempts; what it raises ends the call.

    Returns
    -------
    CompletionStream
        Iterates over texts. Close it, or use it in a ``with`` statement, when you may stop before its end.

    Raises
    ------
    ProviderError
        No model answered.
    DefinitionError
        The messages are empty or not JSON.
    MissingExtraError
        httpx is not installed.

    See Also
    --------
    complete : Returns the answer in one piece.
    """
    request = _prepare_request(llm, messages, response_schema, time_limit, observer)

    def begin(target: LLM, number: int) -> tuple[LLM, int, str, Generator[str, None, Completion]]:
        pieces = _stream_once(target, request)
        return target, number, next(pieces), pieces

    return _try_models(llm, request, begin, lambda begun, failures: CompletionStream(*begun, request=request, failures=failures))


class CompletionStream:
    """The pieces of an answer, in order.

    Parameters
    ----------
    llm
        The model that answers.
    number
        Number of the attempt that the model answers, from 1.
    first
        The first piece.
    pieces
        A generator that yields the further pieces and returns the completion.
    request
        The messages, and the time at which the call began.
    failures
        The failures of earlier attempts of the call.
    """

    def __init__(  # noqa: PLR0913  (built here only)
        self,
        llm: LLM,
        number: int,
        first: str,
        pieces: Generator[str, None, Completion],
        *,
        request: CompletionRequest,
        failures: tuple[FailedAttempt, ...],
    ) -> None:
        self._llm = llm
        self._number = number
        self._first: str | None = first
        self._pieces = pieces
        self._request = request
        self._failures = failures
        self.completion: Completion | None = None  # the whole answer, after the last piece

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        if self._first is not None:
            piece, self._first = self._first, None
            return piece
        try:
            return next(self._pieces)
        except StopIteration as end:
            if end.value is not None:
                self.completion = _add_failures(end.value, self._request, self._failures)
            raise StopIteration from None
        except AttemptError as error:
            failure = error
        final = report_attempt(self._llm, failure, self._number)
        if self._request.observer is not None:
            self._request.observer.fail(final)
        raise combine_failures(self._llm, failure, [final], [*self._failures, final])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection and free its slot; the rest of the answer is lost."""
        self._first = None
        self._pieces.close()


def _prepare_request(
    llm: LLM,
    messages: Sequence[Mapping[str, Any]],
    response_schema: Mapping[str, Any] | None,
    time_limit: timedelta | None,
    observer: AttemptObserver | None,
) -> CompletionRequest:
    """Return the request with its deadline; raise DefinitionError for unusable messages, and MissingExtraError without httpx."""
    if not messages or not all(isinstance(message, dict) and message.get("role") for message in messages):
        raise DefinitionError(
            f"the messages for the language model '{llm.model}' are empty or have no role",
            hint='give a list: [{"role": "user", "content": "…"}]',
        )
    CONNECTIONS.client()  # without httpx, fail before anything else
    began = time.monotonic()
    deadline = began + (llm.time_limit if time_limit is None else time_limit).total_seconds()
    request = CompletionRequest(messages, response_schema, began, deadline, observer)
    encode_body(request.to_body(llm))
    return request


def _try_models(
    llm: LLM, request: CompletionRequest, attempt: Callable[[LLM, int], T], finish: Callable[[T, tuple[FailedAttempt, ...]], R]
) -> R:
    """Try a model and its fallbacks until one answers, and return ``finish(answer, failures)``; raise ProviderError when none does."""
    failures: list[FailedAttempt] = []
    final_failures: list[FailedAttempt] = []
    reported: tuple[LLM, AttemptError] | None = None  # the last failure that another call may avoid, else the first failure
    for target in (llm, *llm.fallbacks):
        for number in range(1, target.retries + 2):
            if request.observer is not None:
                request.observer.begin()
            try:
                answer = attempt(target, number)
            except AttemptError as error:
                failure = error
            else:
                return finish(answer, tuple(failures))
            failures.append(report_attempt(target, failure, number))
            if request.observer is not None:
                request.observer.fail(failures[-1])
            pause = _plan_pause(failure, number)
            if not failure.retryable or number > target.retries or pause > min(MAX_PAUSE, request.deadline - time.monotonic()):
                break
            _pause(pause)
        final_failures.append(failures[-1])
        if reported is None or failure.kind not in HOPELESS:
            reported = target, failure
        if time.monotonic() >= request.deadline:
            break
    raise combine_failures(*(reported or (target, failure)), final_failures, failures)


def _plan_pause(failure: AttemptError, number: int) -> float:
    """Return the seconds before the next attempt: those that the endpoint asks for, else an exponential backoff with jitter."""
    if failure.pause is not None:
        return failure.pause
    return min(MAX_PAUSE, _FIRST_PAUSE * 2.0 ** (number - 1)) * _RANDOM.uniform(0.5, 1)


def _complete_once(llm: LLM, request: CompletionRequest, *, streams: bool) -> Completion:
    parts, first = ReplyParts(), None
    with open_reply(llm, request, streams=streams) as reply:
        if reply.streams:
            first = min((seconds for _, seconds in _read_texts(reply, request, parts)), default=None)
        else:
            parts.add(parse_document(b"".join(reply.chunks)), "message")
    return _build_completion(llm, parts, first, streamed=streams)


def _stream_once(llm: LLM, request: CompletionRequest) -> Generator[str, None, Completion]:
    """Yield the texts of a stream, and return the completion."""
    parts, first = ReplyParts(), None
    with open_reply(llm, request, streams=True, live=True) as reply:
        for text, seconds in _read_texts(reply, request, parts):
            first = seconds if first is None else first
            yield text
    return _build_completion(llm, parts, first, streamed=True)


def _read_texts(reply: OpenReply, request: CompletionRequest, parts: ReplyParts) -> Iterator[tuple[str, float]]:
    """Yield the texts of a stream with the seconds since the call began, and gather its parts."""
    for event in read_events(reply.chunks):
        if text := parts.add(event, "delta"):
            yield text, request.elapsed_seconds()
    drain(reply.chunks)


def _build_completion(llm: LLM, parts: ReplyParts, seconds_to_first_token: float | None, *, streamed: bool) -> Completion:
    """Return the completion of a reply; raise AttemptError when the reply is incomplete."""
    parts.check_complete()
    return Completion(
        text="".join(parts.texts),
        finish_reason=str(parts.finish_reason),
        model=llm.model,
        reported_model=parts.model,
        prompt_tokens=parts.prompt_tokens,
        completion_tokens=parts.completion_tokens,
        cached_prompt_tokens=parts.cached_prompt_tokens,
        answered_at=datetime.now(UTC),
        seconds_to_first_token=seconds_to_first_token,
        endpoint=llm.endpoint,
        streamed=streamed,
    )


def _add_failures(completion: Completion, request: CompletionRequest, failures: tuple[FailedAttempt, ...]) -> Completion:
    """Return the completion with the failures, the number of attempts and the duration; a cached completion keeps its duration."""
    return replace(
        completion,
        seconds=request.elapsed_seconds() if completion.seconds is None and not completion.cached else completion.seconds,
        failures=tuple(failure.text for failure in failures),
        attempts=len(failures) + (0 if completion.cached else 1),
        may_be_billed=count_billable(failures),
    )
