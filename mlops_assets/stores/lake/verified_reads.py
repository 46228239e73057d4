"""Read rows and compare them with the content hash that was recorded when they were written.

Parquet files that DuckDB writes have no checksums, so DuckDB reads a flipped bit as another value, without an error.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.tables.content_hash import hash_ordered_slices, hash_slices
from mlops_assets.compute.tables.stored_types import cast_to_stored
from mlops_assets.errors import ArtifactError, LakeError
from mlops_assets.stores.lake.protocol import Partition
from mlops_assets.stores.lake.rows import slice_partitions
from mlops_assets.stores.lake.write_plan import has_other_content
from mlops_assets.values.asset_names import select_nodes
from mlops_assets.values.window import window_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import polars as pl

    from mlops_assets.stores.lake.protocol import Lake, PartitionRecord
    from mlops_assets.values.features import FeatureView
    from mlops_assets.values.window import TimeWindow

_MIN_ROWS_PER_FILE = 1_000  # polars opens every file of a table, DuckDB only those of a window: with fewer rows, DuckDB is faster
_HASH_INPUTS = {"key", "columns", "types"}  # what the content hash of a partition depends on, besides its rows


def read_verified(  # noqa: PLR0913  (where rows are read)
    lake: Lake,
    table: str,
    partitions: Sequence[Partition],
    *,
    window: TimeWindow | None,
    event_timestamp: str | None,
    snapshot: int,
    verified: Sequence[Partition] = (),
) -> pl.DataFrame:
    """Read rows, and compare them with the content hashes that were recorded when they were written.

    Parameters
    ----------
    lake, table, window, event_timestamp, snapshot
        As in :meth:`mlops_assets.stores.lake.protocol.LakeReader.read`.
    partitions
        The partitions within the window. Those without a record, or with a record of an older lake, are not compared.
    verified
        Further partitions within the window, which the caller has read verified before. A faster reader is used only if it proves all rows.

    Raises
    ------
    ArtifactError
        A partition holds other rows than were written, or cannot be read. Unless a later write has replaced its content, it is recorded
        as damaged, so that the next materialisation rebuilds it.
    LakeError
        The table cannot be read, and no damaged partition explains it.
    """
    records = lake.records(table, snapshot=snapshot)
    hashed = [partition for partition in partitions if partition.key in records and records[partition.key].hashed]
    if (rows := _read_intact_files(lake, table, [*verified, *partitions], records, window, event_timestamp, snapshot)) is not None:
        return rows
    try:
        frame = lake.read(table, window=window, event_timestamp=event_timestamp, snapshot=snapshot)
    except LakeError as error:
        damaged = [partition for partition in hashed if not _is_readable(lake, table, partition, event_timestamp, snapshot)]
        if not damaged:
            raise
        raise _report_damage(lake, table, damaged, records, event_timestamp, snapshot) from error
    if damaged := _find_differing(frame, table, hashed, records, event_timestamp):
        raise _report_damage(lake, table, damaged, records, event_timestamp, snapshot)
    return frame


def read_view(lake: Lake, view: FeatureView, columns: Sequence[str], *, snapshot: int, window: TimeWindow | None = None) -> pl.DataFrame:
    """Return columns of a feature view, verified by :func:`read_verified`: all rows, or those of a window that spans whole partitions."""
    keys = [""] if view.partitions is None else view.partitions.get_partition_keys()
    recorded = lake.records(view.key, snapshot=snapshot)
    partitions = [Partition(key, window_of(view.partitions, key)) for key in keys if key in recorded]
    inside = [p for p in partitions if window is None or (p.window is not None and window.start <= p.window.start < window.end)]
    rows = read_verified(lake, view.key, inside, window=window, event_timestamp=view.event_timestamp, snapshot=snapshot)
    return rows.select(columns)


def _read_intact_files(  # noqa: PLR0913  (where rows are read)
    lake: Lake,
    table: str,
    partitions: Sequence[Partition],
    records: Mapping[str, PartitionRecord],
    window: TimeWindow | None,
    event_timestamp: str | None,
    snapshot: int,
) -> pl.DataFrame | None:
    """Return the rows as the files hold them if recorded hashes prove each row and column; None otherwise."""
    found = [records.get(partition.key) for partition in partitions]
    covered = [record for record in found if record is not None and record.hashed and not record.damaged]
    if not covered or len(covered) < len(partitions):
        return None
    rows = sum(record.rows for record in covered)
    max_files = rows // _MIN_ROWS_PER_FILE
    frame = lake.read_files(table, window=window, event_timestamp=event_timestamp, snapshot=snapshot, max_files=max_files)
    if frame is None or frame.height != rows:
        return None
    if any(set(columns) != set(frame.columns) for columns in {tuple(record.coverage["columns"]) for record in covered}):
        return None
    return None if _find_differing(frame, table, partitions, records, event_timestamp) else frame


def _is_readable(lake: Lake, table: str, partition: Partition, event_timestamp: str | None, snapshot: int) -> bool:
    try:
        lake.read(table, window=partition.window, event_timestamp=event_timestamp, snapshot=snapshot)
    except LakeError:
        return False
    return True


def _find_differing(
    frame: pl.DataFrame, table: str, partitions: Sequence[Partition], records: Mapping[str, PartitionRecord], event_timestamp: str | None
) -> list[Partition]:
    """Return the partitions whose rows have another hash than was recorded; those hashed in the same way are hashed together."""
    by_coverage: dict[str, list[Partition]] = {}
    for partition in partitions:
        coverage = {name: value for name, value in records[partition.key].coverage.items() if name in _HASH_INPUTS}
        by_coverage.setdefault(json.dumps(coverage, sort_keys=True), []).append(partition)
    differing = {
        partition.key
        for coverage_json, group in by_coverage.items()
        for partition in _find_differing_group(frame, table, json.loads(coverage_json), group, records, event_timestamp)
    }
    return [partition for partition in partitions if partition.key in differing]


def _find_differing_group(  # noqa: PLR0913  (partitions that are hashed together)
    frame: pl.DataFrame,
    table: str,
    coverage: Mapping[str, Any],
    partitions: Sequence[Partition],
    records: Mapping[str, PartitionRecord],
    event_timestamp: str | None,
) -> list[Partition]:
    """Return the partitions whose rows have another hash than was recorded; only rows in another order than the recorded one are sorted."""
    if any(column not in frame.columns for column in coverage["columns"]):
        return list(partitions)
    types, covered = coverage.get("types"), cast_to_stored(frame.select(coverage["columns"]))
    rows, bounds = slice_partitions(covered, partitions, event_timestamp, table, skip_outside=True)
    orders = hash_ordered_slices(rows, bounds, types=types)
    reordered = [p for p, order in zip(partitions, orders, strict=True) if not records[p.key].holds_in_order(order)]
    if not reordered:
        return []
    rows, bounds = slice_partitions(covered, reordered, event_timestamp, table, skip_outside=True)
    digests = hash_slices(rows, bounds, coverage["key"], types=types)
    return [p for p, digest in zip(reordered, digests, strict=True) if digest != records[p.key].content_hash]


def _report_damage(  # noqa: PLR0913  (what a message names)
    lake: Lake,
    table: str,
    partitions: Sequence[Partition],
    records: Mapping[str, PartitionRecord],
    event_timestamp: str | None,
    snapshot: int,
) -> ArtifactError:
    """Return the error that names the first partition and its files, and record the partitions as damaged.

    A partition is not recorded when a later write has replaced its content, or when its table was dropped.
    """
    first = partitions[0]
    label = f" partition '{first.key}'" if first.key else ""
    rest = f" (and {len(partitions) - 1} other partition(s))" if len(partitions) > 1 else ""
    files = ", ".join(lake.partition_files(table, first.window, event_timestamp, snapshot)) or "a file that cannot be read"
    newest = lake.records(table)
    current = [records[partition.key] for partition in partitions if not has_other_content(records[partition.key], newest)]
    if current:
        lake.mark_damaged(current)
    where = f" --partitions {first.key}" if first.key else ""
    return ArtifactError(
        f"'{table}'{label}{rest} does not hold what was recorded when it was written: a file of the lake is damaged, or another "
        f"program wrote it: {files}",
        hint=f"restore the file from a backup, or rebuild the partition: mlops run --select '{select_nodes(table)}'{where}",
    )
