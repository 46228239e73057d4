"""Dagster's jobs cut and described once: `execute_in_process` copies the job of the project, cuts it twice and describes all three at each call.

A job never changes, so neither do its parts. Tests run the same few assets again and again.
"""

from collections.abc import Callable, Hashable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from dagster import AssetKey, JobDefinition

_copy, _cut = JobDefinition.as_ephemeral_job, JobDefinition.get_subset


def cache_jobs() -> None:
    """Make jobs of Dagster keep their copies and their parts."""
    JobDefinition.as_ephemeral_job, JobDefinition.get_subset = _copy_once, _cut_once


def _copy_once(
    job: JobDefinition,
    resource_defs: dict[str, Any],
    input_values: dict[str, Any],
    op_selection: Sequence[str] | None = None,
    asset_selection: Sequence[AssetKey] | None = None,
) -> JobDefinition:
    if resource_defs or input_values or op_selection:
        return _copy(job, resource_defs, input_values, op_selection, asset_selection)
    copy = _keep(job, "copy", lambda: _copy(job, resource_defs, input_values))
    return copy.get_subset(asset_selection=frozenset(asset_selection or ()))


def _cut_once(job: JobDefinition, *, asset_selection: AbstractSet[AssetKey] | None = None, **others: Any) -> JobDefinition:
    if any(others.values()):
        return _cut(job, asset_selection=asset_selection, **others)
    if not asset_selection or (job.asset_selection_data and job.asset_selection == asset_selection):
        return job
    return _keep(job, frozenset(asset_selection), lambda: _cut(job, asset_selection=asset_selection))


def _keep(job: JobDefinition, part: Hashable, make: Callable[[], JobDefinition]) -> JobDefinition:
    kept = vars(job).setdefault("_kept", {})
    if part not in kept:
        kept[part] = make()
    return kept[part]
