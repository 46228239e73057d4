"""Explain errors of a database or of the lake with a message and a hint instead of a traceback."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_assets.errors import InstallationError, MlopsError
from mlops_assets.values.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Iterator


def explain_damage(error: BaseException) -> MlopsError | None:
    """Return the MlopsError among an exception's causes, or an error about the database or lake that failed; else None.

    Parameters
    ----------
    error
        The error that the command raised.
    """
    import duckdb
    import sqlalchemy as sa

    from mlops_assets.stores.lake.connection import build_damaged_lake_error

    for cause in _iterate_causes(error):
        if isinstance(cause, MlopsError):
            return cause
        if isinstance(cause, duckdb.Error):
            return build_damaged_lake_error(Path(Platform.from_env().lake), cause)
        if isinstance(cause, (sqlite3.DatabaseError, sa.exc.DatabaseError)):
            return _explain_database_error(cause)
    return None


def _explain_database_error(error: Exception) -> MlopsError:
    """Return an error that names the first damaged database of the environment's platform, or quotes ``error`` if none is damaged."""
    from mlops_assets.orchestrate.core.dagster_files import find_damaged_databases, prepare_dagster_home
    from mlops_assets.stores.database.sqlite_check import find_sqlite_damage

    platform = Platform.from_env()
    databases = [Path(platform.lake) / "catalog.sqlite", Path(platform.registry.removeprefix("sqlite:///"))]
    broken = [(path, problem) for path in databases if path.is_file() and (problem := find_sqlite_damage(path))]
    broken += find_damaged_databases(prepare_dagster_home(platform))
    where = f"'{broken[0][0]}' is damaged: {broken[0][1]}" if broken else f"a database cannot be used: {_join_lines(error)}"
    return InstallationError(where, hint="restore it from a backup; `mlops doctor` examines everything else")


def _iterate_causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _join_lines(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
