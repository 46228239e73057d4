"""Move the aliases of a model, and approve or reject its versions."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Any

import dagster as dg

from mlops_assets.cli.project import open_clean_instance
from mlops_assets.compute.training.lifecycle import CHAMPION, PROMOTION
from mlops_assets.errors import GateError, RegistryError
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.llm.gate_hashes import hash_prompt_gates
from mlops_assets.orchestrate.llm.release import open_prompt_registry
from mlops_assets.orchestrate.predictions.prediction_tables import PREDICTION_CHANGE, describe_prediction_change
from mlops_assets.orchestrate.training.gates import gather_gates, hash_gates
from mlops_assets.orchestrate.training.train_windows import find_retraining
from mlops_assets.orchestrate.versions.approval import approval_facts, approval_key, report_approval
from mlops_assets.serving.formats.integrity import refuse_damaged
from mlops_assets.stores.registry.alias_checks import ANY_VERSION
from mlops_assets.values.llm.prompt import Prompt
from mlops_assets.values.model import GateFunction, Model

if TYPE_CHECKING:
    from mlops_assets.cli.project import LoadedProject
    from mlops_assets.orchestrate.core.project import Project
    from mlops_assets.stores.registry.protocol import Registry
    from mlops_assets.stores.registry.records import ApprovalDecision, Version


Released = Model[..., Any] | Prompt[..., Any]


def find_model(project: LoadedProject, name: str) -> tuple[Project, Model[..., Any]]:
    """Return the project that declares a model, and the model.

    Raises
    ------
    RegistryError
        There is no model of that name.
    """
    return project.find(Model, name, "model", RegistryError)


def find_prompt(project: LoadedProject, name: str) -> tuple[Project, Prompt[..., Any]]:
    """Return the project that declares a prompt, and the prompt.

    Raises
    ------
    RegistryError
        There is no prompt of that name.
    """
    return project.find(Prompt, name, "prompt", RegistryError)


def promote(  # noqa: PLR0913  (what is moved, and why)
    project: LoadedProject,
    name: str,
    version: int,
    reason: str,
    *,
    source: str = "",
    expected: int | None = ANY_VERSION,
    kind: type[Any] = Model,
) -> Version:
    """Make a version the champion after verifying its evidence and every stored byte; report it to Dagster and return the version.

    The version is that of a model, or of a prompt if ``kind`` is :class:`~mlops_assets.values.llm.prompt.Prompt`.
    """
    model, gates = _find_gates(project, name, kind)
    if kind is Prompt and not gates:
        raise GateError(
            f"prompt '{name}' has no evaluation, so no gate has judged version {version}",
            hint="declare a PromptEvaluation, or give --force",
        )
    _refuse_damaged(project, name, version)
    entry, before = {"actor": getpass.getuser(), "reason": reason}, champion(project, name)
    registry = _open_registry(project, name, kind)
    done = registry.promote(name, gates, version=version, approval=model.approval, source=source, expected=expected, **entry)
    return _report_champion(project, before, done, reason)


def rollback(  # noqa: PLR0913  (what is moved, and why)
    project: LoadedProject, name: str, version: int | None, reason: str, *, expected: int | None = ANY_VERSION, kind: type[Any] = Model
) -> Version:
    """Make an earlier champion, by default the previous one, the champion again, and report it to Dagster.

    Every stored byte is verified first. Services follow within two seconds. ``kind`` is as in :func:`promote`.
    """
    find_released(project, name, kind)
    registry, champion_before = _open_registry(project, name, kind), champion(project, name)
    if (before := version or _previous_champion(project, name)) is not None:
        _refuse_damaged(project, name, before)
    done = registry.rollback(name, actor=getpass.getuser(), reason=reason, version=version, expected=expected)
    return _report_champion(project, champion_before, done, reason)


def champion(project: LoadedProject, name: str) -> Version | None:
    """Return the champion of a model in this environment; None without one."""
    return project.stores.registry.champion(name)


def describe_change(project: LoadedProject, before: Version | None, after: Version) -> str:
    """Describe how the predictions of two champions differ in type or classes; empty when they do not differ, and for prompts."""
    if any(after.model == prompt.name for part in project.parts for prompt in part.project.select(Prompt)):
        return ""
    return describe_prediction_change(project.stores.artifacts, before, after)


def challenge(project: LoadedProject, name: str, version: int, reason: str, *, expected: int | None = ANY_VERSION) -> Version:
    """Make a version the challenger after verifying its evidence and every stored byte; the champion stays."""
    _, gates = _find_gates(project, name)
    _refuse_damaged(project, name, version)
    return project.stores.registry.challenge(name, gates, version=version, actor=getpass.getuser(), reason=reason, expected=expected)


def withdraw(project: LoadedProject, name: str, reason: str) -> Version:
    """Remove the challenger's alias; return the version that had it."""
    find_model(project, name)
    return project.stores.registry.withdraw(name, actor=getpass.getuser(), reason=reason)


def find_released(project: LoadedProject, name: str, kind: type[Any]) -> tuple[Project, Released]:
    """Return the project that declares a model or a prompt, and the model or prompt.

    Raises
    ------
    RegistryError
        There is no model or prompt of that name.
    """
    return find_prompt(project, name) if kind is Prompt else find_model(project, name)


def _open_registry(project: LoadedProject, name: str, kind: type[Any]) -> Registry:
    """Return the registry; for a prompt, its errors name the assets to materialise and the commands to run."""
    declared, released = find_released(project, name, kind)
    registry = project.stores.registry
    return open_prompt_registry(declared, released, registry) if isinstance(released, Prompt) else registry


def _find_gates(project: LoadedProject, name: str, kind: type[Any] = Model) -> tuple[Released, dict[str, str]]:
    """Return the declared model or prompt, and gate → hash of its definition."""
    declared, released = find_released(project, name, kind)
    if isinstance(released, Prompt):
        return released, hash_prompt_gates(declared, released, project.stores.lake)
    return released, hash_gates(gather_gates(released, declared.select(GateFunction), find_retraining(declared, released)))


def _refuse_damaged(project: LoadedProject, name: str, version: int) -> None:
    """Read every byte of a version before an alias moves to it; the registry refuses a version that does not exist."""
    stores = project.stores
    for registered in stores.registry.versions(name):
        if registered.version == version:
            refuse_damaged(stores.registry, stores.artifacts, registered)


def _previous_champion(project: LoadedProject, name: str) -> int | None:
    """Return the version that the current champion replaced at its latest promotion; None if there was none."""
    champion, environment = project.stores.registry.champion(name), project.platform.environment
    moves = [e for e in project.stores.registry.history(name) if (e.alias, e.environment, e.kind) == (CHAMPION, environment, PROMOTION)]
    return next((e.previous for e in reversed(moves) if champion is not None and e.version == champion.version), None)


def approve(  # noqa: PLR0913  (who decided what, and why)
    project: LoadedProject, name: str, version: int, *, approved: bool, approver: str, reason: str, kind: type[Any] = Model
) -> ApprovalDecision:
    """Record a person's approval or rejection of a version; ``kind`` is as in :func:`promote`.

    For a model or prompt with ``approval=True``, report the decision to Dagster as an asset check and a materialisation.
    """
    _, model = find_released(project, name, kind)
    approval = _open_registry(project, name, kind).approve(name, version, approved=approved, approver=approver, reason=reason)
    with open_clean_instance(project.platform) as instance:
        if model.approval:
            report_approval(instance, model, approval)
            instance.report_runless_asset_event(dg.AssetMaterialization(asset_key(approval_key(model)), metadata=approval_facts(approval)))
    return approval


def force_promotion(project: LoadedProject, name: str, version: int | None, reason: str) -> Version:
    """Promote a version of a prompt past its gates, or its current candidate when ``version`` is None; report it to Dagster.

    The log records that the promotion was forced, and the gates that had not passed. A declared approval is still required.

    Raises
    ------
    RegistryError
        There is no such prompt, candidate or version, or its state allows no promotion.
    GateError
        The approval is missing.
    """
    prompt, gates = _find_gates(project, name, Prompt)
    registry, before = _open_registry(project, name, Prompt), champion(project, name)
    if prompt.approval and version is None:
        raise GateError(
            f"prompt '{name}' needs the approval of a version", hint="give --version: the gates must pass once, or drop approval="
        )
    number = version if version is not None else registry.register(name, {}).version
    _refuse_damaged(project, name, number)
    chosen = next((each for each in registry.versions(name) if each.version == number), None)
    evidence = registry.evidence(name, chosen.digest) if chosen else ()
    current = before.digest if before else ""
    passed = {
        each.gate
        for each in evidence
        if each.passed and each.definition == gates.get(each.gate) and (not each.relative or each.champion == current)
    }
    unproven = ", ".join(gate for gate in gates if gate not in passed) or "none"
    why = f"forced past its gates ({unproven} not passed): {reason}"
    done = registry.promote(name, {}, version=number, approval=prompt.approval, actor=getpass.getuser(), reason=why)
    return _report_champion(project, before, done, why)


def _report_champion(project: LoadedProject, before: Version | None, version: Version, reason: str) -> Version:
    """Report the new champion to Dagster, so that the web UI shows it."""
    facts: dict[str, Any] = {"version": version.version, "candidate": version.digest, "actor": getpass.getuser(), "reason": reason}
    facts |= {PREDICTION_CHANGE: change} if (change := describe_change(project, before, version)) else {}
    with open_clean_instance(project.platform) as instance:
        instance.report_runless_asset_event(dg.AssetMaterialization(asset_key(f"champion/{version.model}"), metadata=facts))
    return version
