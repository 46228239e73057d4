"""``mlops ui``: the Dagster web UI on the same instance."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mlops_assets.cli.project_target import find_target
from mlops_assets.errors import MissingExtraError
from mlops_assets.orchestrate.core.dagster_files import open_instance
from mlops_assets.values.platform import Platform


def open_ui(file: str, port: int) -> None:
    """Replace this process by ``dagster dev`` on the instance of the environment's platform.

    Raises
    ------
    DefinitionError
        There is no such project.
    MissingExtraError
        The web server is not installed.
    """
    target = find_target(file)
    programs = Path(sys.executable).parent
    if not (programs / "dagster-webserver").exists():
        raise MissingExtraError.from_extra("dagster-webserver", "demo")
    open_instance(Platform.from_env()).dispose()
    # dagster dev looks for its web server on PATH, where an environment that is not activated is missing.
    os.environ["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
    os.execv(str(programs / "dagster"), ["dagster", "dev", *target.dagster_arguments(), "-p", str(port)])  # noqa: S606  (a program of this environment)
