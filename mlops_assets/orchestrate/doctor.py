"""What is wrong with an installation, and what of it can be mended safely."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import dagster as dg

from mlops_assets.errors import MlopsError
from mlops_assets.orchestrate.doctor_machine import clock, disk_space, packages_installed, permissions
from mlops_assets.orchestrate.doctor_stores import artifact_hashes, database, erasures, lake, orphans, versions
from mlops_assets.orchestrate.findings import OK, WARNING, Finding
from mlops_assets.orchestrate.liveness import bury_dead_runs, dead_runs
from mlops_assets.orchestrate.project import Project
from mlops_assets.serving import control
from mlops_assets.stores.places import Places
from mlops_assets.values.platform import Platform
from mlops_assets.values.serving import Service

Check = Callable[[], Iterator[Finding]]


@dataclass(frozen=True)
class Patient:
    """What is examined.

    Parameters
    ----------
    platform
        Where everything lives.
    projects
        What is declared; empty when the project file cannot be imported.
    instance
        Dagster's.
    """

    platform: Platform
    projects: Sequence[Project]
    instance: dg.DagsterInstance

    @property
    def places(self) -> Places:
        """The stores, opened anew: what an earlier look has cached is not believed."""
        return Places(self.platform)


def findings(patient: Patient) -> Iterator[Finding]:
    """Yield what each check found; one that cannot be made is a finding too."""
    platform, places = patient.platform, patient.places
    named: dict[str, Check] = {
        "database": lambda: database(platform),
        "versions": lambda: versions(places),
        "hashes": lambda: artifact_hashes(places),
        "runs": lambda: _runs(patient.instance),
        "lake": lambda: lake(places, patient.projects),
        "erasures": lambda: erasures(platform),
        "orphans": lambda: orphans(places),
        "services": lambda: _services(patient),
        "disk": lambda: disk_space(platform),
        "permissions": lambda: permissions(platform),
        "clock": lambda: clock(places),
        "packages": packages_installed,
    }
    for name, check in named.items():
        try:
            yield from check()
        except (MlopsError, OSError) as error:
            yield Finding.failed(name, getattr(error, "message", str(error)), getattr(error, "hint", "look at the cause"))


def _runs(instance: dg.DagsterInstance) -> Iterator[Finding]:
    dead = dead_runs(instance)
    for run, cause in dead:
        yield Finding(
            "runs",
            WARNING,
            f"run {run.run_id[:8]} counts as running: {cause}",
            "mark it as failed",
            lambda: f"marked {len(bury_dead_runs(instance))} run(s) as failed",
        )
    if not dead:
        yield Finding("runs", OK, "no run counts as running whose process is gone")


def _services(patient: Patient) -> Iterator[Finding]:
    registry = patient.places.registry
    services = [service for project in patient.projects for service in project.every(Service)]
    for service in services:
        state, champion = control.status(patient.platform.home, service.name), registry.champion(service.model.name)
        answering = {worker.version for worker in state.workers if worker.running}
        behind = state.running and champion is not None and answering - {champion.version}
        if state.problem:
            yield Finding.failed("services", f"{service.name}: {state.problem}", f"mlops serve start {service.name}")
        elif behind:
            told = ", ".join(str(version) for version in sorted(behind, key=str))
            text = f"{service.name} answers with version {told}, the champion is {champion.version if champion else 'none'}"
            yield Finding.failed("services", text, f"mlops serve start {service.name}")
        else:
            yield Finding("services", OK, f"{service.name} is {'running' if state.running else state.wanted}")
    if not services:
        yield Finding("services", OK, "none is declared")
