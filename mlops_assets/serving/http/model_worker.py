"""The application of a worker that serves a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops_assets.serving.http.app import App
from mlops_assets.serving.http.model_swap import ModelLoader
from mlops_assets.serving.http.served_model import ServedModel, load_served_model
from mlops_assets.serving.http.service_folder import RequestLimits
from mlops_assets.serving.logs.inference_log import InferenceLog
from mlops_assets.serving.logs.request_log import RequestLog
from mlops_assets.serving.push.endpoint import PushEndpoint
from mlops_assets.stores.artifacts.store import open_artifacts

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlops_assets.serving.http.metrics import Metrics
    from mlops_assets.serving.http.service_folder import ServiceFolder, ServiceSpec, TargetVersion


def open_model_app(
    spec: ServiceSpec, folder: ServiceFolder, metrics: Metrics, index: int
) -> tuple[App, ModelLoader[ServedModel], Callable[[], None]]:
    """Return the application of a worker, the thread that loads its versions, and a function to call at the end.

    Parameters
    ----------
    spec, folder, metrics, index
        The service, its folder, the worker's counters and its index.
    """
    log, limits = InferenceLog(folder.log), RequestLimits(spec.max_rows, spec.max_bytes)
    requests = RequestLog(folder.requests)
    app = App(
        log=log,
        requests=requests,
        metrics=metrics,
        limits=limits,
        push_endpoint=PushEndpoint(spec.push, spec.home, spec.online, limits) if spec.push else None,
        versions=lambda: {w.index: w.version for w in folder.read_workers() if w.running},
    )

    def load(target: TargetVersion) -> ServedModel:
        return load_served_model(
            spec.model,
            target,
            artifacts=open_artifacts(spec.artifacts),
            online=spec.online,
            limits=limits,
            trusted_types=spec.trusted_types,
        )

    import skops.io  # noqa: F401  (takes a second, which the first load would wait for)

    def close() -> None:
        log.close()
        requests.close()

    return app, ModelLoader(load, app, metrics, folder, index), close
