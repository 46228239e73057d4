"""Checksums of the lake's records: what a record says of a partition, such as who wrote it, is in no content hash."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import duckdb

from mlops_assets.stores.lake.connection import damaged_lake_error
from mlops_assets.stores.lake.rows import CHECKSUM_INDEX, RECORDS, read_record

if TYPE_CHECKING:
    from mlops_assets.stores.lake.connection import LakeConnections
    from mlops_assets.stores.lake.protocol import PartitionRecord

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class AlteredRecord:
    """A record that is not what was written.

    Parameters
    ----------
    record
        As it is now.
    file
        Which holds it.
    is_latest
        Whether no later record of its partition counts instead.
    """

    record: PartitionRecord
    file: str
    is_latest: bool


@dataclass(frozen=True)
class RecordsReport:
    """What the lake's records are worth.

    Parameters
    ----------
    altered
        Those that are not what was written.
    intact, without_checksum
        How many are, and how many were written before records had a checksum.
    """

    altered: tuple[AlteredRecord, ...]
    intact: int
    without_checksum: int


def record_checksum(record: PartitionRecord) -> str:
    """Return the checksum of everything that a record says."""
    said = [
        record.table,
        record.partition,
        record.content_hash,
        record.inputs,
        record.rows,
        record.run_id,
        record.snapshot,
        (record.recorded_at - _EPOCH) // timedelta(microseconds=1),
        record.hashed,
    ]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def examine_records(connections: LakeConnections) -> RecordsReport:
    """Compare every record of a lake with its checksum.

    Raises
    ------
    LakeError
        The records cannot be read.
    """
    try:
        rows = connections.cursor().execute(f"SELECT *, filename FROM {RECORDS} ORDER BY snapshot").fetchall()
    except duckdb.CatalogException:
        return RecordsReport((), 0, 0)
    except (duckdb.Error, UnicodeDecodeError) as error:
        raise damaged_lake_error(connections.folder, error) from error
    records, checksums = [read_record(row[:-1]) for row in rows], [_stored_checksum(row[:-1]) for row in rows]
    latest = {(record.table, record.partition): record for record in records}
    first = min((record.snapshot for record, checksum in zip(records, checksums, strict=True) if checksum), default=None)
    altered, unchecked = [], 0
    for record, checksum, row in zip(records, checksums, rows, strict=True):
        if not checksum and (first is None or record.snapshot < first):  # later ones had one
            unchecked += 1
        elif checksum != record_checksum(record):
            altered.append(AlteredRecord(record, row[-1], latest[record.table, record.partition] is record))
    return RecordsReport(tuple(altered), len(records) - len(altered) - unchecked, unchecked)


def _stored_checksum(row: tuple[object, ...]) -> str:
    """Return the checksum in a row of the records; those of an older lake have no such column, or nothing in it."""
    return str(row[CHECKSUM_INDEX] or "") if len(row) > CHECKSUM_INDEX else ""
