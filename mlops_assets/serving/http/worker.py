"""A worker of a service: it answers requests on the shared socket and switches to the version that its supervisor sends.

Started by the supervisor as ``python -m mlops_assets.entry_points worker FOLDER INDEX SOCKET CONTROL``; the last two are inherited
descriptors. ``CONTROL`` is a pipe with one JSON line for each target version; its end means that the supervisor is gone.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import ServiceError
from mlops_assets.serving.http.metrics import Metrics
from mlops_assets.serving.http.server import Acceptor, make_server
from mlops_assets.serving.http.service_folder import ServiceFolder, TargetVersion

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlops_assets.serving.http.app import App
    from mlops_assets.serving.http.model_swap import ModelLoader
    from mlops_assets.serving.http.prompt_app import PromptApp
    from mlops_assets.serving.http.service_folder import ServiceSpec

_WAIT_WITHOUT_MODEL = 0.25  # seconds that a worker without a model waits before it accepts
_WAIT_WITH_MORE_CONNECTIONS = 0.001  # seconds that a worker with more connections than another waits before it accepts
_MAX_DRAIN_SECONDS = 1.0  # for clients to learn that their connection ends


def follow_supervisor(control: int, set_target: Callable[[TargetVersion], None], end: Callable[[], None]) -> None:
    """Pass on each target version that the supervisor sends, until the supervisor is gone.

    Parameters
    ----------
    control
        Descriptor of the pipe; it is closed at the end.
    set_target
        Called with each target version.
    end
        Called when the supervisor is gone.
    """
    with os.fdopen(control, encoding="utf-8") as lines:
        for line in lines:
            set_target(TargetVersion(**json.loads(line)))
    end()


async def serve(
    app: App | PromptApp, metrics: Metrics, listener: socket.socket, drain_seconds: float, start: Callable[[Callable[[], None]], None]
) -> None:
    """Answer requests until SIGTERM, SIGINT or the end of the supervisor; then finish the accepted requests.

    Parameters
    ----------
    app
        The application.
    metrics
        The counters in which workers share their numbers of connections.
    listener
        The service's socket.
    drain_seconds
        Seconds that accepted requests may take at the end.
    start
        Called once in the running loop, with a function that ends the process from any thread.
    """
    server, loop, ending = make_server(app, drain_seconds), asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)

    def end() -> None:
        loop.call_soon_threadsafe(ending.set)

    def choose_delay() -> float:
        """Return the seconds to wait before accepting, so that workers with a model and with fewer connections accept first."""
        if app.model is None:
            return _WAIT_WITHOUT_MODEL
        metrics.set_connections(server.connections)
        return _WAIT_WITH_MORE_CONNECTIONS if server.connections > metrics.find_min_connections() else 0.0

    start(end)
    answering = asyncio.create_task(server.serve(sockets=[]))
    acceptor = Acceptor(server, listener, choose_delay)
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
    """Run a worker with the arguments of its command line, as the module's docstring describes them."""
    folder, index = ServiceFolder(Path(arguments[0])), int(arguments[1])
    listener, control = socket.socket(fileno=int(arguments[2])), int(arguments[3])
    spec = folder.read_spec()
    if spec is None:
        raise ServiceError(f"'{folder.spec}' is missing", hint="start the service again: mlops serve start")
    # Warnings of a model, e.g. of unknown categories, are not printed at every request.
    warnings.simplefilter("ignore")
    metrics = Metrics(folder.metrics, index, workers=spec.workers)
    app, loader, close = _open_app(spec, folder, metrics, index)

    def start(end: Callable[[], None]) -> None:
        app.end = end
        loader.start()
        threading.Thread(target=follow_supervisor, args=(control, loader.set_target, end), name="control", daemon=True).start()

    import uvloop

    gc.freeze()  # imported objects stay: collecting them again and again would delay some requests
    gc.enable()
    uvloop.run(serve(app, metrics, listener, spec.drain_seconds, start))
    close()


def _open_app(
    spec: ServiceSpec, folder: ServiceFolder, metrics: Metrics, index: int
) -> tuple[App | PromptApp, ModelLoader[Any], Callable[[], None]]:
    """Return the application for the kind of a service, the thread that loads its versions, and a function to call at the end."""
    if spec.kind == "prompt":
        from mlops_assets.serving.http.prompt_worker import open_prompt_app

        return open_prompt_app(spec, folder, metrics, index)
    from mlops_assets.serving.http.model_worker import open_model_app

    return open_model_app(spec, folder, metrics, index)
