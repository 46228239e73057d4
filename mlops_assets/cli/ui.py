"""``mlops ui``: the Dagster web UI on the same instance, and the console next to it."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlops_assets.cli.options import load
from mlops_assets.cli.project_target import DEFAULT_FILE, find_target
from mlops_assets.errors import InstallationError, MissingExtraError
from mlops_assets.orchestrate.core.console_link import CONSOLE_URL
from mlops_assets.orchestrate.core.dagster_files import open_instance
from mlops_assets.values.platform import Platform

if TYPE_CHECKING:
    import uvicorn

_MODULE = "mlops_assets.cli.main"
_SECONDS = 0.5  # between two looks at the process that the console belongs to


def open_ui(file: str, host: str, port: int, console_port: int | None) -> None:
    """Start the console as a process of its own, then replace this process by ``dagster dev``.

    Both use the instance of the environment's platform. The console ends with ``dagster dev``.

    Parameters
    ----------
    file
        The project, as on the command line.
    host, port
        The address of the Dagster UI; the console has the same host.
    console_port
        The port of the console. When None, the port after that of the Dagster UI, or any free one if that is in use.

    Raises
    ------
    DefinitionError
        There is no such project.
    MissingExtraError
        The web server is not installed.
    InstallationError
        The port of the console is in use.
    """
    target = find_target(file)
    programs = Path(sys.executable).parent
    if not (programs / "dagster-webserver").exists():
        raise MissingExtraError.from_extra("dagster-webserver", "demo")
    open_instance(Platform.from_env()).dispose()
    chosen = _choose_port(host, port + 1) if console_port is None else _require_port(host, console_port)
    url = f"http://{_name_host(host)}:{chosen}"
    options = [
        "--host",
        host,
        "--console-port",
        str(chosen),
        "--dagster-url",
        f"http://{_name_host(host)}:{port}",
        "--parent",
        str(os.getpid()),
    ]
    command = [sys.executable, "-m", _MODULE, "ui", "--console-only", *options, *(["-f", file] if file else [])]
    subprocess.Popen(command)  # noqa: S603  (our own module)
    # dagster dev looks for its web server on PATH, where an environment that is not activated is missing.
    os.environ["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
    os.environ[CONSOLE_URL] = url
    arguments = ["dagster", "dev", *target.dagster_arguments(), "-h", host, "-p", str(port)]
    os.execv(str(programs / "dagster"), arguments)  # noqa: S606  (a program of this environment)


def serve_console(file: str, host: str, port: int, dagster_url: str, parent: int | None) -> None:
    """Serve the console until it is interrupted, or until its parent process ends.

    Parameters
    ----------
    file, host, port
        The project, and the address of the console.
    dagster_url
        The address of the Dagster UI; empty when there is none.
    parent
        The id of the process with which the console ends; None if there is none.

    Raises
    ------
    MissingExtraError
        A package of the extra ``console`` is missing.
    InstallationError
        The port is in use.
    """
    for package in ("starlette", "uvicorn"):
        if find_spec(package) is None:
            raise MissingExtraError.from_extra(package, "console")
    import uvicorn

    from mlops_assets.orchestrate.console.app import build_console
    from mlops_assets.orchestrate.console.site import ConsoleSite

    project = load(file)
    _require_port(host, port)
    with open_instance(project.platform) as instance:
        option = f"-f {shlex.quote(file)}" if file not in ("", DEFAULT_FILE) else ""
        site = ConsoleSite(project.parts, project.definitions, project.platform, instance, dagster_url.rstrip("/"), option)
        config = uvicorn.Config(
            build_console(site),
            host=host,
            port=port,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            lifespan="off",
        )
        server = uvicorn.Server(config)
        if parent is not None:
            threading.Thread(target=_stop_with_parent, args=(server, parent), daemon=True).start()
        click.echo(f"Console: http://{_name_host(host)}:{port}", err=True)
        server.run()


def _stop_with_parent(server: uvicorn.Server, parent: int) -> None:
    """Wait until the parent process ends, then stop a server."""
    while os.getppid() == parent:
        time.sleep(_SECONDS)
    server.should_exit = True


def _name_host(host: str) -> str:
    """Return the host of an address that a browser on this machine can open."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104  (compared, not bound)


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _choose_port(host: str, preferred: int) -> int:
    """Return the preferred port if it is free, else one that the system chooses."""
    if preferred < 2**16 and _is_free(host, preferred):
        return preferred
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _require_port(host: str, port: int) -> int:
    if not _is_free(host, port):
        raise InstallationError(
            f"the console cannot listen on {host}:{port}: the address is in use, or not of this machine",
            hint="choose another port: --console-port 3005",
        )
    return port
