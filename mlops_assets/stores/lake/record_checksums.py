"""Checksums of the lake's records. They cover fields that no content hash covers, such as the run that wrote a partition."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import duckdb

from mlops_assets.stores.base.checksums import json_sha256
from mlops_assets.stores.lake.connection import build_damaged_lake_error
from mlops_assets.stores.lake.rows import CHECKSUM_INDEX, RECORDS, read_record

if TYPE_CHECKING:
    from mlops_assets.stores.lake.connection import LakeConnections
    from mlops_assets.stores.lake.protocol import PartitionRecord

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class AlteredRecord:
    """A record that differs from its checksum, or that has lost its checksum.

    Parameters
    ----------
    record
        The current content of the record.
    file
        The Parquet file that holds the record.
    is_latest
        Whether the record is the current record of the partition.
    """

    record: PartitionRecord
    file: str
    is_latest: bool


@dataclass(frozen=True)
class RecordsReport:
    """The result of comparing records with their checksums.

    Parameters
    ----------
    altered
        The changed records, ordered by snapshot.
    intact, without_checksum
        The number of intact records, and of records that are too old to have a checksum.
    """

    altered: tuple[AlteredRecord, ...]
    intact: int
    without_checksum: int


def compute_record_checksum(record: PartitionRecord) -> str:
    """Return the checksum of every field of a record."""
    fields = [
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
    return json_sha256(fields)


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
        raise build_damaged_lake_error(connections.folder, error) from error
    records, checksums = [read_record(row[:-1]) for row in rows], [_read_stored_checksum(row[:-1]) for row in rows]
    latest = {(record.table, record.partition): record for record in records}
    first_checked = min((record.snapshot for record, checksum in zip(records, checksums, strict=True) if checksum), default=None)
    altered, unchecked = [], 0
    for record, checksum, row in zip(records, checksums, rows, strict=True):
        if not checksum and (first_checked is None or record.snapshot < first_checked):  # every later record was written with a checksum
            unchecked += 1
        elif checksum != compute_record_checksum(record):
            altered.append(AlteredRecord(record, row[-1], latest[record.table, record.partition] is record))
    return RecordsReport(tuple(altered), len(records) - len(altered) - unchecked, unchecked)


def _read_stored_checksum(row: tuple[object, ...]) -> str:
    """Return the checksum in a row of the records; ``""`` when the row has none."""
    return str(row[CHECKSUM_INDEX] or "") if len(row) > CHECKSUM_INDEX else ""
