"""Artifacts that nothing names: found by walking from every row of the database through everything that is stored."""

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
_MAX_MANIFEST_BYTES = 20_000_000  # bytes; a larger file is not a manifest and names nothing


@dataclass(frozen=True)
class Garbage:
    """What was collected.

    Parameters
    ----------
    removed
        Files that nothing names and that are old enough; in a dry run, those that would go.
    left
        How many files stay.
    """

    removed: tuple[StoredFile, ...]
    left: int


def is_own(platform: Platform) -> bool:
    """Whether the artifacts lie below the platform's home: elsewhere another registry may name them, which this one cannot know."""
    return "://" not in platform.artifacts and Path(platform.home) in Path(platform.artifacts).parents


def collect_garbage(stores: Stores, *, older_than: timedelta, dry: bool = False) -> Garbage:
    """Remove artifacts that no row of the database names, directly or through another artifact.

    What is being written now stays: nothing younger than ``older_than`` goes, nor than the beginning of any run or training that goes on,
    and storing bytes that are there already counts as storing them now.

    Parameters
    ----------
    stores
        The platform's.
    older_than
        Grace.
    dry
        Remove nothing.
    """
    cutoff = min(
        [datetime.now(UTC) - older_than, *_running_since(stores)]
    )  # before the look at the database: what is recorded later was stored later
    stored = {file.name: file for file in stores.artifacts.files()}
    needed = find_reachable(stores, stored)
    old = [file for name, file in sorted(stored.items()) if name not in needed and file.at < cutoff]
    removed = tuple(file for file in old if dry or stores.artifacts.remove(file.name, before=cutoff))
    return Garbage(removed, len(stored) - len(removed))


def referenced_artifacts(stores: Stores) -> dict[str, tuple[str, ...]]:
    """Return every name of an artifact that a row of the database holds, in whichever column, with the rows' tables."""
    found: dict[str, tuple[str, ...]] = {}
    with sql.open_database(stores.platform.registry).read_transaction() as connection:
        for table in schema.META.sorted_tables:
            columns = [column for column in table.c if isinstance(column.type, (sa.String, sa.JSON))]
            for row in connection.execute(sa.select(*columns)) if columns else ():
                for name in set(_NAME.findall(" ".join(str(value) for value in row))):
                    if table.name not in found.get(name, ()):
                        found[name] = (*found.get(name, ()), table.name)
    return found


def find_reachable(stores: Stores, stored: Mapping[str, StoredFile]) -> set[str]:
    """Return the names of all that the database names, and of all that these files name in turn."""
    found: set[str] = set()
    waiting = [name for name in referenced_artifacts(stores) if name in stored]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [named for named in _list_references(stores, stored[name]) if named in stored]
    return found


def _list_references(stores: Stores, file: StoredFile) -> Iterator[str]:
    """Yield what a manifest names; a file that is damaged is kept, and names nothing."""
    if file.size > _MAX_MANIFEST_BYTES:
        return
    try:
        data = stores.artifacts.get(file.name)
    except ArtifactError:
        return
    if data[:1] in b"{[":
        yield from _NAME.findall(data.decode("utf-8", errors="ignore"))


def _running_since(stores: Stores) -> Iterator[datetime]:
    """Yield when the runs and trainings began that go on."""
    with sql.open_database(stores.platform.registry).read_transaction() as connection:
        begun_at: list[str] = list(connection.execute(sa.select(schema.runs.c.started_at).filter_by(status="running")).scalars())
    yield from (datetime.fromisoformat(at) for at in begun_at)
    for path in sorted((Path(stores.platform.home) / "locks").glob("train_*")):
        with path.open("a+", encoding="ascii") as file:
            begun = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            try:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield begun
