"""The workers of a service as its supervisor manages them: started, sent their target version, restarted when they die."""

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

    from mlops_assets.serving.http.service_folder import ServiceFolder, TargetVersion, WorkerStatus

_MIN_LIFE_SECONDS = 10.0  # a worker that lived shorter counts as a quick death
_MAX_QUICK_DEATHS = 6  # in a row, before a worker is not restarted any more
_MAX_PAUSE_SECONDS = 10.0  # before a worker is restarted
_REPORT_SECONDS = 1.0  # for a worker to write its missing report again
_MAX_CRASHES = 2  # of workers that were loading a version, before it is refused
MAX_EXIT_SECONDS = 5.0  # for workers to end, after their requests in flight, before they are killed
# One thread per worker: thread pools inside model libraries slow down a busy server.
_LIBRARIES = ("BLIS_NUM", "MKL_NUM", "NUMEXPR_NUM", "OMP_NUM", "OPENBLAS_NUM", "POLARS_MAX", "VECLIB_MAXIMUM")
ONE_THREAD = {f"{library}_THREADS": "1" for library in _LIBRARIES}


@dataclass
class _Worker:
    """A worker's process with its history; ``control`` is the write end of its pipe, times are monotonic seconds."""

    index: int
    process: subprocess.Popen[bytes] | None = None
    control: int = -1
    sent: TargetVersion | None = None
    has_reported: bool = False
    next_request: float = 0.0
    began: float = 0.0
    deaths: int = 0
    next_start: float = 0.0
    is_exhausted: bool = False
    last_code: int = 0


@dataclass
class _LoadCrashes:
    """Target version → number of workers that died while they loaded it."""

    counts: dict[TargetVersion, int] = field(default_factory=dict)

    def is_refused(self, target: TargetVersion | None) -> bool:
        return target is not None and self.counts.get(target, 0) >= _MAX_CRASHES


class WorkerPool:
    """All workers of a service.

    One worker loads a new version first; the others follow when it answers. So a version that cannot be loaded, or that kills its
    process, reaches one worker only.

    Parameters
    ----------
    folder
        Folder of the service.
    size
        Number of workers.
    listener
        The service's socket, which the workers inherit.
    drain_seconds
        Seconds that requests in flight may take when a worker ends.
    """

    def __init__(self, folder: ServiceFolder, size: int, listener: socket.socket, drain_seconds: float) -> None:
        self._drain_seconds = drain_seconds
        self._folder, self._listener = folder, listener
        self._workers = [_Worker(index) for index in range(size)]
        self._target: TargetVersion | None = None
        self._proven: TargetVersion | None = None  # the last version that a worker answered with
        self._crashes = _LoadCrashes()
        self._leader = self._workers[0]

    @property
    def is_exhausted(self) -> bool:
        """Whether no worker is restarted any more, because each one died quickly too many times in a row."""
        return all(worker.is_exhausted for worker in self._workers)

    @property
    def problem(self) -> str:
        """The workers that are not restarted and the refused version, as text; ``""`` when there are none."""
        problems = [
            f"worker {w.index} ended soon after its start {w.deaths} times in a row, last with code {w.last_code}, and is not restarted"
            for w in self._workers
            if w.is_exhausted
        ]
        if self.refused is not None:
            problems.append(f"version {self.refused} killed the workers that loaded it, and is not loaded again")
        return "; ".join(problems)

    @property
    def refused(self) -> int | None:
        """The number of the target version when loading it killed workers, else None."""
        return self._target.version if self._target is not None and self._crashes.is_refused(self._target) else None

    def set_target(self, target: TargetVersion) -> None:
        """Set the version that should answer; for a new version, workers that were no longer restarted are started again."""
        if target == self._target:
            return
        self._target = target
        self._crashes = _LoadCrashes()
        for worker in self._workers:
            worker.deaths, worker.is_exhausted = 0, False
        self._leader = next((worker for worker in self._workers if worker.process is not None), self._workers[0])

    def tick(self) -> None:
        """Reap dead workers, start missing ones and send each its target version."""
        reports = {status.index: status for status in self._folder.read_reports()}
        for worker in self._workers:
            self._reap(worker, reports.get(worker.index))
            if worker.process is None and not worker.is_exhausted and time.monotonic() >= worker.next_start:
                self._start(worker)
        current = {
            w.index: reports[w.index] for w in self._workers if w.index in reports and w.process and reports[w.index].pid == w.process.pid
        }
        if self._target is not None and any(_answers_with(status, self._target) for status in current.values()):
            self._proven = self._target
        if self._leader.is_exhausted:  # only then another worker leads: a version that kills its worker must not reach the others
            self._leader = next((w for w in self._workers if not w.is_exhausted), self._leader)
        for worker in self._workers:
            if worker.process is not None:
                status = current.get(worker.index)
                self._ask_for_report(worker, status)
                empty = status is None or status.version is None
                self._send_target(worker, self._choose_target(leads=worker is self._leader, has_no_version=empty))

    def end(self) -> None:
        """End all workers after they have answered requests in flight; kill those that take too long."""
        self._listener.close()  # when the last worker closes it too, clients are refused instead of waiting
        running = [w.process for w in self._workers if w.process is not None]
        for process in running:
            process.terminate()
        until = time.monotonic() + self._drain_seconds + MAX_EXIT_SECONDS
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
            process.kill()
            process.wait()

    def _choose_target(self, *, leads: bool, has_no_version: bool) -> TargetVersion | None:
        """Return the version that a worker should load, or None.

        The leader gets the target. The others get it once a worker has answered with it; until then, and when the target is refused, they
        get the last version that a worker answered with. A worker without a version gets that version as well.
        """
        if has_no_version and self._proven is not None:
            return self._proven
        refused = self._crashes.is_refused(self._target)
        if self._target is None or (not refused and (leads or self._proven is None or self._proven == self._target)):
            return self._target
        return self._proven

    def _start(self, worker: _Worker) -> None:
        """Start a worker's process, which inherits the service's socket and the read end of its pipe."""
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
        worker.control, worker.sent, worker.has_reported, worker.began = write, None, False, time.monotonic()

    def _reap(self, worker: _Worker, status: WorkerStatus | None) -> None:
        """Record the death of a worker's process, if it has ended: a crash while loading, a quick death, and when to restart."""
        if worker.process is None or worker.process.poll() is None:
            return
        if status is not None and status.pid == worker.process.pid and status.loading is not None and worker.sent is not None:
            self._crashes.counts[worker.sent] = self._crashes.counts.get(worker.sent, 0) + 1
        os.close(worker.control)
        worker.last_code, worker.process = worker.process.returncode, None
        worker.deaths = worker.deaths + 1 if time.monotonic() - worker.began < _MIN_LIFE_SECONDS else 0
        worker.is_exhausted = worker.deaths >= _MAX_QUICK_DEATHS
        worker.next_start = time.monotonic() + (min(0.25 * 2**worker.deaths, _MAX_PAUSE_SECONDS) if worker.deaths else 0.0)

    def _ask_for_report(self, worker: _Worker, status: WorkerStatus | None) -> None:
        """Send the target again to a worker whose report was damaged or deleted, so that it writes a new one."""
        worker.has_reported = worker.has_reported or status is not None
        if status is None and worker.has_reported and time.monotonic() >= worker.next_request:
            worker.sent, worker.next_request = None, time.monotonic() + _REPORT_SECONDS

    def _send_target(self, worker: _Worker, target: TargetVersion | None) -> None:
        """Send a worker its target version, unless it was sent before."""
        if target is None or target == worker.sent:
            return
        with contextlib.suppress(BrokenPipeError):  # it is dying, and is reaped next time
            os.write(worker.control, json.dumps(asdict(target)).encode() + b"\n")
            worker.sent = target


def _answers_with(status: WorkerStatus, target: TargetVersion) -> bool:
    return status.version == target.version and status.digest == target.digest and not status.error
