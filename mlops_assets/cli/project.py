"""Finding a project and the Dagster instance it runs on."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from dagster.components.definitions import LazyDefinitions

from mlops_assets.cli.project_target import ProjectTarget, extend_path, find_target
from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.compiler.build import Built, built
from mlops_assets.orchestrate.core.dagster_files import open_instance
from mlops_assets.orchestrate.core.liveness import bury_dead_runs
from mlops_assets.orchestrate.tables.lake_events import report_untold
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.values.platform import Platform

if TYPE_CHECKING:
    from types import ModuleType

    from mlops_assets.stores.platform.stores import Stores

LATEST = 20  # runs that ended badly; the sensor looks at all


@dataclass(frozen=True)
class LoadedProject:
    """A project that was imported."""

    target: ProjectTarget
    definitions: dg.Definitions
    parts: tuple[Built, ...]

    @cached_property
    def platform(self) -> Platform:
        """Where the project lives."""
        return self.parts[0].platform if self.parts else Platform.from_env()

    @property
    def stores(self) -> Stores:
        """The stores of the project."""
        return open_stores(self.platform)


def load(given: str = "", folder: Path | None = None) -> LoadedProject:
    """Import a project and return its definitions.

    Parameters
    ----------
    given
        A file or a module; see :func:`mlops_assets.cli.project_target.find_target`.
    folder
        Where it is looked for; the current folder when None.

    Raises
    ------
    DefinitionError
        There is no such project, or it makes no definitions.
    """
    target = find_target(given, folder)
    found = [made for value in list(vars(_import(target)).values()) if (made := _definitions(value)) is not None]
    if not found:
        raise DefinitionError(f"'{target}' makes no definitions", hint="end it with `defs = ml.build_definitions([...])`")
    return LoadedProject(target, found[0] if len(found) == 1 else dg.Definitions.merge(*found), built())


def _definitions(value: object) -> dg.Definitions | None:
    """Return what a module's name holds, or what the function beneath ``@dg.definitions`` makes."""
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
    if (found := Path(module.__file__ or "")).resolve() != target.file.resolve():
        raise DefinitionError(
            f"'{target.module}' is imported from {found}, not from {target.file}",
            hint=f"rename the package '{target.module.partition('.')[0]}': its name is taken",
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


def instance(platform: Platform) -> dg.DagsterInstance:
    """Open the persistent instance, and mark runs whose process is gone as failed."""
    opened = open_instance(platform)
    bury_dead_runs(opened)
    return opened


def told_instance(platform: Platform) -> dg.DagsterInstance:
    """Open the persistent instance, and tell it what the last runs that ended badly had committed; this opens the lake, which may be busy."""
    opened = instance(platform)
    report_untold(opened, platform, limit=LATEST)
    return opened
