"""``mlops models promote``, ``approve``, ``reject`` and ``rollback``: what a person does to a version."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Any

import dagster as dg

from mlops_assets.cli.project import instance
from mlops_assets.errors import RegistryError, nearest
from mlops_assets.orchestrate.approval import approval_facts, approval_key, report_approval
from mlops_assets.orchestrate.judging import gates_of
from mlops_assets.orchestrate.steps import asset_key
from mlops_assets.values.model import GateFunction, Model

if TYPE_CHECKING:
    from mlops_assets.cli.project import LoadedProject
    from mlops_assets.orchestrate.project import Project
    from mlops_assets.stores.records import Approval, Version


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


def promote(project: LoadedProject, name: str, version: int, reason: str) -> Version:
    """Make a version the champion; every gate is verified again."""
    declared, model = find(project, name)
    gates = gates_of(model, tuple(f for f in declared.every(GateFunction) if f.model.key == model.key))
    done = project.places.registry.promote(name, gates, actor=getpass.getuser(), reason=reason, version=version, approval=model.approval)
    return _shown(project, done, reason)


def rollback(project: LoadedProject, name: str, version: int | None, reason: str) -> Version:
    """Make an earlier champion the champion again; services follow within two seconds."""
    find(project, name)
    done = project.places.registry.rollback(name, actor=getpass.getuser(), reason=reason, version=version)
    return _shown(project, done, reason)


def approve(  # noqa: PLR0913  (who decided what, and why)
    project: LoadedProject, name: str, version: int, *, approved: bool, approver: str, reason: str
) -> Approval:
    """Record what a person decided, and show it as the check of the version."""
    _, model = find(project, name)
    found = project.places.registry.approve(name, version, approved=approved, approver=approver, reason=reason)
    with instance(project.platform) as opened:
        if model.approval:
            report_approval(opened, model, found)
            opened.report_runless_asset_event(dg.AssetMaterialization(asset_key(approval_key(model)), metadata=approval_facts(found)))
    return found


def _shown(project: LoadedProject, version: Version, reason: str) -> Version:
    """Tell Dagster, so that the web UI shows the champion that there is."""
    facts: dict[str, Any] = {"version": version.version, "candidate": version.digest, "actor": getpass.getuser(), "reason": reason}
    with instance(project.platform) as opened:
        opened.report_runless_asset_event(dg.AssetMaterialization(asset_key(f"champion/{version.model}"), metadata=facts))
    return version
