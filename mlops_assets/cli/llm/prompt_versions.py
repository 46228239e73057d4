"""What ``mlops prompts`` prints: the versions of prompts, one version in full, and the difference of two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlops_assets.cli.registry.aliases import find_prompt
from mlops_assets.cli.registry.versions import describe_evidence, find_version, list_versions
from mlops_assets.compute.prompts.version import hash_prompt
from mlops_assets.compute.training.lifecycle import CHAMPION
from mlops_assets.errors import RegistryError
from mlops_assets.orchestrate.llm.prompt_step import describe_prompt_metadata, diff_prompts
from mlops_assets.serving.formats.integrity import mark_damage
from mlops_assets.serving.formats.stored_prompts import open_prompt
from mlops_assets.values.llm.prompt import Prompt

if TYPE_CHECKING:
    from mlops_assets.cli.project import LoadedProject
    from mlops_assets.stores.registry.records import Version

PRODUCTION, DECLARED = "production", "declared"


def list_prompt_versions(project: LoadedProject, prompt: str | None) -> list[dict[str, Any]]:
    """Return the versions of one prompt or of all, newest first; the champion's alias is written as ``production``.

    Raises
    ------
    RegistryError
        There is no such prompt.
    """
    rows = list_versions(project, prompt, kind=Prompt)
    return [row | {name: row[name].replace(CHAMPION, PRODUCTION) for name in ("state", "aliases")} for row in rows]


def describe_prompt_version(project: LoadedProject, version_name: str) -> dict[str, Any]:
    """Return the records of a version as JSON-like values; its stored bytes are verified first, and damage is recorded.

    Parameters
    ----------
    project
        The project that declares the prompt.
    version_name
        ``prompt@version``, ``prompt@production``, or ``prompt`` for the newest.

    Raises
    ------
    RegistryError
        There is no such prompt or version.
    ArtifactError
        The version is damaged.
    """
    name, _, number = version_name.partition("@")
    find_prompt(project, name)
    stores, version = project.stores, _find_version(project, name, number)
    damage = mark_damage(stores.registry, stores.artifacts, version)
    return {
        f"{name}@{version.version}": {
            "state": version.state.replace(CHAMPION, PRODUCTION),
            **({"damage": damage} if damage else {}),
            "environment": project.platform.environment,
            "approval": version.approval or "pending",
            "created": version.created_at.isoformat(timespec="seconds"),
            "digest": version.digest,
            "artifact": version.artifact,
            "evaluation run": version.run_id,
        },
        **({} if damage else {"prompt": dict(describe_prompt_metadata(open_prompt(stores.artifacts, version.artifact)))}),
        "evidence": [describe_evidence(each) for each in stores.registry.evidence(name, version.digest)],
        "approvals": [
            {"approved": each.approved, "approver (self-declared)": each.approver, "reason": each.reason}
            for each in stores.registry.approvals(name, version.version)
        ],
    }


def compare_versions(project: LoadedProject, name: str, before: str, after: str) -> str:
    """Return a unified diff of two versions of a prompt; empty when they are equal.

    Parameters
    ----------
    project, name
        The project and the name of the prompt.
    before, after
        Numbers of versions, ``production``, or ``declared`` for the prompt in the code of the project.

    Raises
    ------
    RegistryError
        There is no such prompt or version.
    """
    _, declared = find_prompt(project, name)
    chosen = [
        declared if each == DECLARED else open_prompt(project.stores.artifacts, _find_version(project, name, each).artifact)
        for each in (before, after)
    ]
    return "" if hash_prompt(chosen[0]) == hash_prompt(chosen[1]) else diff_prompts(*chosen)


def _find_version(project: LoadedProject, name: str, number: str) -> Version:
    if number != PRODUCTION:
        return find_version(project, name, number, "prompt")
    production = project.stores.registry.champion(name)
    if production is None:
        raise RegistryError(f"prompt '{name}' has no version in production", hint=f"`mlops prompts list {name}` lists its versions")
    return production
