"""``mlops serve``: start, stop and look at services."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

from mlops_assets.errors import ServiceError, nearest
from mlops_assets.orchestrate.serving.service import spec_of
from mlops_assets.serving.http import control
from mlops_assets.values.serving import Service

if TYPE_CHECKING:
    from mlops_assets.cli.project import LoadedProject
    from mlops_assets.serving.http.control import ServiceStatus


def find(project: LoadedProject, name: str) -> Service:
    """Return a service of the project.

    Raises
    ------
    ServiceError
        There is none of that name.
    """
    known = {service.name: service for part in project.parts for service in part.project.every(Service)}
    if name not in known:
        raise ServiceError(f"there is no service '{name}'", hint=nearest(name, known) + f"there are {', '.join(known) or 'none'}")
    return known[name]


def start(project: LoadedProject, name: str) -> ServiceStatus:
    """Start a service, or bring it to the champion."""
    return control.start(spec_of(find(project, name), project.platform))


def stop(project: LoadedProject, name: str) -> ServiceStatus:
    """Stop a service; automation leaves it stopped."""
    return control.stop(project.platform.home, find(project, name).name)


def status(project: LoadedProject, name: str | None) -> list[ServiceStatus]:
    """Return the state of one service, or of all."""
    services = [find(project, name)] if name else [s for part in project.parts for s in part.project.every(Service)]
    return [control.status(project.platform.home, each.name, spec_of(each, project.platform)) for each in services]


def facts(found: ServiceStatus) -> dict[str, Any]:
    """Return a state as JSON-like values."""
    workers = [
        {
            "worker": w.index,
            "pid": w.pid,
            "version": w.version,
            "running": w.running,
            "problem": w.error or "",
            "other libraries": w.libraries,
        }
        for w in found.workers
    ]
    return {
        "service": found.name,
        "wanted": found.wanted,
        "running": found.running,
        "url": found.url,
        "champion": found.champion,
        "workers": workers,
        "problem": found.problem,
    }


def table(found: list[ServiceStatus]) -> Table:
    """Return services and their workers as a table."""
    result = Table(title="services", title_justify="left")
    for column in ("service", "wanted", "running", "url", "champion", "workers answer with", "problem"):
        result.add_column(column)
    for one in found:
        answers = ", ".join(f"version {w.version} (pid {w.pid})" for w in one.workers if w.running) or "nobody answers"
        others = next((f"trained with {w.libraries}" for w in one.workers if w.running and w.libraries), "")
        problem = one.problem or others
        result.add_row(one.name, one.wanted, "yes" if one.running else "no", one.url or "", str(one.champion or "none"), answers, problem)
    return result
