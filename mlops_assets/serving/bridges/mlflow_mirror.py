"""Mirror a platform on an MLflow server: runs, versions as models that MLflow loads, and this environment's aliases."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.training.lifecycle import CHALLENGER, CHAMPION
from mlops_assets.serving.bridges.mlflow_flavour import export_version
from mlops_assets.stores.base.lock import hold_lock
from mlops_assets.stores.mlflow.client import connect, iterate_pages
from mlops_assets.stores.mlflow.runs import MIRROR, RunMirror

if TYPE_CHECKING:
    from mlops_assets.stores.platform.stores import Stores
    from mlops_assets.stores.registry.records import Version

DIGEST, VERSION = "mlops_assets.digest", "mlops_assets.version"


@dataclass(frozen=True)
class MirrorSummary:
    """The changes that one mirroring made on the server.

    Parameters
    ----------
    runs, versions, aliases
        Numbers of sent runs, sent versions and moved aliases. Runs and versions that an interrupted mirroring left incomplete are included.
    waiting
        Number of active runs, which the next mirroring sends.
    """

    runs: int
    versions: int
    aliases: int
    waiting: int


def mirror(stores: Stores, uri: str) -> MirrorSummary:
    """Send a platform's runs, versions and aliases that an MLflow server lacks; existing runs and versions stay unchanged.

    Parameters
    ----------
    stores
        Stores of the platform.
    uri
        ``http://…``; only entries that were sent before are read from it.

    Raises
    ------
    PlatformError
        The server is down or refuses; the next mirroring continues.
    """
    locks = Path(stores.platform.home) / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with hold_lock(locks / "mlflow"), connect(uri) as server:
        runs = RunMirror(server, stores)
        runs()
        versions = _MirroredVersions(server, stores, runs)
        versions()
        return MirrorSummary(runs.sent, versions.sent, versions.moved, runs.waiting)


class _MirroredVersions:
    """The versions of a platform on a server."""

    def __init__(self, server: Any, stores: Stores, runs: RunMirror) -> None:  # noqa: ANN401  (MLflow has no types)
        self._server, self._stores, self._runs = server, stores, runs
        self.sent = self.moved = 0

    def __call__(self) -> None:
        models: dict[str, list[Version]] = {}
        for version in self._stores.registry.versions():
            models.setdefault(version.model, []).append(version)
        for model, versions in models.items():
            self._model(model, versions)

    def _model(self, model: str, versions: list[Version]) -> None:
        name = self._find_or_create_model(model)
        known = dict(self._read_digests(name))
        for version in versions:
            if version.digest not in known and not version.damage:
                known[version.digest] = self._send(name, version)
                self.sent += 1
        numbers = {alias: known[v.digest] for v in versions for alias in v.aliases if v.digest in known}
        self._aliases(name, numbers)

    def _find_or_create_model(self, model: str) -> str:
        """Return the name of the mirror's registered model, created if missing; a number is added if another project has the name."""
        for number in range(1, 1000):
            tried = model if number == 1 else f"{model}-mlops_assets-{number}"
            models = self._server.search_registered_models(filter_string=f"name = '{tried}'")
            if not models:
                self._server.create_registered_model(tried, tags={MIRROR: model})
                return tried
            if models[0].tags.get(MIRROR) == model:
                return tried
        raise AssertionError(model)

    def _read_digests(self, name: str) -> list[tuple[str, str]]:
        where = f"name = '{name}'"
        versions = iterate_pages(lambda token: self._server.search_model_versions(where, max_results=200, page_token=token))
        return [(version.tags[DIGEST], str(version.version)) for version in versions if DIGEST in version.tags]

    def _send(self, name: str, version: Version) -> str:
        run = self._stores.tracker.get(version.run_id)
        run_id = self._runs.send_run(run)
        with tempfile.TemporaryDirectory() as scratch:
            self._server.log_artifacts(run_id, str(export_version(self._stores.artifacts, version, Path(scratch) / "model")), "model")
        tags = {VERSION: str(version.version), DIGEST: version.digest, "mlops_assets.run_id": version.run_id}
        source = f"{self._server.get_run(run_id).info.artifact_uri}/model"
        return str(self._server.create_model_version(name, source, run_id=run_id, tags=tags).version)

    def _aliases(self, name: str, numbers: dict[str, str]) -> None:
        """Move the aliases of this environment only."""
        now = self._server.get_registered_model(name).aliases
        for own in (CHAMPION, CHALLENGER):
            alias, number = mlflow_alias(own, self._stores.platform.environment), numbers.get(own)
            if number is not None and str(now.get(alias)) != number:
                self._server.set_registered_model_alias(name, alias, number)
            elif number is None and alias in now:
                self._server.delete_registered_model_alias(name, alias)
            else:
                continue
            self.moved += 1


def mlflow_alias(alias: str, environment: str) -> str:
    """Return the MLflow name of an alias: plain in ``dev``, with the environment elsewhere."""
    return alias if environment == "dev" else f"{alias}-{environment}"
