"""Report partitions to Dagster that no run has reported: written by other programs, or by runs that died after a commit."""

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
    """Return the materialisation event of a recorded partition."""
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
    """Report partitions that failed or cancelled runs have committed without an event, so that Dagster no longer shows them as missing.

    The failed attempts that automation has counted for these partitions are deleted.

    Parameters
    ----------
    instance
        The instance of the runs.
    platform
        Where the lake is; the lake is opened only when there are such runs.
    since
        Only runs that changed after this time, which has a time zone; all runs when None.
    limit
        The maximum number of runs, newest first; all runs when None.

    Returns
    -------
    list of PartitionRecord
        The reported partitions, without those that another run has written or reported since.
    """
    runs = instance.get_run_ids(dg.RunsFilter(statuses=_UNSUCCESSFUL, updated_after=since), limit=limit)
    if not runs:
        return []
    stores = open_stores(platform)
    missing = [record for record in stores.lake.records_of_runs(runs) if not _is_reported(instance, record)]
    for record in missing:
        stores.attempts.clear(record.table, [Partition(record.partition)])
        instance.report_runless_asset_event(materialization_event(record))
    return missing


def _is_reported(instance: dg.DagsterInstance, record: PartitionRecord) -> bool:
    """Return whether Dagster has an event of the record's partition that is newer than the record."""
    events = dg.AssetRecordsFilter(
        asset_key(record.table),
        asset_partitions=[record.partition] if record.partition else None,
        after_timestamp=record.recorded_at.timestamp(),
    )
    return bool(instance.fetch_materializations(events, limit=1).records)
