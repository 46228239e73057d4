"""The command ``mlops-dbt``: dbt in a process that holds the lake's lock.

The lock must belong to the process that writes: when the parent is killed, dbt continues and keeps the lock.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mlops_assets.stores.base.lock import hold_lock

LOCK_FILE = "lake_lock"
_WRITES = frozenset({"build", "run", "seed", "snapshot", "run-operation", "clone", "retry"})


def main() -> None:
    """Run dbt with the arguments of this process; a command that writes waits for the lake."""
    from dbt.cli.main import cli

    lock = find_lock_path(sys.argv[1:], os.environ.get("DBT_PROFILES_DIR", ""))
    if lock is None or not _WRITES & set(sys.argv[1:]):
        cli()
        return
    with hold_lock(lock):
        cli()


def find_lock_path(arguments: list[str], profiles: str) -> Path | None:
    """Return the lock that a file next to the profiles names; None without such a file."""
    if "--profiles-dir" in arguments[:-1]:
        profiles = arguments[arguments.index("--profiles-dir") + 1]
    file = Path(profiles) / LOCK_FILE
    return Path(file.read_text(encoding="utf-8").strip()) if profiles and file.exists() else None


if __name__ == "__main__":
    main()
