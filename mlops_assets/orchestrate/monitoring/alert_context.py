"""What an alert says about its asset: the partitions, who is affected, and the command that acts."""

import shlex
from collections import deque

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG, PARTITION_NAME_TAG

from mlops_assets.compute.tables.quarantine import NO_QUARANTINED_ROWS
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.retraining.decisions import job_name
from mlops_assets.values.alerts.episodes import AlertWindow
from mlops_assets.values.asset_names import find_declared_name
from mlops_assets.values.monitoring import Monitor

_AFFECTED = ("model", "predictions", "service")  # kinds of assets that an alert names


def locate_window(graph: AssetGraph, key: dg.AssetKey, run: dg.DagsterRun | None, partition: str | None = None) -> AlertWindow:
    """Return the partitions of an asset that a run covered; the whole asset without partitions.

    Parameters
    ----------
    graph, key
        The asset.
    run
        The run; None for a check outside of a run.
    partition
        The partition, when it is known.
    """
    definition = graph.get(key).partitions_def if graph.has(key) else None
    tags = run.tags if run is not None else {}
    first = partition or tags.get(ASSET_PARTITION_RANGE_START_TAG) or tags.get(PARTITION_NAME_TAG)
    if definition is None or not first:
        return AlertWindow()
    last = partition or tags.get(ASSET_PARTITION_RANGE_END_TAG) or first
    label, start, end = first if first == last else f"{first}...{last}", _find_position(definition, first), _find_position(definition, last)
    return AlertWindow(label) if start is None or end is None else AlertWindow(label, start[0], end[1])


def is_ordered(graph: AssetGraph, key: dg.AssetKey) -> bool:
    """Return whether the partitions of an asset follow each other in time."""
    return graph.has(key) and isinstance(graph.get(key).partitions_def, dg.TimeWindowPartitionsDefinition)


def _find_position(definition: dg.PartitionsDefinition, key: str) -> tuple[float, float] | None:
    """Return the start and end of a partition: seconds since 1970, or its place in the list of partitions; None when unknown."""
    try:
        if isinstance(definition, dg.TimeWindowPartitionsDefinition):
            window = definition.time_window_for_partition_key(key)
            return window.start.timestamp(), window.end.timestamp()
        if isinstance(definition, dg.StaticPartitionsDefinition):
            place = definition.get_partition_keys().index(key)
            return float(place), float(place + 1)
    except ValueError:  # the partitions have changed since
        return None
    return None


def list_affected_assets(graph: AssetGraph, project: Project, key: dg.AssetKey) -> tuple[str, ...]:
    """Return the models, batch predictions and services that depend on an asset; for a monitor's report, those of its model."""
    monitored = [monitor for monitor in project.select(Monitor) if key in _list_reports(monitor)]
    queue = deque([asset_key(monitored[0].model.key) if monitored else key])
    seen = set(queue)
    while queue:
        current = queue.popleft()
        for child in sorted(graph.get(current).child_keys) if graph.has(current) else ():
            if child not in seen:
                seen.add(child)
                queue.append(child)
    seen -= {key}
    return tuple(sorted(each.to_user_string() for each in seen if each.path[0] in _AFFECTED))


def _list_reports(monitor: Monitor) -> list[dg.AssetKey]:
    return [asset_key(key) for key in (monitor.drift_key, monitor.performance_key, monitor.estimate_key, monitor.system_key)]


def describe_command(project: Project, key: dg.AssetKey | None, window: AlertWindow, *, check: str = "", job: str = "") -> str:
    """Return the command that shows or repairs a failure.

    Parameters
    ----------
    project
        The declarations.
    key
        The asset; None for a job.
    window
        The partitions.
    check, job
        The check or the job that failed.
    """
    if key is None:
        monitor = next((m for m in project.select(Monitor) if job_name(m.model.name) == job and m.on_failure), None)
        return f"mlops monitor step {shlex.quote(monitor.name)}" if monitor else "mlops ui"
    for monitor in project.select(Monitor):
        if check and key == asset_key(monitor.system_key):
            return f"mlops serve status {shlex.quote(monitor.of.name)}"
        if check and key in _list_reports(monitor):
            partition = f" --partition {shlex.quote(window.label)}" if window.label and "..." not in window.label else ""
            return f"mlops monitor show {shlex.quote(monitor.name)}{partition}"
    if check == NO_QUARANTINED_ROWS:
        return f"mlops quarantine show {shlex.quote(key.path[-1])}"
    if key.path[0] == "version":
        return f"mlops models show {shlex.quote(find_declared_name(key.to_user_string()))}"
    partitions = f" --partitions {shlex.quote(window.label)}" if window.label else ""
    selection = shlex.quote(f'key:"{key.to_user_string()}"')
    return f"mlops run --select {selection}{partitions}"
