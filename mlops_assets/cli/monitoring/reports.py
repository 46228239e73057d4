"""``mlops monitor``: reports, decisions and the next step of a monitor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlops_assets.cli.project import open_clean_instance
from mlops_assets.compute.monitoring.decide import explain_settlement
from mlops_assets.compute.pages.evidently_page import render_evidently
from mlops_assets.compute.tables.own_columns import MODEL_VERSION, PREDICTION_COLUMNS, SPLIT, TRAINING_SET_COLUMNS, rename_from_table
from mlops_assets.compute.training.fitted_rows import FittedRows
from mlops_assets.compute.training.split import GAP
from mlops_assets.errors import DataError, DefinitionError, suggest_name
from mlops_assets.orchestrate.core.sensor_state import explain_sensors_off
from mlops_assets.orchestrate.monitoring.reading import describe_missing_windows, list_missing_windows
from mlops_assets.orchestrate.monitoring.reports import PAGE_MODE, build_page_path
from mlops_assets.orchestrate.monitoring.turn import find_due_reports
from mlops_assets.orchestrate.retraining.decisions import collect_facts, describe_next_action, sensor_name
from mlops_assets.orchestrate.tables.automation import AUTOMATION
from mlops_assets.serving.formats.packaging import read_manifest
from mlops_assets.stores.base.files import write_atomically
from mlops_assets.values.decisions import PERFORMANCE
from mlops_assets.values.monitoring import Monitor
from mlops_assets.values.window import window_of

if TYPE_CHECKING:
    from pathlib import Path

    import dagster as dg

    from mlops_assets.cli.project import LoadedProject
    from mlops_assets.compute.monitoring.decide import LoopFacts
    from mlops_assets.orchestrate.core.project import Project


def find_monitor(project: LoadedProject, name: str) -> tuple[Project, Monitor]:
    """Return the project that declares a monitor, and the monitor.

    Raises
    ------
    DefinitionError
        There is no monitor of that name.
    """
    return project.find(Monitor, name, "monitor")


def describe_monitor(project: LoadedProject, name: str, partition: str | None) -> dict[str, Any]:
    """Return the latest 20 reports, all decisions and trainings, the next step and the path of the newest page, as JSON-like values.

    With ``partition``, the reports and the page are those of this window only.

    Raises
    ------
    DefinitionError
        There is no such monitor, or it has no such window.
    """
    declarations, monitor = find_monitor(project, name)
    _check_window(monitor, partition)
    with open_clean_instance(project.platform) as instance, project.stores.lake.freeze_records():
        facts = collect_facts(project.stores, declarations, monitor, instance)
        upcoming = describe_next_step(project, declarations, monitor, instance, facts)
    latest = [r for r in facts.latest_reports if partition in (None, r.partition)]
    return {
        "windows": [
            {"window": r.partition, "report": r.kind, "version": r.version, "state": r.state, "reason": r.reason} for r in latest[-20:]
        ],
        "decisions": [
            {
                "decision": d.id,
                "version": d.version,
                "window": d.partition,
                "reason": d.reason,
                "state": explain_settlement(d, facts) or "open",
            }
            for d in facts.all_decisions
        ],
        "trainings": [
            {"run": t.run_id[:8], "data until": str(t.as_of), "decision": t.decision or "", "state": t.state} for t in facts.runs
        ],
        "next": upcoming,
        "page": str(build_page_path(project.platform.home, name, latest[-1].partition)) if latest else "",
    }


def describe_next_step(
    project: LoadedProject, declarations: Project, monitor: Monitor, instance: dg.DagsterInstance, facts: LoopFacts
) -> str:
    """Describe the next step of a monitor: outdated reports first, and the sensor and the command if a sensor is off."""
    command = f"mlops monitor step {monitor.name}"
    upcoming = describe_next_action(facts, monitor, explain_sensors_off(project.definitions, [sensor_name(monitor)], instance, command))
    if missing := describe_missing_windows(list_missing_windows(project.stores, declarations, monitor)):
        upcoming = f"{upcoming}; {missing}"
    due = find_due_reports(declarations, monitor, project.stores)
    if not due:
        return upcoming
    behind = ", ".join(f"{table} is behind its inputs in {len(keys)} window{'s' * (len(keys) > 1)}" for table, keys in due.items())
    return f"{behind}{explain_sensors_off(project.definitions, [AUTOMATION], instance, command)}. Then: {upcoming}"


def summarise_monitors(project: LoadedProject, instance: dg.DagsterInstance) -> list[dict[str, Any]]:
    """Return the newest reported window and the next step of each monitor, as JSON-like values.

    The window is that of the newest performance report if the monitor measures performance, else of the newest drift report.
    """
    rows = []
    for part in project.parts:
        for monitor in part.project.select(Monitor):
            facts = collect_facts(project.stores, part.project, monitor, instance)
            newest = next((r for r in reversed(facts.latest_reports) if r.kind == PERFORMANCE or not monitor.label_expectations), None)
            rows.append(
                {
                    "monitor": monitor.name,
                    "newest window": newest.partition if newest else "none",
                    "state": newest.state if newest else "not reported",
                    "next": describe_next_step(project, part.project, monitor, instance, facts),
                }
            )
    return rows


def _check_window(monitor: Monitor, partition: str | None) -> None:
    keys = monitor.partitions.get_partition_keys()
    if partition is not None and partition not in keys:
        advice = f"there are {keys[0]} to {keys[-1]}" if keys else "there is none yet"
        raise DefinitionError(f"monitor '{monitor.name}' has no window '{partition}'", hint=suggest_name(partition, keys) + advice)


def write_evidently_report(project: LoadedProject, name: str, partition: str) -> Path:
    """Write Evidently's report of a window next to the monitor page, and return its path.

    The report compares the rows of the version with the most predictions in the window with that version's training set.

    Raises
    ------
    DefinitionError
        There is no such monitor, or it has no such window.
    DataError
        Nothing was predicted in the window.
    """
    declarations, monitor = find_monitor(project, name)
    _check_window(monitor, partition)
    ref = declarations.by_key[monitor.predictions_key]
    window = window_of(monitor.partitions, partition)
    rows = project.stores.lake.read(ref.key, window=window, event_timestamp=ref.event_timestamp)
    if rows.is_empty():
        raise DataError(f"'{ref.key}' has no row in '{partition}'", hint="materialise it first, or name another window")
    rows = rename_from_table(rows, PREDICTION_COLUMNS)
    version_number = rows[MODEL_VERSION].value_counts(sort=True)[MODEL_VERSION][0]
    version = next(v for v in project.stores.registry.versions(monitor.model.name) if v.version == version_number)
    rows = rows.filter(rows[MODEL_VERSION] == version_number)  # never rows of two versions in one report
    manifest = read_manifest(project.stores.artifacts, version.artifact)
    columns, fitted = manifest["columns"], FittedRows.from_manifest(manifest)
    reference = project.stores.lake.read(monitor.model.training_set.key, snapshot=version.snapshot)
    reference = rename_from_table(reference, TRAINING_SET_COLUMNS)
    if fitted is None or GAP not in fitted.parts:
        reference = reference.filter(reference[SPLIT] != GAP)
    path = build_page_path(project.platform.home, name, partition).with_suffix(".evidently.html")
    write_atomically(path, render_evidently(reference.select(columns), rows.select(columns)).encode(), mode=PAGE_MODE)
    return path
