"""Parse the option ``--partitions A...B``: one partition key, or the first and the last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops_assets.errors import DefinitionError, suggest_name
from mlops_assets.values.window import TimeWindow, window_of

if TYPE_CHECKING:
    import dagster as dg


def find_partitions(definition: dg.PartitionsDefinition, partitions: str, owner_name: str) -> list[str]:
    """Return the keys of the chosen partitions, oldest first.

    Parameters
    ----------
    definition
        The partitions to choose from.
    partitions
        ``KEY`` or ``FIRST...LAST``.
    owner_name
        The asset or service with these partitions, named in error messages.

    Raises
    ------
    DefinitionError
        A key is missing or unknown, or the range is reversed.
    """
    keys = list(definition.get_partition_keys())
    if not keys:
        raise DefinitionError(
            f"{owner_name} has no partition '{partitions}'", hint="there is no partition yet: check the start of the partitions"
        )
    first, dots, last = partitions.partition("...")
    known = f"there are {keys[0]} to {keys[-1]}"
    if dots and not (first and last):
        raise DefinitionError(
            f"the partitions '{partitions}' of {owner_name} have no {'last' if first else 'first'} key",
            hint=f"write {first or keys[0]}...{last or keys[-1]}; {known}",
        )
    for key in (first, last or first):
        if key not in keys:
            raise DefinitionError(f"{owner_name} has no partition '{key}'", hint=suggest_name(key, keys) + known)
    start, end = keys.index(first), keys.index(last or first)
    if end < start:
        raise DefinitionError(f"the partitions {partitions} of {owner_name} are reversed", hint=f"write {last}...{first}")
    return keys[start : end + 1]


def find_window(definition: dg.PartitionsDefinition, partitions: str, owner_name: str) -> TimeWindow:
    """Return the span of event time of the chosen partitions.

    Parameters
    ----------
    definition, partitions, owner_name
        As in :func:`find_partitions`.

    Raises
    ------
    DefinitionError
        A key is missing or unknown, or the range is reversed.
    """
    chosen = find_partitions(definition, partitions, owner_name)
    first, last = window_of(definition, chosen[0]), window_of(definition, chosen[-1])
    assert first is not None  # noqa: S101  (partitioned)
    assert last is not None  # noqa: S101
    return TimeWindow(first.start, last.end)
