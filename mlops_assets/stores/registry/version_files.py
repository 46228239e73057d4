"""What belongs to a version beside its manifest, by name: written once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops_assets.stores.database import schema, sql
from mlops_assets.stores.database.statements import insertion, rows_of

if TYPE_CHECKING:
    from collections.abc import Mapping


class VersionFiles:
    """The files of every version of one platform."""

    def __init__(self, database: sql.Database) -> None:
        self._database = database

    def of(self, model: str, version: int) -> dict[str, str]:
        """Return name → sha256 of a version's files."""
        asked = {"model": model, "version": version}
        with self._database.reading() as connection:
            return {row.name: row.sha256 for row in connection.execute(rows_of(schema.version_files, *asked), asked)}

    def add(self, model: str, version: int, files: Mapping[str, str]) -> dict[str, str]:
        """Add files to a version and return all that it has; a name that it has already stays what it is.

        Parameters
        ----------
        model, version
            Whose.
        files
            Name → sha256 of stored bytes.
        """
        asked = {"model": model, "version": version}
        with self._database.writing() as connection:
            known = {row.name: row.sha256 for row in connection.execute(rows_of(schema.version_files, *asked), asked)}
            new = {name: sha256 for name, sha256 in files.items() if name not in known}
            if new:
                connection.execute(
                    insertion(schema.version_files), [{**asked, "name": n, "sha256": s, "at": sql.now()} for n, s in new.items()]
                )
        return known | new


def open_version_files(url: str) -> VersionFiles:
    """Open the files of versions at a SQLAlchemy URL."""
    return VersionFiles(sql.database(url))
