"""Entry points that never move, because artifacts and command lines contain their names.

An MLflow model names this module as its loader, a Bento imports :func:`hosted`, and a supervisor that survives an upgrade starts its workers by
``python -m mlops_assets.entry_points worker``. Everything else in the package may be renamed.
"""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

MODULE = "mlops_assets.entry_points"
SUPERVISOR, WORKER = "supervisor", "worker"


def hosted(folder: Path) -> Any:  # noqa: ANN401  (a BentoML service)
    """Return the BentoML service of a packaged model.

    Parameters
    ----------
    folder
        The folder with ``serving.json`` and the artifacts.
    """
    from mlops_assets.serving.bridges import bento

    return bento.host_bento(folder)


def _load_pyfunc(path: str) -> Any:  # noqa: ANN401  (an MLflow model)
    """Return the model in a folder; MLflow calls its loader by this name."""
    from mlops_assets.serving.bridges.mlflow_flavour import load_pyfunc

    return load_pyfunc(path)


def main(arguments: list[str]) -> None:
    """Run the supervisor of a service in a detached process, or run one of its workers in this process; exit for any other role.

    Parameters
    ----------
    arguments
        ``supervisor FOLDER`` or ``worker FOLDER INDEX SOCKET CONTROL``.
    """
    role, *rest = arguments or [""]
    if role == SUPERVISOR:
        from mlops_assets.serving.http import supervisor

        supervisor.detach()
        supervisor.main(*rest)
    elif role == WORKER:
        gc.disable()  # no collection slows the imports; the worker enables it again
        from mlops_assets.serving.http import worker

        worker.main(rest)
    else:
        sys.exit(f"'{role}' is neither {SUPERVISOR} nor {WORKER}")


if __name__ == "__main__":
    main(sys.argv[1:])
