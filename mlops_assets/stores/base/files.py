"""Atomic file writes."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def write_atomically(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write a file by renaming a temporary one: readers see either the old or the new content, even after a kill.

    Parameters
    ----------
    path
        The file; its folder is created if needed.
    data
        The content, forced to the disk before the rename.
    mode
        The permissions of the file, less the umask.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{secrets.token_hex(8)}")  # short: the name itself may be as long as the file system allows
    try:
        with open(partial, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
