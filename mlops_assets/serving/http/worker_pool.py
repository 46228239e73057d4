"""The workers of a service, seen from its supervisor: started, told what is wanted, started again when they die."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from mlops_assets import entry_points

if TYPE_CHECKING:
    import socket

    from mlops_assets.serving.http.state import Folder, Wanted, WorkerStatus

_QUICK = 10.0  # seconds: a worker that lived no longer died at once
_MOST = 6  # deaths at once in a row, before a worker is given up
_LONGEST = 10.0  # seconds of pause before a worker is started again
_ASK_AGAIN = 1.0  # seconds in which a worker whose file is missing may write it again
_CRASHES = 2  # of workers that were loading a version, before it is not tried any more
_END = 15.0  # seconds that workers may take to end before they are killed
# One thread a worker: pools of threads inside model libraries collapse a busy server.
_LIBRARIES = ("BLIS_NUM", "MKL_NUM", "NUMEXPR_NUM", "OMP_NUM", "OPENBLAS_NUM", "POLARS_MAX", "VECLIB_MAXIMUM")
ONE_THREAD = {f"{library}_THREADS": "1" for library in _LIBRARIES}


@dataclass
class _Worker:
    index: int
    process: subprocess.Popen[bytes] | None = None
    control: int = -1
    told: Wanted | None = None
    has_reported: bool = False
    next_request: float = 0.0
    began: float = 0.0
    deaths: int = 0
    next_start: float = 0.0
    given_up: bool = False
    last_code: int = 0


@dataclass
class _Crashes:
    counts: dict[Wanted, int] = field(default_factory=dict)

    def refused(self, wanted: Wanted | None) -> bool:
        return wanted is not None and self.counts.get(wanted, 0) >= _CRASHES


class WorkerPool:
    """All workers of a service.

    A new version is loaded by one worker first; the others follow when it answers. So a version that cannot be loaded, or that kills
    who loads it, reaches one worker only.

    Parameters
    ----------
    folder
        Of the service.
    size
        How many workers.
    listener
        The service's socket, which they inherit.
    """

    def __init__(self, folder: Folder, size: int, listener: socket.socket) -> None:
        self._folder, self._listener = folder, listener
        self._workers = [_Worker(index) for index in range(size)]
        self._wanted: Wanted | None = None
        self._proven: Wanted | None = None  # the last version that a worker answered with
        self._crashes = _Crashes()
        self._leader = self._workers[0]

    @property
    def given_up(self) -> bool:
        """Whether no worker can be kept running."""
        return all(worker.given_up for worker in self._workers)

    @property
    def problem(self) -> str:
        """What is wrong with the workers, or ``""``."""
        told = [
            f"worker {w.index} ended at once {w.deaths} times, last with code {w.last_code}, and is not started again"
            for w in self._workers
            if w.given_up
        ]
        if self.refused is not None:
            told.append(f"version {self.refused} killed the workers that loaded it, and is not loaded again")
        return "; ".join(told)

    @property
    def refused(self) -> int | None:
        """The wanted version, when it killed who loaded it."""
        return self._wanted.version if self._wanted is not None and self._crashes.refused(self._wanted) else None

    def want(self, wanted: Wanted) -> None:
        """Name the version that should answer."""
        if wanted == self._wanted:
            return
        self._wanted = wanted
        self._crashes = _Crashes()
        for worker in self._workers:  # another version is another chance
            worker.deaths, worker.given_up = 0, False
        self._leader = next((worker for worker in self._workers if worker.process is not None), self._workers[0])

    def tick(self) -> None:
        """Bury the dead, start who is to run, tell each what it is to answer with."""
        said = {status.index: status for status in self._folder.reports()}
        for worker in self._workers:
            self._bury(worker, said.get(worker.index))
            if worker.process is None and not worker.given_up and time.monotonic() >= worker.next_start:
                self._start(worker)
        current = {w.index: said[w.index] for w in self._workers if w.index in said and w.process and said[w.index].pid == w.process.pid}
        if self._wanted is not None and any(_answers(status, self._wanted) for status in current.values()):
            self._proven = self._wanted
        if self._leader.given_up:  # only then another takes its place: one that dies of the version must not pass it on
            self._leader = next((w for w in self._workers if not w.given_up), self._leader)
        for worker in self._workers:
            if worker.process is not None:
                status = current.get(worker.index)
                self._ask_for_report(worker, status)
                empty = status is None or status.version is None
                self._tell(worker, self._target(leads=worker is self._leader, empty=empty))

    def end(self) -> None:
        """End all workers; what they were asked is answered."""
        self._listener.close()  # when the last worker closes it too, clients are refused instead of being left to wait
        running = [w.process for w in self._workers if w.process is not None]
        for process in running:
            process.terminate()
        until = time.monotonic() + _END
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
            process.kill()
            process.wait()

    def _target(self, *, leads: bool, empty: bool) -> Wanted | None:
        """Return what a worker is to answer with: what is wanted, once it was proved; one proves it, and has the version before first."""
        if empty and self._proven is not None:
            return self._proven
        refused = self._crashes.refused(self._wanted)
        if self._wanted is None or (not refused and (leads or self._proven is None or self._proven == self._wanted)):
            return self._wanted
        return self._proven

    def _start(self, worker: _Worker) -> None:
        read, write = os.pipe()
        command = [sys.executable, "-m", entry_points.MODULE, entry_points.WORKER, str(self._folder.path), str(worker.index)]
        descriptors = (self._listener.fileno(), read)
        worker.process = subprocess.Popen(  # noqa: S603  (our own module)
            [*command, *map(str, descriptors)],
            stdin=subprocess.DEVNULL,
            pass_fds=descriptors,
            env={**os.environ, **ONE_THREAD},
        )
        os.close(read)
        worker.control, worker.told, worker.has_reported, worker.began = write, None, False, time.monotonic()

    def _bury(self, worker: _Worker, status: WorkerStatus | None) -> None:
        if worker.process is None or worker.process.poll() is None:
            return
        if status is not None and status.pid == worker.process.pid and status.loading is not None and worker.told is not None:
            self._crashes.counts[worker.told] = self._crashes.counts.get(worker.told, 0) + 1
        os.close(worker.control)
        worker.last_code, worker.process = worker.process.returncode, None
        worker.deaths = worker.deaths + 1 if time.monotonic() - worker.began < _QUICK else 0
        worker.given_up = worker.deaths >= _MOST
        worker.next_start = time.monotonic() + (min(0.25 * 2**worker.deaths, _LONGEST) if worker.deaths else 0.0)

    def _ask_for_report(self, worker: _Worker, status: WorkerStatus | None) -> None:
        """Forget what a worker was told when its file was damaged or deleted: told again, it writes the file again."""
        worker.has_reported = worker.has_reported or status is not None
        if status is None and worker.has_reported and time.monotonic() >= worker.next_request:
            worker.told, worker.next_request = None, time.monotonic() + _ASK_AGAIN

    def _tell(self, worker: _Worker, target: Wanted | None) -> None:
        if target is None or target == worker.told:
            return
        with contextlib.suppress(BrokenPipeError):  # it is dying, and will be buried
            os.write(worker.control, json.dumps(asdict(target)).encode() + b"\n")
            worker.told = target


def _answers(status: WorkerStatus, wanted: Wanted) -> bool:
    return status.version == wanted.version and status.digest == wanted.digest and not status.error
