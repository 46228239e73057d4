"""Repeat the last result of an unpartitioned table while nothing that determines it has changed."""

from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.core.steps import asset_key

MADE_FROM = "made from"  # in the metadata of a table: the hash of everything that determines its rows and the outcomes of its checks
_EVALUATED = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}


def find_last_result(step: StepContext, made_from: str, checks: Sequence[dg.AssetCheckSpec]) -> dg.MaterializeResult[Any] | None:
    """Return the last result of the step's table, to repeat it; None if the table must be made.

    The lake then holds the rows of the last materialisation, undamaged, and the outcomes of all its checks are known.

    Parameters
    ----------
    step
        The step of an unpartitioned table.
    made_from
        The hash of everything that determines the result.
    checks
        The checks of the table.
    """
    key = asset_key(step.node.key)
    event = step.context.instance.get_latest_materialization_event(key)
    record = step.stores.lake.records(step.node.key, snapshot=step.snapshot).get("")
    if event is None or event.asset_materialization is None or record is None:
        return None
    metadata = dict(event.asset_materialization.metadata)
    recorded = {name: metadata[name].value for name in (MADE_FROM, "content hash") if name in metadata}
    if recorded != {MADE_FROM: made_from, "content hash": record.content_hash} or record.inputs != step.partitions[0].inputs:
        return None
    results = list(_repeat_checks(step.context.instance, event.run_id, checks))
    if len(results) < len(checks):
        return None
    snapshots = {name: step.snapshot for name in ("lake snapshot", "reads lake snapshot") if name in metadata}
    return dg.MaterializeResult(
        key,
        check_results=results,
        metadata={**{name: order_columns(value) for name, value in metadata.items()}, **snapshots, "changed": "0 of 1"},
        data_version=dg.DataVersion(record.content_hash),
    )


def _repeat_checks(instance: dg.DagsterInstance, run_id: str, checks: Sequence[dg.AssetCheckSpec]) -> Iterator[dg.AssetCheckResult]:
    """Yield the results of the checks that a run evaluated and that do not block."""
    for spec in checks:
        latest = instance.event_log_storage.get_asset_check_execution_history(spec.key, limit=1, status=_EVALUATED)
        evaluation = latest[0].evaluation if latest and latest[0].run_id == run_id else None
        if evaluation is not None and (evaluation.passed or not spec.blocking):
            yield dg.AssetCheckResult(
                passed=evaluation.passed,
                asset_key=spec.asset_key,
                check_name=spec.name,
                severity=evaluation.severity,
                description=evaluation.description,
                metadata=evaluation.metadata,
            )


def order_columns(value: Any) -> Any:  # noqa: ANN401  (any metadata value)
    """Return a metadata table with each record's columns in the order of the schema; any other value unchanged.

    The event log loses this order.
    """
    if not isinstance(value, dg.TableMetadataValue):
        return value
    names = [column.name for column in value.schema.columns]
    records = [dg.TableRecord({name: record.data[name] for name in names if name in record.data}) for record in value.records]
    return dg.TableMetadataValue(records, value.schema)
