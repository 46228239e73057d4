"""``POST /answer``: the variables of the prompt as a JSON object, and the answer with version, trace id, usage and cost."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mlops_assets.compute.prompts.redaction import redact_json
from mlops_assets.serving.prompts.call_format import ParsedBody, parse_object, write_event

if TYPE_CHECKING:
    from mlops_assets.serving.prompts.call_runner import CallResult
    from mlops_assets.serving.prompts.refusal import RefusalError
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
        """Return the messages for the variables in a body; they are redacted before the prompt's function sees them."""
        variables, data = served.read_variables(body), parse_object(body)
        if redact and (redacted := redact_json(data)) != data:
            data, variables = redacted, served.read_variables(json.dumps(redacted).encode())
        return ParsedBody(served.build_messages(variables), data, self._streams)

    def write_answer(self, result: CallResult) -> bytes:
        """Return the reply."""
        return json.dumps({"answer": result.value, **result.describe_usage()}).encode()

    def write_refusal(self, refusal: RefusalError) -> bytes:
        """Return the refusal: error, hint and what is known of it."""
        return refusal.body

    def write_text(self, text: str) -> bytes:
        """Return the event ``delta``."""
        return write_event({"text": text}, "delta")

    def write_end(self, result: CallResult) -> bytes:
        """Return the event ``answer``, with the whole reply."""
        return write_event({"answer": result.value, **result.describe_usage()}, "answer")

    def write_break(self, refusal: RefusalError) -> bytes:
        """Return the event ``error``."""
        return write_event(json.loads(refusal.body), "error")
