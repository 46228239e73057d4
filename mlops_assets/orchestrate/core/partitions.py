"""Partition arithmetic: order partition keys, map partitions of a table to those of its inputs, and convert windows to days."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

import dagster as dg

from mlops_assets.orchestrate.core.beta import allow_beta

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import date

    from mlops_assets.orchestrate.core.graph import Edge
    from mlops_assets.values.window import TimeWindow


def list_partition_keys(definition: dg.PartitionsDefinition | None) -> Sequence[str]:
    """Return every partition key; one empty key for a table without partitions."""
    if definition is None:
        return [""]
    if not isinstance(definition, dg.TimeWindowPartitionsDefinition):
        return definition.get_partition_keys()
    newest = definition.get_last_partition_key()
    return () if newest is None else _list_keys_until(definition, newest)


@lru_cache(maxsize=64)
def _list_keys_until(definition: dg.TimeWindowPartitionsDefinition, newest: str) -> tuple[str, ...]:
    """Return the keys up to the newest one, which time alone changes; Dagster takes milliseconds for a year of days."""
    keys = definition.get_partition_keys()
    return tuple(keys[: keys.index(newest) + 1])  # a partition may have ended since the newest one was found


def sort_keys(definition: dg.PartitionsDefinition | None, keys: Iterable[str]) -> list[str]:
    """Return partition keys, oldest first; keys that the definition no longer has come before all others.

    Keys are compared by their position in the definition: sorted as text, a key such as 02-02-2024 would come before 31-01-2024.
    """
    position = {key: number for number, key in enumerate(list_partition_keys(definition))}
    return sorted(keys, key=lambda key: (position.get(key, -1), key))


def map_partitions(edge: Edge, child: dg.PartitionsDefinition | None, keys: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """Return child partition → the parent partitions that it is made from, oldest first.

    The only partition of an unpartitioned parent is ``""``. An unpartitioned child is made from every parent partition.

    Parameters
    ----------
    edge
        The parent and the partition mapping.
    child
        The child's partitions.
    keys
        The child's partitions to map.
    """
    parent = edge.partitions
    if parent is None:
        return dict.fromkeys(keys, ("",))
    if child is None or isinstance(edge.mapping, dg.AllPartitionMapping):
        return dict.fromkeys(keys, tuple(list_partition_keys(parent)))
    if parent == child and _is_offset_mapping(edge.mapping):
        return _map_by_offset(edge.mapping, list_partition_keys(parent), keys)
    return {key: _map_by_dagster(edge.mapping, child, parent, key) for key in keys}


def _is_offset_mapping(mapping: dg.PartitionMapping | None) -> bool:
    return mapping is None or isinstance(mapping, (dg.IdentityPartitionMapping, dg.TimeWindowPartitionMapping))


def _map_by_offset(mapping: dg.PartitionMapping | None, parent_keys: Sequence[str], keys: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """Map partitions by position; keys without a position are left out.

    Dagster's own mapping takes milliseconds per partition, and an automation condition maps every partition of a table at each tick.
    """
    first, last = getattr(mapping, "start_offset", 0), getattr(mapping, "end_offset", 0)
    position = {key: index for index, key in enumerate(parent_keys)}
    return {key: tuple(parent_keys[max(0, position[key] + first) : max(0, position[key] + last + 1)]) for key in keys if key in position}


_MappingKey = tuple[dg.PartitionMapping | None, dg.PartitionsDefinition, dg.PartitionsDefinition, str]
_FINAL_RESULTS: dict[_MappingKey, Sequence[str]] = {}  # parents of partitions whose window has ended: time cannot change them


def _map_by_dagster(
    mapping: dg.PartitionMapping | None, child: dg.PartitionsDefinition, parent: dg.PartitionsDefinition, key: str
) -> Sequence[str]:
    """Return the parent partitions by Dagster's mapping, which takes milliseconds; cache them once the child's window has ended."""
    if (request := (mapping, child, parent, key)) in _FINAL_RESULTS:
        return _FINAL_RESULTS[request]
    parents = _map_uncached(mapping or build_window_mapping(), child, parent, key)
    grows = getattr(mapping, "end_offset", 0) > 0
    timed = not grows and all(hasattr(definition, "time_window_for_partition_key") for definition in (child, parent))
    if timed and partition_length(parent) <= partition_length(child) and child.time_window_for_partition_key(key).end <= datetime.now(UTC):  # type: ignore[attr-defined]
        _FINAL_RESULTS[request] = parents
    return parents


def build_window_mapping() -> dg.TimeWindowPartitionMapping:
    """Return the mapping to every existing parent partition within the time window of the child partition."""
    with allow_beta():
        return dg.TimeWindowPartitionMapping(allow_nonexistent_upstream_partitions=True)


def _map_uncached(mapping: dg.PartitionMapping, child: dg.PartitionsDefinition, parent: dg.PartitionsDefinition, key: str) -> Sequence[str]:
    subset = child.subset_with_partition_keys([key])
    result = mapping.get_upstream_mapped_partitions_result_for_partitions(subset, child, parent)
    return tuple(result.partitions_subset.get_partition_keys())


def partition_length(definition: dg.PartitionsDefinition | None) -> timedelta:
    """Return the length of the first partition, even before it has ended; one day for a table without partitions."""
    if definition is None:
        return timedelta(days=1)
    # Not the first key: before the first partition has ended there is none.
    first = definition.get_next_partition_window(definition.start, respect_bounds=False)  # type: ignore[attr-defined]  # a time window
    return timedelta(seconds=first.end.timestamp() - first.start.timestamp())


def build_lookback_mapping(parent: dg.PartitionsDefinition | None, seconds: float | None) -> dg.PartitionMapping | None:
    """Return the mapping to the same parent partition and to those of the ``seconds`` before it; to all partitions if ``seconds`` is None.

    Without parent partitions, return None.
    """
    if parent is None:
        return None
    if seconds is None:
        return dg.AllPartitionMapping()
    # The shortest regular step of the definition: a day in spring has 23 hours, a month 28 days.
    step = partition_length(parent).total_seconds()
    days = 1 if getattr(parent, "timezone", None) in (None, "UTC") else 23 / 24
    shortest = step * (28 / 31 if step > 27 * 86400 else days if step >= 86400 else 1)
    with allow_beta():
        return dg.TimeWindowPartitionMapping(start_offset=-int(-(-seconds // shortest)), allow_nonexistent_upstream_partitions=True)


def days_until_today(start: str) -> dg.PartitionsDefinition:
    """Return the partitions by UTC day from ``start`` (``YYYY-MM-DD``) to today; today is included although it has not ended."""
    return dg.DailyPartitionsDefinition(start, end_offset=1)


def day_span(window: TimeWindow | None, days: set[date]) -> tuple[date, date] | None:
    """Return the first and the last UTC day of a window; without a window, the first and the last of ``days``; without either, None."""
    if window is None:
        return (min(days), max(days)) if days else None
    return window.start.date(), (window.end - timedelta(microseconds=1)).date()


def list_days(first: date, last: date) -> list[date]:
    """Return every day from the first to the last, both included."""
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]
