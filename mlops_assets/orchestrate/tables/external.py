"""External tables, which other programs write: verify and record them, and show them as external assets."""

from collections.abc import Iterator

import dagster as dg

from mlops_assets.compute.tables.verify import Outcome, check_names, verify
from mlops_assets.errors import DataError, LakeError
from mlops_assets.orchestrate.core.metadata import to_check_result
from mlops_assets.orchestrate.core.partitions import list_partition_keys
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.tables.lake_events import materialization_event
from mlops_assets.orchestrate.tables.tables import build_check_specs
from mlops_assets.stores.lake.protocol import Commit, Partition
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.values.dataset import ExternalDataset
from mlops_assets.values.platform import Platform
from mlops_assets.values.window import window_of

EXTERNAL_SENSOR = "mlops_external_datasets"


def external_assets(project: Project) -> list[dg.AssetSpec]:
    """Return the external assets of a project."""
    return [
        dg.AssetSpec(
            asset_key(e.key),
            description=e.description or "A table of the lake that is written outside of this project.",
            partitions_def=e.table.partitions,
            kinds={"dataset", "duckdb"},
            group_name=e.options.group or "data",
            owners=list(e.options.owners),
            tags=dict(e.options.tags),
        )
        for e in project.select(ExternalDataset)
    ]


def build_external_checks(project: Project, platform: Platform) -> list[dg.AssetChecksDefinition]:
    """Return the checks of external tables that declare rules; they run by hand or with their downstream assets."""
    return [_build_checks(e, platform) for e in project.select(ExternalDataset) if check_names(e.table)]


def _build_checks(external: ExternalDataset, platform: Platform) -> dg.AssetChecksDefinition:
    @dg.multi_asset_check(
        name=f"{external.key.replace('/', '__')}__checks", specs=build_check_specs(external.key, check_names(external.table))
    )
    def checks() -> Iterator[dg.AssetCheckResult]:
        for outcome in verify_external(external, platform):
            yield to_check_result(asset_key(external.key), outcome)

    return checks


def verify_external(external: ExternalDataset, platform: Platform) -> list[Outcome]:
    """Return the outcomes of an external table's checks on all of its rows."""
    frame = open_stores(platform).lake.read(external.key)
    windows = [(partition.key, partition.window) for partition in _list_written_partitions(external, platform)]
    return verify(frame, external.table, windows)


def _list_written_partitions(external: ExternalDataset, platform: Platform) -> list[Partition]:
    """Return the partitions between the first and the last event time; none when a partitioned table has no rows.

    Partitions after the last row do not count as empty: the other program has not written them yet.
    """
    definition, lake = external.table.partitions, open_stores(platform).lake
    partitions = [Partition(key, window_of(definition, key)) for key in list_partition_keys(definition)]
    if definition is None:
        return partitions
    times = lake.read(external.key, columns=[external.table.event_timestamp or ""]).to_series()
    first, last = times.min(), times.max()
    return [p for p in partitions if p.window and first is not None and p.window.start <= last and p.window.end > first]  # type: ignore[operator]


def require_valid(external: ExternalDataset, platform: Platform, reader: str) -> None:
    """Verify and record an external table before a step reads it; do nothing when the lake cannot read the table.

    Raises
    ------
    DataError
        The table breaks a rule that blocks.
    """
    try:
        failures = [o for o in verify_external(external, platform) if o.blocking and not o.passed]
    except LakeError:
        return  # reading the table raises the better error
    if failures:
        raise DataError(
            f"'{reader}' reads '{external.key}', which is written outside of this project: {failures[0].message}", hint=failures[0].hint
        )
    _record(external, platform)


def record_external(external: ExternalDataset, platform: Platform) -> Commit | None:
    """Record the current contents of an external table; return None when it is unreadable, breaks a blocking rule or has no partition."""
    try:
        if any(o.blocking and not o.passed for o in verify_external(external, platform)):
            return None
        return _record(external, platform)
    except LakeError:
        return None


def _record(external: ExternalDataset, platform: Platform) -> Commit | None:
    partitions, rules = _list_written_partitions(external, platform), external.table
    return (
        open_stores(platform).lake.record(external.key, partitions, event_timestamp=rules.event_timestamp, key=rules.key)
        if partitions
        else None
    )


def record_all_external(project: Project, platform: Platform, instance: dg.DagsterInstance) -> list[str]:
    """Record every external table, report changed partitions to Dagster, and return these as ``<table> <partition>``."""
    changed = []
    for external in project.select(ExternalDataset):
        commit = record_external(external, platform)
        for record in commit.records if commit else ():
            if record.partition in commit.changed:  # type: ignore[union-attr]
                instance.report_runless_asset_event(materialization_event(record))
                changed.append(f"{external.key} {record.partition}".strip())
    return changed


def build_external_sensor(project: Project, platform: Platform, *, running: bool) -> list[dg.SensorDefinition]:
    """Return the sensor that records external tables after each write into the lake; empty when the project has no such table."""
    if not project.select(ExternalDataset):
        return []
    status = dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED

    @dg.sensor(
        name=EXTERNAL_SENSOR,
        minimum_interval_seconds=60,
        default_status=status,
        description="Records what other programs have written into the lake.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        snapshot = str(open_stores(platform).lake.snapshot())
        if context.cursor == snapshot:
            return dg.SkipReason("nothing was written into the lake")
        changed = record_all_external(project, platform, context.instance)
        context.update_cursor(str(open_stores(platform).lake.snapshot()))
        return dg.SkipReason(f"recorded {', '.join(changed)}" if changed else "no external table has changed")

    return [sensor]
