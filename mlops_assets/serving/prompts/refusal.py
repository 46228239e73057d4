"""Refusals of a prompt's service: a status, a reason and a hint that repeat no value of the request."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mlops_assets.serving.predict.request_schema import RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_assets.values.llm.provider import Completion

MODEL_FAILURE, INVALID_ANSWER = "model_failure", "invalid_answer"
CONTEXT_LENGTH = "context_length"
# Codes of calls that the model failed to answer. Too long a context is among them, because a version may have too long instructions.
_FAILURES = (MODEL_FAILURE, INVALID_ANSWER, CONTEXT_LENGTH)


class RefusalError(RequestError):
    """A call that is not answered.

    Parameters
    ----------
    message, hint
        As in :class:`mlops_assets.errors.MlopsError`.
    status
        HTTP status of the reply.
    code
        A machine-readable reason, e.g. ``budget``.
    seconds
        Seconds after which another call may be answered; None when waiting does not help.
    **where
        Further fields of the reply.
    """

    def __init__(
        self, message: str, *, hint: str, status: int = 422, code: str = "", seconds: float | None = None, **where: object
    ) -> None:
        super().__init__(message, hint=hint, status=status, **({"code": code} if code else {}), **where)
        self.code = code
        self.seconds = seconds
        self.completions: Sequence[Completion] = ()  # the model's replies within the refused call, which are billed
        self.follows_failure = False  # whether an earlier attempt failed, so that the refusal is not the only reason

    @property
    def refusal(self) -> str:
        """The code of the refusal for traces; empty for a failure of the model."""
        return "" if self.code in _FAILURES or self.follows_failure else self.code

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the reply."""
        headers = {} if self.seconds is None else {"retry-after": str(max(1, math.ceil(self.seconds)))}
        return headers | ({"www-authenticate": "Bearer"} if self.status == 401 else {})
