"""Tag a run with its process, and find the active runs whose process is gone."""

import json
import os
import socket
import time
from datetime import timedelta
from functools import cache

import dagster as dg

from mlops_assets.stores.base.process import identify_process, read_start_time
from mlops_assets.stores.base.process import is_gone as _is_gone

TAGS = ("mlops/host", "mlops/boot", "mlops/pid", "mlops/started")
START_TIMEOUT = timedelta(minutes=3)  # as in Dagster's own run monitoring
_RUN = "mlops/run"  # the run that these tags describe: Dagster copies tags to a run that repeats another
_CODE_SERVER = ".dagster/grpc_info"  # where Dagster's default launcher sent a run
_ACTIVE = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


@cache
def _tag_once(instance: dg.DagsterInstance, run_id: str, process: int) -> None:
    # A step may have its own process, which ends before the run does; the process of the run is the first one in its log.
    pid, _ = _find_first_process(instance, run_id) or (process, 0.0)
    instance.add_run_tags(run_id, {_RUN: run_id, **build_process_tags(pid)})


def tag_run(instance: dg.DagsterInstance, run_id: str) -> None:
    """Tag a run with its host, boot, process and the start of the process; further calls of this process do nothing."""
    _tag_once(instance, run_id, os.getpid())


def build_process_tags(pid: int) -> dict[str, str]:
    """Return the tags that identify a process of this machine."""
    return dict(zip(TAGS, identify_process(pid).values(), strict=True))


def is_gone(tags: dict[str, str]) -> bool:
    """Return True if a run's tags name a process of this machine that has ended; False if tags are missing."""
    if any(name not in tags for name in TAGS):
        return False
    return _is_gone(dict(zip(("host", "boot", "pid", "started"), (tags[name] for name in TAGS), strict=True)))


def reap_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark the active runs of this machine whose process is gone as failed, and free their pool slots.

    Returns
    -------
    list of str
        The ids of the runs that were marked.
    """
    reaped = []
    for run, cause in find_dead_runs(instance):
        instance.report_run_failed(run, cause)
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        reaped.append(run.run_id)
    return reaped


def find_dead_runs(instance: dg.DagsterInstance) -> list[tuple[dg.DagsterRun, str]]:
    """Return the active runs of this machine whose process is gone or never started, each with the cause."""
    active = instance.get_runs(filters=dg.RunsFilter(statuses=_ACTIVE))
    return [(run, cause) for run in active if (cause := _explain_dead_run(instance, run))]


def _explain_dead_run(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """Return why a run is dead; an empty text if the run is alive or its state is unknown."""
    started, has_own_tags = run.status is not dg.DagsterRunStatus.STARTING, run.tags.get(_RUN, run.run_id) == run.run_id
    if started and has_own_tags and TAGS[2] in run.tags:
        gone = is_gone(dict(run.tags))
        return f"The process {run.tags[TAGS[2]]} of this run is gone; it was killed or the machine restarted." if gone else ""
    if not isinstance(instance.run_launcher, dg.DefaultRunLauncher):
        return ""  # other launchers monitor their own runs
    server = json.loads(run.tags.get(_CODE_SERVER, "{}")).get("socket", "")
    if server and _refuses_connections(server) and not _is_alive(_find_first_process(instance, run.run_id)):
        return "The code server of this run is gone, and so is its process; they were killed before the run recorded its process."
    launched = instance.get_run_stats(run.run_id).launch_time
    if not started and launched and time.time() - launched > START_TIMEOUT.total_seconds():
        return f"It was launched and has not started within {START_TIMEOUT}."
    return ""


def _refuses_connections(server: str) -> bool:
    """Return True if a socket of this machine exists and no process listens to it."""
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(1.0)
        try:
            caller.connect(server)
        except ConnectionRefusedError:
            return True
        except OSError:  # not of this machine, or busy
            return False
    return False


def _find_first_process(instance: dg.DagsterInstance, run_id: str) -> tuple[int, float] | None:
    """Return the id of the first process in a run's log, and the time of its entry in seconds since 1970; None if there is none."""
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        metadata = entry.dagster_event.engine_event_data.metadata if entry.dagster_event else {}
        if "pid" in metadata:
            return int(str(metadata["pid"].value)), entry.timestamp
    return None


def _is_alive(process: tuple[int, float] | None) -> bool:
    """Return True if a process with this id runs and has started before its log entry: ids are reused."""
    since = read_start_time(process[0]) if process else None
    return process is not None and since is not None and float(since) <= process[1]
