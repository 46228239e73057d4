"""The interface of the online feature store: for each view and entity, one packed record of the rows that a service may look up.

A lookup returns exactly the row of the point-in-time join: the last row whose ``valid_from`` is not later than the request.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mlops_assets.errors import InstallationError
from mlops_assets.stores.online.reader import FRESH, MISSING, STALE, FeatureColumns, FeatureRow, Lookup, OnlineReader, Status
from mlops_assets.stores.online.records import HISTORY, RecordSchema
from mlops_assets.values.asset_names import build_graph_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

__all__ = [
    "FRESH",
    "HISTORY",
    "MISSING",
    "STALE",
    "FeatureColumns",
    "FeatureRow",
    "Lookup",
    "OnlineReader",
    "OnlineStore",
    "Status",
    "ViewState",
    "WriteCounts",
]


@dataclass(frozen=True)
class WriteCounts:
    """The counts of one write.

    Parameters
    ----------
    rows
        The number of rows that were passed.
    entities
        The number of entities in these rows, plus the rebuilt entities without rows, whether or not they had a record.
    changed
        The number of new, changed and removed records; after a replacement, of all records.
    """

    rows: int
    entities: int
    changed: int


@dataclass(frozen=True)
class ViewState:
    """The state of a view in the store.

    Parameters
    ----------
    schema
        The schema of the view's records.
    entities
        The number of entities in the view.
    mark
        A text that the last materialisation wrote together with its rows; empty when there is none.
    """

    schema: RecordSchema
    entities: int
    mark: str

    @property
    def data(self) -> bytes:
        """The state as JSON, as the stores write it."""
        return json.dumps([self.schema.features, self.entities, self.mark]).encode()

    @classmethod
    def from_json(cls, data: bytes) -> ViewState:
        """Return the state from its :attr:`data`."""
        features, entities, mark = json.loads(data)
        return cls(RecordSchema(tuple((name, kind) for name, kind in features)), entities, mark)


class OnlineStore(Protocol):
    """Feature rows by view, entity and time.

    A layout is a result of :func:`mlops_assets.compute.features.point_in_time.sort_as_of`. Its columns are the join keys, ``__valid_from``,
    ``__event``, ``__created`` where it is known, and the features. Many processes read while one writes; no reader sees a partly
    written record. ``mark`` is stored with the rows, see :class:`ViewState`.
    """

    def replace(self, view: str, layout: pl.DataFrame, *, join_keys: Sequence[str], features: Sequence[str], mark: str = "") -> WriteCounts:
        """Replace all rows of a view: readers see all old rows or all new rows."""
        ...

    def update(  # noqa: PLR0913  (one transaction, described in full)
        self,
        view: str,
        layout: pl.DataFrame,
        *,
        join_keys: Sequence[str],
        features: Sequence[str],
        rebuilt: pl.DataFrame | None = None,
        mark: str | None = None,
    ) -> WriteCounts:
        """Merge rows by time: a row never displaces a newer one, and replaces one with the same event and created time.

        ``rebuilt`` has the join keys of entities whose earlier rows are dropped first. The stored mark stays when ``mark`` is None. Raise
        InstallationError when the view has other features.
        """
        ...

    def reader(self, lookups: Sequence[Lookup]) -> OnlineReader:
        """Return a reader of several views at once."""
        ...

    def state(self, view: str) -> ViewState | None:
        """Return the state of a view; None when the store does not contain the view."""
        ...

    def views(self) -> list[str]:
        """Return the sorted names of all stored views."""
        ...

    def remove(self, view: str) -> None:
        """Delete a view and its rows; lookups then find nothing."""
        ...


def refuse_other_schema(view: str, state: ViewState | None, schema: RecordSchema) -> None:
    """Raise InstallationError when rows cannot be added to a view because their features have other names or types."""
    if state is not None and state.schema != schema:
        differing = sorted(set(state.schema.features) ^ set(schema.features)) or schema.features
        raise InstallationError(
            f"the online store has other features for view '{view}'; the first that differs is '{differing[0][0]}'",
            hint=f"materialise {build_graph_key(f'online/{view}')}, which rebuilds it",
        )
