"""The supervisor of one service: it holds the socket, keeps the workers running and sends them their target version.

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
from mlops_assets.serving.http.metrics import allocate_counters
from mlops_assets.serving.http.service_folder import ServiceFolder, ServiceSpec, TargetVersion, is_alive, read_start_time, write_json
from mlops_assets.serving.http.service_processes import make_label
from mlops_assets.serving.http.worker_pool import MAX_EXIT_SECONDS, WorkerPool

if TYPE_CHECKING:
    from mlops_assets.stores.registry.registry import Registry

POLL_SECONDS = 0.25  # between two reads of the registry
_TICK_SECONDS = 0.05


class Supervisor:
    """Runs one service until ``ending`` is set.

    Parameters
    ----------
    folder
        Folder of the service.
    spec
        The configuration of the service.
    listener
        The bound and listening socket.
    """

    def __init__(self, folder: ServiceFolder, spec: ServiceSpec, listener: socket.socket) -> None:
        self._folder, self._spec = folder, spec
        self._port = listener.getsockname()[1]
        self._pool = WorkerPool(folder, spec.workers, listener, spec.drain_seconds)
        self._registry: Registry | None = None
        self._label = make_label(folder.path)
        self._polled_at, self._unreadable = 0.0, ""
        self._reported: str | None = None
        self.ending = False

    def run(self) -> None:
        """Keep the workers running until ``ending`` is set or no worker can be kept running; then end them."""
        self._report("")
        while not self.ending:
            self._poll_champion()
            self._pool.tick()
            problem = self._unreadable or self._pool.problem
            if self._pool.is_exhausted:
                self._report(problem)
                break
            self._report(problem)
            time.sleep(_TICK_SECONDS)
        self._pool.end()

    def _poll_champion(self) -> None:
        """Every ``POLL_SECONDS``, restore the state files and make the registry's champion the workers' target.

        Without a champion, or when the registry cannot be read, the workers keep their target.
        """
        if time.monotonic() - self._polled_at < POLL_SECONDS:
            return
        self._restore_files()
        from mlops_assets.stores.registry.registry import open_registry

        try:
            self._registry = self._registry or open_registry(self._spec.registry, self._spec.environment)
            champion = self._registry.champion(self._spec.model)
        except Exception as error:  # noqa: BLE001  (a database that is away, locked, or being restored must not end the service)
            self._unreadable = f"the registry cannot be read ({type(error).__name__}); the service keeps its version"
        else:
            self._unreadable = ""
            if champion is not None:
                self._pool.set_target(TargetVersion(champion.version, champion.digest, champion.artifact))
        self._polled_at = time.monotonic()

    def _restore_files(self) -> None:
        """Restore damaged or deleted state files; a deleted folder stays deleted."""
        folder = self._folder
        if not folder.path.is_dir():
            return
        if folder.read_or_none(folder.supervisor) is None:
            self._reported = None  # reported again in this round
        for path, facts in ((folder.spec, asdict(self._spec)), (folder.wanted, {"state": "running"})):
            if folder.read_or_none(path) is None:
                with contextlib.suppress(MlopsError):
                    write_json(path, facts)

    def _report(self, problem: str) -> None:
        """Write the address of the service and its problem if the problem has changed; a full disk does not end the supervisor."""
        if problem == self._reported:
            return
        facts = {
            "pid": os.getpid(),
            "started": read_start_time(os.getpid()),
            "host": self._spec.host,
            "port": self._port,
            "folder": self._label,
            "url": make_url(self._spec.host, self._port),
            "refused": self._pool.refused,
            "problem": problem,
        }
        with contextlib.suppress(MlopsError):
            write_json(self._folder.supervisor, facts)
            self._reported = problem


def make_url(host: str, port: int) -> str:
    """Return the URL of the service for clients on this machine."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{name}:{port}"


def listen(spec: ServiceSpec, previous_port: int | None) -> socket.socket:
    """Return a socket that listens on the host and port of a service.

    Parameters
    ----------
    spec
        The configuration of the service, with its host and port.
    previous_port
        The port of the previous supervisor, which a service with port 0 keeps while it is free; None without one.

    Raises
    ------
    ServiceError
        The port is in use, or the host is not this machine's.
    """
    for port in (spec.port,) if spec.port or not previous_port else (previous_port, 0):
        try:
            return _bind(spec.host, port)
        except OSError as error:
            reason = error
    raise ServiceError(
        f"service '{spec.name}' cannot listen on {spec.host}:{spec.port}: {reason.strerror}",
        hint="end the program that uses the port, or give the service another one (port=0 takes any free one)",
    )


def _bind(host: str, port: int) -> socket.socket:
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


def await_orphans(folder: ServiceFolder, drain_seconds: float) -> None:
    """Wait for the workers of a killed supervisor, kill those that outlive the limit, and delete their reports.

    Such workers hold the service's socket until they have answered their requests.
    """
    until = time.monotonic() + drain_seconds + MAX_EXIT_SECONDS
    while (alive := [w for w in folder.read_workers() if w.running]) and time.monotonic() < until:
        time.sleep(_TICK_SECONDS)
    for worker in alive:
        if is_alive(worker.pid, worker.started):
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)
    for path in folder.worker(0).parent.glob("*.json"):
        path.unlink(missing_ok=True)


def detach() -> None:
    """Fork: the parent prints the id of its child and exits, the child continues with its output on stderr."""
    if child := os.fork():
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
        os._exit(0)
    os.dup2(2, 1)


def main(path: str) -> None:
    """Run the supervisor of the service in a folder, unless one runs already.

    After an MlopsError, write it to ``supervisor.json`` and exit with code 1.
    """
    folder = ServiceFolder(Path(path))
    with (folder.path / "supervisor.lock").open("a") as lock:
        try:
            fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        try:
            run_service(folder)
        except MlopsError as error:
            facts = {"pid": os.getpid(), "started": read_start_time(os.getpid()), "folder": make_label(folder.path), "url": None}
            write_json(folder.supervisor, facts | {"problem": error.message, "hint": error.hint})
            sys.exit(1)


def run_service(folder: ServiceFolder) -> None:
    """Run the service that a folder's spec describes, until SIGTERM or SIGINT.

    Raises
    ------
    ServiceError
        The spec is missing or damaged, a file of counters cannot be created, or the service cannot listen.
    """
    spec = folder.read_spec()
    if spec is None:
        raise ServiceError(f"'{folder.spec}' is missing", hint="start the service again: mlops serve start")
    await_orphans(folder, spec.drain_seconds)
    for index in range(spec.workers):
        allocate_counters(folder.metrics, index)
    last_report = folder.read_or_none(folder.supervisor) or {}
    supervisor = Supervisor(folder, spec, listen(spec, last_report.get("port")))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(supervisor, "ending", True))
    supervisor.run()
