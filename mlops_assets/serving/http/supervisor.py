"""The supervisor of one service: holds the socket, keeps the workers running, tells them which version is wanted.

Started by :func:`mlops_assets.serving.http.control.start` as ``python -m mlops_assets.entry_points supervisor FOLDER``; it detaches itself and
prints its process id. It imports no model library.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_assets.errors import MlopsError, ServiceError
from mlops_assets.serving.http.metrics import allocate
from mlops_assets.serving.http.own_processes import label_of
from mlops_assets.serving.http.state import Folder, ServiceSpec, Wanted, is_alive, started, write_json
from mlops_assets.serving.http.worker_pool import WorkerPool

if TYPE_CHECKING:
    from mlops_assets.stores.registry.registry import Registry

POLL = 0.25  # seconds between two looks at the registry
_TICK = 0.05
_ORPHANS = 15.0  # seconds that workers of a supervisor that was killed may take to end


class Supervisor:
    """Runs one service until it is told to end.

    Parameters
    ----------
    folder
        Of the service.
    spec
        What to run.
    listener
        The service's socket, bound and listening.
    """

    def __init__(self, folder: Folder, spec: ServiceSpec, listener: socket.socket) -> None:
        self._folder, self._spec = folder, spec
        self._port = listener.getsockname()[1]
        self._pool = WorkerPool(folder, spec.workers, listener)
        self._registry: Registry | None = None
        self._label = label_of(folder.path)
        self._asked, self._unreadable = 0.0, ""
        self._said: str | None = None
        self.ending = False

    def run(self) -> None:
        """Keep the service as it is wanted; returns when it was told to end, or when no worker can be kept running."""
        self._say("")
        while not self.ending:
            self._ask()
            self._pool.tick()
            problem = self._unreadable or self._pool.problem
            if self._pool.given_up:
                self._say(problem)
                break
            self._say(problem)
            time.sleep(_TICK)
        self._pool.end()

    def _ask(self) -> None:
        """Learn the champion; an unreadable registry changes nothing but what is told."""
        if time.monotonic() - self._asked < POLL:
            return
        self._restore_files()
        from mlops_assets.stores.registry.registry import open_registry

        try:
            self._registry = self._registry or open_registry(self._spec.registry, self._spec.environment)
            champion = self._registry.champion(self._spec.model)
        except Exception as error:  # noqa: BLE001  (a database that is away, locked, or being restored must not end the service)
            self._unreadable = f"the registry cannot be read ({type(error).__name__}); the service goes on with what it has"
        else:
            self._unreadable = ""
            if champion is not None:
                self._pool.want(Wanted(champion.version, champion.digest, champion.artifact))
        self._asked = time.monotonic()

    def _restore_files(self) -> None:
        """Write state files that were damaged or deleted again; a folder that was deleted stays so."""
        folder = self._folder
        if not folder.path.is_dir():
            return
        if folder.readable(folder.supervisor) is None:
            self._said = None  # said again in this round
        for path, facts in ((folder.spec, asdict(self._spec)), (folder.wanted, {"state": "running"})):
            if folder.readable(path) is None:
                with contextlib.suppress(MlopsError):
                    write_json(path, facts)

    def _say(self, problem: str) -> None:
        """Tell where the service listens, and what is wrong; a full disk must not end it."""
        if problem == self._said:
            return
        facts = {
            "pid": os.getpid(),
            "started": started(os.getpid()),
            "host": self._spec.host,
            "port": self._port,
            "folder": self._label,
            "url": url(self._spec.host, self._port),
            "refused": self._pool.refused,
            "problem": problem,
        }
        with contextlib.suppress(MlopsError):
            write_json(self._folder.supervisor, facts)
            self._said = problem


def url(host: str, port: int) -> str:
    """Return where a client of this machine finds the service."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{name}:{port}"


def listen(spec: ServiceSpec, before: int | None) -> socket.socket:
    """Return a listening socket.

    Parameters
    ----------
    spec
        Names host and port.
    before
        The port of last time, which a service without a port of its own keeps while it is free.

    Raises
    ------
    ServiceError
        The port is in use, or the host is not of this machine.
    """
    for port in (spec.port,) if spec.port or not before else (before, 0):
        try:
            return _bound(spec.host, port)
        except OSError as error:
            reason = error
    raise ServiceError(
        f"service '{spec.name}' cannot listen on {spec.host}:{spec.port}: {reason.strerror}",
        hint="end what uses the port, or give the service another one (port=0 takes any free one)",
    )


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
        listener.setblocking(False)  # noqa: FBT003
    except OSError:
        listener.close()
        raise
    return listener


def await_orphans(folder: Folder) -> None:
    """Wait for the workers of a supervisor that was killed: they hold its socket until they have answered what they were asked."""
    until = time.monotonic() + _ORPHANS
    while (alive := [w for w in folder.workers() if w.running]) and time.monotonic() < until:
        time.sleep(_TICK)
    for worker in alive:
        if is_alive(worker.pid, worker.started):
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)
    for path in folder.worker(0).parent.glob("*.json"):
        path.unlink(missing_ok=True)


def detach() -> None:
    """Go on as a process that nobody waits for, and tell its number."""
    if child := os.fork():
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
        os._exit(0)
    os.dup2(2, 1)


def main(path: str) -> None:
    """Run the supervisor of the service in a folder; what keeps it from running is left in ``supervisor.json``."""
    folder = Folder(Path(path))
    with (folder.path / "supervisor.lock").open("a") as lock:
        try:
            fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # another one runs
        try:
            run(folder)
        except MlopsError as error:
            facts = {"pid": os.getpid(), "started": started(os.getpid()), "folder": label_of(folder.path), "url": None}
            write_json(folder.supervisor, facts | {"problem": error.message, "hint": error.hint})
            sys.exit(1)


def run(folder: Folder) -> None:
    """Run what a folder's spec says."""
    spec = folder.read_spec()
    if spec is None:
        raise ServiceError(f"'{folder.spec}' is missing", hint="start the service again: mlops serve start")
    await_orphans(folder)
    for index in range(spec.workers):
        allocate(folder.metrics, index)
    before = folder.readable(folder.supervisor) or {}
    supervisor = Supervisor(folder, spec, listen(spec, before.get("port")))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(supervisor, "ending", True))
    supervisor.run()
