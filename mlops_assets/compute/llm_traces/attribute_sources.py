"""The span attributes that fill the columns of a trace table: names of this package, OpenTelemetry, OpenLLMetry and OpenInference."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MESSAGES_IN, MESSAGES_OUT = "gen_ai.input.messages", "gen_ai.output.messages"
EVENTS = "otel.events"  # the events of a received span that no column takes, as JSON
# Column → the attributes that fill it; the first with a value that fits is taken. Names of older conventions come last.
SOURCES = {
    "operation": ("gen_ai.operation.name", "llm.request.type", "openinference.span.kind", "traceloop.span.kind"),
    "model": (
        "gen_ai.response.model",
        "gen_ai.request.model",
        "llm.response.model",
        "llm.request.model",
        "llm.model_name",
        "embedding.model_name",
    ),
    "prompt_name": ("mlops.prompt.name", "gen_ai.prompt.name"),
    "prompt_version": ("mlops.prompt.version",),
    "prompt_digest": ("mlops.prompt.digest",),
    "input_tokens": ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.usage.prompt_tokens", "llm.token_count.prompt"),
    "output_tokens": (
        "gen_ai.usage.output_tokens",
        "gen_ai.usage.completion_tokens",
        "llm.usage.completion_tokens",
        "llm.token_count.completion",
    ),
    "cost": ("mlops.cost", "gen_ai.usage.cost", "llm.cost.total"),
    "price_version": ("mlops.price.version",),
    "may_be_billed": ("mlops.may_be_billed",),
    "seconds_to_first_token": ("mlops.seconds_to_first_token", "gen_ai.response.time_to_first_chunk"),
    "cached": ("mlops.cached",),
    "api_key": ("mlops.api_key",),
    "refusal": ("mlops.refusal",),
}
# Operations of OpenLLMetry and OpenInference → those of OpenTelemetry; their other kinds, e.g. CHAIN and workflow, are no operations.
OPERATIONS = {
    "completion": "text_completion",
    "embedding": "embeddings",
    "tool": "execute_tool",
    "agent": "invoke_agent",
    **dict.fromkeys(("unknown", "workflow", "task")),
    "LLM": "chat",
    "EMBEDDING": "embeddings",
    "RETRIEVER": "retrieval",
    "TOOL": "execute_tool",
    "AGENT": "invoke_agent",
    **dict.fromkeys(("CHAIN", "RERANKER", "GUARDRAIL", "EVALUATOR", "PROMPT", "DECISION", "UNKNOWN")),
}
# Like SOURCES; a name that ends with a dot is the beginning of the names of a list of messages, e.g. `gen_ai.prompt.0.content`.
_CONTENT = {
    "input": (
        "mlops.input",
        MESSAGES_IN,
        "llm.input_messages.",
        "gen_ai.prompt.",
        "gen_ai.prompt",
        "llm.prompts.",
        "llm.prompts",
        "gen_ai.tool.call.arguments",
        "input.value",
        "traceloop.entity.input",
    ),
    "output": (
        "mlops.output",
        MESSAGES_OUT,
        "llm.output_messages.",
        "gen_ai.completion.",
        "gen_ai.completion",
        "llm.completions.",
        "llm.completions",
        "gen_ai.tool.call.result",
        "output.value",
        "traceloop.entity.output",
    ),
}
# Names of attributes whose texts are never redacted: ids and names that programs make.
_TECHNICAL = frozenset(
    {
        *(name for names in SOURCES.values() for name in names),
        "gen_ai.agent.id",
        "gen_ai.agent.version",
        "gen_ai.output.type",
        "gen_ai.provider.name",
        "gen_ai.response.finish_reasons",
        "gen_ai.response.id",
        "gen_ai.system",
        "gen_ai.tool.call.id",
        "gen_ai.tool.type",
    }
)
_TECHNICAL_RESOURCES = tuple(f"resource.{name}." for name in ("cloud", "container", "host", "k8s", "os", "service", "telemetry"))
_ITEM = re.compile(r"(\d{1,6})\.(.+)")


def is_technical(name: str) -> bool:
    """Return whether an attribute holds ids or names that programs generate; other attributes may hold texts of users or answers.

    Parameters
    ----------
    name
        Name of the attribute of a span.
    """
    return name in _TECHNICAL or name.startswith(_TECHNICAL_RESOURCES)


def find_content(column: str, attributes: Mapping[str, Any]) -> tuple[str | None, list[str]]:
    """Return the text of the column ``input`` or ``output``, and the names of the attributes that hold it.

    Messages are returned as JSON; an output of exactly one message is returned as its text.

    Parameters
    ----------
    column
        ``input`` or ``output``.
    attributes
        Attributes of a span.
    """
    empty: tuple[str | None, list[str]] = None, []
    for source in _CONTENT[column]:
        if source.endswith("."):
            names = [name for name in attributes if _match_item(name, (source,)) is not None]
            value: Any = json.dumps(_build_messages(source, names, attributes), ensure_ascii=False) if names else None
        else:
            value, names = attributes.get(source), [source]
        if value is not None and (text := str(value)):
            return (_read_answer(text) if column == "output" else text), names
        if value is not None and empty[0] is None:
            empty = "", names  # an answer may be empty
    return empty


def _match_item(name: str, prefixes: Iterable[str]) -> re.Match[str] | None:
    """Match number and field in a name such as ``gen_ai.prompt.0.content``; return None for other names."""
    prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
    return None if prefix is None else _ITEM.fullmatch(name.removeprefix(prefix))


def _build_messages(prefix: str, names: Iterable[str], attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the messages of attributes that hold one field each, such as ``gen_ai.prompt.0.content``."""
    messages: dict[int, dict[str, Any]] = {}
    for name in names:
        if (item := _match_item(name, (prefix,))) is not None:
            messages.setdefault(int(item[1]), {})[item[2].removeprefix("message.")] = attributes[name]
    return [messages[number] for number in sorted(messages)]


def _read_answer(text: str) -> str:
    """Return the text of the only message in a JSON list of messages; any other text unchanged."""
    if not text.startswith(("[", "{")):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    messages = value if isinstance(value, list) else [value]
    answer = _read_message(messages[0]) if len(messages) == 1 else None
    return text if answer is None else answer


def _read_message(message: object) -> str | None:
    """Return the text of a message; None if it has another form, or parts that are not text."""
    if not isinstance(message, dict):
        return None
    if isinstance(message.get("message"), dict):
        return _read_message(message["message"])
    content = message.get("content")
    if isinstance(content, str):
        return content if "role" in message or "finish_reason" in message else None
    items = message.get("parts", content)
    if not isinstance(items, list) or not items:
        return None
    parts = [part.get("content", part.get("text")) for part in items if isinstance(part, dict) and part.get("type") == "text"]
    texts = [part for part in parts if isinstance(part, str)]
    return "".join(texts) if len(texts) == len(items) else None
