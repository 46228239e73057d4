"""The command ``mlops-dbt``: dbt in a process that holds the lake's lock.

The process that writes must hold the lock: when its parent is killed, dbt continues and keeps the lock.
"""

from __future__ import annotations

import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_assets.stores.base.lock import hold_lock

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LOCK_FILE = "lake_lock"
_PROFILES_OPTION = "--profiles-dir"
_PROFILES_VARIABLES = ("DBT_ENGINE_PROFILES_DIR", "DBT_PROFILES_DIR")  # dbt prefers the first
_WRITES = frozenset({"build", "run", "seed", "snapshot", "run-operation", "clone", "retry", "test"})  # a test can store its failures


def main() -> None:
    """Run dbt with the arguments of this process; a command that writes holds the lake's lock, and waits for it first."""
    from dbt.cli.main import cli

    lock = find_lock_path(sys.argv[1:], os.environ)
    if lock is None or not _WRITES & set(sys.argv[1:]):
        cli()
        return
    with hold_lock(lock):
        cli()


def find_lock_path(arguments: Sequence[str], environment: Mapping[str, str]) -> Path | None:
    """Return the path of the lake's lock, read from a file in the folder of dbt's profiles; None without such a file.

    Parameters
    ----------
    arguments
        The arguments of dbt. ``--profiles-dir`` overrides the environment.
    environment
        The environment variables of dbt.
    """
    file = _find_profiles_folder(arguments, environment) / LOCK_FILE
    return Path(file.read_text(encoding="utf-8").strip()) if file.exists() else None


def _find_profiles_folder(arguments: Sequence[str], environment: Mapping[str, str]) -> Path:
    """Return the folder from which dbt reads its profiles; without an argument or a variable, dbt's default."""
    named = [environment[name] for name in reversed(_PROFILES_VARIABLES) if environment.get(name)]
    for argument, following in pairwise([*arguments, ""]):
        name, equals, value = argument.partition("=")
        if name == _PROFILES_OPTION:
            named.append(value if equals else following)
    if named:
        return Path(named[-1])  # as dbt: the last argument
    return Path.cwd() if Path("profiles.yml").exists() else Path.home() / ".dbt"


if __name__ == "__main__":
    main()
