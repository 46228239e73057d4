"""Connections to a DuckLake: load DuckDB's extensions from installed wheels, and attach the lake with options that concurrent writers need."""

from __future__ import annotations

import importlib.util
import os
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from mlops_assets.errors import InstallationError, LakeError
from mlops_assets.stores.base.lock import hold_lock
from mlops_assets.stores.database.sqlite_check import find_sqlite_damage
from mlops_assets.stores.lake.maintenance import Leases

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from mlops_assets.stores.lake.protocol import PartitionRecord

_EXTENSIONS = {"ducklake": "duckdb_extension_ducklake", "sqlite_scanner": "duckdb_extension_sqlite_scanner"}
# The catalog stores the folder in which it was created; the override lets a moved or copied lake read its own files.
_ATTACH_OPTIONS = {
    "META_JOURNAL_MODE": "'WAL'",
    "META_BUSY_TIMEOUT": "30000",
    "DATA_INLINING_ROW_LIMIT": "0",
    "OVERRIDE_DATA_PATH": "1",  # not TRUE: a dbt profile quotes the value, and DuckLake rejects the text 'true'
}
# The extensions come from installed wheels, which pip has verified. DuckDB's own check of their signatures costs a third of a second in
# each process. These connections run the package's statements only.
_CONFIG: dict[str, str | bool | int | float | list[str]] = {"allow_unsigned_extensions": True}
_INLINING_LIMIT = "SELECT value FROM ducklake_options('lake') WHERE option_name = 'data_inlining_row_limit'"


class LakeConnections:
    """The folder of a lake, and the connections of this process to it.

    Parameters
    ----------
    folder
        An absolute path; created if needed.

    Raises
    ------
    InstallationError
        The folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.catalog_path = folder / "catalog.sqlite"
        self.data_path = folder / "data"
        self.lock_path = folder / "lock"
        self.leases = Leases(folder / "leases")
        self._local = threading.local()
        try:
            self.data_path.mkdir(parents=True, exist_ok=True)
            self.lock_path.touch()
        except OSError as error:
            raise InstallationError(
                f"the lake's folder '{folder}' cannot be written: {error.strerror}",
                hint="make it writable, or set MLOPS_HOME to another folder",
            ) from error

    def lock(self) -> AbstractContextManager[None]:
        """Hold the lock that admits one writer of the lake at a time."""
        return hold_lock(self.lock_path)

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Return this thread's connection, opened at first use; a forked process opens a new connection.

        Raises
        ------
        InstallationError
            DuckDB's extensions are not installed.
        LakeError
            The catalog is damaged, or is missing while files of rows remain.
        """
        if getattr(self._local, "pid", None) != os.getpid():
            self._local.connection, self._local.records = self._open(), {}
            self._local.pid = os.getpid()
        return self._local.connection  # type: ignore[no-any-return]

    def open_record_cache(self) -> dict[tuple[str, int], dict[str, PartitionRecord]]:
        """Return what this thread's connection keeps of the records that it has read: (table, snapshot) → partition key → record."""
        self.cursor()
        return self._local.records  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close this thread's connection; the next use opens another."""
        if getattr(self._local, "pid", None) == os.getpid():
            self._local.connection.close()
            self._local.pid = None

    def _open(self) -> duckdb.DuckDBPyConnection:
        """Open a connection with the lake attached; create the catalog if there are no rows yet."""
        connection = duckdb.connect(config=_CONFIG)
        _load_extensions(connection)
        with self.lock():
            connection.execute("SET TimeZone = 'UTC'")
            if not self.catalog_path.exists() or not self.catalog_path.stat().st_size:
                self._refuse_leftovers()
            try:
                connection.execute(self.attach_sql())
                is_new = connection.execute(_INLINING_LIMIT).fetchone() is None
            except duckdb.Error as error:
                raise build_damaged_lake_error(self.folder, error) from error
            if is_new:  # or the process that created it was killed before it set the option
                self._refuse_leftovers()
                connection.execute("CALL lake.set_option('data_inlining_row_limit', 0)")
        return connection

    def _refuse_leftovers(self) -> None:
        """Raise LakeError when data files exist; the caller has found that their catalog is missing or empty."""
        files = sorted(self.data_path.rglob("*.parquet"))
        if files:
            raise LakeError(
                f"the lake's catalog '{self.catalog_path}' is missing or empty, but {len(files)} file(s) of rows remain, such as '{files[0]}'",
                hint=f"restore the catalog from a backup; to begin again without these rows, move '{self.data_path}' away first",
            )

    def attach_sql(self) -> str:
        """Return the statement that attaches this lake as ``lake``."""
        options = ", ".join(f"{name} {value}" for name, value in _ATTACH_OPTIONS.items())
        return (
            f"ATTACH 'ducklake:sqlite:{_escape_path(self.catalog_path)}' AS lake (DATA_PATH '{_escape_path(self.data_path)}/', {options})"
        )


@dataclass(frozen=True)
class LakeAttachment:
    """The settings with which DuckDB in another process, such as dbt, attaches a lake.

    Parameters
    ----------
    path
        The catalog, as ``ducklake:sqlite:<file>``.
    options
        Options of ``ATTACH``, in the form of a dbt profile.
    lock_path
        The path of the lock file that every writer holds.
    """

    path: str
    options: Mapping[str, str]
    lock_path: Path


def describe_attachment(folder: Path) -> LakeAttachment:
    """Return the settings with which another process attaches a lake as this package does; the folder is created if needed."""
    lake = LakeConnections(folder.absolute())
    options = {name.lower(): value.strip("'") for name, value in _ATTACH_OPTIONS.items()}
    return LakeAttachment(f"ducklake:sqlite:{lake.catalog_path}", {"data_path": f"{lake.data_path}/", **options}, lake.lock_path)


def build_damaged_lake_error(folder: Path, error: Exception) -> LakeError:
    """Return the error for a damaged or missing file of the lake, given an error of DuckDB; it names the catalog when that is damaged."""
    reason, catalog = str(error).strip().splitlines()[0], folder / "catalog.sqlite"
    if problem := find_sqlite_damage(catalog) if catalog.is_file() else "":
        return LakeError(f"the lake's catalog '{catalog}' is damaged: {problem}", hint="restore it from a backup")
    return LakeError(
        f"the lake in '{folder}' cannot be read: {reason}",
        hint="a file of the lake is damaged or missing: `mlops doctor` names it; restore it from a backup",
    )


def _escape_path(path: Path) -> str:
    return str(path).replace("'", "''")


def _load_extensions(connection: duckdb.DuckDBPyConnection) -> None:
    """Load DuckDB's extensions into a connection that was opened with :data:`_CONFIG`.

    Raises
    ------
    InstallationError
        DuckDB's extensions are not installed.
    """
    for name, package in _EXTENSIONS.items():
        file = _extension_file(package)
        try:
            connection.execute(f"LOAD '{_escape_path(file)}'" if file else f"LOAD {name}")
        except duckdb.Error as error:
            wheel = package.replace("_", "-")
            raise InstallationError(
                f"DuckDB {duckdb.__version__} cannot load its extension '{name}': {error}",
                hint=f"pip install '{wheel}=={duckdb.__version__}'",
            ) from error


def link_extensions(directory: Path) -> None:
    """Fill an ``extension_directory`` of DuckDB with links to the extensions of the installed wheels.

    Parameters
    ----------
    directory
        The folder, created if needed. Programs that load extensions by name, such as dbt, use this folder.
    """
    platform = duckdb.execute("PRAGMA platform").fetchone()
    assert platform is not None  # noqa: S101  (it returns one row)
    place = directory / f"v{duckdb.__version__}" / platform[0]
    place.mkdir(parents=True, exist_ok=True)
    for package in _EXTENSIONS.values():
        if (file := _extension_file(package)) and (link := place / file.name).resolve() != file.resolve():
            new = place / f".{os.getpid()}-{file.name}"
            new.symlink_to(file)
            new.replace(link)


@cache
def _extension_file(package: str) -> Path | None:
    """Return the extension file of this DuckDB version in its wheel; None when it is not installed."""
    spec = importlib.util.find_spec(package)
    roots = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    return next((file for root in roots for file in root.rglob("*.duckdb_extension") if f"v{duckdb.__version__}" in file.parts), None)
