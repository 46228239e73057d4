"""``mlops monitor step``: one turn of a monitor's loop in this process, decided as the sensors decide."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from mlops_assets.cli.monitoring.reports import find_monitor
from mlops_assets.cli.project import open_reconciled_instance
from mlops_assets.cli.running import QUIET, RANGE_END, RANGE_START, execute_job, lock_home
from mlops_assets.cli.summary import list_failures
from mlops_assets.orchestrate.core.liveness import build_process_tags
from mlops_assets.orchestrate.monitoring.turn import find_due_reports, find_late_predictions, find_promotion, group_ranges
from mlops_assets.orchestrate.retraining.decisions import advance_loop, collect_facts, describe_next_action, job_name, record_decision
from mlops_assets.values.asset_names import select_nodes
from mlops_assets.values.decisions import Hold, Launch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import dagster as dg
    from rich.console import Console

    from mlops_assets.cli.project import LoadedProject
    from mlops_assets.cli.running import FinishedRun
    from mlops_assets.orchestrate.core.project import Project
    from mlops_assets.values.monitoring import Monitor


@dataclass
class Turn:
    """The results of one turn as name → text or lines, and the runs that it started."""

    facts: dict[str, Any] = field(default_factory=dict)
    runs: list[FinishedRun] = field(default_factory=list)

    @property
    def success(self) -> bool:
        """Whether every run succeeded; a turn with nothing to do succeeds."""
        return all(finished.result.success for finished in self.runs)

    @property
    def lines(self) -> Iterator[str]:
        """The summary as lines of console markup, failures last."""
        for name, value in self.facts.items():
            for line in value if isinstance(value, list) else [value]:
                yield escape(f"{name}: {line}")
        for finished in self.runs:
            yield from list_failures(finished)


@dataclass(frozen=True)
class _Loop:
    """A monitor, the project that declares it, and the instance and console that record and show its runs."""

    loaded: LoadedProject
    project: Project
    monitor: Monitor
    instance: dg.DagsterInstance
    console: Console

    def run(self, job: dg.JobDefinition, chosen: list[dg.AssetKey] | None, tags: Mapping[str, str]) -> FinishedRun:
        """Run the chosen assets of a job, or with None the whole job, in this process."""
        return execute_job(job, self.instance, chosen, {**tags, **build_process_tags(os.getpid())}, dict(QUIET), self.console)


def run_turn(loaded: LoadedProject, name: str, console: Console) -> Turn:
    """Materialise outdated reports, promote an approved version, then decide and run the training that is due.

    After a run that failed, the rest of the turn is skipped.

    Parameters
    ----------
    loaded
        The project.
    name
        The monitor.
    console
        The console that shows progress.

    Raises
    ------
    DefinitionError
        There is no such monitor.
    InstallationError
        Another run is in progress in the platform's home, or the home cannot be written.
    """
    project, monitor = find_monitor(loaded, name)
    with lock_home(Path(loaded.platform.home)):
        loop, turn = _Loop(loaded, project, monitor, open_reconciled_instance(loaded.platform), console), Turn()
        turn.facts["reports"] = _materialise_reports(loop, turn)
        if turn.success:
            _promote(loop, turn)
        if turn.success:
            _train(loop, turn)
        champion = loaded.stores.registry.champion(monitor.model.name)
        turn.facts["promotion"] = f"champion of {monitor.model.name}: {f'version {champion.version}' if champion else 'none'}"
        turn.facts["next"] = describe_next_action(collect_facts(loaded.stores, project, monitor, loop.instance), monitor)
    return turn


def _materialise_reports(loop: _Loop, turn: Turn) -> list[str]:
    """Materialise the reports whose inputs changed, and add the runs to the turn.

    Return a line for each run, and for each range of predictions that is outdated.
    """
    from mlops_assets.orchestrate.core.steps import asset_key

    due = find_due_reports(loop.project, loop.monitor, loop.loaded.stores)
    job = loop.loaded.definitions.resolve_implicit_global_asset_job_def()
    lines = []
    for tables, first, last in group_ranges(due, loop.monitor.partitions):
        finished = loop.run(job, [asset_key(table) for table in tables], {RANGE_START: first, RANGE_END: last})
        turn.runs.append(finished)
        windows = first if first == last else f"{first} to {last}"
        lines.append(f"{' and '.join(tables)} of {windows}: {'made' if finished.result.success else 'failed'}")
    lines += _explain_late_predictions(loop)
    return lines or ["every report is up to date"]


def _explain_late_predictions(loop: _Loop) -> Iterator[str]:
    """Yield a line with the command to run for each range of outdated predictions."""
    table = loop.monitor.predictions_key
    command = f"mlops run --select '{select_nodes(table)}'"
    for first, last in find_late_predictions(loop.project, loop.monitor, loop.loaded.stores):
        keys = first if first == last else f"{first}...{last}"
        where, chosen = (f" in {keys}", f" --partitions {shlex.quote(keys)}") if keys else ("", "")
        yield f"'{table}' is behind its inputs{where}: {command}{chosen}"


def _train(loop: _Loop, turn: Turn) -> None:
    """Decide as the sensor does, run the training that is due, and note decision and training in the turn's facts."""
    stores, model = loop.loaded.stores, loop.monitor.model.name
    action = advance_loop(stores, loop.project, loop.monitor, loop.instance)
    decisions = collect_facts(stores, loop.project, loop.monitor, loop.instance).open_decisions
    turn.facts["decision"] = f"{decisions[0].id}: {decisions[0].reason}" if decisions else "none is open"
    if isinstance(action, Hold):
        turn.facts["training"] = f"none: {action.reason}"
        return
    finished = loop.run(loop.loaded.definitions.resolve_job_def(job_name(model)), None, action.tags)
    turn.runs.append(finished)
    record_decision(stores, loop.project, loop.monitor, loop.instance)  # closes the decision that the training has settled
    turn.facts["training"] = _describe_training(loop, action, finished)


def _describe_training(loop: _Loop, started: Launch, finished: FinishedRun) -> str:
    facts = collect_facts(loop.loaded.stores, loop.project, loop.monitor, loop.instance)
    state = next((t.state for t in facts.runs if t.run_id == finished.result.run_id), "not recorded")
    return f"attempt {started.attempt} of decision {started.decision.id}, run {finished.result.run_id[:8]}: {state}"


def _promote(loop: _Loop, turn: Turn) -> None:
    """Promote an approved version that is not champion yet, so that the decision of this turn concerns the new champion."""
    if chosen := find_promotion(loop.loaded.stores, loop.project, loop.monitor.model):
        turn.runs.append(loop.run(loop.loaded.definitions.resolve_implicit_global_asset_job_def(), chosen, {}))
