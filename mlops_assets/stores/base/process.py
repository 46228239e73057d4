"""Identify processes, to find out whether the owner of a file or run is still alive, and describe this machine."""

from __future__ import annotations

import os
import platform
import socket
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping


def identify_process(pid: int | None = None) -> dict[str, str]:
    """Return the identity of a process as text: ``host``, ``boot`` (id), ``pid``, and ``started``, empty when the process has ended.

    Parameters
    ----------
    pid
        The process id; the current process when None.
    """
    number = os.getpid() if pid is None else pid
    return {"host": socket.gethostname(), "boot": _boot_id(), "pid": str(number), "started": read_start_time(number) or ""}


def is_gone(process: Mapping[str, str]) -> bool:
    """Return whether a process of this machine has ended; False for other machines and incomplete identities, which cannot be checked.

    Parameters
    ----------
    process
        The identity that :func:`identify_process` returned.
    """
    if not all(process.get(name) for name in ("host", "boot", "pid")) or process["host"] != socket.gethostname():
        return False
    return process["boot"] != _boot_id() or read_start_time(int(process["pid"])) != process.get("started")


def read_start_time(pid: int) -> str | None:
    """Return when a process was started, in seconds since 1970 as text; None when it has ended or is a zombie."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return None


@cache
def describe_machine() -> Mapping[str, Any]:
    """Return host, operating system, Python version, CPU count and memory in GiB, which explain durations and differences of runs."""
    return {
        "host": socket.gethostname(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "cpus": os.cpu_count() or 1,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }


def _boot_id() -> str:
    kernel = Path("/proc/sys/kernel/random/boot_id")
    return kernel.read_text(encoding="ascii").strip() if kernel.exists() else str(int(psutil.boot_time()))
