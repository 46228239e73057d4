"""Finding a project and the Dagster instance it runs on."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.build import Built, built
from mlops_assets.orchestrate.dagster_files import open_instance
from mlops_assets.orchestrate.lake_events import report_untold
from mlops_assets.orchestrate.liveness import bury_dead_runs
from mlops_assets.stores.places import places
from mlops_assets.values.platform import Platform

if TYPE_CHECKING:
    from types import ModuleType

    from mlops_assets.stores.places import Places

LATEST = 20  # runs that ended badly; the sensor looks at all


@dataclass(frozen=True)
class LoadedProject:
    """A project file that was imported."""

    file: Path
    definitions: dg.Definitions
    parts: tuple[Built, ...]

    @cached_property
    def platform(self) -> Platform:
        """Where the project lives."""
        return self.parts[0].platform if self.parts else Platform.from_env()

    @property
    def places(self) -> Places:
        """The stores of the project."""
        return places(self.platform)


def load(file: str) -> LoadedProject:
    """Import a project file and return its definitions.

    Raises
    ------
    DefinitionError
        There is no such file, or it makes no definitions.
    """
    path = Path(file).absolute()
    if not path.exists():
        raise DefinitionError(
            f"there is no project file '{file}'",
            hint="run in the project's folder, name the file with -f, or begin one with `mlops init NAME`",
        )
    module = _import(path)
    found = [value for value in vars(module).values() if isinstance(value, dg.Definitions)]
    if not found:
        raise DefinitionError(f"'{file}' makes no definitions", hint="end it with `defs = ml.build_definitions([...])`")
    return LoadedProject(path, found[0] if len(found) == 1 else dg.Definitions.merge(*found), built())


def _import(path: Path) -> ModuleType:
    for folder in (str(Path.cwd()), str(path.parent)):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise DefinitionError(f"'{path.name}' is not a Python file", hint="name a file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
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
