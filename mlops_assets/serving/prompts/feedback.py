"""``POST /feedback``: a score for an answer, stored as a span of its trace."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING

from mlops_assets.compute.prompts.redaction import redact_text
from mlops_assets.errors import InstallationError
from mlops_assets.serving.prompts.call_format import parse_object
from mlops_assets.serving.prompts.call_trace import find_root_id
from mlops_assets.serving.prompts.refusal import RefusalError
from mlops_assets.stores.llm.budget_ledger import QuotaError
from mlops_assets.values.llm.span import FEEDBACK, SECOND, Span, make_span_id, read_start_second

if TYPE_CHECKING:
    from mlops_assets.serving.logs.trace_log import TraceLog
    from mlops_assets.serving.prompts.api_keys import ApiKeys
    from mlops_assets.stores.llm.budget_ledger import BudgetLedger
    from mlops_assets.values.llm.span import AttributeValue

_TRACE_ID = re.compile(r"[0-9a-f]{32}")
_MAX_COMMENT = 10_000  # characters


class FeedbackStore:
    """Checks and stores the feedback of clients. Threads may share it.

    Parameters
    ----------
    log
        The log that feedback is written to.
    ledger
        Counts the feedback of each key within a minute.
    keys
        The API keys: only the client that received a trace may rate it. With None, every client may rate every trace.
    """

    def __init__(self, log: TraceLog, ledger: BudgetLedger, keys: ApiKeys | None) -> None:
        self._log, self._ledger, self._keys = log, ledger, keys

    def store(self, body: bytes, api_key: str) -> bytes:
        """Append a span with the score and the redacted comment to a trace of this product, and return the reply.

        Parameters
        ----------
        body
            A JSON object with ``trace_id``, ``score`` and, optionally, ``comment``.
        api_key
            The name of the client's key; empty without one.

        Raises
        ------
        RefusalError
            400, 422: the body is not valid feedback; 404: the client received no such trace; 429: the client sends too much feedback; 503:
            the feedback cannot be stored.
        """
        facts = parse_object(body)
        trace_id, score, comment = facts.pop("trace_id", None), facts.pop("score", None), facts.pop("comment", "")
        if facts:
            raise RefusalError(f"there is no field '{next(iter(facts))[:100]}'", hint="send trace_id, score and comment")
        if not isinstance(trace_id, str) or not _TRACE_ID.fullmatch(trace_id):
            raise RefusalError("the field 'trace_id' is not a trace id", hint="send the trace_id of an answer")
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score <= 1:
            raise RefusalError("the field 'score' is not a number from 0 to 1", hint="send 1 for a good answer, 0 for a bad one")
        if not isinstance(comment, str) or len(comment) > _MAX_COMMENT:
            raise RefusalError("the field 'comment' is not text, or is too long", hint=f"send at most {_MAX_COMMENT} characters")
        now = time.time_ns()
        second, owned = read_start_second(trace_id), self._keys is None or self._keys.owns(trace_id, api_key)
        if second is None or second * SECOND > now or not owned:
            raise RefusalError("there is no such trace", hint="send the trace_id of an answer", status=404)
        self._count(api_key)
        attributes: dict[str, AttributeValue] = {"mlops.feedback": float(score)}
        if comment:
            attributes["mlops.feedback.comment"] = redact_text(comment)
        if api_key:
            attributes["mlops.api_key"] = api_key
        try:
            self._log.write([Span(trace_id, make_span_id(), find_root_id(trace_id), FEEDBACK, now, now, "ok", "", attributes)])
        except OSError:
            raise RefusalError("the feedback cannot be stored", hint="see the service's status", status=503) from None
        return json.dumps({"trace_id": trace_id, "stored": True}).encode()

    def _count(self, api_key: str) -> None:
        try:
            self._ledger.count_feedback(api_key)
        except QuotaError as error:
            raise RefusalError(
                f"rate limit: {error.problem}",
                hint="wait as long as Retry-After says",
                status=429,
                code="rate_limit",
                seconds=error.seconds,
            ) from None
        except InstallationError as error:
            raise RefusalError("the feedback cannot be counted", hint="see the service's status", status=503, code="ledger") from error
