"""Swap the model of a running service: load the target version in the background, then let new requests use it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from mlops_assets.errors import MlopsError
from mlops_assets.serving.http.service_folder import ServiceFolder, TargetVersion, WorkerStatus, read_start_time, write_json
from mlops_assets.serving.http.service_processes import make_label

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlops_assets.serving.http.metrics import Metrics

_RETRY_SECONDS = (1.0, 2.0, 5.0, 15.0, 30.0)  # before each new attempt to load a version


class LoadedVersion(Protocol):
    """A version that answers requests, of a model or a prompt."""

    target: TargetVersion

    @property
    def description(self) -> str:
        """How the version computes its answers, for the service's status."""

    @property
    def libraries(self) -> str:
        """Libraries whose installed version differs from the version in training, as text."""


V = TypeVar("V", bound=LoadedVersion)


class SwappableApp(Protocol[V]):
    """An application that answers with ``model``, which one assignment replaces."""

    model: V | None


class ModelLoader(threading.Thread, Generic[V]):
    """A thread that loads the target version and swaps it into the app.

    Parameters
    ----------
    load
        A function that loads a version.
    app
        The app whose model is replaced.
    metrics, folder, index
        The counters, the service's folder and the index of the worker, to report to.
    """

    def __init__(
        self, load: Callable[[TargetVersion], V], app: SwappableApp[V], metrics: Metrics, folder: ServiceFolder, index: int
    ) -> None:
        super().__init__(name="loader", daemon=True)
        self._load_version, self._app, self._metrics = load, app, metrics
        self._file = folder.worker(index)
        self._status = WorkerStatus(index, os.getpid(), read_start_time(os.getpid()) or 0.0, folder=make_label(folder.path))
        self._target: TargetVersion | None = None
        self._changed = threading.Event()
        self._before: V | None = None  # the previous model, so that a rollback need not load it
        self.report()

    def set_target(self, target: TargetVersion) -> None:
        """Request a version; the last request counts."""
        self._target = target
        self._changed.set()

    def run(self) -> None:
        """Switch to each requested version, for ever; a version that cannot be loaded is tried again after growing pauses."""
        failures = 0
        while True:
            self._changed.wait(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS)) - 1] if failures else None)
            failures = 0 if self._changed.is_set() else failures
            self._changed.clear()
            if self._target is not None and not self._switch_to(self._target):
                failures += 1

    def report(self, **facts: object) -> None:
        """Change fields of this worker's status and write its report; a full disk does not end the worker."""
        self._status = replace(self._status, **facts)  # type: ignore[arg-type]
        with contextlib.suppress(MlopsError):
            write_json(self._file, asdict(self._status))

    def _switch_to(self, target: TargetVersion) -> bool:
        """Switch to a version and return True; after an error keep the current version, report the error and return False.

        The loaded version is dropped if another version was requested meanwhile.
        """
        current = self._app.model
        if current is not None and current.target == target:
            self.report(error="", failed=None, loading=None)
            return True
        try:
            model = self._load(target)
        except Exception as error:  # noqa: BLE001  (after any error the previous version keeps answering)
            self._metrics.count("model_load_failures")
            text = error.message if isinstance(error, MlopsError) else f"{type(error).__name__}: {error}"
            self.report(error=f"version {target.version} cannot be loaded: {text}", failed=target.version, loading=None)
            return False
        if self._target == target:
            self._before, self._app.model = current, model
            self._metrics.count("model_loads")
            facts = {
                "version": target.version,
                "digest": target.digest,
                "predictor": model.description,
                "libraries": model.libraries,
            }
            self.report(**facts, loaded_at=time.time(), error="", failed=None, loading=None)
        return True

    def _load(self, target: TargetVersion) -> V:
        """Return the previous model if it has this version, else load the version."""
        if self._before is not None and self._before.target == target:
            return self._before
        self.report(loading=target.version)
        return self._load_version(target)
