"""Import the runs and versions of an MLflow server, each once and completely; model files are stored, never loaded."""

from __future__ import annotations

import hashlib
import mimetypes
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import RegistryError, suggest_name
from mlops_assets.stores.mlflow.client import PAGE_SIZE, connect, hide_password, import_mlflow, iterate_pages
from mlops_assets.stores.mlflow.names import from_mlflow_experiment, from_mlflow_key, from_mlflow_path, from_mlflow_value
from mlops_assets.stores.mlflow.runs import FOREIGN, MIRROR, RUN
from mlops_assets.stores.tracker.run_batch import Batch, RunArtifact, RunEnd
from mlops_assets.stores.tracker.tracker import FAILED, FINISHED, KILLED, RUNNING, Run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlops_assets.stores.platform.stores import Stores

VERSION = "foreign version"  # the kind of run that stands for a version of MLflow's registry
_STATUS = {"FINISHED": FINISHED, "FAILED": FAILED, "KILLED": KILLED}
_MAX_TEXT = 20_000


@dataclass
class ImportCounts:
    """The result of an import.

    Parameters
    ----------
    runs, versions
        How many runs and versions were imported.
    known
        How many runs and versions had been imported before.
    running
        How many runs were skipped because they have not ended.
    """

    runs: int = 0
    versions: int = 0
    known: int = 0
    running: int = 0


def import_from(stores: Stores, uri: str, experiments: Sequence[str] = (), *, running: bool = False) -> ImportCounts:
    """Import the runs and registered versions of an MLflow server that were not imported before.

    Runs and versions that this package has mirrored to the server are skipped. Versions that were imported before get their new tags and
    aliases.

    Parameters
    ----------
    stores
        The stores of the platform.
    uri
        The address of the server, ``http://…``; the import only reads from the server.
    experiments
        The names of the experiments to import, with the versions from their runs; all experiments and versions when empty.
    running
        Whether to import runs that have not ended as well, with the status ``killed``.

    Raises
    ------
    InstallationError
        The server is down or refuses; the next import continues.
    RegistryError
        There is no experiment with one of the names.
    """
    with connect(uri) as server, import_mlflow():
        importer = _Importer(server, stores, uri, running=running)
        chosen = importer.choose_experiments(experiments)
        for experiment in chosen:
            importer.import_runs(experiment)
        importer.import_versions(of_imported_runs=bool(experiments))
        return importer.done


class _Importer:
    """Imports from one server; ``done`` counts what was imported."""

    def __init__(self, server: Any, stores: Stores, uri: str, *, running: bool) -> None:  # noqa: ANN401  (MLflow has no types)
        self._server, self._stores, self._uri, self._running = server, stores, uri, running
        self._chosen_runs: set[str] = set()  # the ids of the runs in the chosen experiments
        self.done = ImportCounts()

    def choose_experiments(self, names: Sequence[str]) -> list[Any]:
        """Return the experiments with these names, or all, without those to which this package mirrors; raise for an unknown name."""
        experiments = list(iterate_pages(lambda token: self._server.search_experiments(max_results=PAGE_SIZE, page_token=token)))
        by_name = {experiment.name: experiment for experiment in experiments}
        if lacking := [name for name in names if name not in by_name]:
            raise RegistryError(
                f"there is no experiment '{lacking[0]}' at {hide_password(self._uri)}",
                hint=suggest_name(lacking[0], by_name) + f"it has {', '.join(by_name)}",
            )
        return [experiment for experiment in experiments if (not names or experiment.name in names) and MIRROR not in experiment.tags]

    def import_runs(self, experiment: Any) -> None:  # noqa: ANN401
        """Import the runs of one experiment, oldest first, so that parents come before their children."""
        query = {"experiment_ids": [experiment.experiment_id], "order_by": ["attributes.start_time ASC"], "max_results": PAGE_SIZE}
        for run in iterate_pages(lambda token: self._server.search_runs(**query, page_token=token)):
            if RUN in run.data.tags:
                continue
            self._chosen_runs.add(run.info.run_id)
            if run.info.status not in _STATUS and not self._running:
                self.done.running += 1
            elif self._record(self._to_run(experiment.name, run), lambda run=run: self._download_run(run), _build_run_end(run)):
                self.done.runs += 1

    def import_versions(self, *, of_imported_runs: bool) -> None:
        """Import the versions of registered models; with ``of_imported_runs``, only those of the runs that :meth:`import_runs` has met."""
        for model in iterate_pages(lambda token: self._server.search_registered_models(max_results=200, page_token=token)):
            if MIRROR in model.tags:
                continue
            aliases: dict[str, list[str]] = {}
            for alias, number in dict(model.aliases).items():
                aliases.setdefault(str(number), []).append(alias)
            where = "name = '" + model.name.replace("'", "''") + "'"
            for version in iterate_pages(
                lambda token, where=where: self._server.search_model_versions(where, max_results=200, page_token=token)
            ):
                if of_imported_runs and version.run_id not in self._chosen_runs:
                    continue
                self._import_version(version, sorted(aliases.get(str(version.version), [])))

    def _import_version(self, version: Any, aliases: list[str]) -> None:  # noqa: ANN401
        """Record a version as a run with the model's name as experiment; update only the tags of a known version."""
        created, ended = _parse_time(version.creation_timestamp), _parse_time(version.last_updated_timestamp or version.creation_timestamp)
        facts = {
            "server": hide_password(self._uri),
            "model": version.name,
            "version": str(version.version),
            "source": version.source,
            "run_id": version.run_id or "",
        }
        identity = hashlib.sha256(
            f"{hide_password(self._uri)}\n{version.name}\n{version.version}\n{version.creation_timestamp}".encode()
        ).hexdigest()[:32]
        tags = {from_mlflow_key(f"mlflow.alias.{alias}"): "1" for alias in aliases} | _convert_tags(version.tags)
        run = _foreign_run(
            identity,
            from_mlflow_experiment(version.name),
            created,
            facts,
            kind=VERSION,
            name=f"version {version.version}",
            parent=version.run_id or None,
        )
        batch = lambda: Batch(tags=tags, artifacts=self._download_version_files(version))  # noqa: E731
        if self._record(run, batch, RunEnd(FINISHED, ended)):
            self.done.versions += 1
        else:
            self._stores.tracker.write_batch(identity, Batch(tags=tags))  # aliases may be new

    def _record(self, run: Run, batch: Any, ending: RunEnd) -> bool:  # noqa: ANN401
        """Record a run as running, then its content and end in one transaction, so that a killed import can be repeated.

        Return False for a run that was imported before; ``batch`` is not called for it.
        """
        self._stores.tracker.add(run)
        if self._stores.tracker.get(run.id).status != RUNNING:
            self.done.known += 1
            return False
        self._stores.tracker.write_batch(run.id, batch(), ending)
        return True

    def _to_run(self, experiment: str, run: Any) -> Run:  # noqa: ANN401
        names = (*run.data.params, *run.data.metrics, *run.data.tags)
        facts = {"server": hide_password(self._uri), "experiment": experiment, "run_id": run.info.run_id}
        facts |= {"names": {from_mlflow_key(name): name for name in names if from_mlflow_key(name) != name}}
        parent = run.data.tags.get("mlflow.parentRunId")
        name = _clean_text(run.info.run_name or "")[:200]
        return _foreign_run(
            run.info.run_id, from_mlflow_experiment(experiment), _parse_time(run.info.start_time), facts, name=name, parent=parent
        )

    def _download_run(self, run: Any) -> Batch:  # noqa: ANN401
        """Return the metric histories, parameters, tags and files of a run; the files are stored."""
        points = {from_mlflow_key(name): list(self._load_points(run.info.run_id, name)) for name in run.data.metrics}
        params = {from_mlflow_key(name): _clean_text(value) for name, value in run.data.params.items()}
        return Batch(points, {}, params, _convert_tags(run.data.tags), self._download_run_files(run.info.run_id))

    def _load_points(self, run_id: str, name: str) -> Iterator[tuple[int, float, int]]:
        """Return step, value and time in microseconds of each value of a metric, sorted by time."""
        history = sorted(self._server.get_metric_history(run_id, name), key=lambda point: (point.timestamp, point.step))
        return ((int(point.step), from_mlflow_value(point.value), int(point.timestamp) * 1000) for point in history)

    def _download_version_files(self, version: Any) -> dict[str, RunArtifact]:  # noqa: ANN401
        """Download the model files of a version and store them as artifacts."""
        import mlflow

        mlflow.set_tracking_uri(self._uri)  # MLflow resolves models:/… on the server that is set for the process
        mlflow.set_registry_uri(self._uri)
        with tempfile.TemporaryDirectory() as folder:
            address = f"models:/{version.name}/{version.version}"
            return self._store_files(Path(mlflow.artifacts.download_artifacts(artifact_uri=address, dst_path=folder)))

    def _download_run_files(self, run_id: str) -> dict[str, RunArtifact]:
        with tempfile.TemporaryDirectory() as folder:
            return self._store_files(Path(self._server.download_artifacts(run_id, "", folder)))

    def _store_files(self, root: Path) -> dict[str, RunArtifact]:
        """Store the files of a folder as artifacts, without symbolic links; return name in this package → stored file."""
        stored = {}
        for path in sorted(p for p in root.rglob("*") if p.is_file() and not p.is_symlink()):
            data, name = path.read_bytes(), from_mlflow_path(path.relative_to(root).as_posix())
            media = mimetypes.guess_type(name)[0] or "application/octet-stream"
            stored[name] = RunArtifact(name, self._stores.artifacts.put(data), len(data), media)
        return stored


def _foreign_run(  # noqa: PLR0913  (the fields of a run)
    identity: str, experiment: str, at: datetime, facts: dict[str, Any], *, kind: str = "run", name: str = "", parent: str | None = None
) -> Run:
    unused_fields: dict[str, Any] = {"fingerprint": "", "dagster_run_id": "", "snapshot": None, "params": {}, "metrics": {}}
    return Run(
        identity,
        experiment,
        started_at=at,
        ended_at=None,
        record={FOREIGN: facts},
        status=RUNNING,
        kind=kind,
        name=name,
        parent_id=parent,
        **unused_fields,
    )


def _build_run_end(run: Any) -> RunEnd:  # noqa: ANN401
    status = _STATUS.get(run.info.status, KILLED)
    error = "" if status == FINISHED else f"it ended as {run.info.status} in MLflow"
    return RunEnd(status, _parse_time(run.info.end_time or run.info.start_time), error)


def _convert_tags(tags: Any) -> dict[str, str]:  # noqa: ANN401
    return {from_mlflow_key(name): _clean_text(str(value)) for name, value in dict(tags).items()}


def _clean_text(text: str) -> str:
    """Replace NUL characters, and cut a text to ``_MAX_TEXT`` characters."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")[:_MAX_TEXT]


def _parse_time(milliseconds: int | None) -> datetime:
    return datetime.fromtimestamp((milliseconds or 0) / 1000, UTC)
