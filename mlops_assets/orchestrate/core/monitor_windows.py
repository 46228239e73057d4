"""The windows of a monitor over the partitions of the predictions that it watches: the same ones, or coarser ones."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import dagster as dg

from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.core.partitions import by_windows, step_of
from mlops_assets.orchestrate.core.project import Project, served_partitions
from mlops_assets.values.serving import Service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from mlops_assets.values.monitoring import Monitor

_CHECKED = 800  # windows from the first: two years of days hold every change of the clock and a leap day


def predicted_partitions(project: Project, monitor: Monitor) -> dg.PartitionsDefinition | None:
    """Return the partitions of the predictions that a monitor watches."""
    watched = monitor.of
    return served_partitions(project, watched) if isinstance(watched, Service) else watched.dataset.table.partitions


def report_mapping(partitions: dg.PartitionsDefinition | None, monitor: Monitor) -> dg.PartitionMapping | None:
    """Return which partitions of a table one window of a monitor is made from: all those within its time; None where both have the same ones."""
    return None if partitions is None or partitions == monitor.partitions else by_windows()


def check_monitor_windows(project: Project, monitor: Monitor) -> None:
    """Refuse windows that do not each hold whole partitions of the predictions.

    Raises
    ------
    DefinitionError
        The windows are finer than the partitions, a partition lies in two windows, or it lies in none.
    """
    theirs: Any = predicted_partitions(project, monitor)
    mine: Any = monitor.partitions
    if theirs == mine:
        return
    if not hasattr(theirs, "time_window_for_partition_key"):
        raise DefinitionError(_problem(monitor, theirs), hint="give both the same partitions")
    if step_of(mine) < step_of(theirs):
        raise DefinitionError(
            f"{_problem(monitor, theirs)}: a window is shorter than a partition",
            hint="give both the same partitions, or the monitor coarser ones",
        )
    if (cut := next(_boundaries_within(mine, theirs), None)) is not None:
        held = theirs.get_next_partition_window(theirs.get_prev_partition_window(cut, respect_bounds=False).end, respect_bounds=False)
        raise DefinitionError(
            f"{_problem(monitor, theirs)}: the partition from {held.start} to {held.end} lies in two windows, one of which begins at {cut}",
            hint="begin every window where a partition begins: the same timezone=, and hour_offset= or day_offset= that fit",
        )
    _check_bounds(monitor, mine, theirs)


def _problem(monitor: Monitor, theirs: object) -> str:
    return f"monitor '{monitor.name}' has the windows {monitor.partitions}, '{monitor.predictions_key}' the partitions {theirs}"


def _boundaries_within(mine: Any, theirs: Any) -> Iterator[datetime]:  # noqa: ANN401  (time windows)
    """Yield each start of a window that lies within a partition."""
    for start in islice(_starts(mine), _CHECKED):
        if theirs.get_prev_partition_window(start, respect_bounds=False).end != start:
            yield start


def _starts(mine: Any) -> Iterator[datetime]:  # noqa: ANN401  (time windows)
    window = mine.get_next_partition_window(mine.start, respect_bounds=False)
    while mine.end is None or window.end <= mine.end:
        yield window.start
        window = mine.get_next_partition_window(window.end, respect_bounds=False)


def _check_bounds(monitor: Monitor, mine: Any, theirs: Any) -> None:  # noqa: ANN401  (time windows)
    """Refuse partitions before the first window or after the last one: nothing would be said of them."""
    first, begins = (definition.get_next_partition_window(definition.start, respect_bounds=False).start for definition in (theirs, mine))
    if first < begins:
        raise DefinitionError(
            f"{_problem(monitor, theirs)}: the partitions from {first} to {begins} lie in no window",
            hint=f"give the monitor an earlier start, so that a window holds {first}; a week begins on Sunday unless day_offset= says otherwise",
        )
    if mine.end is None:
        return
    last = None if theirs.end is None else theirs.get_prev_partition_window(theirs.end, respect_bounds=False).end
    ends = mine.get_prev_partition_window(mine.end, respect_bounds=False).end
    if last is None or ends < last:
        raise DefinitionError(
            f"{_problem(monitor, theirs)}: the partitions from {ends} on lie in no window",
            hint="give the monitor no end_date=, or a later one, so that whole windows hold the last partition",
        )
