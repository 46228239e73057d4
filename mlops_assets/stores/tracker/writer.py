"""Buffer the values that a run logs, and write them when the buffer is full, at an interval, at the end and at exit.

A killed process loses only the values that are still in its buffer.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import MlopsError, RegistryError
from mlops_assets.stores.tracker.run_batch import Batch, Point, RunArtifact, RunEnd

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlops_assets.stores.tracker.tracker import Tracker

MAX_POINTS, FLUSH_SECONDS = 10_000, 5.0  # the maximum number of buffered points, and the maximum time that they wait


class RunWriter:
    """The buffer of one run; any thread may add values.

    Parameters
    ----------
    tracker
        The tracker to write to.
    run_id
        The id of a run that is recorded as running.
    max_points
        The number of points at which the buffer is written.
    flush_seconds
        The interval in seconds at which a background thread writes the buffer. Its errors are ignored: the next write retries.
    """

    def __init__(self, tracker: Tracker, run_id: str, *, max_points: int = MAX_POINTS, flush_seconds: float = FLUSH_SECONDS) -> None:
        self._tracker, self._run_id = tracker, run_id
        self._max_points, self._flush_seconds = max_points, flush_seconds
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._batch, self._waiting = Batch(), 0
        self._next_steps: dict[str, int] = {}
        self._pid, self._stop = os.getpid(), threading.Event()
        self._thread: threading.Thread | None = None
        self._ended, self._forked = False, False
        atexit.register(self._flush_at_exit)

    def add_metric(self, name: str, value: float, step: int | None) -> None:
        """Add a value of a metric; without a step, the step is one more than the metric's maximum step so far, from 0."""
        with self._lock:
            self._check_owner()
            point_step = self._next_steps.get(name, 0) if step is None else step
            self._next_steps[name] = max(self._next_steps.get(name, 0), point_step + 1)
            point: Point = (point_step, value, time.time_ns() // 1000)
            self._batch.points.setdefault(name, []).append(point)
            self._waiting += 1
            is_full = self._waiting >= self._max_points or self._forked
        self.flush() if is_full else self._start_thread()

    def update(
        self,
        *,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        plain: Mapping[str, float] | None = None,
        artifact: RunArtifact | None = None,
    ) -> None:
        """Add parameters, tags, metrics without steps (``plain``), or a file."""
        with self._lock:
            self._check_owner()
            self._batch.params.update(params or {})
            self._batch.tags.update(tags or {})
            self._batch.plain.update(plain or {})
            if artifact is not None:
                self._batch.artifacts[artifact.name] = artifact
            forked = self._forked
        self.flush() if forked else self._start_thread()

    def flush(self) -> None:
        """Write the buffer; on an error, raise it and keep the buffer for the next attempt."""
        self._write(None)

    def close(self, ending: RunEnd) -> None:
        """Write the buffer and the end of the run in one transaction, and stop the background thread."""
        self._write(ending)
        self._ended = True
        self._stop.set()
        atexit.unregister(self._flush_at_exit)

    def _write(self, ending: RunEnd | None) -> None:
        """Write the buffer, and the end of the run if given; on an error, put the values back into the buffer and raise."""
        with self._writing:  # batches are written in the order of logging
            with self._lock:
                self._check_owner()
                batch, self._batch, self._waiting = self._batch, Batch(), 0
            if batch or ending is not None:
                try:
                    self._tracker.write_batch(self._run_id, batch, ending)
                except BaseException:
                    with self._lock:
                        self._batch, self._waiting = _join_batches(batch, self._batch), self._waiting + sum(map(len, batch.points.values()))
                    raise

    def _check_owner(self) -> None:
        """Raise RegistryError when the run has ended; at the first call in a forked process, drop the buffer, which the parent writes."""
        if self._ended:
            raise RegistryError(f"run {self._run_id[:8]} has ended, nothing more can be logged", hint="log within the `with` of the run")
        if self._pid != os.getpid():
            self._pid, self._batch, self._waiting = os.getpid(), Batch(), 0
            # A forked process may skip its exit handlers, so that it writes each value at once.
            self._thread, self._stop, self._forked = None, threading.Event(), True

    def _start_thread(self) -> None:
        if self._thread is None and not self._stop.is_set():
            self._thread = threading.Thread(
                target=self._flush_periodically, args=(self._stop,), name=f"run-{self._run_id[:8]}", daemon=True
            )
            self._thread.start()

    def _flush_periodically(self, stop: threading.Event) -> None:
        while not stop.wait(self._flush_seconds):
            with suppress(MlopsError):  # the next flush retries, and the end of the run raises
                self.flush()

    def _flush_at_exit(self) -> None:
        with suppress(MlopsError):
            self.flush()


def _join_batches(first: Batch, second: Batch) -> Batch:
    points = {name: [*first.points.get(name, ()), *second.points.get(name, ())] for name in (*first.points, *second.points)}
    return Batch(
        points, first.plain | second.plain, first.params | second.params, first.tags | second.tags, first.artifacts | second.artifacts
    )
