"""The OpenAPI 3.1 document of a prompt's service, from the prompt's variables and response type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlops_assets.compute.prompts.version import build_json_schema

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlops_assets.values.llm.prompt import Prompt

_REFERENCE = "#/components/schemas/"
_TEXT: Mapping[str, Any] = {"type": "string"}
_COUNT: Mapping[str, Any] = {"type": ["integer", "null"]}
_WITH_KEY = ("/answer", "/v1/chat/completions", "/v1/models", "/feedback")
_REFUSALS = {
    "400": "The body is not JSON.",
    "401": "The API key is missing or unknown.",
    "413": "The body is too large, the messages are too long for the model, or the call needs more than a whole budget or rate limit.",
    "415": "The content type, the charset or the content encoding is not accepted.",
    "422": "A variable is missing, unknown or of another type, or the call is about a denied topic. The error repeats no value.",
    "429": "The call does not fit the budget or the rate limits; Retry-After says when it may.",
    "500": "The prompt's function failed.",
    "502": "The model failed, or its answer does not fit the response type, also after repairs.",
    "503": "No version is promoted, too many calls wait, the model's key, address or price is wrong, or a call cannot be traced or counted.",
    "504": "The model did not answer in time.",
}


def build_document(prompt: Prompt[..., Any], version: int, *, needs_key: bool = False) -> dict[str, Any]:
    """Return the OpenAPI document of a prompt's service, JSON-like.

    Parameters
    ----------
    prompt, version
        The served prompt and the number of its version.
    needs_key
        Whether the endpoints that take calls and feedback, and the list of models, need an API key.
    """
    schemas: dict[str, Any] = {}
    variables = {v.name: _hoist(build_json_schema(v.annotation), f"{v.name}.", schemas) for v in prompt.variables}
    response = _TEXT if prompt.response is None else _hoist(build_json_schema(prompt.response), "answer.", schemas)
    schemas["Variables"] = {
        "type": "object",
        "properties": variables,
        "required": [v.name for v in prompt.variables if v.is_required],
        "additionalProperties": False,
    }
    schemas["Answer"] = _describe_answer(response)
    schemas["Feedback"] = _FEEDBACK
    schemas["Error"] = {"type": "object", "properties": {"error": _TEXT, "hint": _TEXT, "trace_id": _TEXT}, "required": ["error", "hint"]}
    schemas["OpenAIError"] = _OPENAI_ERROR
    chat = {"type": "object", "description": "As in OpenAI's API."}
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": prompt.name, "version": str(version), "description": f"Answers of the prompt {prompt.name}."},
        "paths": {
            "/answer": {"post": _describe_answer_call()},
            "/v1/chat/completions": {"post": _describe_call("Complete a chat.", chat, chat, error="OpenAIError")},
            "/v1/models": {"get": _describe_get("The prompt as a model.", "401", "503")},
            "/feedback": {"post": _describe_call("Store a score for an answer.", _refer("Feedback"), {"type": "object"})},
            "/readyz": {"get": _describe_get("Whether a version is loaded and calls can be traced and counted.", "503")},
            "/livez": {"get": _describe_get("Whether the process answers.")},
            "/metrics": {"get": _describe_get("Counters of all workers, in Prometheus' text format.")},
            "/openapi.json": {"get": _describe_get("This document.", "503")},
        },
        "components": {"schemas": schemas},
    }
    if needs_key:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path in _WITH_KEY:
            for operation in document["paths"][path].values():
                operation["security"] = [{"key": []}]
    return document


_OPENAI_ERROR: Mapping[str, Any] = {
    "type": "object",
    "properties": {"error": {"type": "object", "properties": {"message": _TEXT, "type": _TEXT, "code": {"type": ["string", "null"]}}}},
    "required": ["error"],
}
_FEEDBACK: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "trace_id": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
        "comment": {"type": "string", "maxLength": 10_000},
    },
    "required": ["trace_id", "score"],
    "additionalProperties": False,
}


def _describe_answer(response: Mapping[str, Any]) -> dict[str, Any]:
    usage = {"type": "object", "properties": {"input_tokens": _COUNT, "output_tokens": _COUNT}}
    fields = {
        "answer": response,
        "version": {"type": "integer", "description": "The version of the prompt that answered."},
        "trace_id": {"type": "string", "description": "For /feedback."},
        "usage": usage,
        "cost": {"type": ["number", "null"], "description": "In the currency of the prices; null when it is unknown."},
        "finish_reason": {"type": "string", "description": "`length` when max_tokens cut the answer off."},
    }
    return {"type": "object", "properties": fields, "required": list(fields)}


def _describe_answer_call() -> dict[str, Any]:
    call = _describe_call("Answer the prompt with these variables.", _refer("Variables"), _refer("Answer"))
    text = "Server-sent events: `delta` with a piece of the text, then `answer` as in application/json, or `error`."
    call["responses"]["200"]["content"]["text/event-stream"] = {"schema": {"type": "string", "description": text}}
    call["parameters"] = [{"name": "stream", "in": "query", "schema": {"type": "boolean"}, "description": "Reply with events."}]
    return call


def _describe_call(summary: str, request: Mapping[str, Any], reply: Mapping[str, Any], error: str = "Error") -> dict[str, Any]:
    refusals = {code: {"description": text, "content": {"application/json": {"schema": _refer(error)}}} for code, text in _REFUSALS.items()}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
        "responses": {"200": {"description": summary, "content": {"application/json": {"schema": reply}}}, **refusals},
    }


def _describe_get(text: str, *refusals: str) -> dict[str, Any]:
    return {"summary": text, "responses": {"200": {"description": "Yes."}, **{code: {"description": "Not now."} for code in refusals}}}


def _refer(name: str) -> dict[str, str]:
    return {"$ref": f"{_REFERENCE}{name}"}


def _hoist(schema: Mapping[str, Any], prefix: str, schemas: dict[str, Any]) -> dict[str, Any]:
    """Return a schema whose definitions are moved to the components of the document, under names with a prefix."""
    for name, definition in schema.get("$defs", {}).items():
        schemas[prefix + name] = _redirect(definition, prefix)
    moved: dict[str, Any] = _redirect({key: value for key, value in schema.items() if key != "$defs"}, prefix)
    return moved


def _redirect(value: Any, prefix: str) -> Any:  # noqa: ANN401  (JSON)
    if isinstance(value, dict):
        return {
            key: f"{_REFERENCE}{prefix}{item.removeprefix('#/$defs/')}"
            if key == "$ref" and isinstance(item, str)
            else _redirect(item, prefix)
            for key, item in value.items()
        }
    return [_redirect(item, prefix) for item in value] if isinstance(value, list) else value
