"""A worker of a service: it answers requests on the shared socket and switches to the version that its supervisor sends.

Started by the supervisor as ``python -m mlops_assets.entry_points worker FOLDER INDEX SOCKET CONTROL``; the last two are descriptors that it
inherits. ``CONTROL`` is a pipe with one JSON line for each target version; its end means that the supervisor is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import socket
import threading
import time
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_assets.errors import MlopsError, ServiceError
from mlops_assets.serving.http.app import App
from mlops_assets.serving.http.metrics import Metrics
from mlops_assets.serving.http.served_model import ServedModel, load_served_model
from mlops_assets.serving.http.server import Acceptor, make_server
from mlops_assets.serving.http.service_processes import make_label
from mlops_assets.serving.http.state import RequestLimits, ServiceFolder, ServiceSpec, TargetVersion, WorkerStatus, start_time, write_json
from mlops_assets.serving.logs.inference_log import InferenceLog
from mlops_assets.serving.push.endpoint import PushEndpoint
from mlops_assets.stores.artifacts.store import open_artifacts

if TYPE_CHECKING:
    from collections.abc import Callable

_RETRY_SECONDS = (1.0, 2.0, 5.0, 15.0, 30.0)  # before each new attempt to load a version
_WAIT_WITHOUT_MODEL = 0.25  # seconds that a worker without a model waits before it accepts
_WAIT_WITH_MORE_CONNECTIONS = 0.001  # seconds that a worker with more connections than another waits before it accepts
_MAX_DRAIN_SECONDS = 1.0  # for clients to learn that their connection ends


class ModelLoader(threading.Thread):
    """Loads the target version in the background and swaps it into the app.

    Parameters
    ----------
    spec
        Configuration of the service.
    app
        Its model is replaced.
    metrics, folder, index
        Where to report.
    """

    def __init__(self, spec: ServiceSpec, app: App, metrics: Metrics, folder: ServiceFolder, index: int) -> None:
        super().__init__(name="loader", daemon=True)
        self._spec, self._app, self._metrics = spec, app, metrics
        self._file = folder.worker(index)
        self._status = WorkerStatus(index, os.getpid(), start_time(os.getpid()) or 0.0, folder=make_label(folder.path))
        self._wanted: TargetVersion | None = None
        self._changed = threading.Event()
        self._before: ServedModel | None = None  # a roll-back finds it ready
        self.report()

    def set_target(self, wanted: TargetVersion) -> None:
        """Request a version; the last requested one counts."""
        self._wanted = wanted
        self._changed.set()

    def run(self) -> None:
        """Load each requested version, for ever."""
        failures = 0
        while True:
            self._changed.wait(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS)) - 1] if failures else None)
            failures = 0 if self._changed.is_set() else failures
            self._changed.clear()
            if self._wanted is not None and not self._switch_to(self._wanted):
                failures += 1

    def report(self, **facts: object) -> None:
        """Write the report of this worker; a full disk must not end it."""
        self._status = replace(self._status, **facts)  # type: ignore[arg-type]
        with contextlib.suppress(MlopsError):
            write_json(self._file, asdict(self._status))

    def _switch_to(self, wanted: TargetVersion) -> bool:
        """Switch to a version, or keep the previous one and report why."""
        current = self._app.model
        if current is not None and current.wanted == wanted:
            self.report(error="", failed=None, loading=None)
            return True
        try:
            model = self._load(wanted)
        except Exception as error:  # noqa: BLE001  (after any error the previous version keeps answering)
            self._metrics.count("model_load_failures")
            text = error.message if isinstance(error, MlopsError) else f"{type(error).__name__}: {error}"
            self.report(error=f"version {wanted.version} cannot be loaded: {text}", failed=wanted.version, loading=None)
            return False
        if self._wanted == wanted:  # else a newer one was requested meanwhile
            self._before, self._app.model = current, model
            self._metrics.count("model_loads")
            facts = {"version": wanted.version, "digest": wanted.digest, "predictor": model.predictor.how, "libraries": model.libraries}
            self.report(**facts, loaded_at=time.time(), error="", failed=None, loading=None)
        return True

    def _load(self, wanted: TargetVersion) -> ServedModel:
        if self._before is not None and self._before.wanted == wanted:
            return self._before
        self.report(loading=wanted.version)
        spec = self._spec
        return load_served_model(
            spec.model,
            wanted,
            artifacts=open_artifacts(spec.artifacts),
            online=spec.online,
            limits=RequestLimits(spec.max_rows, spec.max_bytes),
            trusted_types=spec.trusted_types,
        )


def follow_supervisor(control: int, set_target: Callable[[TargetVersion], None], end: Callable[[], None]) -> None:
    """Read target versions from the supervisor until it is gone.

    Parameters
    ----------
    control
        The pipe's descriptor.
    set_target
        Takes each target version.
    end
        Called when the supervisor is gone.
    """
    with os.fdopen(control, encoding="utf-8") as lines:
        for line in lines:
            set_target(TargetVersion(**json.loads(line)))
    end()


async def serve(app: App, metrics: Metrics, listener: socket.socket, start: Callable[[Callable[[], None]], None]) -> None:
    """Answer requests until the process is asked to end, or the supervisor is gone.

    Parameters
    ----------
    app
        The application.
    metrics
        Where workers share their numbers of connections.
    listener
        The service's socket.
    start
        Called once in the running loop, with a function that ends the process from any thread.
    """
    server, loop, ending = make_server(app), asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)

    def end() -> None:
        loop.call_soon_threadsafe(ending.set)

    def patience() -> float:
        """Seconds to wait before accepting, so that workers with a model and with fewer connections accept first."""
        if app.model is None:
            return _WAIT_WITHOUT_MODEL
        metrics.set_connections(server.connections)
        return _WAIT_WITH_MORE_CONNECTIONS if server.connections > metrics.fewest_connections() else 0.0

    start(end)
    answering = asyncio.create_task(server.serve(sockets=[]))
    acceptor = Acceptor(server, listener, patience)
    await asyncio.wait([asyncio.create_task(ending.wait()), answering], return_when=asyncio.FIRST_COMPLETED)
    # First no connection is accepted any more, then every reply closes its connection, so that no request is cut off at the end.
    app.draining = True
    await acceptor.close()
    until = loop.time() + _MAX_DRAIN_SECONDS
    while server.connections and loop.time() < until:  # noqa: ASYNC110  (uvicorn has no event for it)
        await asyncio.sleep(0.01)
    server.should_exit = True
    await answering


def main(arguments: list[str]) -> None:
    """Run a worker."""
    folder, index = ServiceFolder(Path(arguments[0])), int(arguments[1])
    listener, control = socket.socket(fileno=int(arguments[2])), int(arguments[3])
    spec = folder.read_spec()
    if spec is None:
        raise ServiceError(f"'{folder.spec}' is missing", hint="start the service again: mlops serve start")
    # Warnings of a model, e.g. of unknown categories, are not printed at every request.
    warnings.simplefilter("ignore")
    log, metrics = InferenceLog(folder.log), Metrics(folder.metrics, index, workers=spec.workers)
    limits = RequestLimits(spec.max_rows, spec.max_bytes)
    app = App(
        log=log,
        metrics=metrics,
        limits=limits,
        push_endpoint=PushEndpoint(spec.push, spec.home, spec.online, limits) if spec.push else None,
        versions=lambda: {w.index: w.version for w in folder.read_workers() if w.running},
    )
    loader = ModelLoader(spec, app, metrics, folder, index)

    def start(end: Callable[[], None]) -> None:
        app.end = end
        loader.start()
        threading.Thread(target=follow_supervisor, args=(control, loader.set_target, end), name="control", daemon=True).start()

    import skops.io  # noqa: F401  (takes a second, which the first load would wait for)
    import uvloop

    gc.freeze()  # imported objects stay: collecting them again and again would delay some requests
    uvloop.run(serve(app, metrics, listener, start))
    log.close()
