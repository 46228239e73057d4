"""Collect garbage: remove artifacts that no row of the database references, directly or through other artifacts."""

from __future__ import annotations

import fcntl
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from mlops_assets.errors import ArtifactError
from mlops_assets.stores.database import schema, sql

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mlops_assets.stores.artifacts.store import StoredFile
    from mlops_assets.stores.platform.stores import Stores
    from mlops_assets.values.platform import Platform

_NAME = re.compile(r"\b[0-9a-f]{64}\b")
_MAX_MANIFEST_BYTES = 20_000_000  # a larger file is not a manifest and references nothing


@dataclass(frozen=True)
class Garbage:
    """The result of a collection.

    Parameters
    ----------
    removed
        The removed files; in a dry run, the files that would be removed.
    remaining
        How many files remain.
    """

    removed: tuple[StoredFile, ...]
    remaining: int


def owns_artifacts(platform: Platform) -> bool:
    """Return whether the artifacts are in the platform's home; artifacts elsewhere may be shared with another registry."""
    return "://" not in platform.artifacts and Path(platform.home) in Path(platform.artifacts).parents


def collect_garbage(stores: Stores, *, older_than: timedelta, dry_run: bool = False) -> Garbage:
    """Remove artifacts that no row of the database references, directly or through another artifact.

    A file stays if it is younger than ``older_than``, or was stored after the start of any active run or training. Storing equal bytes
    again resets the age of a file.

    Parameters
    ----------
    stores
        The stores of the platform.
    older_than
        The minimum age of files to remove.
    dry_run
        Whether to report unreferenced files without removing them.
    """
    # Set before the database is read: an artifact that is recorded after the read is stored, or stored again, after the cutoff.
    cutoff = min([datetime.now(UTC) - older_than, *_list_start_times(stores)])
    stored = {file.name: file for file in stores.artifacts.files()}
    needed = find_reachable(stores, stored)
    old = [file for name, file in sorted(stored.items()) if name not in needed and file.at < cutoff]
    removed = tuple(file for file in old if dry_run or stores.artifacts.remove(file.name, before=cutoff))
    return Garbage(removed, len(stored) - len(removed))


def find_referring_tables(stores: Stores) -> dict[str, tuple[str, ...]]:
    """Return sha256 → the tables that contain it in a text or JSON column. A sha256 may name an artifact or hash something else."""
    owners: dict[str, tuple[str, ...]] = {}
    with sql.open_database(stores.platform.registry).read_transaction() as connection:
        for table in schema.META.sorted_tables:
            columns = [column for column in table.c if isinstance(column.type, (sa.String, sa.JSON))]
            for row in connection.execute(sa.select(*columns)) if columns else ():
                for name in set(_NAME.findall(" ".join(str(value) for value in row))):
                    if table.name not in owners.get(name, ()):
                        owners[name] = (*owners.get(name, ()), table.name)
    return owners


def find_reachable(stores: Stores, stored: Mapping[str, StoredFile]) -> set[str]:
    """Return the names of the stored artifacts that the database references, directly or through other artifacts."""
    reachable: set[str] = set()
    waiting = [name for name in find_referring_tables(stores) if name in stored]
    while waiting:
        name = waiting.pop()
        if name not in reachable:
            reachable.add(name)
            waiting += [reference for reference in _list_references(stores, stored[name]) if reference in stored]
    return reachable


def _list_references(stores: Stores, file: StoredFile) -> Iterator[str]:
    """Yield every sha256 in a JSON file, which may be a manifest; none for a damaged file, or one that is too large for a manifest."""
    if file.size > _MAX_MANIFEST_BYTES:
        return
    try:
        data = stores.artifacts.get(file.name)
    except ArtifactError:
        return
    if data[:1] in b"{[":
        yield from _NAME.findall(data.decode("utf-8", errors="ignore"))


def _list_start_times(stores: Stores) -> Iterator[datetime]:
    """Yield the start times of active runs, and of trainings that hold their lock."""
    with sql.open_database(stores.platform.registry).read_transaction() as connection:
        started_at: list[str] = list(connection.execute(sa.select(schema.runs.c.started_at).filter_by(status="running")).scalars())
    yield from (datetime.fromisoformat(at) for at in started_at)
    for path in sorted((Path(stores.platform.home) / "locks").glob("train_*")):
        with path.open("a+", encoding="ascii") as file:
            started = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            try:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield started
