"""Find the snapshots of the lake that must stay readable, and the artifacts of versions with an alias."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import sqlalchemy as sa

from mlops_assets.stores.database import schema, sql

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from mlops_assets.stores.platform.stores import Stores


def collect_pins(stores: Stores, online: Collection[str] = ()) -> Mapping[int, tuple[str, ...]]:
    """Return snapshot → names of the versions, runs and views that need the snapshot to stay readable.

    Parameters
    ----------
    stores
        The stores of the platform.
    online
        The names of the views whose next online update continues from the snapshot of the last update.
    """
    pins: dict[int, tuple[str, ...]] = {}
    for snapshot, user in _list_pins(stores, online):
        pins[snapshot] = (*pins.get(snapshot, ()), user)
    return dict(sorted(pins.items()))


def list_aliased_artifacts(stores: Stores) -> list[str]:
    """Return the artifact (sha256) of every version that has an alias, in any environment."""
    is_aliased = sa.and_(schema.aliases.c.model == schema.versions.c.model, schema.aliases.c.version == schema.versions.c.version)
    with sql.open_database(stores.platform.registry).read_transaction() as connection:
        return list(connection.execute(sa.select(schema.versions.c.artifact).join(schema.aliases, is_aliased).distinct()).scalars())


def _list_pins(stores: Stores, online: Collection[str]) -> Iterator[tuple[int, str]]:
    """Yield each needed snapshot with the name of the version, run, view version or online view that needs it."""
    for version in stores.registry.versions():
        yield version.snapshot, f"{version.model}@{version.version}"
    for run_id, model, snapshot in stores.tracker.pinned_snapshots():
        yield snapshot, f"run {run_id[:8]} of {model}"
    for earlier in stores.view_versions.list_earlier():
        yield earlier.last_snapshot or 0, f"features/{earlier.view} as {earlier.version}"
    for view in sorted(online):
        state = stores.online.state(view)
        if state is not None and state.mark:
            yield json.loads(state.mark)[1], f"online/{view}"  # mark: definition, snapshot, …
