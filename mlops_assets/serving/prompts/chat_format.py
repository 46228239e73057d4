"""``POST /v1/chat/completions``: the prompt as a model of OpenAI's API, for existing clients."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.prompts.chat import build_chat
from mlops_assets.compute.prompts.redaction import redact_json
from mlops_assets.errors import DefinitionError
from mlops_assets.serving.prompts.call_format import ParsedBody, parse_object, write_event
from mlops_assets.serving.prompts.refusal import RefusalError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlops_assets.serving.prompts.call_runner import CallResult
    from mlops_assets.serving.prompts.served_prompt import ServedPrompt

_ROLES = ("system", "developer", "user", "assistant", "tool")
_UNSUPPORTED = ("tools", "functions", "audio", "modalities")
_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class ChatFormat:
    """The format of chat completions. Each call needs a new instance.

    Parameters
    ----------
    trace_id
        The trace id of the call; empty for a request that is not a call.
    """

    def __init__(self, trace_id: str = "") -> None:
        self._trace_id, self._name, self._version = trace_id, "", 0
        self._includes_usage = self._began = False
        self._created = int(time.time())

    def parse(self, served: ServedPrompt, body: bytes, *, redact: bool) -> ParsedBody:
        """Return the prompt's instructions and examples, and the client's messages as data of the user.

        Parameters of the model in the body, such as ``temperature``, are ignored: the prompt's version defines them.
        """
        document = parse_object(body)
        _check_supported(document)
        self._name, self._version = served.name, served.version
        if document.get("model") != served.name:
            raise RefusalError("there is no such model", hint=f"send model: {served.name!r}", status=404, code="model_not_found")
        options = document.get("stream_options")
        self._includes_usage = isinstance(options, dict) and options.get("include_usage") is True
        sent = _read_messages(document.get("messages"))
        data = redact_json(sent) if redact else sent
        try:
            messages = list(build_chat(served.prompt, [(item["role"], item["content"]) for item in data]))
        except DefinitionError as error:
            raise RefusalError(error.message, hint="POST /answer takes the variables of the prompt") from None
        return ParsedBody(messages, data, sent, document.get("stream") is True)

    def write_answer(self, result: CallResult) -> bytes:
        """Return the object ``chat.completion``."""
        message = {"role": "assistant", "content": result.completion.text}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": result.completion.finish_reason}
        return json.dumps(self._describe("chat.completion", [choice]) | {"usage": _describe_usage(result)}).encode()

    def write_refusal(self, refusal: RefusalError) -> bytes:
        """Return the object ``error``."""
        return json.dumps(_describe_error(refusal)).encode()

    def write_text(self, text: str) -> bytes:
        """Return a chunk with a piece of the answer; the first chunk includes the role."""
        delta = {"content": text} if self._began else {"role": "assistant", "content": text}
        self._began = True
        return self._write_chunk([{"index": 0, "delta": delta, "finish_reason": None}])

    def write_end(self, result: CallResult) -> bytes:
        """Return a chunk with the finish reason, a chunk with the usage if the client asked for it, and ``[DONE]``."""
        last = self._write_chunk([{"index": 0, "delta": {}, "finish_reason": result.completion.finish_reason}])
        usage = self._write_chunk([], usage=_describe_usage(result)) if self._includes_usage else b""
        return last + usage + b"data: [DONE]\n\n"

    def write_break(self, refusal: RefusalError) -> bytes:
        """Return the object ``error`` as an event; no ``[DONE]`` follows."""
        return write_event(_describe_error(refusal))

    def _write_chunk(self, choices: list[dict[str, Any]], **more: object) -> bytes:
        return write_event({**self._describe("chat.completion.chunk", choices), **more})

    def _describe(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self._trace_id}",
            "object": kind,
            "created": self._created,
            "model": self._name,
            "system_fingerprint": f"version-{self._version}",
            "choices": choices,
        }


def describe_models(served: ServedPrompt) -> bytes:
    """Return the reply of ``/v1/models``: the prompt as the only model.

    Parameters
    ----------
    served
        The version that answers.
    """
    model = {"id": served.name, "object": "model", "created": 0, "owned_by": "mlops_assets", "version": served.version}
    return json.dumps({"object": "list", "data": [model]}).encode()


def _check_supported(document: Mapping[str, Any]) -> None:
    for name in _UNSUPPORTED:
        if document.get(name):
            raise RefusalError(f"'{name}' is not supported", hint="leave it out")
    if document.get("n") not in (None, 1):
        raise RefusalError("'n' is not supported", hint="leave it out: there is one answer to a call")


def _read_messages(value: object) -> list[dict[str, str]]:
    """Return role and text of each message; raise RefusalError for anything else."""
    if not isinstance(value, list) or not value:
        raise RefusalError("'messages' is not a list of messages", hint='send [{"role": "user", "content": "…"}]')
    return [_read_message(number, item) for number, item in enumerate(value)]


def _read_message(number: int, item: object) -> dict[str, str]:
    content = item.get("content") if isinstance(item, dict) else None
    if isinstance(content, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
        content = "\n".join(part["text"] for part in content)
    if not isinstance(item, dict) or item.get("role") not in _ROLES or not isinstance(content, str):
        raise RefusalError(f"messages[{number}] has no known role or no text", hint=f"the roles are {', '.join(_ROLES)}; content is a text")
    return {"role": item["role"], "content": content}


def _describe_usage(result: CallResult) -> dict[str, Any] | None:
    sent, received = result.input_tokens, result.output_tokens
    if sent is None or received is None:
        return None
    return {"prompt_tokens": sent, "completion_tokens": received, "total_tokens": sent + received}


def _describe_error(refusal: RefusalError) -> dict[str, Any]:
    kind = _TYPES.get(refusal.status, "invalid_request_error" if refusal.status < 500 else "server_error")
    facts = {"message": f"{refusal.message}. {refusal.hint}", "type": kind, "param": None, "code": refusal.code or None}
    return {"error": facts | {name: value for name, value in refusal.where.items() if name not in facts}}
