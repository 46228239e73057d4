"""Start, stop and inspect a service from any process: a Dagster run, a sensor or the command line."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlops_assets import entry_points
from mlops_assets.compute.user_code.project_modules import child_environment
from mlops_assets.errors import MissingExtraError, MlopsError, ServiceError
from mlops_assets.serving.http.service_folder import (
    MIN_DRAIN_SECONDS,
    ServiceFolder,
    ServiceSpec,
    ServiceStatus,
    WorkerStatus,
    is_alive,
    read_start_time,
    write_json,
)
from mlops_assets.serving.http.service_processes import find_processes, is_label_of, read_label_path
from mlops_assets.stores.base.lock import hold_lock
from mlops_assets.values.asset_names import build_graph_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mlops_assets.stores.registry.records import Version

__all__ = ["ServiceSpec", "ServiceStatus", "WorkerStatus", "start", "status", "stop"]

_REQUIRED_PACKAGES = ("uvicorn", "httptools", "uvloop", "msgspec", "lmdb")
_POLL_SECONDS = 0.05
_MAX_STOP_SECONDS = 20.0  # for all processes to end, after requests in flight
_MAX_OUTPUT_BYTES = 10 * 2**20  # of the processes' output, before the file is rotated


def start(spec: ServiceSpec, *, timeout: float = 60) -> ServiceStatus:
    """Start a service, or switch it to its champion, and wait until every worker answers with the champion.

    A running service is restarted only if it runs from another spec.

    Parameters
    ----------
    spec
        The specification of the service.
    timeout
        The maximum seconds to wait. If the service runs from another spec, it first answers its requests in flight, which does not count.

    Returns
    -------
    ServiceStatus
        The resulting state.

    Raises
    ------
    ServiceError
        There is no champion, the registry cannot be read, the log cannot be written, the API keys of a prompt's service are not set, the
        port is in use, the champion cannot be loaded, or the wait takes too long. The processes that this call started are stopped again;
        a service that ran from this spec keeps its version.
    MissingExtraError
        A package of the extra ``serve`` is missing.
    """
    for package in _REQUIRED_PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError.from_extra(package, "serve")
    folder = spec.folder
    _refuse_unready(spec)
    if spec.kind == "prompt":
        _refuse_unready_prompt(spec)
    with hold_lock(folder.path / "control.lock"):
        before = folder.read_or_none(folder.wanted)
        is_current = _is_running(_read_supervisor(folder)) and folder.read_spec_or_none() == spec
        try:
            if not is_current:
                _stop_processes(folder, None)  # first, because requests in flight may take longer than the start
            until = time.monotonic() + timeout
            if not is_current:
                _start_supervisor(spec, folder, until)
            write_json(folder.wanted, {"state": "running"})
            return _await_champion(spec, folder, until)
        except BaseException:
            if not is_current:
                _stop_processes(folder, 10)
                _restore_wanted(folder, before)
            raise


def stop(home: str, name: str, *, timeout: float | None = None) -> ServiceStatus:
    """Stop a service after answering requests in flight, and delete its damaged state files.

    Parameters
    ----------
    home
        Home of the platform.
    name
        Name of the service.
    timeout
        Seconds after which the service's processes are killed; None gives requests in flight the time that the service declares.

    Returns
    -------
    ServiceStatus
        The resulting state.
    """
    folder = ServiceFolder.locate(home, name)
    if folder.path.is_dir():
        with hold_lock(folder.path / "control.lock"):
            if folder.spec.exists() or folder.wanted.exists():
                write_json(folder.wanted, {"state": "stopped"})
            _stop_processes(folder, timeout)
            for path, _ in folder.find_damage():
                with contextlib.suppress(OSError):
                    path.unlink()
    return status(home, name)


def status(home: str, name: str, declared: ServiceSpec | None = None, *, probe: bool = True) -> ServiceStatus:
    """Return the state of a service from its files, its processes and the registry.

    Parameters
    ----------
    home
        Home of the platform.
    name
        Name of the service.
    declared
        The spec that the project declares, which names the champion even of a service that was never started. When None, the spec that the
        service was started with is used.
    probe
        Whether to test, by writing and deleting a file, that the log can be written. With False, no file changes.
    """
    folder = ServiceFolder.locate(home, name)
    spec, facts = declared or folder.read_spec_or_none(), _read_supervisor(folder)
    running, wanted = _is_running(facts) or bool(_find_unnamed_processes(folder, entry_points.SUPERVISOR)), _read_wanted_state(folder)
    champion, unreadable = (None, "") if spec is None else _read_champion(spec)
    workers = folder.read_workers()
    problems = [
        *_find_problems(folder, facts, wanted, running=running, probe=probe),
        unreadable,
        *(f"worker {w.index}: {w.error}" for w in workers if w.error),
    ]
    url = facts.get("url") if running else None
    number = None if champion is None else champion.version
    return ServiceStatus(name, wanted, running, url, workers, number, "; ".join(dict.fromkeys(p for p in problems if p)))


def _find_problems(folder: ServiceFolder, facts: Mapping[str, Any], state: str, *, running: bool, probe: bool) -> Iterator[str]:
    """Yield what is wrong with a service's state files, supervisor, log and online store; some texts may be empty."""
    from mlops_assets.serving.logs.day_log import find_write_problem

    yield from (f"{error.message}: {error.hint}" for _, error in folder.find_damage())
    if running or state == "running":
        yield facts.get("problem", "")
    if running:
        spec = folder.read_spec_or_none()
        yield "" if spec is None or not probe else find_write_problem(folder.find_log(spec), sync=False, what=spec.log_name)
        yield _find_online_problem(folder)
    if state == "never started" and folder.spec.exists():
        yield f"'{folder.wanted}' is missing: `mlops serve start {folder.path.name}` or `mlops serve stop {folder.path.name}` writes it again"
    if state == "running" and not running:
        yield _explain_absence(folder)
    if running and state == "stopped":
        yield "it runs, although its wanted state is stopped"


def _find_online_problem(folder: ServiceFolder) -> str:
    """Return what is wrong with the header of the service's LMDB file; ``""`` if it is intact, or if the online store has no such file."""
    from mlops_assets.stores.online.lmdb_check import build_damaged_store_error, find_header_damage

    spec = folder.read_spec_or_none()
    problem = "" if spec is None or spec.kind != "model" or "://" in spec.online else find_header_damage(Path(spec.online))
    if not problem or spec is None:
        return ""
    error = build_damaged_store_error(Path(spec.online), problem)
    return f"{error.message}: {error.hint}"


def _explain_absence(folder: ServiceFolder) -> str:
    """Return why a service that should run has no supervisor: its folder is a copy of a running service's, or the supervisor is gone."""
    facts = folder.read_or_none(folder.supervisor) or {}
    label = facts.get("folder", "")
    if _is_running(facts) and not is_label_of(label, folder.path):
        return f"it runs in '{read_label_path(label)}', and this folder is a copy; `mlops serve start {folder.path.name}` starts it here"
    return "its supervisor is gone"


def _read_supervisor(folder: ServiceFolder) -> dict[str, Any]:
    """Return the last report of this folder's supervisor; an empty dict when the file is missing, damaged or copied from another folder."""
    facts = folder.read_or_none(folder.supervisor) or {}
    return facts if is_label_of(facts.get("folder", ""), folder.path) else {}


def _find_unnamed_processes(folder: ServiceFolder, *roles: str) -> dict[int, float]:
    """Return process id → start time of a service's processes, found by command line, if its state files are missing or damaged.

    The dict is empty while the files are intact, because they name the processes, and for a service that was never started.
    """
    was_started = folder.spec.exists() or folder.wanted.exists()
    is_whole = folder.spec.exists() and folder.supervisor.exists() and not any(folder.find_damage())
    return find_processes(folder.path, *roles) if was_started and not is_whole else {}


def _refuse_unready_prompt(spec: ServiceSpec) -> None:
    """Raise MissingExtraError if a package is missing, and ServiceError if declared API keys or headers are not set."""
    from mlops_assets.compute.llm_traces.otlp_protobuf import require_protobuf
    from mlops_assets.serving.llm.span_exporter import read_headers
    from mlops_assets.serving.prompts.api_keys import ApiKeys
    from mlops_assets.serving.prompts.settings import decode_settings

    if importlib.util.find_spec("httpx") is None:
        raise MissingExtraError.from_extra("httpx", "llm")
    settings = decode_settings(spec.settings)
    if settings.keys_env is not None:
        ApiKeys(settings.keys_env)
    if settings.otlp_endpoint is not None:
        require_protobuf()
    if settings.otlp_headers_env is not None:
        read_headers(settings.otlp_headers_env)


def _refuse_unready(spec: ServiceSpec) -> None:
    """Raise ServiceError, before any process is started, if there is no champion, no readable registry or no writable log."""
    from mlops_assets.serving.logs.day_log import find_write_problem

    champion, unreadable = _read_champion(spec)
    if unreadable:
        raise ServiceError(f"service '{spec.name}': {unreadable}", hint="check that MLOPS_REGISTRY can be reached")
    if champion is None:
        keys = ", ".join(build_graph_key(f"{kind}/{spec.model}") for kind in (spec.kind, "version", "champion"))
        raise ServiceError(
            f"service '{spec.name}' has no champion of '{spec.model}' in environment '{spec.environment}'",
            hint=f"{'train' if spec.kind == 'model' else 'evaluate'} and promote one: materialise {keys}",
        )
    if problem := find_write_problem(spec.folder.find_log(spec), what=spec.log_name):
        raise ServiceError(f"service '{spec.name}': {problem}", hint="free disk space, or make the folder writable")


def _read_champion(spec: ServiceSpec) -> tuple[Version | None, str]:
    """Return the champion, None if there is none, and the reason why the registry cannot be read, ``""`` if it can."""
    from mlops_assets.stores.registry.registry import open_registry

    try:
        return open_registry(spec.registry, spec.environment).champion(spec.model), ""
    except Exception as error:  # noqa: BLE001  (any error of the database's driver)
        return None, f"the registry cannot be read ({error.message if isinstance(error, MlopsError) else type(error).__name__})"


def _read_wanted_state(folder: ServiceFolder) -> Literal["running", "stopped", "never started", "unknown"]:
    facts = folder.read_or_none(folder.wanted)
    if facts is None:
        return "unknown" if folder.wanted.exists() else "never started"
    return "running" if facts["state"] == "running" else "stopped"


def _restore_wanted(folder: ServiceFolder, before: dict[str, object] | None) -> None:
    """Write the previous wanted state; if there was none, delete the files of the wanted state and of the spec."""
    if before is None:
        folder.wanted.unlink(missing_ok=True)
        folder.spec.unlink(missing_ok=True)
    else:
        write_json(folder.wanted, before)


def _start_supervisor(spec: ServiceSpec, folder: ServiceFolder, until: float) -> None:
    """Write the spec, start the detached supervisor and wait until it listens.

    The output of earlier processes is rotated when it has become large.
    """
    write_json(folder.spec, asdict(spec))
    if folder.output.exists() and folder.output.stat().st_size > _MAX_OUTPUT_BYTES:
        folder.output.replace(folder.output.with_suffix(".log.1"))
    with folder.output.open("ab") as output:
        launched = subprocess.run(  # noqa: S603  (our own module)
            [sys.executable, "-m", entry_points.MODULE, entry_points.SUPERVISOR, str(folder.path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
            start_new_session=True,
            check=False,
            env=child_environment(),  # a model may hold classes of the project
        )
    if launched.returncode:
        fallback = f"it ended with code {launched.returncode} and wrote nothing: look at the machine's memory and disk"
        raise ServiceError(f"the supervisor of '{spec.name}' did not start", hint=_build_log_hint(folder, fallback))
    _await_supervisor(spec, folder, int(launched.stdout), until)


def _await_supervisor(spec: ServiceSpec, folder: ServiceFolder, pid: int, until: float) -> None:
    """Wait until the supervisor listens.

    Raise ServiceError when the supervisor ends before that. After ``until`` (monotonic seconds), end it and raise ServiceError.
    """
    while True:
        facts = folder.read_or_none(folder.supervisor) or {}
        if _is_running(facts) and facts.get("url"):
            return
        if read_start_time(pid) is None:
            facts = folder.read_or_none(folder.supervisor) or {}
            if facts.get("pid") == pid and facts.get("problem"):
                raise ServiceError(facts["problem"], hint=facts.get("hint", _build_log_hint(folder, "run `mlops doctor`")))
            fallback = f"process {pid} wrote nothing before it ended, so it may have been killed: look at the machine's memory"
            raise ServiceError(f"the supervisor of '{spec.name}' ended while it was starting", hint=_build_log_hint(folder, fallback))
        if time.monotonic() > until:
            _signal(pid, signal.SIGTERM)  # no state file names it, so `stop` would not find it
            fallback = "it wrote nothing and was still starting: the machine may be busy; start the service again"
            raise ServiceError(f"the supervisor of '{spec.name}' does not report where it listens", hint=_build_log_hint(folder, fallback))
        time.sleep(_POLL_SECONDS)


def _await_champion(spec: ServiceSpec, folder: ServiceFolder, until: float) -> ServiceStatus:
    """Wait until every worker answers with the champion; raise ServiceError when that fails, or after ``until`` (monotonic seconds)."""
    while True:
        now = status(spec.home, spec.name, spec)
        alive = [w for w in now.workers if w.running]
        if now.running and not now.problem and len(alive) == spec.workers and all(w.version == now.champion for w in alive):
            return now
        refused = (folder.read_or_none(folder.supervisor) or {}).get("refused")
        if not now.running or (now.champion is not None and now.champion in (refused, *(w.failed for w in alive))):
            reason = status(spec.home, spec.name).problem
            raise ServiceError(f"service '{spec.name}' does not answer with version {now.champion}: {reason}", hint=_rollback_hint(folder))
        if time.monotonic() > until:
            versions = ", ".join(f"worker {w.index}: {w.version or 'none'}" for w in alive) or "no worker runs"
            raise ServiceError(
                f"service '{spec.name}' does not answer with version {now.champion} in time ({versions})"
                + (f": {now.problem}" if now.problem else ""),
                hint=_rollback_hint(folder),
            )
        time.sleep(_POLL_SECONDS)


def _rollback_hint(folder: ServiceFolder) -> str:
    rollback = "to return to the previous version: mlops models rollback"
    return "; ".join(dict.fromkeys([_build_log_hint(folder, rollback), rollback]))


def _build_log_hint(folder: ServiceFolder, fallback: str) -> str:
    """Return a hint that names the log, or ``fallback`` where the log is empty."""
    return f"{folder.output} has details" if folder.output.exists() and folder.output.stat().st_size else fallback


def _stop_processes(folder: ServiceFolder, timeout: float | None) -> None:
    """End the supervisor, which ends its workers; after ``timeout`` seconds kill the remaining processes by their ids.

    With None, requests in flight get the time that the spec of the running processes gives them.
    """
    if timeout is None:
        spec = folder.read_spec_or_none()
        timeout = (MIN_DRAIN_SECONDS if spec is None else spec.drain_seconds) + _MAX_STOP_SECONDS
    facts, unnamed = _read_supervisor(folder), _find_unnamed_processes(folder, entry_points.SUPERVISOR, entry_points.WORKER)
    for pid in [facts["pid"]] if _is_running(facts) else _find_unnamed_processes(folder, entry_points.SUPERVISOR):
        _signal(pid, signal.SIGTERM)
    until = time.monotonic() + timeout
    while _find_remaining_processes(folder, facts, unnamed) and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)
    for pid in _find_remaining_processes(folder, facts, unnamed):
        _signal(pid, signal.SIGKILL)
    while _find_remaining_processes(folder, facts, unnamed):
        time.sleep(_POLL_SECONDS)


def _find_remaining_processes(folder: ServiceFolder, facts: Mapping[str, Any], unnamed: Mapping[int, float]) -> set[int]:
    """Return the ids of the supervisor, of the unnamed processes and of the reported workers that still run."""
    supervisor = {int(facts["pid"])} if _is_running(facts) else set()
    alive = {pid for pid, began in unnamed.items() if is_alive(pid, began)}
    return supervisor | alive | {w.pid for w in folder.read_workers() if w.running}


def _is_running(facts: Mapping[str, Any]) -> bool:
    """Whether the process with the identity in a supervisor's report still runs."""
    pid, began = facts.get("pid"), facts.get("started")
    return isinstance(pid, int) and isinstance(began, float) and is_alive(pid, began)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
