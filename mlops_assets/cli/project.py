"""Import a project, and open the Dagster instance that it runs on."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import dagster as dg
from dagster.components.definitions import LazyDefinitions

from mlops_assets.cli.project_target import ProjectTarget, extend_path, find_target
from mlops_assets.errors import DefinitionError, MlopsError, suggest_name
from mlops_assets.orchestrate.compiler.build import CompiledProject, compiled_projects, skip_dbt
from mlops_assets.orchestrate.core.dagster_files import open_instance
from mlops_assets.orchestrate.core.liveness import reap_dead_runs
from mlops_assets.orchestrate.tables.lake_events import report_missing_events
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.values.platform import Platform

if TYPE_CHECKING:
    from types import ModuleType

    from mlops_assets.orchestrate.core.project import Project
    from mlops_assets.stores.platform.stores import Stores

MAX_FAILED_RUNS = 20  # that a command reports; the sensor reports all
T = TypeVar("T")


@dataclass(frozen=True)
class LoadedProject:
    """A project that was imported: its merged definitions, and one part for each call of ``build_definitions``.

    The definitions have no assets of dbt models if the project was loaded by :func:`load_without_dbt`.
    """

    target: ProjectTarget
    definitions: dg.Definitions
    parts: tuple[CompiledProject, ...]

    @cached_property
    def platform(self) -> Platform:
        """The platform of the first part; that of the environment when there is none."""
        return self.parts[0].platform if self.parts else Platform.from_env()

    @property
    def stores(self) -> Stores:
        """The stores of the platform."""
        return open_stores(self.platform)

    def find(self, kind: type[T], name: str, what: str, error: type[MlopsError] = DefinitionError) -> tuple[Project, T]:
        """Return the project part that declares a value, and the value.

        Parameters
        ----------
        kind
            The class of the value.
        name
            The name of the value.
        what
            The noun for the message, e.g. ``model``.
        error
            The class of the error that is raised when there is no such value.
        """
        known = {value.name: (part.project, value) for part in self.parts for value in part.project.select(kind)}  # type: ignore[attr-defined]
        if name not in known:
            raise error(f"there is no {what} '{name}'", hint=suggest_name(name, known) + f"there are {', '.join(sorted(known)) or 'none'}")
        return known[name]


def load(location: str = "", folder: Path | None = None) -> LoadedProject:
    """Import a project; several ``Definitions`` in its module are merged.

    Parameters
    ----------
    location
        A file or a module; see :func:`mlops_assets.cli.project_target.find_target`.
    folder
        The folder to search; the current one when None.

    Raises
    ------
    DefinitionError
        There is no such project, or it builds no definitions.
    """
    target = find_target(location, folder)
    earlier = len(compiled_projects())
    definitions = [candidate for value in list(vars(_import(target)).values()) if (candidate := _as_definitions(value)) is not None]
    if not definitions:
        raise DefinitionError(f"'{target}' builds no definitions", hint="end it with `defs = ml.build_definitions([...])`")
    parts = compiled_projects()[earlier:] or compiled_projects()  # none is new when the process had imported the project's modules before
    return LoadedProject(target, definitions[0] if len(definitions) == 1 else dg.Definitions.merge(*definitions), parts)


def load_without_dbt(location: str = "") -> LoadedProject:
    """Import a project for a command that reads declarations, stores and sensors, but no assets of dbt models.

    Parameters
    ----------
    location
        As in :func:`load`.

    Raises
    ------
    DefinitionError
        As in :func:`load`.
    """
    try:
        with skip_dbt():
            return load(location)
    except Exception:  # noqa: BLE001  (the module may use the assets of its dbt models; otherwise it raises the same error again)
        return load(location)


def _as_definitions(value: object) -> dg.Definitions | None:
    """Return a ``Definitions`` unchanged, and the definitions of a function under ``@dg.definitions``; None for any other value."""
    if isinstance(value, LazyDefinitions) and not value.has_context_arg:
        value = value()
    return value if isinstance(value, dg.Definitions) else None


def _import(target: ProjectTarget) -> ModuleType:
    return _import_from_package(target) if target.in_package else _import_file(target)


def _import_from_package(target: ProjectTarget) -> ModuleType:
    extend_path(target.root, Path.cwd())
    sys.path.append(str(target.file.parent))  # `from helpers import ...` works in a package too, after everything else
    sys.modules.pop(target.module, None)
    module = importlib.import_module(target.module)
    if (imported := Path(module.__file__ or "")).resolve() != target.file.resolve():
        raise DefinitionError(
            f"'{target.module}' is imported from {imported}, not from {target.file}",
            hint=f"rename the package '{target.module.partition('.')[0]}': another package has this name",
        )
    return module


def _import_file(target: ProjectTarget) -> ModuleType:
    extend_path(target.root, Path.cwd())
    spec = importlib.util.spec_from_file_location(target.module, target.file)
    if spec is None or spec.loader is None:
        raise DefinitionError(f"'{target.file.name}' is not a Python file", hint="name a file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[target.module] = module
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        if "no known parent package" not in str(error):
            raise
        raise DefinitionError(
            f"'{target.file.name}' imports relatively, and its folder '{target.root.name}' is not a package",
            hint=f"add an __init__.py to the folder, or name the module: -m {target.root.name}.{target.module}",
        ) from error
    return module


def open_clean_instance(platform: Platform) -> dg.DagsterInstance:
    """Open the persistent instance and mark runs whose process is gone as failed."""
    instance = open_instance(platform)
    reap_dead_runs(instance)
    return instance


def open_reconciled_instance(platform: Platform) -> dg.DagsterInstance:
    """Open the persistent instance, mark runs whose process is gone as failed, and report tables that the latest failed runs had committed.

    This opens the lake if there are failed runs.
    """
    instance = open_clean_instance(platform)
    report_missing_events(instance, platform, limit=MAX_FAILED_RUNS)
    return instance
