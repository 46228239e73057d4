"""Read from Dagster which checks and runs have passed or failed since the last reading."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.definitions.assets.job.asset_job import IMPLICIT_ASSET_JOB_NAME
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord, AssetCheckExecutionRecordStatus

from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.monitoring.alert_context import describe_command, is_ordered, list_affected_assets, locate_window
from mlops_assets.orchestrate.monitoring.run_facts import EndedRuns, read_run_ends
from mlops_assets.orchestrate.monitoring.window_summary import NEWEST_GOOD
from mlops_assets.stores.registry.alerts import SourcePosition, SourceReading
from mlops_assets.values.alerts.alerts import Alerts
from mlops_assets.values.alerts.episodes import ERROR, AlertFact
from mlops_assets.values.monitoring import CANNOT, IN_TRAINING, INVERTED, NOT_ENOUGH

RUNS = "runs"
MAX_WAIT = 300.0  # seconds that a check waits for the other checks of its run
_UNMEASURED = (NOT_ENOUGH, CANNOT, IN_TRAINING, INVERTED)
_PAGE = 1_000
_PLANNED = AssetCheckExecutionRecordStatus.PLANNED


@dataclass(frozen=True)
class AlertSources:
    """The sources that alerts are derived from: a Dagster instance, and a project whose checks and runs count.

    Parameters
    ----------
    instance
        The Dagster instance.
    graph
        The assets and checks of the code location.
    jobs
        The names of the jobs of the code location.
    project
        The declarations.
    alerts
        The declared severities.
    """

    instance: dg.DagsterInstance
    graph: AssetGraph
    jobs: frozenset[str]
    project: Project
    alerts: Alerts

    @property
    def instance_id(self) -> str:
        """The id of the instance's storage: numbers of events are comparable within it only."""
        return str(self.instance.run_storage.get_run_storage_id())  # type: ignore[attr-defined]  # every SQL storage has one

    @property
    def subjects(self) -> frozenset[str]:
        """The names of all checks, assets and jobs of the code location, as alerts name them."""
        return name_subjects(self.graph, self.jobs)


def name_subjects(graph: AssetGraph, jobs: Iterable[str]) -> frozenset[str]:
    """Return the names of all checks, assets and jobs, as alerts name them."""
    checks = (key.to_user_string() for key in graph.asset_check_keys)
    assets = (f"run of {key.to_user_string()}" for key in graph.get_all_asset_keys())
    return frozenset((*checks, *assets, *(f"job {name}" for name in jobs)))


def read_facts(sources: AlertSources, positions: Mapping[str, SourcePosition], now: datetime) -> list[SourceReading]:
    """Return the new facts of all checks and runs; the first reading of an instance returns positions without facts.

    Parameters
    ----------
    sources
        Where to read.
    positions
        Source → how far it was read before; empty at the first reading.
    now
        The current time (aware).
    """
    keys = sorted(sources.graph.asset_check_keys)
    run_source = _name_run_source(sources, positions)
    is_known = run_source in positions or any(key.to_user_string() in positions for key in keys)
    latest = sources.instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    records: dict[dg.AssetCheckKey, list[AssetCheckExecutionRecord]] = {}
    readings = []
    for key in keys:
        newest, before = latest[key].id if key in latest else 0, positions.get(key.to_user_string())
        if before is None and not is_known:  # a new webhook gets no old failures
            readings.append(SourceReading(key.to_user_string(), None, SourcePosition(newest)))
        elif before is None or before.pending or newest > before.position:
            records[key] = _read_records(sources.instance, key, before or SourcePosition(0))
    starts = [positions[name] for name in positions if name.startswith(RUNS)] if is_known else []
    start = positions.get(run_source) or max(starts, key=lambda each: each.position, default=None)
    ends = read_run_ends(sources.instance, start, record_ids={r.run_id for found in records.values() for r in found})
    readings += [
        reading
        for key, found in records.items()
        if (reading := _read_check(sources, key, found, positions.get(key.to_user_string()), ends.runs, now)).after != reading.before
    ]
    run_reading = SourceReading(run_source, positions.get(run_source), ends.position, tuple(_read_runs(sources, ends)))
    return [*readings, run_reading] if run_reading.before != run_reading.after else readings


def _name_run_source(sources: AlertSources, positions: Mapping[str, SourcePosition]) -> str:
    """Return the key under which this code location stores how far it has read the runs of the instance.

    All code locations read the same runs, so the key contains one of this location's assets or jobs: the first one that has a position.
    """
    assets = [key.to_user_string() for key in sorted(sources.graph.materializable_asset_keys)]
    jobs = [f"job {name}" for name in sorted(sources.jobs) if name != IMPLICIT_ASSET_JOB_NAME]
    names = [f"{RUNS} of the code location with {name}" for name in (*assets, *jobs)] or [RUNS]
    return next((name for name in names if name in positions), names[0])


def _read_records(instance: dg.DagsterInstance, key: dg.AssetCheckKey, before: SourcePosition) -> list[AssetCheckExecutionRecord]:
    """Return the records of a check that were not read or not complete before, oldest first."""
    lowest = min((*before.pending, before.position + 1))
    found: list[AssetCheckExecutionRecord] = []
    while True:
        page = instance.event_log_storage.get_asset_check_execution_history(key, limit=_PAGE, cursor=found[-1].id if found else None)
        found += page
        if len(page) < _PAGE or page[-1].id <= lowest:
            return [record for record in reversed(found) if record.id > before.position or record.id in before.pending]


def _read_check(  # noqa: PLR0913  (one check)
    sources: AlertSources,
    key: dg.AssetCheckKey,
    records: Sequence[AssetCheckExecutionRecord],
    before: SourcePosition | None,
    runs: Mapping[str, dg.DagsterRun],
    now: datetime,
) -> SourceReading:
    """Return the facts of a check. Those of an active run wait, so that one run with many failures becomes one message."""
    facts, pending = [], []
    for record in records:
        run = runs.get(record.run_id)
        active = run is not None and not run.is_finished
        if record.status is _PLANNED:
            pending += [record.id] if active else []
        elif active and abs(now.timestamp() - _read_timestamp(record)) < MAX_WAIT:
            pending.append(record.id)
        elif record.evaluation is not None:
            facts += _build_check_facts(sources, key, record, run)
    newest = max((before.position if before else 0, *(record.id for record in records)))
    return SourceReading(key.to_user_string(), before, SourcePosition(newest, tuple(pending)), tuple(facts))


def _read_timestamp(record: AssetCheckExecutionRecord) -> float:
    return record.event.timestamp if record.event is not None else record.create_timestamp


def _build_check_facts(
    sources: AlertSources, key: dg.AssetCheckKey, record: AssetCheckExecutionRecord, run: dg.DagsterRun | None
) -> list[AlertFact]:
    """Return the fact of an evaluation; none for a check of windows that passed because no window could be measured."""
    evaluation: Any = record.evaluation
    state, good = (getattr(evaluation.metadata.get(name), "value", None) for name in ("state", NEWEST_GOOD))
    if evaluation.passed and not good and state in _UNMEASURED:
        return []
    partition = good if evaluation.passed and isinstance(good, str) else evaluation.partition
    subject, window = key.to_user_string(), locate_window(sources.graph, key.asset_key, run, partition)
    fact = AlertFact(subject, evaluation.passed, window, _read_timestamp(record), run_id=record.run_id)
    if evaluation.passed:
        return [fact]
    failure = replace(
        fact,
        severity=sources.alerts.choose_severity(subject, evaluation.severity.value),
        # A report refuses no data: its next good window is enough. Without an order in time, there is no next partition.
        must_pass=(evaluation.severity.value == ERROR and state is None)
        or (bool(window.label) and not is_ordered(sources.graph, key.asset_key)),
        text=evaluation.description or "",
        value=_read_number(evaluation.metadata.get("value")),
        bound=_read_number(evaluation.metadata.get("bound")),
        affected=list_affected_assets(sources.graph, sources.project, key.asset_key),
        command=describe_command(sources.project, key.asset_key, window, check=key.name),
    )
    return [failure]


def _read_number(entry: Any) -> float | None:  # noqa: ANN401  (a metadata value of Dagster)
    value = getattr(entry, "value", None)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _read_runs(sources: AlertSources, ends: EndedRuns) -> Iterator[AlertFact]:
    """Yield the facts of ended runs; a failure that blocking checks explain has no fact of its own, because the checks have."""
    for end in ends.ends:
        is_job = not end.is_implicit_asset_job
        if is_job and end.run.job_name in sources.jobs:
            fact = AlertFact(f"job {end.run.job_name}", end.passed, at=end.at, run_id=end.run.run_id, text=end.text)
            if not end.explained:
                yield fact if end.passed else _describe_failure(sources, fact, None, end.run.job_name)
        if end.passed or not is_job:
            yield from _read_assets(
                sources, end.assets, AlertFact("", end.passed, at=end.at, run_id=end.run.run_id, text=end.text), end.run
            )


def _read_assets(sources: AlertSources, assets: Iterable[dg.AssetKey], fact: AlertFact, run: dg.DagsterRun) -> Iterator[AlertFact]:
    for key in assets:
        if sources.graph.has(key):
            fact = replace(fact, subject=f"run of {key.to_user_string()}", window=locate_window(sources.graph, key, run))
            yield fact if fact.passed else _describe_failure(sources, fact, key, run.job_name)


def _describe_failure(sources: AlertSources, fact: AlertFact, key: dg.AssetKey | None, job: str) -> AlertFact:
    return replace(
        fact,
        severity=sources.alerts.choose_severity(fact.subject, ERROR),
        affected=list_affected_assets(sources.graph, sources.project, key) if key else (),
        command=describe_command(sources.project, key, fact.window, job=job),
    )
