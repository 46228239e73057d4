"""The interface of the lake, and the values that its methods take and return.

The lake holds versioned tables: they are written in transactions, and read as of any snapshot that upkeep has not expired.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from mlops_assets.values.window import TimeWindow

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from contextlib import AbstractContextManager
    from datetime import timedelta
    from pathlib import Path

    import polars as pl

    from mlops_assets.stores.lake.erasure import Erasure
    from mlops_assets.stores.lake.record_checksums import RecordsReport


DAMAGED_PREFIX = "damaged:"
STORED_ORDER = "stored_order"  # in the coverage of a record: the rows in the order in which they were written, by bind_order


@dataclass(frozen=True)
class Partition:
    """A partition to write or to verify.

    Parameters
    ----------
    key
        The partition key; ``""`` for the whole of an unpartitioned table.
    window
        The span of event time; None for the whole of an unpartitioned table.
    inputs
        The fingerprint of the inputs from which the rows were computed; ``""`` when the platform does not record the inputs.
    """

    key: str
    window: TimeWindow | None = None
    inputs: str = ""


@dataclass(frozen=True)
class PartitionRecord:
    """The record of one written partition, committed together with its rows.

    Parameters
    ----------
    table, partition
        The table, named ``<kind>/<name>``, and the partition key.
    content_hash
        The hash of the rows; prefixed with ``DAMAGED_PREFIX`` when a check found damage.
    inputs
        As in :class:`Partition`.
    rows
        The number of rows.
    run_id
        The run that wrote the record.
    snapshot
        The snapshot that first contains the record.
    recorded_at
        The time of the write.
    hashed
        The :attr:`coverage` as JSON; ``""`` in records of older lakes.
    """

    table: str
    partition: str
    content_hash: str
    inputs: str
    rows: int
    run_id: str
    snapshot: int
    recorded_at: datetime
    hashed: str = ""

    @property
    def coverage(self) -> Mapping[str, Any]:
        """The ``key``, ``columns`` and ``types`` that the hash covers, the hash of the ``stored_order``, the ``time`` column and the ``window``.

        Records of older lakes lack some of them.
        """
        recorded: dict[str, Any] = json.loads(self.hashed) if self.hashed else {}
        return recorded

    @property
    def event_timestamp(self) -> str | None:
        """The column with the time that assigns a row to a partition; None when it was not recorded."""
        return self.coverage.get("time")

    @property
    def window(self) -> TimeWindow | None:
        """The partition's span of event time; None for an unpartitioned table, and when it was not recorded."""
        ends = self.coverage.get("window")
        return TimeWindow(*map(datetime.fromisoformat, ends)) if ends else None

    def holds_in_order(self, ordered_hash: str) -> bool:
        """Return whether the partition was written with exactly these rows, in this order; never for a damaged partition.

        Parameters
        ----------
        ordered_hash
            The :func:`mlops_assets.compute.tables.content_hash.ordered_hash` of the covered columns. If it is the recorded one, the rows
            need not be sorted to compare their content hash.
        """
        return self.coverage.get(STORED_ORDER) == bind_order(ordered_hash, self.content_hash)

    @property
    def damaged(self) -> bool:
        """Whether a check found that the stored rows cannot be read or differ from the written rows."""
        return self.content_hash.startswith(DAMAGED_PREFIX)


def bind_order(ordered_hash: str, content_hash: str) -> str:
    """Return one hash of the rows in their order and of their content hash, so that damage to either record is found."""
    return hashlib.sha256(f"{ordered_hash} {content_hash}".encode()).hexdigest()


@dataclass(frozen=True)
class TableWrite:
    """The write of one table. :meth:`mlops_assets.stores.lake.ducklake.DuckLake.write` documents the fields, which are its parameters."""

    table: str
    frame: pl.DataFrame
    partitions: Sequence[Partition]
    event_timestamp: str | None = None
    key: Sequence[str] = ()
    unhashed_columns: Collection[str] = ()


@dataclass(frozen=True)
class Commit:
    """The outcome of one write for its main table, without its companions.

    Parameters
    ----------
    snapshot
        The snapshot that contains the new records; the newest snapshot when no record is new.
    records
        The current record of each given partition, in the given order.
    changed
        The keys of the partitions that are new or have other content than before.
    columns
        One message for each column that was added, dropped or cast to another type, or that the new rows lack.
    """

    snapshot: int
    records: tuple[PartitionRecord, ...]
    changed: tuple[str, ...]
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class MaintenanceReport:
    """The result of upkeep.

    Parameters
    ----------
    merged_files
        The number of tables whose small files were merged, counting the lake's own table of records.
    expired_snapshots, snapshots
        The number of snapshots that expired, and of those that remain.
    deleted_files
        The number of files that were deleted from the disk.
    files, size
        The number of Parquet files on the disk, and their total size in bytes: each as a pair of before and after.
    leased
        Snapshot → ids of the processes that read it.
    records
        The number of rows in the lake's table of partition records.
    """

    merged_files: int
    expired_snapshots: int
    deleted_files: int
    snapshots: int = 0
    files: tuple[int, int] = (0, 0)
    size: tuple[int, int] = (0, 0)
    leased: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    records: int = 0


@dataclass(frozen=True)
class DataFile:
    """One Parquet file of the newest snapshot, and the size in bytes that the catalog recorded."""

    table: str
    path: Path
    size: int


class LakeReader(Protocol):
    """Reads tables named ``<kind>/<name>``. A snapshot fixes the state of all tables; by default the newest is read."""

    def snapshot(self) -> int:
        """Return the number of the newest snapshot."""
        ...

    def read(  # noqa: PLR0913  (one query)
        self,
        table: str,
        *,
        window: TimeWindow | None = None,
        event_timestamp: str | None = None,
        snapshot: int | None = None,
        columns: Sequence[str] | None = None,
        values: Mapping[str, Collection[str]] | None = None,
    ) -> pl.DataFrame:
        """Return the rows of a table, restricted to a time window and to values of columns if they are given."""
        ...

    def read_files(
        self, table: str, *, window: TimeWindow | None, event_timestamp: str | None, snapshot: int, max_files: int
    ) -> pl.DataFrame | None:
        """Return the rows of a table as its files hold them, for a caller that compares hashes; None when :meth:`read` must be called."""
        ...

    def records(self, table: str, *, snapshot: int | None = None) -> Mapping[str, PartitionRecord]:
        """Return partition key → last record of the partition; empty when the table has no records."""
        ...

    def freeze_records(self) -> AbstractContextManager[None]:
        """Answer :meth:`snapshot` and :meth:`records` in this thread from one read of all records, until the context ends."""
        ...

    def schema(self, table: str, *, snapshot: int | None = None) -> Mapping[str, pl.DataType]:
        """Return column → type of a table; empty when the table or the snapshot does not exist."""
        ...

    def tables(self) -> list[str]:
        """Return the sorted names of all tables that have records, including tables without rows."""
        ...

    def find_keys(
        self, table: str, keys: pl.DataFrame, *, outside: Sequence[TimeWindow], event_timestamp: str, snapshot: int
    ) -> pl.DataFrame:
        """Return at most 1,000 of the given keys that also occur outside of some time windows, each with the time of its latest row there."""
        ...

    def query_columns(self, query: str) -> tuple[str, ...]:
        """Return the column names of a dbt model's query; empty when the lake's connection cannot run the query."""
        ...


class LakeWriter(Protocol):
    """Writes tables, one transaction at a time."""

    def write(  # noqa: PLR0913  (one transaction, described in full)
        self,
        table: str,
        frame: pl.DataFrame,
        partitions: Sequence[Partition],
        *,
        event_timestamp: str | None = None,
        key: Sequence[str] = (),
        run_id: str = "",
        unhashed_columns: Collection[str] = (),
        companions: Sequence[TableWrite] = (),
    ) -> Commit:
        """Replace the given partitions of a table and of its companions in one transaction; skip unchanged partitions."""
        ...

    def record(
        self, table: str, partitions: Sequence[Partition], *, event_timestamp: str | None = None, key: Sequence[str] = (), run_id: str = ""
    ) -> Commit:
        """Record the current rows of partitions that another program, such as dbt, has written."""
        ...

    def mark_damaged(self, records: Sequence[PartitionRecord]) -> None:
        """Record partitions as damaged: they count as stale, so that automation, or the next run that makes them, rebuilds them."""
        ...

    def drop(self, table: str) -> None:
        """Drop a table and its records, in one transaction; earlier snapshots keep both."""
        ...

    def lock(self) -> AbstractContextManager[None]:
        """Hold the lock that admits one writer of the lake at a time."""
        ...


class LakeUpkeep(Protocol):
    """Manages snapshots, files and records, for maintenance and diagnosis."""

    def has_snapshot(self, snapshot: int) -> bool:
        """Return whether a snapshot can still be read."""
        ...

    def lease_snapshot(self) -> AbstractContextManager[int]:
        """Return a context that yields the newest snapshot and keeps the snapshot readable until the context ends."""
        ...

    def maintain(self, pins: Collection[int], *, older_than: timedelta) -> MaintenanceReport:
        """Merge small files, expire old snapshots that are neither pinned nor leased, and delete unneeded files."""
        ...

    def data_files(self) -> list[DataFile]:
        """Return the Parquet files of the newest snapshot."""
        ...

    def partition_files(self, table: str, window: TimeWindow | None, event_timestamp: str | None, snapshot: int) -> list[str]:
        """Return the paths of the files with the rows of a time window (None: all rows); empty when a file cannot be read."""
        ...

    def orphaned_files(self, *, older_than: timedelta) -> list[Path]:
        """Return the data files on the disk that the catalog does not name and that are older than ``older_than``."""
        ...

    def records_of_runs(self, run_ids: Collection[str]) -> list[PartitionRecord]:
        """Return the current records, of any table, that one of these runs wrote."""
        ...

    def examine_records(self) -> RecordsReport:
        """Compare every record with its checksum."""
        ...

    def erasure(self, entity: Mapping[str, str], include: Callable[[str], bool] = ...) -> Erasure:
        """Return an object that finds and erases the rows of one entity in the tables whose name ``include`` accepts."""
        ...


class Lake(LakeReader, LakeWriter, LakeUpkeep, Protocol):
    """The whole interface of a lake. Code outside of ``stores/lake`` uses it and runs no SQL on the lake."""
