"""The state files of one service: its spec, its wanted state, and the reports of its supervisor and workers."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from mlops_assets.errors import ServiceError
from mlops_assets.serving.http.service_processes import is_label_of
from mlops_assets.serving.logs.request_log import REQUEST_FOLDER
from mlops_assets.stores.base.checksums import json_sha256
from mlops_assets.stores.base.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MIN_DRAIN_SECONDS = 10.0
_Kind = TypeVar("_Kind")
_CHECKSUM = "checksum"  # of a state file: the sha256 of all other fields


@dataclass(frozen=True)
class ServiceSpec:
    """The configuration of a service's processes.

    Parameters
    ----------
    name
        Name of the service.
    model
        The model whose champion answers.
    home
        Home of the platform; the service's folder is below it.
    registry, artifacts, online, environment
        The stores and the environment of the platform.
    host, port
        Address to listen on; port 0 takes any free port and keeps it.
    workers
        Number of worker processes.
    max_rows, max_bytes
        Limits of one request: its rows, and the bytes of its decompressed body.
    trusted_types
        Types beyond scikit-learn's own that the model may hold.
    push
        The push sources of the service's views, as text: see :class:`mlops_assets.serving.push.spec.PushSpec`.
    kind
        What ``model`` names: a model, or a prompt.
    settings
        The settings of a prompt's service, as text: see :class:`mlops_assets.serving.prompts.settings.PromptSettings`.
    drain_seconds
        Seconds that requests in flight may take when a process ends.
    """

    name: str
    model: str
    home: str
    registry: str
    artifacts: str
    online: str
    environment: str = "dev"
    host: str = "127.0.0.1"
    port: int = 0
    workers: int = 2
    max_rows: int = 10_000
    max_bytes: int = 8 * 2**20
    trusted_types: tuple[str, ...] = ()
    push: tuple[str, ...] = ()
    kind: Literal["model", "prompt"] = "model"
    settings: str = ""
    drain_seconds: float = MIN_DRAIN_SECONDS

    @property
    def log_name(self) -> str:
        """The name of the log that the service must be able to write, for error messages."""
        return "prediction log" if self.kind == "model" else "trace log"

    @property
    def folder(self) -> ServiceFolder:
        """The folder of the service's files."""
        return ServiceFolder.locate(self.home, self.name)


@dataclass(frozen=True)
class TargetVersion:
    """The version that workers should answer with.

    Parameters
    ----------
    version, digest
        As in the registry.
    artifact
        The sha256 of the version's manifest.
    """

    version: int
    digest: str
    artifact: str


@dataclass(frozen=True)
class RequestLimits:
    """Limits of one request: its rows, and the bytes of its decompressed body."""

    max_rows: int = 10_000
    max_bytes: int = 8 * 2**20


@dataclass(frozen=True)
class WorkerStatus:
    """The report of a worker.

    Parameters
    ----------
    index
        Index of the worker.
    pid, started
        Id and start time of the worker's process.
    version, digest
        The version that the worker answers with; None before the first one is loaded.
    error, failed
        Why the target version could not be loaded, and the number of that version; ``""`` and None when it could.
    loading
        The version that the worker is loading; None when it is not loading.
    loaded_at
        The time at which ``version`` began to answer, in seconds since 1970.
    predictor
        ``compiled``, or ``native`` and why.
    libraries
        Libraries whose installed version differs from the version in training, as text.
    folder
        The label of the service's folder: see :func:`mlops_assets.serving.http.service_processes.make_label`.
    running
        Whether the worker's process exists; only :meth:`ServiceFolder.read_workers` checks this.
    """

    index: int
    pid: int
    started: float
    version: int | None = None
    digest: str | None = None
    error: str = ""
    failed: int | None = None
    loading: int | None = None
    loaded_at: float | None = None
    predictor: str = ""
    libraries: str = ""
    folder: str = ""
    running: bool = True


@dataclass(frozen=True)
class ServiceStatus:
    """The state of a service.

    Parameters
    ----------
    name
        Name of the service.
    wanted
        The last requested state; ``unknown`` when its file is damaged.
    running
        Whether its supervisor runs.
    url
        The address, while the service runs.
    workers
        The reports of the workers.
    champion
        Number of the version that should answer; None when there is none, or the registry cannot be read.
    problem
        What is wrong with the service; ``""`` when nothing is.
    """

    name: str
    wanted: Literal["running", "stopped", "never started", "unknown"]
    running: bool
    url: str | None
    workers: tuple[WorkerStatus, ...]
    champion: int | None
    problem: str


@dataclass(frozen=True)
class ServiceFolder:
    """The folder of one service."""

    path: Path

    @classmethod
    def locate(cls, home: str, name: str) -> ServiceFolder:
        """Return the folder of a service below a platform's home."""
        return cls(Path(home) / "services" / name)

    @property
    def spec(self) -> Path:
        """The file of the spec with which the service was started."""
        return self.path / "spec.json"

    @property
    def wanted(self) -> Path:
        """The file of the wanted state: running or stopped."""
        return self.path / "wanted.json"

    @property
    def supervisor(self) -> Path:
        """The file of the supervisor's report: its process, address and problem."""
        return self.path / "supervisor.json"

    @property
    def output(self) -> Path:
        """The file of the output of the service's processes."""
        return self.path / "supervisor.log"

    @property
    def log(self) -> Path:
        """The folder of the prediction log."""
        return self.path / "log"

    @property
    def requests(self) -> Path:
        """The folder of the request log."""
        return self.path / REQUEST_FOLDER

    @property
    def traces(self) -> Path:
        """The folder of the trace log of a prompt's service."""
        from mlops_assets.serving.logs.trace_log import TRACE_FOLDER

        return self.path / TRACE_FOLDER

    def find_log(self, spec: ServiceSpec) -> Path:
        """Return the folder of the log that a service must be able to write: its predictions, or the traces of its prompt."""
        return self.log if spec.kind == "model" else self.traces

    @property
    def ledger(self) -> Path:
        """The file of the budget ledger of a prompt's service."""
        return self.path / "ledger.sqlite"

    @property
    def metrics(self) -> Path:
        """The folder of the workers' counters."""
        return self.path / "metrics"

    def worker(self, index: int) -> Path:
        """Return the file of a worker's report."""
        return self.path / "workers" / f"{index}.json"

    def read_reports(self) -> list[WorkerStatus]:
        """Return the last reports of the workers, by index; damaged files are skipped, and no process is checked."""
        reports = []
        for path in self._worker_files():
            with contextlib.suppress(ServiceError):
                reports.append(_read(path, WorkerStatus))
        return [status for status in reports if status is not None]

    def read_workers(self) -> tuple[WorkerStatus, ...]:
        """Return the last reports of this folder's workers, with ``running`` checked; reports copied from another folder are omitted."""
        own_reports = [status for status in self.read_reports() if is_label_of(status.folder, self.path)]
        return tuple(replace(status, running=is_alive(status.pid, status.started)) for status in own_reports)

    def read_spec(self) -> ServiceSpec | None:
        """Return the spec with which the service was started; None when its file is missing.

        Raises
        ------
        ServiceError
            The file is damaged.
        """
        return _read(self.spec, ServiceSpec)

    def read_spec_or_none(self) -> ServiceSpec | None:
        """Return the spec with which the service was started; None when its file is missing or damaged."""
        with contextlib.suppress(ServiceError):
            return self.read_spec()
        return None

    def read_or_none(self, path: Path) -> dict[str, Any] | None:
        """Return the content of a state file; None when it is missing or damaged."""
        with contextlib.suppress(ServiceError):
            return read_json(path)
        return None

    def find_damage(self) -> Iterator[tuple[Path, ServiceError]]:
        """Yield each damaged state file with its error."""
        kinds = {self.spec: ServiceSpec, **dict.fromkeys(self._worker_files(), WorkerStatus)}
        for path in (self.spec, self.wanted, self.supervisor, *self._worker_files()):
            try:
                _read(path, kinds.get(path, dict))
            except ServiceError as error:
                yield path, error

    def _worker_files(self) -> list[Path]:
        files = (path for path in (self.path / "workers").glob("*.json") if path.stem.isdecimal())
        return sorted(files, key=lambda path: int(path.stem))


def write_json(path: Path, facts: Mapping[str, Any]) -> None:
    """Write a state file atomically and with a checksum. Only its owner can read it, because a URL may contain a password.

    Raises
    ------
    ServiceError
        The file cannot be written.
    """
    try:
        write_atomically(path, json.dumps({**facts, _CHECKSUM: json_sha256(facts)}).encode())
    except OSError as error:
        raise ServiceError(
            f"the service's folder '{path.parent}' cannot be written: {error.strerror}", hint="free disk space, or make the folder writable"
        ) from error


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the content of a state file; None when it does not exist.

    Raises
    ------
    ServiceError
        The file cannot be read, is not JSON, or does not match its checksum.
    """
    try:
        text = path.read_text(encoding="utf-8")
        facts = json.loads(text)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _build_damage_error(path, f"it cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise _build_damage_error(path, "it is empty" if not path.stat().st_size else "it is not JSON") from error
    if not isinstance(facts, dict) or facts.pop(_CHECKSUM, "") != json_sha256(facts):
        raise _build_damage_error(path, "it is not what was written")
    return facts


def _read(path: Path, kind: type[_Kind]) -> _Kind | None:
    """Return the content of a state file as an instance of a class, with lists as tuples; None when the file does not exist.

    Raise ServiceError when it is damaged or has other fields.
    """
    facts = read_json(path)
    if facts is None:
        return None
    try:
        return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()})
    except TypeError as error:
        raise _build_damage_error(path, "another version of the program wrote it") from error


def _build_damage_error(path: Path, reason: str) -> ServiceError:
    name = (path.parent.parent if path.parent.name == "workers" else path.parent).name
    return ServiceError(
        f"the state file '{path}' is damaged: {reason}",
        hint=f"`mlops serve start {name}` writes it again, `mlops serve stop {name}` removes it",
    )


def read_start_time(pid: int) -> float | None:
    """Return the start time of a process, seconds since 1970; None when it has ended."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.NoSuchProcess:
        return None


def is_alive(pid: int, began: float) -> bool:
    """Whether the process with this id and start time runs; another process may have the id by now."""
    started = read_start_time(pid)
    return started is not None and abs(started - began) < 0.5
