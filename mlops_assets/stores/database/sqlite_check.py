"""Find damage in SQLite files."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from pathlib import Path


def find_sqlite_damage(path: Path) -> str:
    """Return a description of the damage in an existing SQLite file; ``""`` when every page is intact.

    Parameters
    ----------
    path
        The file, opened read-only.
    """
    if not path.stat().st_size:
        return "the file is empty"
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=30)) as connection:
            result = str(connection.execute("PRAGMA integrity_check(1)").fetchone()[0])
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if result == "ok" else " ".join(result.split())
