"""Register an evaluated prompt as a version, and promote the version of the declared prompt to production."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlops_assets.compute.prompts.version import hash_prompt
from mlops_assets.compute.training.lifecycle import ROLLED_BACK
from mlops_assets.errors import RegistryError
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.llm.gate_hashes import hash_prompt_gates, list_evaluations
from mlops_assets.values.asset_names import build_graph_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mlops_assets.orchestrate.core.project import Project
    from mlops_assets.orchestrate.core.step_context import StepContext
    from mlops_assets.stores.registry.protocol import Registry
    from mlops_assets.stores.registry.records import Version
    from mlops_assets.values.llm.prompt import Prompt


def prompt_version_body(prompt: Prompt[..., Any]) -> Callable[[StepContext], Iterator[object]]:
    """Return the body of the step that registers an evaluated prompt as a version.

    Parameters
    ----------
    prompt
        The prompt.
    """

    def body(step: StepContext) -> Iterator[object]:
        import dagster as dg

        registry = open_prompt_registry(step.project, prompt, step.stores.registry)
        version = registry.register(prompt.name, hash_prompt_gates(step.project, prompt, step.stores.lake))
        yield dg.MaterializeResult(
            asset_key(f"version/{prompt.name}"), metadata=_describe_version(version), data_version=dg.DataVersion(version.digest)
        )

    return body


def prompt_champion_body(prompt: Prompt[..., Any]) -> Callable[[StepContext], Iterator[object]]:
    """Return the body of the step that promotes the version of the declared prompt to production, unless it is there already.

    A version that was rolled back is not promoted: a person does that by its number.

    Parameters
    ----------
    prompt
        The prompt.
    """

    def body(step: StepContext) -> Iterator[object]:
        import dagster as dg

        from mlops_assets.orchestrate.core.actor import describe_reason, name_actor
        from mlops_assets.serving.formats.stored_prompts import open_prompt

        registry = open_prompt_registry(step.project, prompt, step.stores.registry)
        before = registry.champion(prompt.name)
        declared = find_declared_version(prompt, registry.versions(prompt.name))
        open_prompt(step.stores.artifacts, declared.artifact)  # a damaged version must not be promoted
        expected = before.version if before else None  # of two runs at the same moment one wins, and the other fails
        version = registry.promote(
            prompt.name,
            hash_prompt_gates(step.project, prompt, step.stores.lake),
            actor=name_actor(step),
            reason=describe_reason(step),
            version=declared.version,
            approval=prompt.approval,
            expected=expected,
        )
        previous = "the same" if before and before.version == version.version else f"version {before.version}" if before else "none"
        facts = {**_describe_version(version), "production before": previous, "environment": step.stores.platform.environment}
        yield dg.MaterializeResult(asset_key(f"champion/{prompt.name}"), metadata=facts, data_version=dg.DataVersion(version.digest))

    return body


def find_declared_version(prompt: Prompt[..., Any], versions: Sequence[Version]) -> Version:
    """Return the registered version whose content equals that of the declared prompt.

    Parameters
    ----------
    prompt
        The prompt.
    versions
        The versions that are registered under the prompt's name.

    Raises
    ------
    RegistryError
        The prompt is not registered, or its version was rolled back.
    """
    digest = hash_prompt(prompt)
    found = next((version for version in versions if version.digest == digest), None)
    if found is None:
        raise RegistryError(
            f"the declared prompt '{prompt.name}' has no registered version",
            hint=f"materialise {build_graph_key(f'version/{prompt.name}')} first",
        )
    if found.state == ROLLED_BACK:
        raise RegistryError(
            f"version {found.version} of prompt '{prompt.name}' was rolled back, and is not promoted automatically",
            hint=f"change the prompt, or run `mlops prompts promote {prompt.name} --version {found.version} --reason WHY`",
        )
    return found


def open_prompt_registry(project: Project, prompt: Prompt[..., Any], registry: Registry) -> Registry:
    """Return the registry with errors that name the evaluations of a prompt.

    Parameters
    ----------
    project, prompt
        The declarations, and the prompt.
    registry
        The registry of the platform.
    """
    return registry.use_prompt_wording(" and ".join(build_graph_key(evaluation.key) for evaluation in list_evaluations(project, prompt)))


def _describe_version(version: Version) -> dict[str, Any]:
    return {
        "version": version.version,
        "digest": version.digest,
        "evaluation run": version.run_id,
        "artifact": version.artifact,
        "lake snapshot": version.snapshot,
    }
