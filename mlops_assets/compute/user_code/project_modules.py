"""The folders from which the project's modules are imported, for child processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_MAIN_MODULES = ("__main__", "__mp_main__")


def project_folders() -> list[str]:
    """Return the import folders of loaded modules that are neither installed nor part of Python.

    They are read from the modules, not from ``sys.path``, which Dagster restores after it has loaded a project.
    """
    folders: dict[str, None] = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__dict__", {}).get("__file__")  # asking a lazy module for an attribute would import it
        if isinstance(file, str) and file.endswith(".py") and _is_project_module(name, file):
            depth = name.count(".") + (1 if file.endswith("__init__.py") else 0)
            folders[str(Path(file).absolute().parents[depth])] = None
    return list(folders)


def child_environment() -> dict[str, str]:
    """Return this process's environment with the project's folders added to ``PYTHONPATH``."""
    before = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(filter(None, [*before, *project_folders()])))}


def _is_project_module(name: str, file: str) -> bool:
    top = name.partition(".")[0]
    return (
        top not in sys.stdlib_module_names and name not in _MAIN_MODULES and not {"site-packages", "dist-packages"} & set(Path(file).parts)
    )
