"""The versions of feature views. An earlier version stays readable in the last snapshot before the next version began."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mlops_assets.errors import RegistryError, suggest_name
from mlops_assets.stores.database import schema, sql
from mlops_assets.values.feature_types import PLAIN, format_type
from mlops_assets.values.features import Entity, FeatureView

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class ViewVersion:
    """One period in which a version of a feature view was current.

    Parameters
    ----------
    view, version
        The name and version of the view.
    definition
        The declaration as a JSON-like mapping.
    last_snapshot
        The last snapshot of the period; None for the current version.
    recorded_at
        The time at which the period began.
    """

    view: str
    version: str
    definition: Mapping[str, Any]
    last_snapshot: int | None
    recorded_at: datetime


class ViewVersions:
    """The versions of every feature view of a platform."""

    def __init__(self, database: sql.Database) -> None:
        self._database = database

    def declare(self, view: FeatureView, version: str, snapshot: int) -> None:
        """Record that a version becomes current; do nothing when it already is.

        Parameters
        ----------
        view
            The current declaration.
        version
            The version of the view.
        snapshot
            The last snapshot before the first write of this version.
        """
        newest = sa.select(schema.view_versions).filter_by(view=view.name).order_by(schema.view_versions.c.sequence.desc()).limit(1)
        with self._database.read_transaction() as connection:
            row = connection.execute(newest).mappings().first()
        if row is not None and row["version"] == version:
            return
        with self._database.write_transaction() as connection:
            row = connection.execute(newest).mappings().first()
            if row is None or row["version"] != version:
                current = {
                    "view": view.name,
                    "version": version,
                    "definition": _describe_view(view),
                    "snapshot": snapshot,
                    "recorded_at": sql.timestamp(),
                }
                connection.execute(schema.view_versions.insert().values(**current))

    def list_versions(self, name: str) -> list[ViewVersion]:
        """Return the versions of a view that were not removed, newest first; a version that was current twice is listed twice."""
        with self._database.read_transaction() as connection:
            rows = (
                connection.execute(sa.select(schema.view_versions).filter_by(view=name).order_by(schema.view_versions.c.sequence))
                .mappings()
                .all()
            )
        ends = [*(row["snapshot"] for row in rows), None][1:] if rows else []
        versions = [
            ViewVersion(name, row["version"], row["definition"], end, datetime.fromisoformat(row["recorded_at"]))
            for row, end in zip(rows, ends, strict=True)
            if row["removed_at"] is None
        ]
        return versions[::-1]

    def resolve(self, view: FeatureView) -> tuple[FeatureView, int | None]:
        """Return a pinned view as its version was declared, and the snapshot to read: None (the newest) for the current version.

        Raises
        ------
        RegistryError
            There is no such version, or it was removed.
        """
        versions = self.list_versions(view.name)
        match = next((version for version in versions if version.version == view.pinned), None)
        if match is None:
            names = [version.version for version in versions]
            raise RegistryError(
                f"'{view.key}' has no version '{view.pinned}'",
                hint=suggest_name(view.pinned, names) + (f"there are {', '.join(names)}" if names else "it has never been materialised"),
            )
        return _restore_view(view, match.definition), match.last_snapshot

    def remove(self, name: str, version: str) -> int:
        """Mark an earlier version as removed, so that its snapshots may expire; return in how many periods the version was current.

        Raises
        ------
        RegistryError
            The version is current, or does not exist.
        """
        versions = self.list_versions(name)
        if versions and versions[0].version == version:
            raise RegistryError(
                f"version '{version}' of 'features/{name}' is the current version", hint="change or drop the feature view first"
            )
        removal = schema.view_versions.update().where(
            schema.view_versions.c.view == name, schema.view_versions.c.version == version, schema.view_versions.c.removed_at.is_(None)
        )
        with self._database.write_transaction() as connection:
            removed = connection.execute(removal.values(removed_at=sql.timestamp())).rowcount
        if not removed:
            names = [earlier.version for earlier in versions]
            raise RegistryError(
                f"'features/{name}' has no version '{version}'",
                hint=suggest_name(version, names) + f"there are {', '.join(names) or 'none'}",
            )
        return int(removed)

    def pinned_snapshots(self) -> set[int]:
        """Return the last snapshots of the earlier versions, which must stay readable."""
        return {version.last_snapshot for version in self.list_earlier() if version.last_snapshot is not None}

    def list_earlier(self) -> list[ViewVersion]:
        """Return all earlier versions, of every view, that have not been removed."""
        with self._database.read_transaction() as connection:
            names: Sequence[str] = connection.execute(sa.select(schema.view_versions.c.view).distinct()).scalars().all()
        return [version for name in names for version in self.list_versions(name) if version.last_snapshot is not None]


def _describe_view(view: FeatureView) -> dict[str, Any]:
    return {
        "join_keys": list(view.entity.join_keys),
        "event_timestamp": view.event_timestamp,
        "created_timestamp": view.created_timestamp,
        "ttl": None if view.ttl is None else view.ttl.total_seconds(),
        "features": {name: format_type(kind) for name, kind in view.features},
        "defaults": {name: repr(value) for name, value in view.defaults},
    }


def _restore_view(view: FeatureView, definition: Mapping[str, Any]) -> FeatureView:
    """Return a view with the keys, time columns, ttl and features of an earlier definition, and with the renaming and pin of ``view``."""
    kinds = {kind.__name__: kind for kind in PLAIN}
    earlier = FeatureView(
        name=view.name,
        source=view.source,
        entity=Entity(view.entity.name, tuple(definition["join_keys"])),
        event_timestamp=definition["event_timestamp"],
        created_timestamp=definition["created_timestamp"],
        ttl=None if definition["ttl"] is None else timedelta(seconds=definition["ttl"]),
        features={name: kinds.get(label, list[float]) for name, label in definition["features"].items()},
    )
    pinned = earlier.at(view.pinned)
    return pinned.renamed(view.prefix, join_keys=dict(view.spine_keys)) if view.is_renamed else pinned


@cache
def open_view_versions(url: str) -> ViewVersions:
    """Return the view versions in the database at a SQLAlchemy URL; all callers in a process share one object."""
    return ViewVersions(sql.open_database(url))
