"""Examine an installation: each check yields findings, some with a safe fix."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from mlops_assets.errors import InstallationError, MlopsError
from mlops_assets.orchestrate.core.liveness import find_dead_runs, reap_dead_runs
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.serving.service import build_service_spec
from mlops_assets.orchestrate.upkeep.doctor_files import (
    Rebuild,
    check_catalog,
    check_dagster_files,
    check_layouts,
    check_logs,
    check_online_store,
)
from mlops_assets.orchestrate.upkeep.doctor_machine import check_clock, check_disk_space, check_packages, check_permissions
from mlops_assets.orchestrate.upkeep.doctor_stores import (
    check_artifacts,
    check_database,
    check_erasures,
    check_lake,
    check_orphans,
    check_records,
    check_versions,
)
from mlops_assets.orchestrate.upkeep.findings import OK, WARNING, Finding
from mlops_assets.serving.http import control
from mlops_assets.serving.http.service_folder import ServiceFolder
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.values.asset_names import select_nodes
from mlops_assets.values.llm.prompt_service import PromptService
from mlops_assets.values.platform import Platform
from mlops_assets.values.serving import Service

Check = Callable[[], Iterator[Finding]]


@dataclass(frozen=True)
class Installation:
    """The installation that the checks examine.

    Parameters
    ----------
    platform
        The platform to examine.
    projects
        The projects of the platform; empty when the project file cannot be imported.
    instance
        The Dagster instance; None when it cannot be opened.
    definitions
        The definitions of the project, to rebuild tables; None when the project file cannot be imported.
    """

    platform: Platform
    projects: Sequence[Project]
    instance: dg.DagsterInstance | None
    definitions: dg.Definitions | None = None

    @property
    def stores(self) -> Stores:
        """The stores, opened again for each examination: nothing is read from the cache of an earlier one."""
        return Stores(self.platform)


def run_checks(installation: Installation) -> Iterator[Finding]:
    """Run every check and yield its findings; an exception in a check becomes a failure that names the file or folder."""
    platform, home, stores = installation.platform, Path(installation.platform.home), installation.stores
    checks: dict[str, tuple[object, Check]] = {
        "database": (platform.registry, lambda: check_database(platform)),
        "dagster": (home / "dagster", lambda: check_dagster_files(platform)),
        "versions": (platform.registry, lambda: check_versions(stores)),
        "hashes": (platform.artifacts, lambda: check_artifacts(stores)),
        "runs": (home / "dagster", lambda: _check_runs(installation.instance)),
        "catalog": (platform.lake, lambda: check_catalog(stores)),
        "lake": (platform.lake, lambda: check_lake(stores, installation.projects)),
        "records": (platform.lake, lambda: check_records(stores, installation.projects)),
        "layouts": (home / "layouts", lambda: check_layouts(platform)),
        "online": (platform.online, lambda: check_online_store(stores, installation.projects, _build_rebuild(installation))),
        "erasures": (platform.registry, lambda: check_erasures(platform)),
        "orphans": (platform.artifacts, lambda: check_orphans(stores)),
        "services": (home / "services", lambda: _check_services(installation, stores)),
        "logs": (home / "services", lambda: check_logs(platform)),
        "disk": (home, lambda: check_disk_space(platform)),
        "permissions": (home, lambda: check_permissions(platform)),
        "clock": (platform.registry, lambda: check_clock(stores)),
        "packages": ("the installed packages", check_packages),
    }
    for name, (where, check) in checks.items():
        try:
            yield from check()
        except MlopsError as error:
            yield Finding.failure(name, error.message, error.hint)
        except Exception as error:  # noqa: BLE001  (a damaged file may raise anything, and the other checks still run)
            reason = " ".join(str(error).split())[:300]
            yield Finding.failure(name, f"'{where}' cannot be examined: {type(error).__name__}: {reason}", "restore it from a backup")


def _build_rebuild(installation: Installation) -> Rebuild | None:
    """Return a function that materialises assets of the project by their keys; None without a project or an instance."""
    definitions, instance = installation.definitions, installation.instance
    if definitions is None or instance is None:
        return None

    def rebuild(keys: Sequence[str]) -> None:
        chosen = [asset_key(key) for key in keys]
        job = definitions.resolve_implicit_global_asset_job_def()
        config = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        if not job.execute_in_process(instance=instance, asset_selection=chosen, run_config=config, raise_on_error=False).success:
            raise InstallationError(
                f"{', '.join(keys)} cannot be rebuilt", hint=f"run `mlops run --select '{select_nodes(keys[0])}'` to see why"
            )

    return rebuild


def _check_runs(instance: dg.DagsterInstance | None) -> Iterator[Finding]:
    if instance is None:
        return  # the check that could not open it has reported that
    dead = find_dead_runs(instance)
    for run, cause in dead:
        yield Finding(
            "runs",
            WARNING,
            f"run {run.run_id[:8]} has the status of a running run: {cause}",
            "mark it as failed",
            lambda: f"marked {len(reap_dead_runs(instance))} run(s) as failed",
        )
    if not dead:
        yield Finding("runs", OK, "every running run has its process")


def _check_services(installation: Installation, stores: Stores) -> Iterator[Finding]:
    registry = stores.registry
    services: list[Service | PromptService] = [s for project in installation.projects for s in project.select(Service)]
    services += [s for project in installation.projects for s in project.select(PromptService)]
    for service in services:
        spec = build_service_spec(service, installation.platform)
        state, champion = control.status(installation.platform.home, service.name, spec), registry.champion(spec.model)
        answering = {worker.version for worker in state.workers if worker.running}
        behind = state.running and champion is not None and answering - {champion.version}
        if state.problem:
            yield Finding.failure("services", f"{service.name}: {state.problem}", f"mlops serve start {service.name}")
        elif behind:
            answers = ", ".join(str(version) for version in sorted(behind, key=str))
            text = f"{service.name} answers with version {answers}, the champion is {champion.version if champion else 'none'}"
            yield Finding.failure("services", text, f"mlops serve start {service.name}")
        else:
            yield Finding("services", OK, f"{service.name} is {'running' if state.running else state.wanted}")
    yield from _check_undeclared_services(Path(installation.platform.home) / "services", {service.name for service in services})
    if not services:
        yield Finding("services", OK, "none is declared")


def _check_undeclared_services(services: Path, declared: Collection[str]) -> Iterator[Finding]:
    """Yield damaged state files of services that the project does not declare."""
    for path in sorted(services.iterdir()) if services.is_dir() else ():
        if path.name not in declared:
            yield from (Finding.failure("services", error.message, error.hint) for _, error in ServiceFolder(path).find_damage())
