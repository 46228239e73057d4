"""What the lake holds, told to Dagster outside of a run: what others wrote, and what a run committed and died before it told."""

from datetime import datetime
from typing import Any

import dagster as dg

from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.stores.lake.protocol import Partition, PartitionRecord
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.values.platform import Platform

_UNSUCCESSFUL = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_DATA_VERSION = "dagster/data_version"


def materialization_event(record: PartitionRecord) -> dg.AssetMaterialization:
    """Return the event that says what a partition holds."""
    facts: dict[str, Any] = {
        "dagster/row_count": record.rows,
        "content hash": record.content_hash,
        "lake snapshot": record.snapshot,
        **({"run": record.run_id} if record.run_id else {}),
    }
    tags = {_DATA_VERSION: record.content_hash}
    return dg.AssetMaterialization(asset_key(record.table), metadata=facts, partition=record.partition or None, tags=tags)


def report_missing_events(
    instance: dg.DagsterInstance, platform: Platform, *, since: datetime | None = None, limit: int | None = None
) -> list[PartitionRecord]:
    """Report what runs that failed or were cancelled had committed to the lake without an event: it would be shown as missing for ever.

    Parameters
    ----------
    instance
        Whose runs.
    platform
        Where the lake is; it is opened only when there are such runs.
    since
        Only runs that changed after this (aware); all when None.
    limit
        At most so many of the newest runs; all when None.

    Returns
    -------
    list of PartitionRecord
        What was reported; a partition that another run has written or told of since then is not.
    """
    runs = instance.get_run_ids(dg.RunsFilter(statuses=_UNSUCCESSFUL, updated_after=since), limit=limit)
    if not runs:
        return []
    at = open_stores(platform)
    untold = [record for record in at.lake.records_of_runs(runs) if not _is_reported(instance, record)]
    for record in untold:
        at.attempts.clear(record.table, [Partition(record.partition)])
        instance.report_runless_asset_event(materialization_event(record))
    return untold


def _is_reported(instance: dg.DagsterInstance, record: PartitionRecord) -> bool:
    """Whether the partition was materialised after this was committed: a run tells when it has committed."""
    events = dg.AssetRecordsFilter(
        asset_key(record.table),
        asset_partitions=[record.partition] if record.partition else None,
        after_timestamp=record.recorded_at.timestamp(),
    )
    return bool(instance.fetch_materializations(events, limit=1).records)
