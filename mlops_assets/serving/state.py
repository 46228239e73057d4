"""The files of one service: what is wanted, who runs, what each worker answers with."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mlops_assets.errors import ServiceError


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
        What must be known to take rows for its views, as text: see :class:`mlops_assets.serving.push_spec.PushSpec`.
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
    running: bool = True


@dataclass(frozen=True)
class ServiceStatus:
    """The state of a service.

    Parameters
    ----------
    wanted
        What was last asked for.
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
    wanted: Literal["running", "stopped", "never started"]
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
        """Return what the workers last said of themselves, in order."""
        paths = sorted((self.path / "workers").glob("*.json"), key=lambda path: int(path.stem))
        return [WorkerStatus(**facts) for path in paths if (facts := read_json(path)) is not None]

    def workers(self) -> tuple[WorkerStatus, ...]:
        """Return what the workers last said of themselves, and whether they run."""
        return tuple(replace(said, running=is_alive(said.pid, said.started)) for said in self.reports())

    def read_spec(self) -> ServiceSpec | None:
        """Return what was started, or None."""
        facts = read_json(self.spec)
        return None if facts is None else ServiceSpec(**facts | {name: tuple(facts.get(name, ())) for name in ("trusted_types", "push")})


def write_json(path: Path, facts: dict[str, Any]) -> None:
    """Write beside, then rename: a reader sees the old file or the new one. Only its owner reads it: a URL may hold a password.

    Raises
    ------
    ServiceError
        It cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.touch(mode=0o600)
        beside.write_text(json.dumps(facts), encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise ServiceError(
            f"the service's folder '{path.parent}' cannot be written: {error.strerror}", hint="make room, or make the folder writable"
        ) from error


def read_json(path: Path) -> dict[str, Any] | None:
    """Return what a file says; None when there is none."""
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    return facts


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
