"""The online feature store: for each view and entity one packed record of the rows that a service may still look up.

A lookup at a time finds exactly the row that the point-in-time join finds: the last one whose ``valid_from`` is not later.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mlops_assets.errors import PlatformError
from mlops_assets.stores.online.reader import FRESH, MISSING, STALE, FeatureColumns, FeatureRow, Lookup, OnlineReader, Status
from mlops_assets.stores.online.records import HISTORY, RecordSchema
from mlops_assets.values.asset_names import graph_key

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
    """What one write did.

    Parameters
    ----------
    rows, entities
        That were given.
    changed
        Entities whose record is another one now.
    """

    rows: int
    entities: int
    changed: int


@dataclass(frozen=True)
class ViewState:
    """What the store knows of a view.

    Parameters
    ----------
    schema
        Of its records.
    entities
        How many there are.
    mark
        What its last materialisation wrote down, in the same transaction as its rows; empty when there was none.
    """

    schema: RecordSchema
    entities: int
    mark: str

    @property
    def data(self) -> bytes:
        """JSON."""
        return json.dumps([self.schema.features, self.entities, self.mark]).encode()

    @classmethod
    def parsed(cls, data: bytes) -> ViewState:
        """Return the state that :attr:`data` gave."""
        features, entities, mark = json.loads(data)
        return cls(RecordSchema(tuple((name, kind) for name, kind in features)), entities, mark)


class OnlineStore(Protocol):
    """Feature rows by view, entity and time.

    Layouts are as of :func:`mlops_assets.compute.features.point_in_time.sort_as_of`: join keys, ``__valid_from``, ``__event``, ``__created`` where
    it is known, and features. Many processes read while one writes, and none sees a torn record.
    """

    def replace(self, view: str, layout: pl.DataFrame, *, join_keys: Sequence[str], features: Sequence[str], mark: str = "") -> WriteCounts:
        """Make these rows the whole of a view: readers see all of the old or all of the new."""
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
        """Put rows where they belong by time: none displaces a newer one, one of the same event and created time is replaced.

        ``rebuilt``: entities, by their join keys, whose rows so far are forgotten.
        """
        ...

    def reader(self, lookups: Sequence[Lookup]) -> OnlineReader:
        """Return what looks several views up at once."""
        ...

    def state(self, view: str) -> ViewState | None:
        """Return what the store knows of a view; None when it was never written."""
        ...

    def views(self) -> list[str]:
        """Return the names of all views that were written."""
        ...

    def remove(self, view: str) -> None:
        """Forget a view and its rows: what looks it up finds nothing."""
        ...


def refuse_other_schema(view: str, state: ViewState | None, schema: RecordSchema) -> None:
    """Raise PlatformError when rows cannot be added to a view because they have other columns or types."""
    if state is not None and state.schema != schema:
        differing = sorted(set(state.schema.features) ^ set(schema.features)) or schema.features
        raise PlatformError(
            f"view '{view}' is in the online store with other features, the first that differs is '{differing[0][0]}'",
            hint=f"materialise {graph_key(f'online/{view}')}, which rebuilds it",
        )
