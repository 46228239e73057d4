"""Which process a run lives in, so that a run whose process is gone can be told from a busy one."""

import os
import socket
from functools import cache
from pathlib import Path

import dagster as dg
import psutil

TAGS = ("mlops/host", "mlops/boot", "mlops/pid", "mlops/started")
_ACTIVE = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


@cache
def _tagged(instance: dg.DagsterInstance, run_id: str, pid: int) -> None:
    instance.add_run_tags(run_id, process_tags(pid))


def tag_run(instance: dg.DagsterInstance, run_id: str) -> None:
    """Tag a run with this host, boot, process and its start, once in a process."""
    _tagged(instance, run_id, os.getpid())


def process_tags(pid: int) -> dict[str, str]:
    """Return the tags that identify a process of this machine."""
    return dict(zip(TAGS, (socket.gethostname(), _boot(), str(pid), _started(pid) or ""), strict=True))


def _boot() -> str:
    kernel = Path("/proc/sys/kernel/random/boot_id")
    return kernel.read_text(encoding="ascii").strip() if kernel.exists() else str(int(psutil.boot_time()))


def _started(pid: int) -> str | None:
    try:
        return f"{psutil.Process(pid).create_time():.2f}"
    except psutil.NoSuchProcess:
        return None


def is_gone(tags: dict[str, str]) -> bool:
    """Whether the process that a run's tags name was of this machine and runs no more."""
    if any(name not in tags for name in TAGS) or tags[TAGS[0]] != socket.gethostname():
        return False
    return tags[TAGS[1]] != _boot() or _started(int(tags[TAGS[2]])) != tags[TAGS[3]]


def bury_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs of this machine whose process is gone as failed, and free their pool slots.

    Returns
    -------
    list of str
        The ids of the runs that were marked.
    """
    buried = []
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=_ACTIVE)):
        if is_gone(dict(run.tags)):
            instance.report_run_failed(run, f"The process {run.tags[TAGS[2]]} of this run is gone; it was killed or the machine restarted.")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            buried.append(run.run_id)
    return buried
