"""``mlops serve``: start, stop and inspect services."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from mlops_assets.errors import ServiceError, suggest_name
from mlops_assets.orchestrate.compiler.services import list_services
from mlops_assets.orchestrate.serving.service import build_service_spec, read_service_prices
from mlops_assets.serving.http import control

if TYPE_CHECKING:
    from mlops_assets.cli.project import LoadedProject
    from mlops_assets.serving.http.control import ServiceStatus
    from mlops_assets.values.llm.prompt_service import PromptService
    from mlops_assets.values.serving import Service


def find_service(project: LoadedProject, name: str) -> Service | PromptService:
    """Return a service of a model or a prompt of the project.

    Raises
    ------
    ServiceError
        There is no service of that name.
    """
    known = {service.name: service for part in project.parts for service in list_services(part.project)}
    if name not in known:
        raise ServiceError(
            f"there is no service '{name}'", hint=suggest_name(name, known) + f"there are {', '.join(sorted(known)) or 'none'}"
        )
    return known[name]


def start(project: LoadedProject, name: str) -> ServiceStatus:
    """Start a service, or update a running one to the champion; return its state."""
    service = find_service(project, name)
    return control.start(build_service_spec(service, project.platform, read_service_prices(service, project.platform)))


def stop(project: LoadedProject, name: str) -> ServiceStatus:
    """Stop a service and return its state; automation does not restart it."""
    return control.stop(project.platform.home, find_service(project, name).name)


def status(project: LoadedProject, name: str | None) -> list[ServiceStatus]:
    """Return the state of the service of this name; with None, the states of all services."""
    services = [find_service(project, name)] if name else [s for part in project.parts for s in list_services(part.project)]
    return [control.status(project.platform.home, service.name, build_service_spec(service, project.platform)) for service in services]


def list_status_facts(status: ServiceStatus) -> dict[str, Any]:
    """Return a service's state as JSON-like values."""
    workers = [
        {
            "worker": w.index,
            "pid": w.pid,
            "version": w.version,
            "running": w.running,
            "problem": w.error or "",
            "other libraries": w.libraries,
        }
        for w in status.workers
    ]
    return {
        "service": status.name,
        "wanted": status.wanted,
        "running": status.running,
        "url": status.url,
        "champion": status.champion,
        "workers": workers,
        "problem": status.problem,
    }


def build_service_table(statuses: list[ServiceStatus]) -> Table:
    """Return services and their workers as a table."""
    table = Table(title="services", title_justify="left")
    for column in ("service", "wanted", "running", "url", "champion", "workers", "problem"):
        table.add_column(column)
    for status in statuses:
        answers = ", ".join(f"version {w.version} (pid {w.pid})" for w in status.workers if w.running) or "no worker"
        library_note = next((f"trained with {w.libraries}" for w in status.workers if w.running and w.libraries), "")
        problem = status.problem or library_note
        cells = (
            status.name,
            status.wanted,
            "yes" if status.running else "no",
            status.url or "",
            str(status.champion or "none"),
            answers,
            problem,
        )
        table.add_row(*map(escape, cells))
    return table
