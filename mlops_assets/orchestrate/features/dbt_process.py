"""The command ``mlops-dbt``: dbt in a process that holds the lake's lock.

The process that writes must hold the lock: when its parent is killed, dbt continues and keeps the lock.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mlops_assets.stores.base.lock import hold_lock

LOCK_FILE = "lake_lock"
_WRITES = frozenset({"build", "run", "seed", "snapshot", "run-operation", "clone", "retry"})


def main() -> None:
    """Run dbt with the arguments of this process; a command that writes holds the lake's lock, and waits for it first."""
    from dbt.cli.main import cli

    lock = find_lock_path(sys.argv[1:], os.environ.get("DBT_PROFILES_DIR", ""))
    if lock is None or not _WRITES & set(sys.argv[1:]):
        cli()
        return
    with hold_lock(lock):
        cli()


def find_lock_path(arguments: list[str], profiles_folder: str) -> Path | None:
    """Return the path of the lake's lock, read from a file in the folder of the profiles; None without such a file.

    The argument ``--profiles-dir`` overrides ``profiles_folder``.
    """
    if "--profiles-dir" in arguments[:-1]:
        profiles_folder = arguments[arguments.index("--profiles-dir") + 1]
    file = Path(profiles_folder) / LOCK_FILE
    return Path(file.read_text(encoding="utf-8").strip()) if profiles_folder and file.exists() else None


if __name__ == "__main__":
    main()
