"""Run one call of a prompt: refuse denied topics, reserve its spending, ask the model, repair its answer, and trace the call."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.prompts.denied_topics import DeniedTopics, list_texts
from mlops_assets.errors import ProviderError
from mlops_assets.serving.llm.client import complete, stream
from mlops_assets.serving.prompts.call_costs import CallCosts, sum_tokens
from mlops_assets.serving.prompts.call_spending import CallSpending
from mlops_assets.serving.prompts.call_trace import CallTrace
from mlops_assets.serving.prompts.model_failure import describe_failure, explain_failure
from mlops_assets.serving.prompts.refusal import INVALID_ANSWER, RefusalError
from mlops_assets.values.llm.prompt import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from decimal import Decimal

    from mlops_assets.serving.logs.trace_log import TraceLog
    from mlops_assets.serving.prompts.served_prompt import ServedPrompt
    from mlops_assets.serving.prompts.settings import PromptSettings
    from mlops_assets.stores.llm.budget_ledger import BudgetLedger
    from mlops_assets.values.llm.provider import Completion


@dataclass(frozen=True)
class PromptCall:
    """One call of a client.

    Parameters
    ----------
    served
        The version that answers.
    trace_id, start
        Id and start of the trace of the call.
    messages
        What is sent to the model.
    data
        What the client sent, JSON-like and redacted if the service redacts: stored in the trace if the service captures.
    sent
        What the client sent, JSON-like and not redacted: searched for denied topics.
    api_key
        The name of the client's key; empty without one.
    send_text
        A function that receives each piece of the answer; None for an answer in one piece.
    is_gone
        Whether the client has disconnected, so that a stream can stop.
    """

    served: ServedPrompt
    trace_id: str
    start: int
    messages: Sequence[Message]
    data: Any
    sent: Any
    api_key: str
    send_text: Callable[[str], None] | None = None
    is_gone: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class CallResult:
    """The answer of a call.

    Parameters
    ----------
    value
        Text, or the answer in its response type as JSON values.
    completion
        The model's reply that fits the response type.
    version, trace_id
        The version that answered, and the trace of the call.
    input_tokens, output_tokens, cost
        The sums over the requests of the call; a sum is None when an addend is unknown.
    completions
        All replies of the model: more than one after repairs.
    """

    value: Any
    completion: Completion
    version: int
    trace_id: str
    input_tokens: int | None
    output_tokens: int | None
    cost: Decimal | None
    completions: tuple[Completion, ...]

    def make_reply_fields(self) -> dict[str, Any]:
        """Return version, trace id, tokens, cost and finish reason as fields of a reply."""
        return {
            "version": self.version,
            "trace_id": self.trace_id,
            "usage": {"input_tokens": self.input_tokens, "output_tokens": self.output_tokens},
            "cost": None if self.cost is None else float(self.cost),
            "finish_reason": self.completion.finish_reason,
        }


class CallRunner:
    """Runs the calls of a service. Threads may share it.

    Parameters
    ----------
    settings
        The settings of the service.
    ledger
        The ledger that reserves and settles spending.
    log
        The log that traces are written to before a call returns.
    """

    def __init__(self, settings: PromptSettings, ledger: BudgetLedger, log: TraceLog) -> None:
        self._settings, self._ledger, self._log = settings, ledger, log
        self._topics, self._costs = DeniedTopics(settings.denied_topics), CallCosts(settings)

    def run(self, call: PromptCall) -> CallResult:
        """Return the answer to a call after its trace is written.

        Parameters
        ----------
        call
            The call.

        Raises
        ------
        RefusalError
            The call is refused, or the model failed. The error has the id of the trace, unless the trace cannot be written.
        """
        trace = CallTrace(call.trace_id, call.start, call.served, call.api_key, call.data if self._settings.capture else None)
        completions: list[Completion] = []
        try:
            result = self._ask(call, trace, completions)
        except RefusalError as error:
            self._write_trace(trace, completions, error.message, error.refusal)
            error.where["trace_id"] = trace.trace_id
            error.completions = completions
            raise
        except Exception as error:
            self._write_trace(trace, completions, f"it failed ({type(error).__name__})")
            raise
        self._write_trace(trace, completions)
        return result

    def _ask(self, call: PromptCall, trace: CallTrace, completions: list[Completion]) -> CallResult:
        """Ask until an answer fits the response type; a stream is not repaired, because its text is sent already."""
        if topic := self._topics.find(list_texts(call.sent)):
            raise RefusalError(
                f"the call is about the denied topic '{topic}'", hint="ask about something else", code="denied_topic", topic=topic
            )
        messages, fault = list(call.messages), ""
        deadline = time.monotonic() + call.served.prompt.model.time_limit.total_seconds()
        for number in range(1 if call.send_text else 1 + self._settings.repairs):
            if number and time.monotonic() >= deadline:
                break
            completion = self._request(call, messages, trace, deadline)
            completions.append(completion)
            value, fault = call.served.parse_answer(completion)
            if not fault:
                return self._build_result(call, value, trace, completions)
            messages += [Message("assistant", completion.text), _ask_for_repair(fault)]
        raise RefusalError(
            f"the model's answer does not fit the response type: {fault}",
            hint="raise max_tokens" if fault.endswith("cut it off") else "call again, or raise repairs=",
            status=502,
            code=INVALID_ANSWER,
        )

    def _request(self, call: PromptCall, messages: Sequence[Message], trace: CallTrace, deadline: float) -> Completion:
        """Return one reply of the model; each attempt is reserved before it is sent, and settled after it."""
        llm, start, maximum = call.served.prompt.model, trace.read_time(), self._costs.find_maximum(call.served, messages)
        spending = CallSpending(self._ledger, call.api_key, maximum)
        try:
            completion = self._complete(call, messages, spending, deadline)
            spending.settle(self._costs.find_spending(maximum, completion))
        except ProviderError as error:
            trace.add_request(llm, start, None, describe_failure(error), {**spending.make_attributes(), "mlops.hint": error.hint})
            raise explain_failure(error) from None
        except _ClientLeftError:
            trace.add_request(llm, start, None, "the client left", spending.make_attributes())
            raise RefusalError("the client left", hint="call again", status=499, code="client_left") from None
        except RefusalError as error:
            if spending.attempts:  # a further attempt is refused
                error.follows_failure = True
                trace.add_request(llm, start, None, error.code, spending.make_attributes())
            raise
        finally:
            spending.settle(None)
        trace.add_request(llm, start, completion, facts=self._costs.make_attributes([completion]))
        return completion

    def _complete(self, call: PromptCall, messages: Sequence[Message], spending: CallSpending, deadline: float) -> Completion:
        sent, schema = [message.as_json() for message in messages], call.served.response_schema
        llm, limit = call.served.prompt.model, timedelta(seconds=max(0.0, deadline - time.monotonic()))
        if call.send_text is None:
            return complete(llm, sent, response_schema=schema, time_limit=limit, observer=spending)
        with stream(llm, sent, response_schema=schema, time_limit=limit, observer=spending) as pieces:
            for piece in pieces:
                if call.is_gone():
                    raise _ClientLeftError
                call.send_text(piece)
        if pieces.completion is None:
            raise _ClientLeftError
        return pieces.completion

    def _build_result(self, call: PromptCall, value: object, trace: CallTrace, completions: Sequence[Completion]) -> CallResult:
        return CallResult(
            value,
            completions[-1],
            call.served.version,
            trace.trace_id,
            sum_tokens(completion.prompt_tokens for completion in completions),
            sum_tokens(completion.completion_tokens for completion in completions),
            self._costs.find_cost(completions),
            tuple(completions),
        )

    def _write_trace(self, trace: CallTrace, completions: Sequence[Completion], error: str = "", refusal: str = "") -> None:
        """Write the trace of a call; raise RefusalError when it cannot be written, so that no answer is sent without a trace."""
        try:
            self._log.write(trace.finish(error, output=completions[-1].text if completions else None, refusal=refusal))
        except OSError:
            raise RefusalError(
                "the call cannot be traced, so it is not answered", hint="see the service's status", status=503, code="trace"
            ) from None


class _ClientLeftError(Exception):
    """The client of a stream has closed its connection."""


def _ask_for_repair(fault: str) -> Message:
    return Message("user", f"Your answer does not fit the required JSON schema: {fault}. Reply with the corrected JSON and nothing else.")
