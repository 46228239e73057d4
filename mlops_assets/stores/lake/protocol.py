"""The lake: versioned tables, written one transaction at a time, read as of any snapshot."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime, timedelta

    import polars as pl

    from mlops_assets.values.window import TimeWindow


DAMAGED = "damaged:"


@dataclass(frozen=True)
class Part:
    """One partition that is about to be written.

    Parameters
    ----------
    partition
        Its key; ``""`` for the whole of an unpartitioned table.
    window
        Its span of event time; None for the whole of an unpartitioned table.
    inputs
        Fingerprint of what it is made from; ``""`` when it comes from outside.
    """

    partition: str
    window: TimeWindow | None = None
    inputs: str = ""


@dataclass(frozen=True)
class PartitionRecord:
    """What the lake remembers of one written partition, committed together with its rows."""

    table: str
    partition: str
    content_hash: str
    inputs: str
    rows: int
    run_id: str
    snapshot: int
    recorded_at: datetime
    hashed: str = ""  # key and columns that the hash covers, as JSON; "" where they were not recorded

    @property
    def damaged(self) -> bool:
        """Whether the rows were found to be others than those that were written."""
        return self.content_hash.startswith(DAMAGED)


@dataclass(frozen=True)
class Write:
    """The parts of a table that are replaced; fields as the parameters of :meth:`Lake.write`."""

    table: str
    frame: pl.DataFrame
    parts: Sequence[Part]
    event_timestamp: str | None = None
    key: Sequence[str] = ()
    unhashed: Collection[str] = ()


@dataclass(frozen=True)
class Commit:
    """The outcome of one write.

    Parameters
    ----------
    snapshot
        The state of the lake that holds it.
    records
        One for each part, in the order given.
    changed
        The partitions whose content differs from before.
    columns
        How the table's columns have changed, in words.
    """

    snapshot: int
    records: tuple[PartitionRecord, ...]
    changed: tuple[str, ...]
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class MaintenanceReport:
    """What upkeep did.

    Parameters
    ----------
    merged_files
        Tables whose small files were merged.
    expired_snapshots, snapshots
        How many were given up, and how many are left.
    deleted_files
        From the disk.
    files, size
        Parquet files on the disk and their bytes, each before and after.
    leased
        Snapshots that running steps read, with their process ids.
    records
        Rows of the lake's own table of records.
    """

    merged_files: int
    expired_snapshots: int
    deleted_files: int
    snapshots: int = 0
    files: tuple[int, int] = (0, 0)
    size: tuple[int, int] = (0, 0)
    leased: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    records: int = 0


class Lake(Protocol):
    """Tables named ``<kind>/<name>``; each snapshot pins all of them at once."""

    def write(  # noqa: PLR0913  (one transaction, described in full)
        self,
        table: str,
        frame: pl.DataFrame,
        parts: Sequence[Part],
        *,
        event_timestamp: str | None = None,
        key: Sequence[str] = (),
        run_id: str = "",
        unhashed: Collection[str] = (),
        beside: Sequence[Write] = (),
    ) -> Commit:
        """Replace exactly the given parts, of this table and of those ``beside``, in one transaction; parts that did not change are left as they are."""
        ...

    def read(
        self,
        table: str,
        *,
        window: TimeWindow | None = None,
        event_timestamp: str | None = None,
        snapshot: int | None = None,
        columns: Sequence[str] | None = None,
    ) -> pl.DataFrame:
        """Return rows, of one window and as of one snapshot when given."""
        ...

    def snapshot(self) -> int:
        """Return the newest state of the lake."""
        ...

    def records(self, table: str, *, snapshot: int | None = None) -> Mapping[str, PartitionRecord]:
        """Return the last record of each partition; empty when nothing was written."""
        ...

    def record(
        self, table: str, parts: Sequence[Part], *, event_timestamp: str | None = None, key: Sequence[str] = (), run_id: str = ""
    ) -> Commit:
        """Record what a table holds that somebody else writes."""
        ...

    def maintain(self, pins: Collection[int], *, older_than: timedelta) -> MaintenanceReport:
        """Merge files and expire snapshots, never a pinned one."""
        ...
