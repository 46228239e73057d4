"""Plan a write: which partitions differ from their current records, and which column types the table will have."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl

from mlops_assets.compute.tables.content_hash import hash_ordered_slices, hash_slices, logical_types
from mlops_assets.stores.lake.column_types import TypeFit, describe_changes, fill_unknown_types, fit_columns, refuse_conflicts
from mlops_assets.stores.lake.protocol import STORED_ORDER, PartitionRecord, bind_order
from mlops_assets.stores.lake.rows import slice_partitions, to_storable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlops_assets.stores.lake.column_types import StoredValues
    from mlops_assets.stores.lake.protocol import Partition, TableWrite


@dataclass(frozen=True)
class WritePlan:
    """The plan for one table of a write: which rows to replace and which records to add.

    Parameters
    ----------
    table, event_timestamp
        As in :class:`mlops_assets.stores.lake.protocol.TableWrite`.
    partitions, rows
        The partitions to rewrite, and their rows; the rows are None when there is no partition to rewrite.
    new_records
        The records to add: of the rewritten partitions, and of partitions where only the inputs changed.
    old_records
        Partition key → current record, for every partition of the table.
    stored_schema
        The table's columns; None when the table does not exist.
    changes
        One message for each column that changes.
    replaces_table
        Whether the write replaces every recorded partition, with column types that the existing table cannot take.
    """

    table: str
    event_timestamp: str | None
    partitions: Sequence[Partition]
    rows: pl.DataFrame | None
    new_records: Sequence[PartitionRecord]
    old_records: Mapping[str, PartitionRecord]
    stored_schema: pl.Schema | None = None
    changes: tuple[str, ...] = ()
    replaces_table: bool = False

    @property
    def damaged(self) -> bool:
        """Whether any replaced partition is recorded as damaged. Its files may be unreadable."""
        return any(self.old_records[partition.key].damaged for partition in self.partitions if partition.key in self.old_records)

    @property
    def frame(self) -> pl.DataFrame:
        """The rows to write, for callers that know that ``rows`` is not None."""
        assert self.rows is not None  # noqa: S101  (the caller has checked)
        return self.rows


@dataclass(frozen=True)
class TableState:
    """A table before a write, and the number of the snapshot that the write will make.

    Parameters
    ----------
    schema
        The columns; None when the table does not exist.
    records
        Partition key → current record.
    values
        Facts about the stored values of a column.
    next_snapshot
        The number of the next snapshot, which is certain while the caller holds the lock.
    """

    schema: pl.Schema | None
    records: Mapping[str, PartitionRecord]
    values: StoredValues
    next_snapshot: int


def plan_write(write: TableWrite, stored: TableState, run_id: str) -> WritePlan:
    """Return the plan of a write. The caller must hold the lock.

    Raises
    ------
    DataError
        A row lies in none of the partitions, or a column cannot be stored.
    LakeError
        The column type in the table cannot be widened to the new type, and partitions that are not rewritten need the old type.
    """
    table_types = stored.schema or pl.Schema()
    frame = to_storable(fill_unknown_types(write.frame, table_types), write.table)
    fit = _fit_types(write, frame, stored)
    replaces_table = bool(fit.conflicts) and stored.records.keys() <= {partition.key for partition in write.partitions}
    if replaces_table:
        fit = TypeFit(frame, describe_changes(frame, table_types))
    refuse_conflicts(write.table, fit)
    frame, bounds = slice_partitions(fit.frame, write.partitions, write.event_timestamp, write.table)
    new_records = build_records(write, frame, bounds, stored, run_id)
    stale = {record.partition for record in new_records if has_other_content(record, stored.records)}
    rewritten = [i for i, partition in enumerate(write.partitions) if replaces_table or partition.key in stale]
    rows = pl.concat([frame[bounds[i][0] : bounds[i][1]] for i in rewritten]) if rewritten else None
    return WritePlan(
        write.table,
        write.event_timestamp,
        [write.partitions[i] for i in rewritten],
        rows,
        new_records,
        stored.records,
        stored.schema,
        fit.changes if rewritten else (),
        replaces_table,
    )


def build_records(
    write: TableWrite, frame: pl.DataFrame, bounds: Sequence[tuple[int, int]], stored: TableState, run_id: str
) -> list[PartitionRecord]:
    """Return new records for the partitions that have no record, or whose content or inputs differ from their current record.

    Parameters
    ----------
    write
        The table, its partitions, its key and its unhashed columns.
    frame, bounds
        The result of :func:`mlops_assets.stores.lake.rows.slice_partitions`.
    stored
        The state of the table before the write.
    run_id
        The run that writes.
    """
    hashed, now = frame.drop(write.unhashed_columns, strict=False), datetime.now(UTC)
    coverage = {"key": list(write.key), "columns": hashed.columns, "types": logical_types(hashed), "time": write.event_timestamp}
    digests, orders = _hash_partitions(write, hashed, bounds, stored)
    records = [
        PartitionRecord(
            write.table,
            partition.key,
            digest,
            partition.inputs,
            end - start,
            run_id,
            stored.next_snapshot,
            now,
            _describe_coverage({**coverage, STORED_ORDER: order}, partition),
        )
        for partition, digest, order, (start, end) in zip(write.partitions, digests, orders, bounds, strict=True)
    ]
    return [
        record
        for record in records
        if has_other_content(record, stored.records) or stored.records[record.partition].inputs != record.inputs
    ]


def _hash_partitions(
    write: TableWrite, frame: pl.DataFrame, bounds: Sequence[tuple[int, int]], stored: TableState
) -> tuple[list[str], list[str]]:
    """Return the content hash of each partition, and the hash of its stored rows in their order.

    If the record of a partition has the same order of rows, its rows are hashed without a sort.
    """
    frame = frame.rechunk()  # once for both hashes
    orders = hash_ordered_slices(frame, bounds)
    records = [stored.records.get(partition.key) for partition in write.partitions]
    digests = [
        record.content_hash if record and record.holds_in_order(order) and record.coverage["key"] == list(write.key) else ""
        for record, order in zip(records, orders, strict=True)
    ]
    if unknown := [bound for bound, digest in zip(bounds, digests, strict=True) if not digest]:
        rows = frame if len(unknown) == len(bounds) else pl.concat([frame[start:end] for start, end in unknown])
        ends = itertools.accumulate((end - start for start, end in unknown), initial=0)
        computed = iter(hash_slices(rows, list(itertools.pairwise(ends)), write.key))
        digests = [digest or next(computed) for digest in digests]
    # Rows with the recorded content are not written again, so the stored rows keep their order.
    kept = [record is not None and record.content_hash == digest for record, digest in zip(records, digests, strict=True)]
    return digests, [
        record.coverage.get(STORED_ORDER, "") if record and is_kept else bind_order(order, digest)
        for record, order, digest, is_kept in zip(records, orders, digests, kept, strict=True)
    ]


def _describe_coverage(coverage: Mapping[str, Any], partition: Partition) -> str:
    """Return the coverage of a partition's hash, completed by the partition's window, as JSON."""
    return json.dumps({**coverage, "window": partition.window and [partition.window.start.isoformat(), partition.window.end.isoformat()]})


def has_other_content(record: PartitionRecord, earlier: Mapping[str, PartitionRecord]) -> bool:
    """Return whether a record's partition is new, or its content hash differs from the one in its earlier record."""
    old = earlier.get(record.partition)
    return old is None or old.content_hash != record.content_hash


def _fit_types(write: TableWrite, frame: pl.DataFrame, stored: TableState) -> TypeFit:
    """Cast rows to the types of the table; a new or unpartitioned table takes the types of the rows."""
    if stored.schema is None:
        return TypeFit(frame)
    if any(partition.window is None for partition in write.partitions):
        return TypeFit(frame, describe_changes(frame, stored.schema))
    return fit_columns(frame, stored.schema, stored.values)
