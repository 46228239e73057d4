"""What a client sees when no model answered: whether to send less, to call again, or to wait for the operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops_assets.serving.prompts.refusal import CONTEXT_LENGTH, MODEL_FAILURE, RefusalError

if TYPE_CHECKING:
    from mlops_assets.errors import ProviderError

_STATUSES = {"timeout": 504, "busy": 503, "configuration": 503, "embedded": 503}
_LENGTH_CODES = ("context_length_exceeded", "exceed_context_size_error")
_OPERATOR_CODES = ("insufficient_quota", "invalid_api_key", "model_not_found")
_OPERATOR_STATUSES = (401, 403, 404)


def explain_failure(error: ProviderError) -> RefusalError:
    """Return the refusal of a call that no model answered.

    Parameters
    ----------
    error
        The failure of the model that was asked last.

    Returns
    -------
    RefusalError
        413 for messages that are too long, 503 for what only the operator can fix, else 502, 503 or 504.
    """
    reason = describe_failure(error)
    problem = f"the model '{error.model}' failed ({reason})"
    if error.status == 413 or error.code in _LENGTH_CODES:
        return RefusalError(f"the call is too long for the model '{error.model}'", hint="send less", status=413, code=CONTEXT_LENGTH)
    operator = "the operator of the service must fix it: its trace says how"  # clients learn nothing of keys and addresses
    if error.kind == "configuration" or error.status in _OPERATOR_STATUSES or error.code in _OPERATOR_CODES:
        return RefusalError(problem, hint=operator, status=503, code=MODEL_FAILURE)
    if error.status is not None and 400 <= error.status < 500 and error.status not in (408, 429):
        return RefusalError(problem, hint=operator, status=502, code=MODEL_FAILURE)
    waits = error.kind == "busy" or error.status == 429
    status = 503 if waits else _STATUSES.get(error.kind, 502)
    return RefusalError(problem, hint="call again later", status=status, code=MODEL_FAILURE, seconds=1.0 if waits else None)


def describe_failure(error: ProviderError) -> str:
    """Return the kind of a failure, with the status and the code that the endpoint gave.

    Parameters
    ----------
    error
        The failure.
    """
    return " ".join(str(part) for part in (error.kind, error.status, error.code) if part)
