"""Package a service with its champion as a Bento, and host the same application in BentoML.

A Bento contains one version and never reads the registry. It looks features up in ``MLOPS_ONLINE``, and logs predictions in the service's
folder below ``MLOPS_HOME``. Without these variables it uses the paths of the service's configuration.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import MissingExtraError, ServiceError
from mlops_assets.serving.http.service_folder import RequestLimits, ServiceSpec, TargetVersion
from mlops_assets.serving.http.worker_pool import ONE_THREAD
from mlops_assets.stores.artifacts.store import open_artifacts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlops_assets.serving.http.app import App
    from mlops_assets.stores.registry.records import Version

_SHA256 = re.compile(r'"([0-9a-f]{64})"')
_MODULE = '''"""Made by mlops_assets: the service as BentoML finds it."""

from pathlib import Path

from mlops_assets.entry_points import hosted

Service = hosted(Path(__file__).parent)
'''
_BENTOFILE = {
    "service": "service:Service",
    "include": ["service.py", "serving.json", "model/**"],
    "python": {"packages": ["mlops_assets[bentoml,serve]"], "lock_packages": False},
}


@dataclass(frozen=True)
class Bento:
    """A built Bento.

    Parameters
    ----------
    tag
        ``name:version`` of the Bento in its BentoML store.
    home
        Folder of the BentoML store that contains the Bento (``BENTOML_HOME``).
    version
        Version of the model.
    """

    tag: str
    home: str
    version: int

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables for :meth:`command`: the Bento's store, no usage reports to BentoML, one thread per worker."""
        return _bento_environment(Path(self.home))

    def command(self, *, host: str = "127.0.0.1", port: int = 3000) -> list[str]:
        """Return the command that serves the Bento; it needs the variables of :attr:`environment`."""
        return [sys.executable, "-m", "bentoml", "serve", self.tag, "--host", host, "--port", str(port)]


def build_bento(spec: ServiceSpec, store: str | os.PathLike[str] | None = None) -> Bento:
    """Build the Bento of a service with its current champion, and return its description.

    Parameters
    ----------
    spec
        Configuration of the service.
    store
        Folder of the BentoML store, created when missing; ``bento`` in the service's folder when None.

    Raises
    ------
    MissingExtraError
        BentoML is not installed.
    ServiceError
        There is no champion, or BentoML cannot build.
    """
    from mlops_assets.stores.registry.registry import open_registry

    if importlib.util.find_spec("bentoml") is None:
        raise MissingExtraError.from_extra("bentoml", "bentoml")
    champion = open_registry(spec.registry, spec.environment).champion(spec.model)
    if champion is None:
        raise ServiceError(f"service '{spec.name}' has no champion of '{spec.model}'", hint="promote a version first")
    folder = Path(store) if store is not None else spec.folder.path / "bento"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as context:
        _write_context(Path(context), spec, champion)
        command = [sys.executable, "-m", "bentoml", "build", ".", "--name", spec.name, "--output", "tag"]
        built = subprocess.run(  # noqa: S603  (BentoML's own command, on files we made)
            command, cwd=context, env={**os.environ, **_bento_environment(folder)}, capture_output=True, text=True, check=False
        )
    tag = re.search(rf"{spec.name}:\w+", built.stdout)
    if built.returncode or tag is None:
        raise ServiceError(f"BentoML cannot build '{spec.name}': {built.stderr.strip()[-500:]}", hint="correct what BentoML reports")
    return Bento(tag[0], str(folder), champion.version)


def _bento_environment(store: Path) -> dict[str, str]:
    return {"BENTOML_HOME": str(store), "BENTOML_DO_NOT_TRACK": "True", **ONE_THREAD}


def _write_context(context: Path, spec: ServiceSpec, champion: Version) -> None:
    """Write the files that BentoML packages: the module, the configurations, and the manifest with every artifact that it names."""
    source, model = open_artifacts(spec.artifacts), open_artifacts(str(context / "model"))
    manifest = source.get(champion.artifact)
    model.put(manifest)
    for sha256 in set(_SHA256.findall(manifest.decode())):
        if source.exists(sha256):
            model.put(source.get(sha256))
    target = TargetVersion(champion.version, champion.digest, champion.artifact)
    spec = replace(spec, registry="", artifacts="")  # a Bento reads neither, and their URLs may contain passwords
    (context / "serving.json").write_text(json.dumps({"spec": asdict(spec), "wanted": asdict(target)}), encoding="utf-8")
    (context / "service.py").write_text(_MODULE, encoding="utf-8")
    (context / "bentofile.yaml").write_text(json.dumps(_BENTOFILE), encoding="utf-8")


def host_bento(folder: Path) -> Any:  # noqa: ANN401  (a BentoML service)
    """Return the BentoML service of a packaged model; each worker loads the model when it starts, not at import.

    Parameters
    ----------
    folder
        The folder with ``serving.json`` and the artifacts.
    """
    import bentoml

    facts = json.loads((folder / "serving.json").read_text(encoding="utf-8"))
    spec = ServiceSpec(**facts["spec"] | {name: tuple(facts["spec"][name]) for name in ("trusted_types", "push")})
    app = _LazyApp()

    class Hosted:
        """The service class of BentoML: its constructor loads the model, so that BentoML reports ready only afterwards."""

        def __init__(self) -> None:
            app.app = _load_app(folder, spec, TargetVersion(**facts["wanted"]), (bentoml.server_context.worker_index or 1) - 1)

    # The application serves its own /metrics; BentoML's would cover one process only.
    options = {"workers": spec.workers, "logging": {"access": {"enabled": False}}, "metrics": {"enabled": False}}
    return bentoml.asgi_app(app, path="/")(bentoml.service(name=spec.name, **options)(Hosted))


class _LazyApp:
    """An ASGI application that forwards every call to ``app``, and does nothing until ``app`` is set."""

    app: App | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401  (ASGI)
        if self.app is not None:
            await self.app(scope, receive, send)


def _load_app(folder: Path, spec: ServiceSpec, target: TargetVersion, index: int) -> App:
    """Return the application of one worker with its model loaded; its prediction log is closed at exit."""
    from mlops_assets.serving.http.app import App
    from mlops_assets.serving.http.metrics import Metrics
    from mlops_assets.serving.http.served_model import load_served_model
    from mlops_assets.serving.http.service_folder import ServiceFolder
    from mlops_assets.serving.logs.inference_log import InferenceLog

    warnings.simplefilter("ignore")  # as in a worker
    environ: Mapping[str, str] = os.environ
    place = ServiceFolder.locate(environ.get("MLOPS_HOME") or spec.home, spec.name)
    limits = RequestLimits(spec.max_rows, spec.max_bytes)
    log = InferenceLog(place.log)
    atexit.register(log.close)
    app = App(log=log, metrics=Metrics(place.path / "bento_metrics", index), limits=limits, versions=lambda: {index: target.version})
    app.model = load_served_model(
        spec.model,
        target,
        artifacts=open_artifacts(str(folder / "model")),
        online=environ.get("MLOPS_ONLINE") or spec.online,
        limits=limits,
        trusted_types=spec.trusted_types,
    )
    return app
