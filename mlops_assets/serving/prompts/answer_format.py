"""``POST /answer``: the variables of the prompt as a JSON object, and the answer with version, trace id, usage and cost."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mlops_assets.compute.prompts.redaction import redact_json
from mlops_assets.serving.prompts.call_format import ParsedBody, parse_object, write_event
from mlops_assets.serving.prompts.refusal import RefusalError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from mlops_assets.serving.prompts.call_runner import CallResult
    from mlops_assets.serving.prompts.served_prompt import ServedPrompt


class AnswerFormat:
    """The format of ``/answer``.

    Parameters
    ----------
    streams
        Whether the client asked for events.
    """

    def __init__(self, *, streams: bool) -> None:
        self._streams = streams

    def parse(self, served: ServedPrompt, body: bytes, *, redact: bool) -> ParsedBody:
        """Return the messages for the variables in a body; with ``redact``, both the variables and the messages are redacted."""
        variables, sent = served.read_variables(body), parse_object(body)
        data = _redact_variables(served, sent) if redact else sent
        messages = served.build_messages(variables if data == sent else _read_redacted(served, data), redact=redact)
        return ParsedBody(messages, data, sent, self._streams)

    def write_answer(self, result: CallResult) -> bytes:
        """Return the reply: the answer, its usage and its trace id."""
        return json.dumps({"answer": result.value, **result.make_reply_fields()}).encode()

    def write_refusal(self, refusal: RefusalError) -> bytes:
        """Return the refusal: error, hint and further fields."""
        return refusal.body

    def write_text(self, text: str) -> bytes:
        """Return the event ``delta``."""
        return write_event({"text": text}, "delta")

    def write_end(self, result: CallResult) -> bytes:
        """Return the event ``answer``, with the whole reply."""
        return write_event({"answer": result.value, **result.make_reply_fields()}, "answer")

    def write_break(self, refusal: RefusalError) -> bytes:
        """Return the event ``error``."""
        return write_event(json.loads(refusal.body), "error")


def _redact_variables(served: ServedPrompt, sent: Mapping[str, Any]) -> dict[str, Any]:
    """Return the redacted variables; variables with a fixed list of values contain no free text and stay."""
    closed = {variable.name for variable in served.prompt.variables if variable.is_closed}
    return {name: value if name in closed else redact_json(value) for name, value in sent.items()}


def _read_redacted(served: ServedPrompt, data: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return served.read_variables(json.dumps(data).encode())
    except RefusalError as error:
        raise RefusalError(
            f"after personal data was replaced, {error.message}",
            hint="send it without e-mail addresses, IBANs and phone numbers, or widen the variable's type",
            code="redaction",
        ) from None
