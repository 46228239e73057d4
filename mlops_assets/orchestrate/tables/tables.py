"""Publish a table: make its rows, check them, commit them, report to Dagster."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import dagster as dg
import polars as pl

from mlops_assets.compute.tables.duplicates import drop_duplicates
from mlops_assets.compute.tables.stored_types import cast_to_stored, count_truncated_times
from mlops_assets.compute.tables.verify import Outcome
from mlops_assets.errors import DataError
from mlops_assets.orchestrate.core.column_descriptions import describe_columns
from mlops_assets.orchestrate.core.metadata import draw_safely, table_metadata, to_check_result
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.tables.partition_calls import ProducedRows, call_function
from mlops_assets.orchestrate.tables.quality import CheckedTable, check_table, list_checks
from mlops_assets.stores.lake.protocol import Commit
from mlops_assets.stores.lake.rows import refuse_unstorable
from mlops_assets.values.dataset import Dataset, Table

COLUMNS, CUT_TIMES, DUPLICATES = "columns changed", "times cut to microseconds", "duplicates"


def build_check_specs(key: str, names: Iterable[str], *, warnings: Collection[str] = ()) -> list[dg.AssetCheckSpec]:
    """Return the check specs of a table; every check blocks, except those in ``warnings``."""
    return [dg.AssetCheckSpec(name, asset=asset_key(key), blocking=name not in warnings) for name in names]


def publish_table(
    step: StepContext, rules: Table, make: Callable[[], CheckedTable], *, unhashed_columns: Collection[str] = ()
) -> Iterator[object]:
    """Make a table and commit it unless a blocking check fails; yield Dagster's materialisation, or the check results before an error.

    Parameters
    ----------
    step
        The step.
    rules
        Key and event time of the table.
    make
        A function that returns the rows and the outcomes of their checks.
    unhashed_columns
        Columns that the content hash ignores.

    Raises
    ------
    DataError
        A blocking check failed.
    """
    checked, commit = make_and_commit(step, rules, make, unhashed_columns=unhashed_columns)
    if commit is None:
        yield from build_check_results(step, checked.outcomes)
        raise build_refusal_error(step, checked.outcomes)
    yield materialize_result(step, checked, commit)


def make_and_commit(
    step: StepContext, rules: Table, make: Callable[[], CheckedTable], *, unhashed_columns: Collection[str] = ()
) -> tuple[CheckedTable, Commit | None]:
    """Make rows, commit them with their companions and record the attempt; the returned commit is None when a blocking check failed."""
    attempts, key = step.stores.attempts, step.node.key
    attempts.record_start(key, step.partitions, step.context.run.run_id)
    try:
        checked = make()
        commit = None if _blocking_failures(checked.outcomes) else _commit(step, rules, checked, unhashed_columns)
    except Exception as error:
        attempts.record_failure(key, step.partitions, f"{type(error).__name__}: {error}")
        raise
    if commit is None:
        attempts.record_failure(key, step.partitions, _blocking_failures(checked.outcomes)[0].message)
        return checked, None
    attempts.clear(key, step.partitions)
    for companion in checked.companions:
        companion.report(step)
    return checked, commit


def materialize_result(step: StepContext, checked: CheckedTable, commit: Commit) -> dg.MaterializeResult[Any]:
    """Return Dagster's result of a step: the commit, the outcomes of its checks, and figures of its rows.

    A warning is logged for each changed column, and for times that lost precision.
    """
    cut_times = describe_cut_times(checked.frame)
    for text in (*(f"{name}: {text}" for name, text in cut_times.items()), *commit.columns):
        step.context.log.warning(f"{step.node.key}: {text}")
    descriptions = draw_safely("column descriptions", lambda: describe_columns(step.project, step.node.key), step.context.log.warning)
    return dg.MaterializeResult(
        asset_key(step.node.key),
        check_results=build_check_results(step, checked.outcomes),
        metadata={
            **_describe_commit(step, commit),
            **cut_times,
            **checked.metadata,
            **table_metadata(cast_to_stored(checked.frame), descriptions),
        },
        data_version=dg.DataVersion(_data_version(commit)),
    )


def build_check_results(step: StepContext, outcomes: Sequence[Outcome]) -> list[dg.AssetCheckResult]:
    """Return the outcomes of a step's checks as Dagster's results."""
    return [to_check_result(asset_key(step.node.key), outcome) for outcome in outcomes]


def _blocking_failures(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [o for o in outcomes if o.blocking and not o.passed]


def _commit(step: StepContext, rules: Table, checked: CheckedTable, unhashed_columns: Collection[str]) -> Commit:
    return step.stores.lake.write(
        step.node.key,
        checked.frame,
        step.partitions,
        event_timestamp=rules.event_timestamp,
        key=rules.key,
        run_id=step.context.run.run_id,
        unhashed_columns=unhashed_columns,
        companions=[companion.write for companion in checked.companions],
    )


def build_refusal_error(step: StepContext, outcomes: Sequence[Outcome]) -> DataError:
    """Return the error that says why a step's partitions were not committed."""
    keys, failures = step.keys, _blocking_failures(outcomes)
    where = (
        "" if step.node.partitions is None else f" partition '{keys[0]}'" if len(keys) == 1 else f" partitions '{keys[0]}' to '{keys[-1]}'"
    )
    return DataError(
        f"'{step.node.key}'{where}: {'; '.join(o.message for o in failures)}. Nothing was committed; the earlier data stay readable",
        hint=failures[0].hint,
    )


def _data_version(commit: Commit) -> str:
    hashes = [record.content_hash for record in commit.records]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _describe_commit(step: StepContext, commit: Commit) -> dict[str, Any]:
    """Return a commit as metadata; with several partitions, also attach each one's rows and hash to its materialisation."""
    for record in commit.records if step.node.partitions is not None and len(commit.records) > 1 else ():
        facts = {"partition rows": record.rows, "content hash": record.content_hash}
        step.context.add_asset_metadata(facts, asset_key=asset_key(step.node.key), partition_key=record.partition)
    changed = f"{len(commit.changed)} of {len(commit.records)}"
    return {
        "lake snapshot": commit.snapshot,
        "content hash": _data_version(commit),
        "changed partitions" if step.node.partitions else "changed": changed,
        **({COLUMNS: "; ".join(commit.columns)} if commit.columns else {}),
    }


def describe_cut_times(frame: pl.DataFrame) -> dict[str, str]:
    """Return as metadata the number of timestamps that were truncated to the lake's microseconds; empty when none was."""
    counts = count_truncated_times(frame)
    text = ", ".join(f"{count} in '{name}'" for name, count in counts.items())
    return {CUT_TIMES: f"{text} (of {frame.height} rows)"} if counts else {}


def publish_dataset(step: StepContext, dataset: Dataset[..., Any]) -> Iterator[object]:
    """Make, check and commit the partitions of a dataset."""
    yield from publish_table(step, dataset.table, partial(_make_dataset, step, dataset))


def _make_dataset(step: StepContext, dataset: Dataset[..., Any]) -> CheckedTable:
    produced = call_function(step, dataset.function, dataset.call_per, dataset.table.event_timestamp or "")
    produced, dropped = _drop_duplicates(step, produced, dataset.table)
    checked = check_table(step, produced, dataset.table, quality_key=dataset.quality_key, quarantine_key=dataset.quarantine_key)
    return replace(checked, metadata={**checked.metadata, **dropped})


def _drop_duplicates(step: StepContext, produced: ProducedRows, table: Table) -> tuple[ProducedRows, dict[str, str]]:
    """Drop repeated keys if the dataset declares which row to keep; return the rows, and metadata about the dropped ones."""
    if table.keep is None:
        return produced, {}
    refuse_unstorable(produced.frame, step.node.key)
    frame, count = drop_duplicates(produced.frame, table.key, table.keep, table.order_by)
    if not count:
        return produced, {}
    by = f" by {table.order_by}" if table.order_by else ""
    text = f"{count} of {produced.frame.height} rows dropped: only the {table.keep} row{by} of each key is kept"
    step.context.log.warning(f"{step.node.key}: {text}")
    return replace(produced, frame=frame), {DUPLICATES: text}


def build_table_check_specs(key: str, table: Table) -> list[dg.AssetCheckSpec]:
    """Return the check specs of a dataset or a feature view."""
    names, warnings = list_checks(table)
    return build_check_specs(key, names, warnings=warnings)
