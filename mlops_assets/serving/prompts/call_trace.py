"""The trace of one call: a root span, and a span with tokens and cost for each request to the model."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.prompts.redaction import redact_json, redact_json_text
from mlops_assets.values.llm.span import Span, make_span_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlops_assets.serving.prompts.served_prompt import ServedPrompt
    from mlops_assets.values.llm.provider import LLM, Completion

ROOT = "answer"  # name of the root spans


class CallTrace:
    """Gathers the spans of one call.

    Parameters
    ----------
    trace_id, start
        Id and start of the trace: results of :func:`~mlops_assets.values.llm.span.make_trace_id` and ``time.time_ns``.
    served
        The version that answers.
    api_key
        The name of the client's key; empty without one.
    variables
        What the client sent, JSON-like; None to leave it out of the trace.
    """

    def __init__(self, trace_id: str, start: int, served: ServedPrompt, api_key: str, variables: Any) -> None:  # noqa: ANN401  (JSON)
        now = time.time_ns()
        self._start, self._clock = min(start, now), time.perf_counter_ns() - max(0, now - start)
        self.trace_id, self._spans = trace_id, list[Span]()
        self._captures = variables is not None
        self._input = json.dumps(redact_json(variables), ensure_ascii=False) if self._captures else None
        self._common: dict[str, Any] = {
            "mlops.prompt.name": served.name,
            "mlops.prompt.version": served.version,
            "mlops.prompt.digest": served.target.digest,
            "mlops.api_key": api_key or None,
        }

    def read_time(self) -> int:
        """Return the time in nanoseconds since 1970, by a clock that is never set back within the call."""
        return self._start + time.perf_counter_ns() - self._clock

    def add_request(
        self, llm: LLM, start: int, completion: Completion | None, error: str = "", facts: Mapping[str, Any] | None = None
    ) -> None:
        """Add the span of a request to the model.

        Parameters
        ----------
        llm
            The model that was asked.
        start
            The time at which the request began.
        completion
            The reply; None when the request failed.
        error
            Why the request failed; empty when it did not.
        facts
            Further attributes.
        """
        model = llm.model if completion is None else completion.model
        attributes = {
            **self._common,
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": model,
            "gen_ai.request.temperature": llm.temperature,
            "gen_ai.request.max_tokens": llm.max_tokens,
            **({} if completion is None else _describe_reply(completion)),
            **(facts or {}),
        }
        status = "error" if error else "ok"
        span = Span(
            self.trace_id,
            make_span_id(),
            find_root_id(self.trace_id),
            f"chat {model}",
            start,
            self.read_time(),
            status,
            error,
            _drop_none(attributes),
        )
        self._spans.append(span)

    def finish(self, error: str = "", *, output: str | None = None, refusal: str = "") -> list[Span]:
        """Return the spans of the call, the root first.

        Parameters
        ----------
        error
            Why the call was not answered; ``""`` when it was.
        output
            The text of the answer.
        refusal
            The code of a refusal; empty for an answer and for a failure of the model.
        """
        shown = redact_json_text(output) if self._captures and output is not None else None
        attributes = {**self._common, "mlops.input": self._input, "mlops.output": shown, "mlops.refusal": refusal or None}
        status, end = "error" if error else "ok", self.read_time()
        root = Span(self.trace_id, find_root_id(self.trace_id), None, ROOT, self._start, end, status, error, _drop_none(attributes))
        return [root, *self._spans]


def _describe_reply(completion: Completion) -> dict[str, Any]:
    return {
        "gen_ai.response.model": completion.reported_model,
        "gen_ai.response.finish_reasons": completion.finish_reason,
        "gen_ai.usage.input_tokens": completion.prompt_tokens,
        "gen_ai.usage.output_tokens": completion.completion_tokens,
        "mlops.seconds_to_first_token": completion.seconds_to_first_token,
        "mlops.cached": completion.cached,
        "mlops.attempts": completion.attempts,
        "mlops.may_be_billed": completion.may_be_billed,
    }


def find_root_id(trace_id: str) -> str:
    """Return the id of the root span of a trace of a service: the second half of the trace's id, so that feedback finds its parent.

    Parameters
    ----------
    trace_id
        The id of the trace.
    """
    return trace_id[16:]


def _drop_none(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}
