"""The files of one service: what is wanted, who runs, what each worker answers with."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from mlops_assets.errors import ServiceError
from mlops_assets.serving.http.own_processes import is_label_of
from mlops_assets.stores.base.checksums import json_sha256
from mlops_assets.stores.base.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_Kind = TypeVar("_Kind")
_CHECKSUM = "checksum"  # of a state file: the sha256 of everything else that it says


@dataclass(frozen=True)
class ServiceSpec:
    """Everything that a service's processes must be told.

    Parameters
    ----------
    name
        The service's.
    model
        Whose champion answers.
    home
        Of the platform: the service's folder is below.
    registry, artifacts, online, environment
        As of the platform.
    host, port
        Where it listens; any free port when 0, kept from then on.
    workers
        Processes.
    max_rows, max_bytes
        Of one request.
    trusted_types
        Types beyond scikit-learn's own that the model may hold.
    push
        What must be known to take rows for its views, as text: see :class:`mlops_assets.serving.push.spec.PushSpec`.
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

    @property
    def folder(self) -> Folder:
        """Where its files are."""
        return Folder.of(self.home, self.name)


@dataclass(frozen=True)
class Wanted:
    """The version that is to answer.

    Parameters
    ----------
    version, digest
        As registered.
    artifact
        The sha256 of its manifest.
    """

    version: int
    digest: str
    artifact: str


@dataclass(frozen=True)
class Limits:
    """Of one request."""

    max_rows: int = 10_000
    max_bytes: int = 8 * 2**20


@dataclass(frozen=True)
class WorkerStatus:
    """What a worker says of itself.

    Parameters
    ----------
    index
        Its place.
    pid, started
        Its process.
    version, digest
        What it answers with; None before the first.
    error, failed
        Why the wanted version does not answer, and which that is.
    loading
        The version that it is loading.
    loaded_at
        When ``version`` began to answer, seconds since 1970.
    predictor
        ``compiled``, or ``native`` and why.
    libraries
        Those of which another version is installed than the model was trained with.
    folder
        The label of the service's folder: see :func:`mlops_assets.serving.http.own_processes.label_of`.
    running
        Whether its process exists.
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
    wanted
        What was last asked for; ``unknown`` when the file that says so is damaged.
    running
        Whether its supervisor runs.
    url
        Where it listens, while it runs.
    workers
        As they report.
    champion
        The version that should answer; None when there is none, or the registry cannot be read.
    problem
        What is wrong, or ``""``.
    """

    name: str
    wanted: Literal["running", "stopped", "never started", "unknown"]
    running: bool
    url: str | None
    workers: tuple[WorkerStatus, ...]
    champion: int | None
    problem: str


@dataclass(frozen=True)
class Folder:
    """The folder of one service."""

    path: Path

    @classmethod
    def of(cls, home: str, name: str) -> Folder:
        """Return the folder of a service of a platform."""
        return cls(Path(home) / "services" / name)

    @property
    def spec(self) -> Path:
        """What was started."""
        return self.path / "spec.json"

    @property
    def wanted(self) -> Path:
        """Whether it is to run."""
        return self.path / "wanted.json"

    @property
    def supervisor(self) -> Path:
        """The supervisor's process, where it listens, what is wrong."""
        return self.path / "supervisor.json"

    @property
    def output(self) -> Path:
        """What its processes print."""
        return self.path / "supervisor.log"

    @property
    def log(self) -> Path:
        """The predictions."""
        return self.path / "log"

    @property
    def metrics(self) -> Path:
        """The counters."""
        return self.path / "metrics"

    def worker(self, index: int) -> Path:
        """Return what a worker says of itself."""
        return self.path / "workers" / f"{index}.json"

    def reports(self) -> list[WorkerStatus]:
        """Return what the workers last said of themselves, in order; damaged files are left out: see :meth:`damage`."""
        found = []
        for path in self._worker_files():
            with contextlib.suppress(ServiceError):
                found.append(_read(path, WorkerStatus))
        return [status for status in found if status is not None]

    def workers(self) -> tuple[WorkerStatus, ...]:
        """Return what the workers last said of themselves, and whether they run; those of a folder that was copied here are left out."""
        mine = [said for said in self.reports() if is_label_of(said.folder, self.path)]
        return tuple(replace(said, running=is_alive(said.pid, said.started)) for said in mine)

    def read_spec(self) -> ServiceSpec | None:
        """Return what was started, or None.

        Raises
        ------
        ServiceError
            The file is damaged.
        """
        return _read(self.spec, ServiceSpec)

    def readable_spec(self) -> ServiceSpec | None:
        """Return what was started; None when there is no such file, or it is damaged."""
        with contextlib.suppress(ServiceError):
            return self.read_spec()
        return None

    def readable(self, path: Path) -> dict[str, Any] | None:
        """Return what a state file says; None when there is none, or it is damaged."""
        with contextlib.suppress(ServiceError):
            return read_json(path)
        return None

    def damage(self) -> Iterator[tuple[Path, ServiceError]]:
        """Yield the state files that cannot be used, each with the error that names it."""
        kinds = {self.spec: ServiceSpec, **dict.fromkeys(self._worker_files(), WorkerStatus)}
        for path in (self.spec, self.wanted, self.supervisor, *self._worker_files()):
            try:
                _read(path, kinds.get(path, dict))
            except ServiceError as error:
                yield path, error

    def _worker_files(self) -> list[Path]:
        found = (path for path in (self.path / "workers").glob("*.json") if path.stem.isdecimal())
        return sorted(found, key=lambda path: int(path.stem))


def write_json(path: Path, facts: Mapping[str, Any]) -> None:
    """Write a state file whole, with a checksum. Only its owner reads it: a URL may hold a password.

    Raises
    ------
    ServiceError
        It cannot be written.
    """
    try:
        write_atomically(path, json.dumps({**facts, _CHECKSUM: json_sha256(facts)}).encode())
    except OSError as error:
        raise ServiceError(
            f"the service's folder '{path.parent}' cannot be written: {error.strerror}", hint="make room, or make the folder writable"
        ) from error


def read_json(path: Path) -> dict[str, Any] | None:
    """Return what a state file says; None when there is none.

    Raises
    ------
    ServiceError
        The file is not what was written.
    """
    try:
        text = path.read_text(encoding="utf-8")
        facts = json.loads(text)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _damaged(path, f"it cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise _damaged(path, "it is empty" if not path.stat().st_size else "it is not JSON") from error
    if not isinstance(facts, dict) or facts.pop(_CHECKSUM, "") != json_sha256(facts):
        raise _damaged(path, "it is not what was written")
    return facts


def _read(path: Path, kind: type[_Kind]) -> _Kind | None:
    """Return what a state file says as a value of a class; JSON has lists where the class has tuples."""
    facts = read_json(path)
    if facts is None:
        return None
    try:
        return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()})
    except TypeError as error:
        raise _damaged(path, "another version of the program wrote it") from error


def _damaged(path: Path, reason: str) -> ServiceError:
    name = (path.parent.parent if path.parent.name == "workers" else path.parent).name
    return ServiceError(
        f"the state file '{path}' is damaged: {reason}",
        hint=f"`mlops serve start {name}` writes it again, `mlops serve stop {name}` removes it",
    )


def started(pid: int) -> float | None:
    """Return when a process began, seconds since 1970; None when it is gone, or only its exit code is waited for."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.NoSuchProcess:
        return None


def is_alive(pid: int, began: float) -> bool:
    """Whether exactly this process runs: its number may have been given to another one."""
    found = started(pid)
    return found is not None and abs(found - began) < 0.5
