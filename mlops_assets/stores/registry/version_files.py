"""The files of a version apart from its manifest, by name. A name that is written never changes its file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops_assets.stores.database import schema, sql
from mlops_assets.stores.database.cached_statements import build_insert, build_select

if TYPE_CHECKING:
    from collections.abc import Mapping


class VersionFiles:
    """The files of every version of one platform."""

    def __init__(self, database: sql.Database) -> None:
        self._database = database

    def list_files(self, model: str, version: int) -> dict[str, str]:
        """Return name → sha256 of a version's files."""
        values = {"model": model, "version": version}
        with self._database.read_transaction() as connection:
            return {row.name: row.sha256 for row in connection.execute(build_select(schema.version_files, *values), values)}

    def add(self, model: str, version: int, files: Mapping[str, str]) -> dict[str, str]:
        """Add files to a version and return name → sha256 of all its files; a name that exists keeps its earlier file.

        Parameters
        ----------
        model, version
            The version.
        files
            Name → sha256 of bytes in the artifact store.
        """
        values = {"model": model, "version": version}
        with self._database.write_transaction() as connection:
            existing = {row.name: row.sha256 for row in connection.execute(build_select(schema.version_files, *values), values)}
            new = {name: sha256 for name, sha256 in files.items() if name not in existing}
            if new:
                connection.execute(
                    build_insert(schema.version_files), [{**values, "name": n, "sha256": s, "at": sql.timestamp()} for n, s in new.items()]
                )
        return existing | new


def open_version_files(url: str) -> VersionFiles:
    """Open the files of versions at a SQLAlchemy URL."""
    return VersionFiles(sql.open_database(url))
