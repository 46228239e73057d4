"""The step of a prompt: store it, and show what it sends and how it differs from production."""

from __future__ import annotations

import difflib
import json
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.prompts.version import build_json_schema, hash_prompt
from mlops_assets.orchestrate.core.steps import StepSpec, asset_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mlops_assets.orchestrate.core.step_context import StepContext
    from mlops_assets.values.llm.prompt import Prompt


def prompt_spec(prompt: Prompt[..., Any], run: Callable[..., Iterator[object]]) -> StepSpec:
    """Return the step spec of a prompt: it runs when it is missing, and when its version changes.

    Parameters
    ----------
    prompt
        The prompt.
    run
        The function that Dagster calls.
    """
    import dagster as dg

    changed: dg.AutomationCondition[Any] = dg.AutomationCondition.missing().newly_true() | dg.AutomationCondition.code_version_changed()
    return StepSpec(
        prompt.key,
        run,
        group=prompt.name,
        description=prompt.instructions.partition("\n")[0],
        kinds=frozenset({"llm", "prompt"}),
        condition=(changed.since_last_handled() & ~dg.AutomationCondition.in_progress()).with_label("follows its text"),
        code_version=hash_prompt(prompt),
    )


def prompt_body(prompt: Prompt[..., Any]) -> Callable[[StepContext], Iterator[object]]:
    """Return the body of the step that stores a prompt."""

    def body(step: StepContext) -> Iterator[object]:
        import dagster as dg

        from mlops_assets.serving.formats.stored_prompts import open_prompt, store_prompt

        artifact = store_prompt(step.stores.artifacts, prompt)
        production = step.stores.registry.champion(prompt.name)
        version = hash_prompt(prompt)
        facts: dict[str, Any] = {"digest": version, "artifact": artifact, **describe_prompt_metadata(prompt)}
        if production is None:
            facts["production"] = "none yet"
        elif production.digest == version:
            facts["production"] = f"version {production.version}: this prompt"
        else:
            changes = diff_prompts(open_prompt(step.stores.artifacts, production.artifact), prompt)
            facts |= {"production": f"version {production.version}", "changes": dg.MetadataValue.md(f"```diff\n{changes}\n```")}
        yield dg.MaterializeResult(asset_key(prompt.key), metadata=facts, data_version=dg.DataVersion(version))

    return body


def describe_prompt_metadata(prompt: Prompt[..., Any]) -> Mapping[str, Any]:
    """Return the metadata of a prompt: its model, instructions, variables, response and number of examples.

    Parameters
    ----------
    prompt
        The prompt.
    """
    model = prompt.model
    variables = {
        variable.name: json.dumps(build_json_schema(variable.annotation)) + ("" if variable.is_required else ", optional")
        for variable in prompt.variables
    }
    return {
        "model": f"{model.model} ({model.pin})" if model.pin else model.model,
        "parameters": json.dumps({name: value for name, value in model.request_parameters.items() if name != "model"}),
        "instructions": prompt.instructions or "none: the function writes every message",
        "variables": dict(variables),
        "response": "text" if prompt.response is None else json.dumps(build_json_schema(prompt.response)),
        "examples": len(prompt.examples),
    }


def diff_prompts(before: Prompt[..., Any], after: Prompt[..., Any]) -> str:
    """Return a unified diff of everything that decides the answers of two prompts; empty when they are equal.

    Parameters
    ----------
    before, after
        The prompts.
    """
    from mlops_assets.serving.formats.stored_prompts import describe_prompt

    old, new = (_format_lines(describe_prompt(prompt)) for prompt in (before, after))
    return "\n".join(difflib.unified_diff(old, new, "before", "after", lineterm="", n=2))


def _format_lines(described: Mapping[str, Any]) -> list[str]:
    """Return a described prompt as lines: its instructions as they are, everything else as JSON."""
    rest = {name: value for name, value in described.items() if name not in ("instructions", "digest", "name")}
    return [*described["instructions"].splitlines(), *json.dumps(rest, indent=1, ensure_ascii=False).splitlines()]
