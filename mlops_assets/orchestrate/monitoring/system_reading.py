"""Read the request log of a service: the counts of each window by version, and those of the period of an error budget."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path

from mlops_assets.compute.monitoring.system_metrics import SystemCounts, SystemReport, evaluate_objective
from mlops_assets.values.monitoring import Monitor
from mlops_assets.values.platform import Platform
from mlops_assets.values.window import TimeWindow, window_of

_HOUR = timedelta(hours=1)


def hash_request_windows(monitor: Monitor, platform: Platform, keys: Sequence[str]) -> Mapping[str, str]:
    """Return partition → hash of the requests that were counted in it, for the partitions with requests."""
    from mlops_assets.serving.logs.request_log import list_hour_files

    hours = list_hour_files(_find_folder(monitor, platform))
    hashes = {}
    for key in keys if hours else ():
        window = window_of(monitor.partitions, key)
        files = [file for hour in _iterate_hours(window) for file in hours.get(hour, ())] if window else []
        if files:
            hashes[key] = hashlib.sha256("\n".join(f"{path.name} {size}" for path, size in files).encode()).hexdigest()
    return hashes


def _iterate_hours(window: TimeWindow) -> Iterator[datetime]:
    hour = window.start.replace(minute=0, second=0, microsecond=0)
    while hour < window.end:
        yield hour
        hour += _HOUR


def _read_file(path: Path) -> list[tuple[datetime, int, SystemCounts]]:
    from mlops_assets.serving.logs.request_log import find_bucket_seconds, read_request_file

    return [
        (
            datetime.fromtimestamp(line.at / 1e6, UTC),
            line.version,
            SystemCounts(
                {int(code): number for code, number in line.codes.items()},
                {find_bucket_seconds(int(bucket)): number for bucket, number in line.seconds.items()},
                line.rows,
                line.looked_up,
                line.missing,
            ),
        )
        for line in read_request_file(path)
    ]


def read_system_report(monitor: Monitor, platform: Platform, window: TimeWindow) -> SystemReport:
    """Return the system metrics of a window by version, with the verdicts of the monitor's objectives on all versions together.

    Parameters
    ----------
    monitor
        The monitor of a service.
    platform
        The platform with the service's files.
    window
        The window, by the clock of the server.
    """
    folder = _find_folder(monitor, platform)
    inside = list(_read_counts(folder, window.start, window.end))
    versions = {version: SystemCounts.merge(c for v, c in inside if v == version) for version in sorted({v for v, _ in inside})}
    whole = SystemCounts.merge(versions.values())
    periods = {objective.period for objective in monitor.objectives}
    spent = {each: SystemCounts.merge(c for _, c in _read_counts(folder, window.end - each, window.end)) for each in periods}
    verdicts = [evaluate_objective(objective, whole, spent[objective.period]) for objective in monitor.objectives]
    seconds = (window.end - window.start).total_seconds()
    return SystemReport(seconds, whole, tuple((version or None, counts) for version, counts in versions.items()), tuple(verdicts))


def _read_counts(folder: Path, start: datetime, end: datetime) -> Iterator[tuple[int, SystemCounts]]:
    """Yield the version and the counts of each file in a span; of a file that only overlaps it, those of each line in it."""
    from mlops_assets.serving.logs.request_log import list_hour_files

    for hour, files in list_hour_files(folder).items():
        for path, size in files if start - _HOUR < hour < end else ():
            if start <= hour and hour + _HOUR <= end:
                yield from _read_whole(path, size)
            else:
                yield from ((version, counts) for at, version, counts in _read_file(path) if start <= at < end)


@lru_cache(maxsize=4_096)
def _read_whole(path: Path, _size: int) -> tuple[tuple[int, SystemCounts], ...]:
    """Return the counts of a file by version; a file only grows, so that its size stands for its content."""
    lines = _read_file(path)
    return tuple((version, SystemCounts.merge(c for _, v, c in lines if v == version)) for version in sorted({v for _, v, _ in lines}))


def _find_folder(monitor: Monitor, platform: Platform) -> Path:
    from mlops_assets.serving.http.service_folder import ServiceFolder

    return ServiceFolder.locate(platform.home, monitor.of.name).requests
