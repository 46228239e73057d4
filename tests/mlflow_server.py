"""A real MLflow server of the tests' own: an environment of its own, because MLflow's pins and ours exclude each other."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlops_assets.stores.base.lock import hold_lock
from tests.redis_server import free_port

ROOT = Path(__file__).parents[1]
WANTED = "mlflow==3.17.0"
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_SCHEMA_CHECK": "",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # a dozen processes that nothing here asks
    "PYTHONWARNINGS": "ignore",
}


def server_python() -> Path:
    """Return the interpreter that has all of MLflow, made once for each checkout."""
    home = ROOT / ".stamps" / "mlflow-server"
    python, stamp = home / "bin" / "python", home / "requirements"
    home.parent.mkdir(exist_ok=True)
    with hold_lock(home.parent / "mlflow-server.lock"):
        wanted = f"{sys.version}\n{WANTED}"
        if not stamp.exists() or stamp.read_text() != wanted:
            uv = Path(sys.executable).with_name("uv")
            _install([uv, "venv", "--quiet", "--clear", "--python", sys.executable, home])
            _install([uv, "pip", "install", "--quiet", "--python", python, WANTED])
            stamp.write_text(wanted)
    return python


def _install(command: list) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, f"the MLflow server cannot be installed: {done.stderr[-2000:]}"


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """Start a server on a free port and yield its URL; database and artifacts lie below ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    stores = ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.sqlite'}", "--artifacts-destination", str(folder / "artifacts")]
    address = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MLOPS_", "MLFLOW_"))} | QUIET
    env |= {"PATH": f"{server_python().parent}:{env['PATH']}"}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [str(server_python()), "-m", "mlflow", "server", *stores, *address], stdout=log, stderr=log, env=env, cwd=folder
        )
    try:
        _await(port, process, folder / "server.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def _await(port: int, process: subprocess.Popen, log: Path) -> None:
    until = time.monotonic() + 240
    while time.monotonic() < until:
        assert process.poll() is None, f"the MLflow server ended: {log.read_text()[-2000:]}"
        with (
            suppress(urllib.error.URLError, ConnectionError, TimeoutError, socket.timeout),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5),
        ):
            return
        time.sleep(0.1)
    raise AssertionError(f"the MLflow server does not answer: {log.read_text()[-2000:]}")
