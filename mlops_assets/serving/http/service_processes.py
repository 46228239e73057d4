"""The processes of a service's folder; a copy of the folder has the same files and no process."""

from __future__ import annotations

import itertools
from pathlib import Path

from mlops_assets import entry_points


def make_label(folder: Path) -> str:
    """Return a label that distinguishes a folder from its copies: its device and inode, which a move keeps, and its path.

    Parameters
    ----------
    folder
        An existing folder of a service.
    """
    info = folder.stat()
    return f"{info.st_dev}:{info.st_ino} {folder.resolve()}"


def is_label_of(label: str, folder: Path) -> bool:
    """Whether a label belongs to this folder: its device and inode are equal, as after a move, or its path is equal.

    Parameters
    ----------
    label
        Returned by :func:`make_label`.
    folder
        Folder of a service; the result is False if it does not exist.
    """
    if not folder.is_dir():
        return False
    return any(labelled == current for labelled, current in zip(label.split(" ", 1), make_label(folder).split(" ", 1), strict=False))


def read_label_path(label: str) -> str:
    """Return the path in a label."""
    return label.partition(" ")[2]


def find_processes(folder: Path, *roles: str) -> dict[int, float]:
    """Find the running processes of a folder by their command lines.

    Parameters
    ----------
    folder
        Folder of a service.
    roles
        ``supervisor`` or ``worker``.

    Returns
    -------
    dict
        Process id → start time, seconds since 1970.
    """
    import psutil

    started: dict[int, float] = {}
    for process in psutil.process_iter(["cmdline", "status", "create_time"]):
        arguments = process.info["cmdline"] or ()
        pairs = itertools.pairwise(arguments) if entry_points.MODULE in arguments else ()
        serves = any(role in roles and Path(path).resolve() == folder.resolve() for role, path in pairs)
        if serves and process.info["status"] != psutil.STATUS_ZOMBIE:
            started[process.pid] = process.info["create_time"]
    return started
