"""Store a prompt as a version, and open it without the project that declares it."""

from __future__ import annotations

import inspect
import json
from dataclasses import fields, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, get_type_hints

from mlops_assets.compute.prompts.schema_types import annotate_type, build_type
from mlops_assets.compute.prompts.version import build_json_schema, dump_default, dump_example_values, hash_body, hash_prompt
from mlops_assets.compute.user_code.isolated_source import load_isolated
from mlops_assets.compute.user_code.source_slice import extract_source
from mlops_assets.errors import ArtifactError
from mlops_assets.values.llm.prompt import FewShotExample, Prompt, Variable
from mlops_assets.values.llm.provider import LLM
from mlops_assets.values.model import KIND, PROMPT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlops_assets.stores.artifacts.store import Artifacts

_FORMAT = 1


def store_prompt(artifacts: Artifacts, prompt: Prompt[..., Any]) -> str:
    """Store everything that a call of a prompt needs, and return the sha256 of its manifest.

    Parameters
    ----------
    artifacts
        The store of artifacts.
    prompt
        The declared prompt.

    Raises
    ------
    DefinitionError
        The type of a variable or of the response, or the source of the function, cannot be stored.
    """
    manifest = {"format": _FORMAT, KIND: PROMPT, **describe_prompt(prompt)}
    if prompt.has_body:
        manifest["source"] = extract_source(prompt.function)
    stored = json.dumps(manifest, ensure_ascii=False).encode()
    _build_prompt(json.loads(stored))  # refuses what cannot be opened
    return artifacts.put(stored)


def describe_prompt(prompt: Prompt[..., Any]) -> dict[str, Any]:
    """Return a prompt's version and everything that decides its answers, as JSON values without the source of its function.

    Parameters
    ----------
    prompt
        The prompt.
    """
    return {
        "name": prompt.name,
        "digest": hash_prompt(prompt),
        "instructions": prompt.instructions,
        "variables": [_describe_variable(prompt, variable) for variable in prompt.variables],
        "examples": [{"answer": example.answer, "variables": dump_example_values(prompt, example)} for example in prompt.examples],
        "response": build_json_schema(prompt.response),
        "model": _describe_model(prompt.model),
        **({"code": hash_body(prompt)} if prompt.has_body else {}),
    }


def _describe_variable(prompt: Prompt[..., Any], variable: Variable) -> dict[str, Any]:
    described = {"name": variable.name, "schema": build_json_schema(variable.annotation)}
    return described if variable.is_required else {**described, "default": dump_default(prompt, variable)}


def _describe_model(model: LLM) -> dict[str, Any]:
    values = {each.name: getattr(model, each.name) for each in fields(model)}
    seconds = {name: value.total_seconds() for name, value in values.items() if isinstance(value, timedelta)}
    return {
        **values,
        **seconds,
        "parameters": dict(model.parameters),
        "fallbacks": [_describe_model(fallback) for fallback in model.fallbacks],
    }


def open_prompt(artifacts: Artifacts, artifact: str) -> Prompt[..., Any]:
    """Return a stored prompt, with the version and the model that it had when it was stored.

    If the prompt's function has a body, its stored code runs in this process, isolated from the project's modules.

    Parameters
    ----------
    artifacts
        The store of artifacts.
    artifact
        The sha256 of the manifest.

    Raises
    ------
    ArtifactError
        The artifact is missing, damaged, not a prompt, or stored by a newer release; or this release computes another version for it.
    """
    manifest = json.loads(artifacts.get(artifact))
    if manifest.get(KIND) != PROMPT:
        raise ArtifactError(f"artifact {artifact[:12]} is not a prompt", hint="name a version of a prompt: `mlops prompts list`")
    if manifest["format"] > _FORMAT:
        raise ArtifactError(
            f"prompt '{manifest['name']}' is stored in format {manifest['format']}, this program reads {_FORMAT}",
            hint="upgrade mlops_assets to the version that stored it",
        )
    prompt = _build_prompt(manifest)
    if hash_prompt(prompt) != manifest["digest"]:
        raise ArtifactError(
            f"the version of the stored prompt '{manifest['name']}' has changed, because this program builds other messages from it",
            hint="evaluate and promote it with this version of mlops_assets",
        )
    return prompt


def _build_prompt(manifest: Mapping[str, Any]) -> Prompt[..., Any]:
    where = f"prompt/{manifest['name']}"
    response = manifest["response"]
    code = manifest.get("code", "")
    function = load_isolated(manifest["source"], f"mlops_stored_prompt_{code[:32]}") if code else _make_function(manifest["name"])
    hints = get_type_hints(function, include_extras=True)
    return Prompt(
        function,
        _build_model(manifest["model"]),
        tuple(_build_variable(stored, hints, where) for stored in manifest["variables"]),
        manifest["instructions"],
        bool(code),
        None if response is None else build_type(response, f"the response of '{where}'"),
        tuple(FewShotExample(example["variables"], example["answer"]) for example in manifest["examples"]),
        code_hash=code,
    )


def _make_function(name: str) -> Callable[..., Any]:
    """Return an empty function with the name of a prompt."""

    def function() -> None:
        pass

    function.__name__ = name
    return function


def _build_variable(stored: Mapping[str, Any], hints: Mapping[str, Any], where: str) -> Variable:
    """Return a variable; its type is that of the stored function's parameter, or is built from its schema if no function is stored."""
    import pydantic

    name, schema = stored["name"], stored["schema"]
    annotation = annotate_type(hints[name], schema) if name in hints else build_type(schema, f"variable '{name}' of '{where}'")
    if "default" not in stored:
        return Variable(stored["name"], annotation, inspect.Parameter.empty)
    adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(annotation)
    return Variable(stored["name"], annotation, adapter.validate_json(json.dumps(stored["default"])))


def _build_model(stored: Mapping[str, Any]) -> LLM:
    durations = {name: timedelta(seconds=stored[name]) for name in ("timeout", "stall_timeout", "time_limit")}
    fallbacks = [_build_model(fallback) for fallback in stored["fallbacks"]]
    return LLM(**{**stored, **durations, "fallbacks": fallbacks})


def connect_prompt(prompt: Prompt[..., Any], declared: LLM) -> Prompt[..., Any]:
    """Return a stored prompt with the address, key variable and limits that its model is declared with now.

    These settings are not part of a version. If the declared model has another definition, the stored settings stay.

    Parameters
    ----------
    prompt
        The stored prompt.
    declared
        The model that the project declares for the prompt.
    """
    return replace(prompt, model=declared) if prompt.model.definition == declared.definition else prompt
