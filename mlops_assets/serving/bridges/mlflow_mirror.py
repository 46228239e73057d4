"""Mirror a platform to an MLflow server: runs, versions as models that MLflow can load, and this environment's aliases."""

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
from mlops_assets.values.model import KIND, PROMPT

if TYPE_CHECKING:
    from mlops_assets.stores.platform.stores import Stores
    from mlops_assets.stores.registry.records import Version

DIGEST, VERSION = "mlops_assets.digest", "mlops_assets.version"  # tags of a model version on the server


@dataclass(frozen=True)
class MirrorSummary:
    """The changes that one mirroring made on the server.

    Parameters
    ----------
    runs, versions, aliases
        Numbers of runs and versions that were sent, and of aliases that were set or deleted. Runs and versions that an interrupted
        mirroring left incomplete are included.
    waiting
        Number of runs that a later mirroring sends, because they or their parents are still active.
    """

    runs: int
    versions: int
    aliases: int
    waiting: int


def mirror(stores: Stores, uri: str) -> MirrorSummary:
    """Send finished runs and undamaged versions to an MLflow server, and copy this environment's aliases to it.

    Runs and versions that are complete on the server are not sent again. A run waits while the run or its parent is active. Runs
    imported from MLflow are not sent. One process mirrors at a time; another waits.

    Parameters
    ----------
    stores
        Stores of the platform.
    uri
        Address of the server, ``http://…`` or ``https://…``.

    Raises
    ------
    MissingExtraError
        MLflow is not installed.
    InstallationError
        The address is not valid, or the server is down or rejects a request; the next mirroring continues.
    """
    locks = Path(stores.platform.home) / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with hold_lock(locks / "mlflow"), connect(uri) as server:
        runs = RunMirror(server, stores)
        runs()
        versions = _VersionMirror(server, stores, runs)
        versions()
        return MirrorSummary(runs.sent, versions.sent, versions.moved, runs.waiting)


class _VersionMirror:
    """Sends the versions and aliases of a platform to a server, and counts them in ``sent`` and ``moved``."""

    def __init__(self, server: Any, stores: Stores, runs: RunMirror) -> None:  # noqa: ANN401  (MLflow has no types)
        self._server, self._stores, self._runs = server, stores, runs
        self.sent = self.moved = 0

    def __call__(self) -> None:
        models: dict[str, list[Version]] = {}
        for version in self._stores.registry.versions():
            models.setdefault(version.model, []).append(version)
        for model, versions in models.items():
            if self._stores.tracker.get(versions[0].run_id).record.get(KIND) != PROMPT:  # MLflow would open a prompt as a model
                self._mirror_model(model, versions)

    def _mirror_model(self, model: str, versions: list[Version]) -> None:
        """Send the versions of a model that the server lacks, except damaged ones, then update the aliases."""
        name = self._find_or_create_model(model)
        numbers_by_digest = dict(self._read_digests(name))
        for version in versions:
            if version.digest not in numbers_by_digest and not version.damage:
                numbers_by_digest[version.digest] = self._send_version(name, version)
                self.sent += 1
        numbers = {alias: numbers_by_digest[v.digest] for v in versions for alias in v.aliases if v.digest in numbers_by_digest}
        self._update_aliases(name, numbers)

    def _find_or_create_model(self, model: str) -> str:
        """Return the name of the registered model that mirrors a model; create it if missing.

        If a registered model that this platform did not create has the name, ``-mlops_assets-2`` or a higher number is appended.
        """
        for number in range(1, 1000):
            name = model if number == 1 else f"{model}-mlops_assets-{number}"
            models = self._server.search_registered_models(filter_string=f"name = '{name}'")
            if not models:
                self._server.create_registered_model(name, tags={MIRROR: model})
                return name
            if models[0].tags.get(MIRROR) == model:
                return name
        raise AssertionError(model)

    def _read_digests(self, name: str) -> list[tuple[str, str]]:
        """Return the digest and the MLflow version number of each mirrored version."""
        where = f"name = '{name}'"
        versions = iterate_pages(lambda token: self._server.search_model_versions(where, max_results=200, page_token=token))
        return [(version.tags[DIGEST], str(version.version)) for version in versions if DIGEST in version.tags]

    def _send_version(self, name: str, version: Version) -> str:
        """Send a version with its run, if the run is not there yet, and return the MLflow version number."""
        run = self._stores.tracker.get(version.run_id)
        run_id = self._runs.send_run(run)
        with tempfile.TemporaryDirectory() as scratch:
            self._server.log_artifacts(run_id, str(export_version(self._stores.artifacts, version, Path(scratch) / "model")), "model")
        tags = {VERSION: str(version.version), DIGEST: version.digest, "mlops_assets.run_id": version.run_id}
        source = f"{self._server.get_run(run_id).info.artifact_uri}/model"
        return str(self._server.create_model_version(name, source, run_id=run_id, tags=tags).version)

    def _update_aliases(self, name: str, numbers: dict[str, str]) -> None:
        """Set or delete the aliases of this environment on the server; those of other environments stay.

        Parameters
        ----------
        name
            Name of the registered model.
        numbers
            Alias → MLflow version number; the server's aliases that are missing here are deleted.
        """
        existing = self._server.get_registered_model(name).aliases
        for alias in (CHAMPION, CHALLENGER):
            mlflow_name, number = mlflow_alias(alias, self._stores.platform.environment), numbers.get(alias)
            if number is not None and str(existing.get(mlflow_name)) != number:
                self._server.set_registered_model_alias(name, mlflow_name, number)
            elif number is None and mlflow_name in existing:
                self._server.delete_registered_model_alias(name, mlflow_name)
            else:
                continue
            self.moved += 1


def mlflow_alias(alias: str, environment: str) -> str:
    """Return the MLflow name of an alias: the alias itself in ``dev``, ``alias-environment`` elsewhere."""
    return alias if environment == "dev" else f"{alias}-{environment}"
