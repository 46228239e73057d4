"""``mlops models promote``, ``approve``, ``reject`` and ``rollback``: what a person does to a version."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Any

import dagster as dg

from mlops_assets.cli.project import instance
from mlops_assets.compute.training.lifecycle import CHAMPION, PROMOTION
from mlops_assets.errors import RegistryError, nearest
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.tables.prediction_tables import CHANGE, describe_change_of_kind
from mlops_assets.orchestrate.training.gates import gather_gates, hash_gates
from mlops_assets.orchestrate.versions.approval import approval_facts, approval_key, report_approval
from mlops_assets.serving.formats.integrity import refuse_damaged
from mlops_assets.stores.registry.alias_checks import ANY_VERSION
from mlops_assets.values.model import GateFunction, Model

if TYPE_CHECKING:
    from mlops_assets.cli.project import LoadedProject
    from mlops_assets.orchestrate.core.project import Project
    from mlops_assets.stores.registry.records import Approval, Version


def find(project: LoadedProject, name: str) -> tuple[Project, Model[..., Any]]:
    """Return a model and the project that declares it.

    Raises
    ------
    RegistryError
        There is none of that name.
    """
    known = {model.name: (part.project, model) for part in project.parts for model in part.project.every(Model)}
    if name not in known:
        raise RegistryError(f"there is no model '{name}'", hint=nearest(name, known) + f"there are {', '.join(sorted(known)) or 'none'}")
    return known[name]


def promote(  # noqa: PLR0913  (what is moved, and why)
    project: LoadedProject, name: str, version: int, reason: str, *, source: str = "", expected: int | None = ANY_VERSION
) -> Version:
    """Make a version the champion; every gate is verified again, and every byte of what is stored."""
    model, gates = _gates(project, name)
    _refuse_damaged(project, name, version)
    said, before = {"actor": getpass.getuser(), "reason": reason}, champion(project, name)
    done = project.stores.registry.promote(name, gates, version=version, approval=model.approval, source=source, expected=expected, **said)
    return _shown(project, before, done, reason)


def rollback(project: LoadedProject, name: str, version: int | None, reason: str, *, expected: int | None = ANY_VERSION) -> Version:
    """Make an earlier champion the champion again; services follow within two seconds."""
    find(project, name)
    registry, champion_before = project.stores.registry, champion(project, name)
    if (before := version or _before(project, name)) is not None:
        _refuse_damaged(project, name, before)
    done = registry.rollback(name, actor=getpass.getuser(), reason=reason, version=version, expected=expected)
    return _shown(project, champion_before, done, reason)


def champion(project: LoadedProject, name: str) -> Version | None:
    """Return the champion of a model in this environment; None without one."""
    return project.stores.registry.champion(name)


def describe_change(project: LoadedProject, before: Version | None, after: Version) -> str:
    """Return in words how a new champion's predictions differ in type or classes from those of the one before; empty when they do not."""
    return describe_change_of_kind(project.stores.artifacts, before, after)


def challenge(project: LoadedProject, name: str, version: int, reason: str, *, expected: int | None = ANY_VERSION) -> Version:
    """Make a version the challenger; its gates are verified, the champion is not touched."""
    _, gates = _gates(project, name)
    _refuse_damaged(project, name, version)
    return project.stores.registry.challenge(name, gates, version=version, actor=getpass.getuser(), reason=reason, expected=expected)


def withdraw(project: LoadedProject, name: str, reason: str) -> Version:
    """Take the challenger's alias away."""
    find(project, name)
    return project.stores.registry.withdraw(name, actor=getpass.getuser(), reason=reason)


def _gates(project: LoadedProject, name: str) -> tuple[Model[..., Any], dict[str, str]]:
    declared, model = find(project, name)
    return model, hash_gates(gather_gates(model, declared.every(GateFunction)))


def _refuse_damaged(project: LoadedProject, name: str, version: int) -> None:
    """Read every byte of a version before it is moved to; one that does not exist is refused by who moves it."""
    at = project.stores
    for found in at.registry.versions(name):
        if found.version == version:
            refuse_damaged(at.registry, at.artifacts, found)


def _before(project: LoadedProject, name: str) -> int | None:
    """Return which version was champion before the present one."""
    champion, environment = project.stores.registry.champion(name), project.platform.environment
    moves = [e for e in project.stores.registry.history(name) if (e.alias, e.environment, e.kind) == (CHAMPION, environment, PROMOTION)]
    return next((e.previous for e in reversed(moves) if champion is not None and e.version == champion.version), None)


def approve(  # noqa: PLR0913  (who decided what, and why)
    project: LoadedProject, name: str, version: int, *, approved: bool, approver: str, reason: str
) -> Approval:
    """Record what a person decided, and show it as the check of the version."""
    _, model = find(project, name)
    found = project.stores.registry.approve(name, version, approved=approved, approver=approver, reason=reason)
    with instance(project.platform) as opened:
        if model.approval:
            report_approval(opened, model, found)
            opened.report_runless_asset_event(dg.AssetMaterialization(asset_key(approval_key(model)), metadata=approval_facts(found)))
    return found


def _shown(project: LoadedProject, before: Version | None, version: Version, reason: str) -> Version:
    """Report the new champion to Dagster, so that the web UI shows it."""
    facts: dict[str, Any] = {"version": version.version, "candidate": version.digest, "actor": getpass.getuser(), "reason": reason}
    facts |= {CHANGE: change} if (change := describe_change(project, before, version)) else {}
    with instance(project.platform) as opened:
        opened.report_runless_asset_event(dg.AssetMaterialization(asset_key(f"champion/{version.model}"), metadata=facts))
    return version
