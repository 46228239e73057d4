"""Counters of all workers of a service: each worker has a memory-mapped file, and the worker that answers ``/metrics`` adds them up.

A restarted worker continues with the file of its index, so no counter ever decreases.
"""

from __future__ import annotations

import errno
import hashlib
import math
import mmap
import os
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops_assets.errors import ServiceError
from mlops_assets.serving.http.view_metrics import SIZE, ViewMetrics, find_view_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from mlops_assets.serving.predict.model_inputs import ViewLookup

BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # seconds
_STATUS_CODES = (200, 400, 401, 404, 413, 415, 422, 429, 499, 500, 502, 503, 504)
_COUNTERS = {
    "predictions": "Rows that were answered.",
    "not_finite_predictions": "Rows that were refused because the model had no finite prediction for them.",
    "missing_features": "Looked-up features that were not found, past their ttl, or null.",
    "answers": "Calls of a prompt that were answered.",
    "repairs": "Requests that asked the language model to correct an answer.",
    "input_tokens": "Tokens of prompts, as the endpoint reports them.",
    "output_tokens": "Tokens of answers, as the endpoint reports them.",
    "other_requests": "Requests that were neither for a prediction nor for an answer.",
    "explain_requests": "Requests for SHAP values of predictions.",
    "push_requests": "Requests that pushed rows to a feature view.",
    "model_loads": "Versions that were loaded and took traffic.",
    "model_load_failures": "Versions that could not be loaded.",
    "exported_spans": "Spans that the OTLP endpoint has received.",
    "unexported_spans": "Spans that could not be sent to the OTLP endpoint; the trace log has them.",
    "log_failures": "Requests refused because their prediction or their trace could not be logged.",
}
_LAYOUT = (
    *_COUNTERS,
    *(f"code {code}" for code in _STATUS_CODES),
    *(f"le {bucket}" for bucket in (*BUCKETS, "+Inf")),
    "seconds",
    "connections",
)
_SIZE = 8 * len(_LAYOUT)
_PLACE = {name: place for place, name in enumerate(_LAYOUT)}
_FIRST_BUCKET = _PLACE[f"le {BUCKETS[0]}"]
# Another layout of counters has files of its own.
_SUFFIX = "-" + hashlib.sha256("\n".join(_LAYOUT).encode()).hexdigest()[:8] + ".counters"


class Metrics:
    """The counters of one worker.

    Parameters
    ----------
    folder
        Folder of the counters of all workers.
    index
        Index of the worker.
    workers
        Number of workers.

    Raises
    ------
    ServiceError
        A file of counters cannot be created.
    """

    def __init__(self, folder: Path, index: int, *, workers: int = 1) -> None:
        self._folder = folder
        self._values = _map_counters(folder, index)
        self._others = [_map_counters(folder, worker) for worker in range(workers) if worker != index]
        self._views = ViewMetrics(folder, index)
        self.set_connections(0)

    def count(self, name: str, by: int = 1) -> None:
        """Add to the counter with this name."""
        self._values[_PLACE[name]] += by

    def count_lookups(self, lookups: Iterable[ViewLookup]) -> None:
        """Count the lookups of one request in the online store."""
        self._views.count(lookups)

    def count_reply(self, code: int, seconds: float) -> None:
        """Count one answered request for a prediction.

        Parameters
        ----------
        code
            The status of the reply, one of ``_STATUS_CODES``.
        seconds
            Time from the arrival of the request's headers to the end of the reply.
        """
        values = self._values
        values[_PLACE[f"code {code}"]] += 1
        values[_FIRST_BUCKET + bisect_left(BUCKETS, seconds)] += 1
        values[_PLACE["seconds"]] += seconds

    def set_connections(self, connections: int) -> None:
        """Share the number of connections of this worker with the other workers."""
        self._values[_PLACE["connections"]] = connections

    def find_min_connections(self) -> float:
        """Return the lowest number of connections of any worker, this one included."""
        place = _PLACE["connections"]
        return min(self._values[place], *(counters[place] for counters in self._others)) if self._others else self._values[place]

    def render(self, versions: Mapping[int, int | None]) -> str:
        """Return the counters of all workers, their versions and their lookups in Prometheus' text format.

        Parameters
        ----------
        versions
            Worker index → version; workers with None are omitted.
        """
        totals = [sum(values) for values in zip(*_read_counters(self._folder), strict=True)]
        return "\n".join(
            [*_render_counters(totals), *_render_histogram(totals), *_render_versions(versions), *self._views.render_lines(), ""]
        )


@dataclass(frozen=True)
class RequestCounts:
    """The answered requests of a service since its counters were created.

    Parameters
    ----------
    by_status
        HTTP status → number of replies; only statuses that occurred.
    buckets
        Upper bound of a bucket in seconds → number of replies in the bucket; the last bound is infinite.
    seconds
        The sum of the durations.
    """

    by_status: Mapping[int, int]
    buckets: Mapping[float, int]
    seconds: float

    @property
    def count(self) -> int:
        """The number of replies."""
        return sum(self.buckets.values())

    def find_quantile(self, share: float) -> float | None:
        """Return the upper bound in seconds of the bucket that holds a quantile of the durations; None without replies."""
        so_far = 0
        for bound, count in self.buckets.items():
            so_far += count
            if count and so_far >= share * self.count:
                return bound
        return None


def read_request_counts(folder: Path) -> RequestCounts:
    """Return the counts of all workers from the files in a folder, whether the service runs or not; zeros without files."""
    totals = [sum(values) for values in zip(*_read_counters(folder), strict=True)] or [0.0] * len(_LAYOUT)
    by_status = {code: int(totals[_PLACE[f"code {code}"]]) for code in _STATUS_CODES if totals[_PLACE[f"code {code}"]]}
    buckets = {bound: int(totals[_FIRST_BUCKET + place]) for place, bound in enumerate((*BUCKETS, math.inf))}
    return RequestCounts(by_status, buckets, totals[_PLACE["seconds"]])


def find_counter_file(folder: Path, index: int) -> Path:
    """Return the file of one worker's counters, for this layout of counters."""
    return folder / f"{index}{_SUFFIX}"


def allocate_counters(folder: Path, index: int) -> Path:
    """Allocate both files of a worker's counters and return the one of :func:`find_counter_file`.

    The files get their full size at once, because a mapped page that does not fit on a full disk would kill the process.

    Raises
    ------
    ServiceError
        A file cannot be created, or the disk is full.
    """
    _allocate(find_view_file(folder, index), SIZE)
    return _allocate(find_counter_file(folder, index), _SIZE)


def _allocate(path: Path, size: int) -> Path:
    """Fill a new or smaller file with zeros to its size in bytes, and return its path; raise ServiceError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if os.fstat(descriptor).st_size < size and os.write(descriptor, b"\0" * size) < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ServiceError(
            f"the counters '{path}' cannot be created: {error.strerror}", hint="free disk space, or make the folder writable"
        ) from error
    return path


def _map_counters(folder: Path, index: int) -> memoryview[float]:
    with allocate_counters(folder, index).open("r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), _SIZE)).cast("d")


def _read_counters(folder: Path) -> list[tuple[float, ...]]:
    """Return the values of each worker's file; a file of another size is skipped."""
    contents = [path.read_bytes() for path in folder.glob(f"*{_SUFFIX}")]
    return [tuple(memoryview(content).cast("d")) for content in contents if len(content) == _SIZE]


def _render_counters(totals: list[float]) -> Iterable[str]:
    for name, text in _COUNTERS.items():
        yield from (f"# HELP mlops_{name}_total {text}", f"# TYPE mlops_{name}_total counter")
        yield f"mlops_{name}_total {totals[_PLACE[name]]:.0f}"
    yield from ("# HELP mlops_requests_total Requests for predictions or answers, by status.", "# TYPE mlops_requests_total counter")
    yield from (f'mlops_requests_total{{code="{code}"}} {totals[_PLACE[f"code {code}"]]:.0f}' for code in _STATUS_CODES)


def _render_histogram(totals: list[float]) -> Iterable[str]:
    name, so_far = "mlops_request_duration_seconds", 0.0
    yield from (f"# HELP {name} Time to answer a request for predictions or answers.", f"# TYPE {name} histogram")
    for place, bucket in enumerate((*BUCKETS, "+Inf")):
        so_far += totals[_FIRST_BUCKET + place]
        yield f'{name}_bucket{{le="{bucket}"}} {so_far:.0f}'
    yield from (f"{name}_sum {totals[_PLACE['seconds']]:.9g}", f"{name}_count {so_far:.0f}")


def _render_versions(versions: Mapping[int, int | None]) -> Iterable[str]:
    yield from ("# HELP mlops_worker_version The version that a worker answers with.", "# TYPE mlops_worker_version gauge")
    yield from (f'mlops_worker_version{{worker="{worker}"}} {version}' for worker, version in versions.items() if version is not None)
