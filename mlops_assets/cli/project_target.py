"""Find the project of a command: a file, a module, or the module that ``pyproject.toml`` names."""

from __future__ import annotations

import importlib.util
import os
import pkgutil
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlops_assets.errors import DefinitionError, suggest_name

DEFAULT_FILE = "definitions.py"
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass(frozen=True)
class ProjectTarget:
    """A project's file, and the name under which it is imported.

    Parameters
    ----------
    file
        The module's file.
    module
        The dotted name of the module.
    root
        The folder that contains the file, or the top-level package of the file.
    in_package
        Whether Python and Dagster import the file by its dotted name; otherwise they run it as a script.
    """

    file: Path
    module: str
    root: Path
    in_package: bool

    def __str__(self) -> str:
        """Return the name by which a user knows the project."""
        return self.module if self.in_package and self.file.parent != self.root else self.file.name

    def dagster_arguments(self, file: str = "") -> list[str]:
        """Return the arguments that make Dagster load the same project.

        Parameters
        ----------
        file
            The path of the project's file as Dagster receives it; the absolute path when empty.
        """
        if self.in_package:
            return ["-m", self.module, *(["-d", str(self.root)] if self.root != Path.cwd() else [])]
        return ["-f", file or str(self.file)]


def find_target(location: str, folder: Path | None = None) -> ProjectTarget:
    """Return the file and the module name of the project at a location.

    Parameters
    ----------
    location
        A file or a dotted module name; when empty, the module of ``pyproject.toml`` or ``dg.toml``, else ``definitions.py``.
    folder
        The folder to search; the current one when None.

    Raises
    ------
    DefinitionError
        There is no such project, ``pyproject.toml`` names several, or a settings file cannot be read.
    """
    here = (folder or Path.cwd()).absolute()
    if not location:
        configured = _configured_module(here)
        return _find_module_target(configured, here) if configured else _find_file_target(here / DEFAULT_FILE, DEFAULT_FILE)
    path = Path(os.path.normpath(here / location))
    if not path.is_file() and path.suffix != ".py" and _MODULE.fullmatch(location):
        return _find_module_target(location, here)
    return _find_file_target(path, location)


def has_project(folder: Path) -> bool:
    """Whether a folder contains a project that commands find without -f or -m."""
    return (folder / DEFAULT_FILE).exists() or bool(_configured_module(folder))


def _find_file_target(path: Path, location: str) -> ProjectTarget:
    if not path.is_file():
        raise DefinitionError(
            f"there is no project file '{location}'",
            hint="run in the project's folder, name a file or a module with -f (e.g. -f shop.definitions), or create one with `mlops init NAME`",
        )
    root, names = path.parent, [] if path.stem == "__init__" else [path.stem]
    while (root / "__init__.py").exists():
        root, names = root.parent, [root.name, *names]
    return ProjectTarget(path, ".".join(names), root, in_package=root != path.parent)


def _find_module_target(name: str, here: Path) -> ProjectTarget:
    """Return the target of a module, found in the folder's ``src``, in the folder or among what is installed.

    ``sys.path`` is extended by these folders.
    """
    extend_path(here / "src" if (here / "src").is_dir() else here, here)
    file = _find_module_file(name)
    if file is None:
        raise DefinitionError(f"there is no project module '{name}' in {here}", hint=_module_hint(name))
    parts = name.count(".") + (1 if file.name == "__init__.py" else 0)
    return ProjectTarget(file, name, file.parents[parts], in_package=True)


def extend_path(*folders: Path) -> None:
    """Put folders at the start of ``sys.path``, in the given order; folders that are on it already keep their position."""
    sys.path[:0] = [str(folder) for folder in dict.fromkeys(folders) if str(folder) not in sys.path]


def _find_module_file(name: str) -> Path | None:
    """Return the file of a module; None when there is no such module, or when it is not a Python file."""
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            return None  # else the package's own import is what fails
        raise
    return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None


def _module_hint(name: str) -> str:
    package, _, last = name.rpartition(".")
    search_path = getattr(sys.modules.get(package), "__path__", None)
    suggestion = suggest_name(last, [module.name for module in pkgutil.iter_modules(search_path)]) if search_path else ""
    return f"{suggestion}name the module that calls ml.build_definitions, e.g. -m shop.definitions, in the folder that holds its package or `src`"


def _configured_module(folder: Path) -> str:
    """Return the module that the project's settings for ``dagster dev`` or ``dg`` name; empty when they name none."""
    tools = _read_toml(folder / "pyproject.toml").get("tool", {})
    dagster, project = tools.get("dagster", {}), _read_toml(folder / "dg.toml").get("project") or tools.get("dg", {}).get("project", {})
    if modules := [each.get("name", "") for each in dagster.get("modules", []) if each.get("type") == "module"]:
        if len(modules) > 1:
            raise DefinitionError(f"[tool.dagster] names the modules {', '.join(modules)}", hint="choose one with -m MODULE")
        return str(modules[0])
    if module := dagster.get("module_name") or project.get("code_location_target_module"):
        return str(module)
    if "root_module" not in project:
        return ""
    if project.get("autoload_defs"):
        raise DefinitionError(
            f"[tool.dg.project] loads the folder of '{project['root_module']}.defs' without a module (autoload_defs)",
            hint="name the module that calls ml.build_definitions with -m MODULE",
        )
    return f"{project['root_module']}.definitions"


def _read_toml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DefinitionError(f"{path} cannot be read: {error}", hint="correct it, or name the project with -f") from None
