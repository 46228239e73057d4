"""Read tables of the lake without Dagster: verified rows for a notebook or a script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from mlops_assets.errors import DataError, DefinitionError, LakeError, suggest_name
from mlops_assets.stores.lake.protocol import Partition
from mlops_assets.stores.lake.verified_reads import read_verified
from mlops_assets.stores.platform.readers import record_reader
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.values.arguments import check_arguments
from mlops_assets.values.dataset import Dataset, ExternalDataset
from mlops_assets.values.features import FeatureView
from mlops_assets.values.platform import Platform
from mlops_assets.values.window import join_windows, window_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlops_assets.stores.lake.protocol import PartitionRecord

    Declared = Dataset[..., Any] | ExternalDataset | FeatureView


@check_arguments
def read_table(
    table: str | Dataset[..., Any] | ExternalDataset | FeatureView,
    partitions: str | Sequence[str] | None = None,
    snapshot: int | None = None,
    columns: Sequence[str] | None = None,
    platform: Platform | None = None,
) -> pl.DataFrame:
    """Read rows of a table of the lake and compare them with the hashes that were recorded when they were written.

    Parameters
    ----------
    table
        The key of an asset with a table, e.g. ``"dataset/flights"`` or ``"predictions/tomorrow"``; or a dataset or feature view itself.
    partitions
        One partition key or several; the whole table when None.
    snapshot
        The state of the lake to read; the newest when None.
    columns
        The columns to return; all when None.
    platform
        The platform whose lake to read; ``Platform.from_env()`` when None.

    Returns
    -------
    polars.DataFrame
        The rows, with partitions in the order of time and times in UTC.

    Raises
    ------
    LakeError
        The snapshot does not exist or has expired, it has no such table or partition, or the table, written by an earlier
        version of the package, does not record the spans of its partitions: then pass the dataset or view itself, not its key.
    DefinitionError
        The list of partitions is empty.
    DataError
        The table has no such column.
    ArtifactError
        A partition does not hold the rows that were written: a file is damaged. The next materialisation rebuilds the partition.

    See Also
    --------
    training_frame : Features joined to rows, as they were known at each row's time.
    lookup : Online features of entities.

    Examples
    --------
    >>> import tempfile
    >>> import mlops_assets as ml
    >>> ml.read_table("dataset/flights", platform=ml.Platform.at(tempfile.mkdtemp()))
    Traceback (most recent call last):
    mlops_assets.errors.LakeError: the lake has no table 'dataset/flights' in snapshot 0
    Hint: it has no table yet
    """
    platform = platform or Platform.from_env()
    lake, key = open_stores(platform).lake, table if isinstance(table, str) else table.key
    state = lake.snapshot() if snapshot is None else snapshot
    records = lake.records(key, snapshot=state)
    time, parts = _list_partitions(table, key, records)
    windows: list[Any] = [None]
    if partitions is not None:
        chosen = _choose_partitions(key, partitions, records)
        parts = [part for part in parts if part.key in chosen]
        windows = join_windows(part.window for part in parts if part.window is not None)
    record_reader(platform.home, [key], "read_table")
    frames = []
    for span in windows:
        inside = [p for p in parts if span is None or (p.window is not None and span.start <= p.window.start < span.end)]
        frames.append(read_verified(lake, key, inside, window=span, event_timestamp=time, snapshot=state))
    return _select_columns(pl.concat(frames), columns, key)


def _list_partitions(table: str | Declared, key: str, records: Mapping[str, PartitionRecord]) -> tuple[str | None, list[Partition]]:
    """Return the time column and the recorded partitions of a table; windows come from the declaration, or for a text from the records."""
    if isinstance(table, str):
        time = next((record.event_timestamp for record in records.values() if record.event_timestamp), None)
        parts = [Partition(part, record.window) for part, record in records.items()]
    else:
        time, definition = (
            (table.event_timestamp, table.partitions)
            if isinstance(table, FeatureView)
            else (table.table.event_timestamp, table.table.partitions)
        )
        parts = [Partition(part, window_of(definition, part)) for part in records]
    if unknown := [part.key for part in parts if part.key and part.window is None]:
        raise LakeError(
            f"'{key}' does not record the span of its partition '{unknown[0]}': an earlier version of the package wrote it",
            hint="pass the dataset or the feature view itself instead of its key",
        )
    return time, parts


def _choose_partitions(table: str, partitions: str | Sequence[str], records: Mapping[str, PartitionRecord]) -> set[str]:
    """Return the requested partition keys as a set; raise an error for none or for an unknown one."""
    chosen = {partitions} if isinstance(partitions, str) else set(partitions)
    known = sorted(records.keys() - {""})
    if not chosen:
        raise DefinitionError("ml.read_table was given no partition", hint="omit partitions= to read the whole table")
    if missing := sorted(chosen - set(known)):
        advice = f"it has {known[0]} to {known[-1]}" if known else "it is not partitioned" if records else "nothing was written yet"
        raise LakeError(f"'{table}' has no partition '{missing[0]}'", hint=suggest_name(missing[0], known) + advice)
    return chosen


def _select_columns(frame: pl.DataFrame, columns: Sequence[str] | None, table: str) -> pl.DataFrame:
    if columns is None:
        return frame
    if missing := [name for name in columns if name not in frame.columns]:
        raise DataError(
            f"'{table}' has no column '{missing[0]}'", hint=suggest_name(missing[0], frame.columns) + f"it has {', '.join(frame.columns)}"
        )
    return frame.select(columns)
