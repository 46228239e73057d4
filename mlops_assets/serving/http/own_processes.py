"""Which processes serve a folder: a copy of the folder holds the same files, and none of the processes."""

from __future__ import annotations

import itertools
from pathlib import Path

from mlops_assets import entry_points


def label_of(folder: Path) -> str:
    """Return what tells a folder from a copy of it: its number on the disk, which a move keeps, and its path.

    Parameters
    ----------
    folder
        Of a service; it exists.
    """
    found = folder.stat()
    return f"{found.st_dev}:{found.st_ino} {folder.resolve()}"


def is_label_of(label: str, folder: Path) -> bool:
    """Whether a label was made of this folder, here or before the folder was moved.

    Parameters
    ----------
    label
        As :func:`label_of` returned it.
    folder
        Of a service.
    """
    if not folder.is_dir():
        return False
    return any(then == now for then, now in zip(label.split(" ", 1), label_of(folder).split(" ", 1), strict=False))


def path_of(label: str) -> str:
    """Return the path in a label."""
    return label.partition(" ")[2]


def find_processes(folder: Path, *roles: str) -> dict[int, float]:
    """Return the processes that were started for a folder, found by their command lines.

    Parameters
    ----------
    folder
        Of a service.
    roles
        ``supervisor`` or ``worker``.

    Returns
    -------
    dict
        Process id → when it began, seconds since 1970.
    """
    import psutil

    found: dict[int, float] = {}
    for process in psutil.process_iter(["cmdline", "status", "create_time"]):
        arguments = process.info["cmdline"] or ()
        pairs = itertools.pairwise(arguments) if entry_points.MODULE in arguments else ()
        serves = any(role in roles and Path(path).resolve() == folder.resolve() for role, path in pairs)
        if serves and process.info["status"] != psutil.STATUS_ZOMBIE:
            found[process.pid] = process.info["create_time"]
    return found
