"""The windows of a monitor: the partitions of its predictions, or coarser partitions."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import dagster as dg

from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.core.beta import allow_beta
from mlops_assets.orchestrate.core.graph import Edge
from mlops_assets.orchestrate.core.partitions import build_window_mapping, partition_length
from mlops_assets.orchestrate.core.project import Project, served_partitions
from mlops_assets.values.serving import BatchPrediction, Service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from mlops_assets.values.monitoring import Monitor

_MAX_CHECKED = 800  # checked windows, from the first: two years of days include each kind of clock change


def predicted_partitions(project: Project, monitor: Monitor) -> dg.PartitionsDefinition | None:
    """Return the partitions of the predictions that a monitor watches; None when unpartitioned."""
    watched = monitor.of
    return served_partitions(project, watched) if isinstance(watched, Service) else watched.dataset.table.partitions


def build_report_mapping(partitions: dg.PartitionsDefinition | None, monitor: Monitor) -> dg.PartitionMapping | None:
    """Return the mapping from a monitor's window to the table partitions within it; None if they are the same, or without partitions."""
    return None if partitions is None or partitions == monitor.partitions else build_window_mapping()


def link_labels(monitor: Monitor, table: str, partitions: dg.PartitionsDefinition | None) -> Edge:
    """Return the edge from a performance report to a table that its labels are made from.

    With ``labels_within=``, the edge includes partitions after the window as they arrive. For the dataset of a batch prediction, it
    includes only those within the window.

    Parameters
    ----------
    monitor
        The monitor.
    table, partitions
        The table, and its partitions; None when unpartitioned.
    """
    predicted = isinstance(monitor.of, BatchPrediction) and monitor.of.dataset.key == table
    if partitions is None or predicted or not monitor.labels_within:
        return Edge(table, partitions, build_report_mapping(partitions, monitor))
    windows = -(-monitor.labels_within // partition_length(monitor.partitions))
    with allow_beta():
        mapping = dg.TimeWindowPartitionMapping(end_offset=windows, allow_nonexistent_upstream_partitions=True)
    return Edge(table, partitions, mapping, growing=True)


def check_monitor_windows(project: Project, monitor: Monitor) -> None:
    """Check that each window of a monitor consists of whole partitions of the predictions, and that no partition is left over.

    Raises
    ------
    DefinitionError
        A window is shorter than a partition, or a partition lies in two windows or in none.
    """
    predicted: Any = predicted_partitions(project, monitor)
    windows: Any = monitor.partitions
    if predicted == windows:
        return
    if not hasattr(predicted, "time_window_for_partition_key"):
        raise DefinitionError(_describe_mismatch(monitor, predicted), hint="give both the same partitions")
    if partition_length(windows) < partition_length(predicted):
        raise DefinitionError(
            f"{_describe_mismatch(monitor, predicted)}: a window is shorter than a partition",
            hint="give both the same partitions, or the monitor coarser ones",
        )
    if (cut := next(_find_cuts(windows, predicted), None)) is not None:
        partition = predicted.get_next_partition_window(
            predicted.get_prev_partition_window(cut, respect_bounds=False).end, respect_bounds=False
        )
        raise DefinitionError(
            f"{_describe_mismatch(monitor, predicted)}: the partition from {partition.start} to {partition.end} lies in two windows: one begins at {cut}",
            hint="begin every window where a partition begins: the same timezone=, and hour_offset= or day_offset= that fit",
        )
    _check_bounds(monitor, windows, predicted)


def _describe_mismatch(monitor: Monitor, predicted: object) -> str:
    return f"monitor '{monitor.name}' has the windows {monitor.partitions}, '{monitor.predictions_key}' the partitions {predicted}"


def _find_cuts(windows: Any, predicted: Any) -> Iterator[datetime]:  # noqa: ANN401  (time windows)
    """Yield each start, among the first 800 windows, that lies within a partition."""
    for start in islice(_list_starts(windows), _MAX_CHECKED):
        if predicted.get_prev_partition_window(start, respect_bounds=False).end != start:
            yield start


def _list_starts(windows: Any) -> Iterator[datetime]:  # noqa: ANN401  (time windows)
    """Yield the start of each whole window; endless if the windows have no end date."""
    window = windows.get_next_partition_window(windows.start, respect_bounds=False)
    while windows.end is None or window.end <= windows.end:
        yield window.start
        window = windows.get_next_partition_window(window.end, respect_bounds=False)


def _check_bounds(monitor: Monitor, windows: Any, predicted: Any) -> None:  # noqa: ANN401  (time windows)
    """Refuse a monitor with partitions before its first window or after its last one: they would have no report."""
    first_partition, first_window = (
        definition.get_next_partition_window(definition.start, respect_bounds=False).start for definition in (predicted, windows)
    )
    if first_partition < first_window:
        raise DefinitionError(
            f"{_describe_mismatch(monitor, predicted)}: the partitions from {first_partition} to {first_window} lie in no window",
            hint=f"give the monitor an earlier start, so that a window holds {first_partition}; a week begins on Sunday unless day_offset= says otherwise",
        )
    if windows.end is None:
        return
    partitions_end = None if predicted.end is None else predicted.get_prev_partition_window(predicted.end, respect_bounds=False).end
    windows_end = windows.get_prev_partition_window(windows.end, respect_bounds=False).end
    if partitions_end is None or windows_end < partitions_end:
        raise DefinitionError(
            f"{_describe_mismatch(monitor, predicted)}: the partitions from {windows_end} on lie in no window",
            hint="give the monitor no end_date=, or a later one, so that whole windows hold the last partition",
        )
