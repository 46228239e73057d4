"""A worker: answers requests on the service's socket, and changes to the version that its supervisor names.

Started by the supervisor as ``python -m mlops_assets.entry_points worker FOLDER INDEX SOCKET CONTROL``; the last two are descriptors that it
inherits. ``CONTROL`` is a pipe with one JSON line for each wanted version; its end means that the supervisor is gone.
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
from mlops_assets.serving.http.model import ServedModel, load_model
from mlops_assets.serving.http.own_processes import label_of
from mlops_assets.serving.http.server import Acceptor, make_server
from mlops_assets.serving.http.state import Folder, Limits, ServiceSpec, Wanted, WorkerStatus, started, write_json
from mlops_assets.serving.logs.inference_log import InferenceLog
from mlops_assets.serving.push.http import PushGate
from mlops_assets.stores.artifacts.store import open_artifacts

if TYPE_CHECKING:
    from collections.abc import Callable

_RETRY = (1.0, 2.0, 5.0, 15.0, 30.0)  # seconds, before a version that could not be loaded is tried again
_WITHOUT_MODEL = 0.25  # seconds that a connection is left to workers that have a model, before it is told that this one has none
_WITH_MORE = 0.001  # seconds that a connection is left to workers that have fewer
_DRAIN = 1.0  # seconds in which clients may learn that their connection ends; fewer when all have


class Loader(threading.Thread):
    """Brings the app to the wanted version, beside the requests that are being answered.

    Parameters
    ----------
    spec
        Of the service.
    app
        Whose model is replaced.
    metrics, folder, index
        Where to say what happened.
    """

    def __init__(self, spec: ServiceSpec, app: App, metrics: Metrics, folder: Folder, index: int) -> None:
        super().__init__(name="loader", daemon=True)
        self._spec, self._app, self._metrics = spec, app, metrics
        self._file = folder.worker(index)
        self._status = WorkerStatus(index, os.getpid(), started(os.getpid()) or 0.0, folder=label_of(folder.path))
        self._wanted: Wanted | None = None
        self._changed = threading.Event()
        self._before: ServedModel | None = None  # a roll-back finds it ready
        self.report()

    def want(self, wanted: Wanted) -> None:
        """Ask for a version; the last one that was asked for counts."""
        self._wanted = wanted
        self._changed.set()

    def run(self) -> None:
        """Load what is wanted, for ever."""
        failures = 0
        while True:
            self._changed.wait(_RETRY[min(failures, len(_RETRY)) - 1] if failures else None)
            failures = 0 if self._changed.is_set() else failures
            self._changed.clear()
            if self._wanted is not None and not self._take(self._wanted):
                failures += 1

    def report(self, **facts: object) -> None:
        """Say what this worker answers with; a full disk must not end it."""
        self._status = replace(self._status, **facts)  # type: ignore[arg-type]
        with contextlib.suppress(MlopsError):
            write_json(self._file, asdict(self._status))

    def _take(self, wanted: Wanted) -> bool:
        """Answer with a version from now on, or go on with the one before and say why."""
        current = self._app.model
        if current is not None and current.wanted == wanted:
            self.report(error="", failed=None, loading=None)
            return True
        try:
            model = self._ready(wanted)
        except Exception as error:  # noqa: BLE001  (whatever keeps a version from loading, the old one goes on)
            self._metrics.count("model_load_failures")
            text = error.message if isinstance(error, MlopsError) else f"{type(error).__name__}: {error}"
            self.report(error=f"version {wanted.version} cannot be loaded: {text}", failed=wanted.version, loading=None)
            return False
        if self._wanted == wanted:  # else a newer one is wanted already
            self._before, self._app.model = current, model
            self._metrics.count("model_loads")
            facts = {"version": wanted.version, "digest": wanted.digest, "predictor": model.predictor.how, "libraries": model.libraries}
            self.report(**facts, loaded_at=time.time(), error="", failed=None, loading=None)
        return True

    def _ready(self, wanted: Wanted) -> ServedModel:
        if self._before is not None and self._before.wanted == wanted:
            return self._before
        self.report(loading=wanted.version)
        spec = self._spec
        return load_model(
            spec.model,
            wanted,
            artifacts=open_artifacts(spec.artifacts),
            online=spec.online,
            limits=Limits(spec.max_rows, spec.max_bytes),
            trusted_types=spec.trusted_types,
        )


def follow(control: int, want: Callable[[Wanted], None], gone: Callable[[], None]) -> None:
    """Read the supervisor's lines until it is gone.

    Parameters
    ----------
    control
        The pipe's descriptor.
    want
        Takes each wanted version.
    gone
        Called at the end.
    """
    with os.fdopen(control, encoding="utf-8") as lines:
        for line in lines:
            want(Wanted(**json.loads(line)))
    gone()


async def serve(app: App, metrics: Metrics, listener: socket.socket, start: Callable[[Callable[[], None]], None]) -> None:
    """Answer requests until the process is told to end, or the supervisor is gone.

    Parameters
    ----------
    app
        What answers.
    metrics
        Where workers see how many connections each has.
    listener
        The service's socket.
    start
        Called once in the running loop, with what ends the service, from any thread.
    """
    server, loop, ending = make_server(app), asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)

    def end() -> None:
        loop.call_soon_threadsafe(ending.set)

    def patience() -> float:
        """Whoever has no model leaves connections to those that have one; whoever has many, to those that have fewer."""
        if app.model is None:
            return _WITHOUT_MODEL
        metrics.connected(server.connections)
        return _WITH_MORE if server.connections > metrics.fewest_connections() else 0.0

    start(end)
    answering = asyncio.create_task(server.serve(sockets=[]))
    acceptor = Acceptor(server, listener, patience)
    await asyncio.wait([asyncio.create_task(ending.wait()), answering], return_when=asyncio.FIRST_COMPLETED)
    # First nobody is taken any more, then every reply closes its connection, so that no request is on its way when the rest is closed.
    app.draining = True
    await acceptor.close()
    until = loop.time() + _DRAIN
    while server.connections and loop.time() < until:  # noqa: ASYNC110  (uvicorn has no event for it)
        await asyncio.sleep(0.01)
    server.should_exit = True
    await answering


def main(arguments: list[str]) -> None:
    """Run a worker."""
    folder, index = Folder(Path(arguments[0])), int(arguments[1])
    listener, control = socket.socket(fileno=int(arguments[2])), int(arguments[3])
    spec = folder.read_spec()
    if spec is None:
        raise ServiceError(f"'{folder.spec}' is missing", hint="workers are started by the supervisor: mlops serve start")
    # What a model warns of (categories that it was told to ignore, say) is nothing to print at every request.
    warnings.simplefilter("ignore")
    log, metrics = InferenceLog(folder.log), Metrics(folder.metrics, index, workers=spec.workers)
    limits = Limits(spec.max_rows, spec.max_bytes)
    app = App(
        log=log,
        metrics=metrics,
        limits=limits,
        gate=PushGate(spec.push, spec.home, spec.online, limits) if spec.push else None,
        versions=lambda: {w.index: w.version for w in folder.workers() if w.running},
    )
    loader = Loader(spec, app, metrics, folder, index)

    def start(end: Callable[[], None]) -> None:
        app.end = end
        loader.start()
        threading.Thread(target=follow, args=(control, loader.want, end), name="control", daemon=True).start()

    import skops.io  # noqa: F401  (a second, which the first version would take)
    import uvloop

    gc.freeze()  # what is imported stays: searching it for garbage again and again would make some requests wait
    uvloop.run(serve(app, metrics, listener, start))
    log.close()
