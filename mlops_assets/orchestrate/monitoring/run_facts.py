"""Read the runs that ended since the last reading, and which assets failed in each."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import dagster as dg
from dagster import DagsterEventType, RunStatusChangeRecordsFilter
from dagster._core.definitions.assets.job.asset_job import IMPLICIT_ASSET_JOB_NAME

from mlops_assets.stores.registry.alerts import SourcePosition

_PAGE = 500
_ENDS: tuple[Literal[DagsterEventType.RUN_FAILURE], Literal[DagsterEventType.RUN_SUCCESS]] = (
    DagsterEventType.RUN_FAILURE,
    DagsterEventType.RUN_SUCCESS,
)
_EVENTS = {
    DagsterEventType.STEP_FAILURE,
    DagsterEventType.STEP_SUCCESS,
    DagsterEventType.ASSET_CHECK_EVALUATION,
    DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
}
_MAX_IDS = 500  # run ids in one query


@dataclass(frozen=True)
class EndedRun:
    """The end of a run.

    Parameters
    ----------
    run, at, passed
        The run, the time of its end in seconds since 1970, and whether it succeeded.
    assets
        The assets of a successful run; those that a failed run did not make.
    explained
        Whether blocking checks explain all failed steps.
    text
        Why it failed.
    """

    run: dg.DagsterRun
    at: float
    passed: bool
    assets: tuple[dg.AssetKey, ...] = ()
    explained: bool = False
    text: str = ""

    @property
    def is_implicit_asset_job(self) -> bool:
        """Whether the run is an ad hoc materialisation, in Dagster's implicit asset job."""
        return self.run.job_name == IMPLICIT_ASSET_JOB_NAME


@dataclass(frozen=True)
class EndedRuns:
    """The runs that ended, in order, how far was read, and all runs that were looked up, by id."""

    ends: tuple[EndedRun, ...]
    position: SourcePosition
    runs: dict[str, dg.DagsterRun]


def read_run_ends(instance: dg.DagsterInstance, before: SourcePosition | None, *, record_ids: Collection[str]) -> EndedRuns:
    """Return the runs that succeeded or failed since a position; without a position, only the newest position.

    Parameters
    ----------
    instance
        The Dagster instance.
    before
        How far was read before.
    record_ids
        Ids of other runs to look up.
    """
    if before is None:
        pages = [instance.fetch_run_status_changes(kind, limit=1).records for kind in _ENDS]
        return EndedRuns(
            (), SourcePosition(max((r.storage_id for page in pages for r in page), default=0)), find_runs(instance, record_ids)
        )
    filters = [RunStatusChangeRecordsFilter(kind, after_storage_id=before.position) for kind in _ENDS]
    pages = [instance.fetch_run_status_changes(each, limit=_PAGE, ascending=True).records for each in filters]
    # Of a full page, nothing is known about later events; the next reading continues from there.
    last = min((page[-1].storage_id for page in pages if len(page) == _PAGE), default=None)
    records = sorted((r for page in pages for r in page if last is None or r.storage_id <= last), key=lambda record: record.storage_id)
    runs = find_runs(instance, {*record_ids, *(record.run_id for record in records)})
    ends = [
        _describe_run_end(instance, runs[record.run_id], record.timestamp, passed=record.event_type is DagsterEventType.RUN_SUCCESS)
        for record in records
        if record.run_id in runs
    ]
    return EndedRuns(tuple(ends), SourcePosition(max((r.storage_id for r in records), default=before.position)), runs)


def find_runs(instance: dg.DagsterInstance, ids: Collection[str]) -> dict[str, dg.DagsterRun]:
    """Return run id → run, for the runs that exist."""
    wanted = sorted(set(ids) - {""})
    groups = (wanted[start : start + _MAX_IDS] for start in range(0, len(wanted), _MAX_IDS))
    return {run.run_id: run for group in groups for run in instance.get_runs(filters=dg.RunsFilter(run_ids=group))}


def _describe_run_end(instance: dg.DagsterInstance, run: dg.DagsterRun, at: float, *, passed: bool) -> EndedRun:
    if passed and run.asset_selection:
        return EndedRun(run, at, passed=True, assets=tuple(sorted(run.asset_selection)))
    events = [
        record.event_log_entry.dagster_event
        for record in instance.get_records_for_run(run.run_id, of_type=_EVENTS).records
        if record.event_log_entry.dagster_event is not None
    ]
    planned = [event for event in events if event.event_type is DagsterEventType.ASSET_MATERIALIZATION_PLANNED]
    if passed:
        return EndedRun(run, at, passed=True, assets=tuple(dict.fromkeys(event.asset_key for event in planned if event.asset_key)))
    failed = {event.step_key: event for event in events if event.event_type is DagsterEventType.STEP_FAILURE}
    made = {event.step_key for event in events if event.event_type is DagsterEventType.STEP_SUCCESS}
    checked = {
        event.step_key
        for event in events
        if event.event_type is DagsterEventType.ASSET_CHECK_EVALUATION and _is_blocking(event.asset_check_evaluation_data)
    }
    # A process that died left no failed step: then every asset that it did not make counts.
    steps = set(failed) - checked if failed else {event.step_key for event in planned} - made
    assets = tuple(dict.fromkeys(event.asset_key for event in planned if event.asset_key and event.step_key in steps))
    explained = bool(failed) and not steps
    texts = [_find_cause(event.step_failure_data.error) for key, event in failed.items() if key in steps]
    text = next(filter(None, texts), "the run failed before a step could report why")
    return EndedRun(run, at, passed=False, assets=() if explained else assets, explained=explained, text=text)


def _is_blocking(evaluation: dg.AssetCheckEvaluation) -> bool:
    return not evaluation.passed and evaluation.severity is dg.AssetCheckSeverity.ERROR


def _find_cause(error: Any) -> str:  # noqa: ANN401  (Dagster's description of an exception)
    """Return the message of the exception that caused all others."""
    while error is not None and error.cause is not None:
        error = error.cause
    return error.message.strip() if error is not None else ""
