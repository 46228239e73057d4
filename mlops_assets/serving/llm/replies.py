"""Parse replies of OpenAI-compatible endpoints; an incomplete reply raises an error and never becomes an empty text."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlops_assets.serving.llm.failures import AttemptError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@dataclass
class ReplyParts:
    """The text and the facts of a reply, gathered from one document or from the events of a stream."""

    texts: list[str] = field(default_factory=list)
    finish_reason: str | None = None
    model: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_prompt_tokens: int | None = None

    def add(self, document: dict[str, Any], text_key: str) -> str:
        """Add a document, or an event of a stream, and return its text, ``""`` if there is no text.

        Parameters
        ----------
        document
            The parsed JSON object.
        text_key
            The key of the text: ``"message"``, or ``"delta"`` in a stream.

        Raises
        ------
        AttemptError
            The document has no choices, or reports an error.
        """
        self._add_facts(document)
        choices = document.get("choices")
        if text_key == "delta" and choices == []:
            return ""  # an event without text, such as the usage
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            problem = "reported an error within a reply of status 200" if "error" in document else "sent a reply without choices"
            raise AttemptError.from_reply(problem, hint="check the endpoint's log")
        reason, content = choice.get("finish_reason"), choice.get(text_key)
        self.finish_reason = reason if isinstance(reason, str) and reason else self.finish_reason
        text = content.get("content") if isinstance(content, dict) else None
        if not isinstance(text, str):
            return ""
        self.texts.append(text)
        return text

    def check_complete(self) -> None:
        """Raise AttemptError when there is no text, or no ``finish_reason``."""
        if self.finish_reason is None:
            raise AttemptError.from_reply("sent a reply without finish_reason, which may be cut off", hint="check the endpoint's log")
        if not any(self.texts):
            hint = "raise max_tokens" if self.finish_reason == "length" else "check the messages, and that the model answers in text"
            shown = self.finish_reason if self.finish_reason in ("stop", "length", "content_filter", "tool_calls") else "unknown"
            raise AttemptError.from_reply(f"sent no text (finish_reason '{shown}')", hint=hint)

    def _add_facts(self, document: dict[str, Any]) -> None:
        model, usage = document.get("model"), document.get("usage")
        self.model = model if isinstance(model, str) and model else self.model
        if isinstance(usage, dict):
            self.prompt_tokens = _read_count(usage.get("prompt_tokens"))
            self.completion_tokens = _read_count(usage.get("completion_tokens"))
            details = usage.get("prompt_tokens_details")
            self.cached_prompt_tokens = _read_count(details.get("cached_tokens")) if isinstance(details, dict) else None


def parse_document(body: bytes) -> dict[str, Any]:
    """Return the JSON object that the bytes of a reply or an event contain.

    Raises
    ------
    AttemptError
        The bytes are not UTF-8, not complete JSON, or not an object.
    """
    try:
        document = json.loads(body.decode())
    except UnicodeDecodeError:
        problem = "sent bytes that are not UTF-8"
    except (ValueError, RecursionError):
        problem = "sent incomplete or invalid JSON"
    else:
        if isinstance(document, dict):
            return document
        problem = "sent JSON that is not an object"
    raise AttemptError.from_reply(problem)


def read_events(chunks: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of server-sent events until ``[DONE]`` or the end.

    Parameters
    ----------
    chunks
        Bytes as they arrive, split anywhere.
    """
    for line in _split_lines(chunks):
        if line.startswith(b"data:"):  # other lines are comments, names of events, and the empty ones between events
            data = line.removeprefix(b"data:").strip()
            if data == b"[DONE]":
                return
            yield parse_document(data)


def _split_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest: list[bytes] = []  # joined at the end of a line only, so that a long line takes linear time
    for chunk in chunks:
        *lines, last = chunk.split(b"\n")
        for line in lines:
            yield b"".join([*rest, line])
            rest = []
        rest.append(last)
    yield b"".join(rest)


def _read_count(value: object) -> int | None:
    """Return a number of tokens; None for any other value."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40 else None
