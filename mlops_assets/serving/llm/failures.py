"""Failures of one request: what went wrong, whether to try again, and the hint. No text contains a key, a prompt or a reply."""

from __future__ import annotations

import email.utils
import json
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mlops_assets.errors import ProviderError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import httpx

    from mlops_assets.values.llm.provider import LLM

# Codes that endpoints report in `error.code` or `error.type`. Other texts of an error reply may repeat the prompt or the key.
_HINTS_BY_CODE = {
    "context_length_exceeded": "shorten the messages, or take a model with a longer context",
    "exceed_context_size_error": "shorten the messages, or take a model with a longer context",
    "insufficient_quota": "the account has no credit left: raise its limit",
    "invalid_api_key": "put a valid key into the environment variable",
    "model_not_found": "check the model's name at the endpoint",
}
_HINTS_BY_STATUS = {
    401: "put a valid key into the environment variable that api_key_env names",
    403: "the key may not use this model: take another key or model",
    404: "check base_url, which usually ends in /v1, and the model's name",
    429: "lower concurrency, raise time_limit, or declare a fallback",
}
_HINTS_BY_CLASS = {
    4: "the endpoint refuses the request: check model, parameters and the roles of the messages",
    5: "the endpoint is overloaded or broken: try later, or declare a fallback",
}
HOPELESS = ("configuration", "embedded")  # kinds of failures that occur in every call of the model
_RETRYABLE_STATUS = {429, *range(500, 600)}
_BILLABLE_STATUS = {408, 502, 504, *range(520, 525)}  # of a gateway that gave up, while the model behind it may have answered


class AttemptError(Exception):
    """One request failed.

    Parameters
    ----------
    kind
        As in :class:`ProviderError`.
    problem
        What the endpoint did; a sentence whose subject is the model.
    hint
        The next step for the user.
    retryable
        Whether another attempt may succeed.
    status
        The HTTP status; None when there was none.
    pause
        Seconds that the endpoint asks to wait before another attempt; None when it does not ask.
    may_be_billed
        Whether the provider may bill the request: it was sent, and neither the model nor a gateway refused it.
    code
        The code of the endpoint's error, if it is a known one; else empty.
    """

    def __init__(  # noqa: PLR0913  (facts of one failure)
        self,
        kind: str,
        problem: str,
        hint: str,
        *,
        retryable: bool = False,
        status: int | None = None,
        pause: float | None = None,
        may_be_billed: bool = False,
        code: str = "",
    ) -> None:
        super().__init__(problem)
        self.kind = kind
        self.problem = problem
        self.hint = hint
        self.retryable = retryable
        self.status = status
        self.pause = pause
        self.may_be_billed = may_be_billed
        self.code = code

    @property
    def was_sent(self) -> bool:
        """Whether the request reached the endpoint."""
        return self.may_be_billed or self.status is not None

    @classmethod
    def from_reply(cls, problem: str, *, hint: str = "check that base_url is an OpenAI-compatible endpoint") -> AttemptError:
        """Return the failure for an unusable reply; no retry follows, because the request was answered and may have cost money."""
        return cls("reply", problem, hint, may_be_billed=True)

    @classmethod
    def from_status(cls, status: int, headers: Mapping[str, str], body: bytes) -> AttemptError:
        """Return the failure for an HTTP status other than 200.

        Parameters
        ----------
        status
            The HTTP status.
        headers
            Headers of the reply, for ``Retry-After``.
        body
            Body of the reply, for its error code.
        """
        code = _read_code(body)
        hint = _HINTS_BY_CODE.get(code) or _HINTS_BY_STATUS.get(status) or _HINTS_BY_CLASS.get(status // 100, "check base_url")
        retryable = status in _RETRYABLE_STATUS and code != "insufficient_quota"
        pause = read_pause(headers.get("retry-after", "")) if retryable else None
        problem = f"answered status {status}" + (f" ({code})" if code else "") + (f" and asked to wait {pause:.0f} s" if pause else "")
        billable = status in _BILLABLE_STATUS
        return cls("status", problem, hint, retryable=retryable, status=status, pause=pause, may_be_billed=billable, code=code)

    @classmethod
    def from_transport(cls, error: httpx.HTTPError, seconds: float) -> AttemptError:
        """Return the failure for an error of the connection.

        Parameters
        ----------
        error
            The error that httpx raised.
        seconds
            Seconds since the attempt began.
        """
        import httpx

        if isinstance(error, httpx.TimeoutException):
            return cls.from_timeout(seconds, retryable=True, sent=not isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout))
        if isinstance(error, (httpx.ConnectError, httpx.ProxyError)):
            return cls("connection", f"cannot be reached: {error}", "check base_url, and that the endpoint runs", retryable=True)
        if isinstance(error, httpx.DecodingError):
            return cls.from_reply("sent a reply with a broken compression")
        problem = "closed the connection before the end of its reply"
        return cls("broken", problem, "check the endpoint's log", retryable=True, may_be_billed=True)

    @classmethod
    def from_timeout(cls, seconds: float, *, retryable: bool, sent: bool = True) -> AttemptError:
        """Return the failure for an attempt that took too long.

        Parameters
        ----------
        seconds
            Seconds since the attempt began.
        retryable
            False when the reply had begun, because another attempt would take as long.
        sent
            Whether the request was sent.
        """
        problem, hint = f"gave no whole reply within {seconds:.2g} s", "raise timeout, stall_timeout or time_limit, or lower max_tokens"
        return cls("timeout", problem, hint, retryable=retryable, may_be_billed=sent)


@dataclass(frozen=True)
class FailedAttempt:
    """The report of a failed attempt.

    Parameters
    ----------
    text
        One line with model, endpoint, problem and the number of the attempt.
    was_sent
        Whether the request reached the endpoint.
    may_be_billed
        Whether the provider may bill the attempt.
    """

    text: str
    was_sent: bool
    may_be_billed: bool


class AttemptObserver(Protocol):
    """Follows the attempts of a call, one after another."""

    def begin(self) -> None:
        """Handle the start of an attempt; an exception ends the call before the attempt is sent."""

    def fail(self, failure: FailedAttempt) -> None:
        """Handle the failure of the attempt."""


def report_attempt(llm: LLM, failure: AttemptError, attempt: int) -> FailedAttempt:
    """Return the report of a failed attempt.

    Parameters
    ----------
    llm, failure, attempt
        The model, its failure, and the number of the attempt, from 1.
    """
    text = f"the language model '{llm.model}' at {llm.endpoint} {failure.problem} (attempt {attempt} of {llm.retries + 1})"
    return FailedAttempt(text, failure.was_sent, failure.may_be_billed)


def count_billable(failures: Sequence[FailedAttempt]) -> int:
    """Return how many failed attempts the provider may bill."""
    return sum(failure.may_be_billed for failure in failures)


def combine_failures(
    llm: LLM, failure: AttemptError, final_failures: Sequence[FailedAttempt], attempts: Sequence[FailedAttempt]
) -> ProviderError:
    """Return the error of a call that no model answered.

    Parameters
    ----------
    llm
        The last model whose failure another call may avoid, else the first model.
    failure
        The last failure of ``llm``.
    final_failures
        The last failure of each model that was asked.
    attempts
        All failures of the call.
    """
    return ProviderError(
        "; ".join(final.text for final in final_failures),
        hint=failure.hint,
        kind=failure.kind,
        endpoint=llm.endpoint,
        model=llm.model,
        status=failure.status,
        code=failure.code,
        attempts=len(attempts),
        may_be_billed=count_billable(attempts),
    )


def _read_code(body: bytes) -> str:
    """Return the code of an error reply if the code is known, else an empty text."""
    try:
        error = json.loads(body)["error"]
        codes = [error.get("code"), error.get("type")]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return ""
    return next((code for code in codes if isinstance(code, str) and code in _HINTS_BY_CODE), "")


def read_pause(text: str) -> float | None:
    """Return the seconds to wait that a Retry-After header gives as a number or a date; None for any other text."""
    try:
        seconds = float(text)
        return None if math.isnan(seconds) else max(0.0, seconds)
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None
