"""Warn of online views whose rows expire before the next row exists, or are trained before a service can have them."""

from __future__ import annotations

import re
import warnings
from datetime import timedelta
from typing import TYPE_CHECKING

from mlops_assets.orchestrate.core.partitions import partition_length
from mlops_assets.orchestrate.features.freshness import has_ended
from mlops_assets.orchestrate.online.materialise import online_views
from mlops_assets.values.feature_sources import Sql
from mlops_assets.values.push import PushSource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlops_assets.orchestrate.core.project import Project
    from mlops_assets.values.features import FeatureView


def warn_of_serving_ages(project: Project) -> None:
    """Warn of each online view whose ttl ends before its next row can exist, or whose rows are stamped before they can exist."""
    for view in online_views(project):
        for text in (*explain_short_ttl(view), *explain_early_stamp(view)):
            warnings.warn(text, UserWarning, stacklevel=3)


def explain_short_ttl(view: FeatureView) -> Iterator[str]:
    """Yield why the values of a view are temporarily STALE or MISSING at serving; nothing when the ttl suffices.

    The rows of a partition exist once the partition has ended, and stay the newest until the next partition has ended. So a row
    stamped with the end of its partition is up to one partition old, and a row stamped with the start up to two.
    The ttl must not be shorter than a ``freshness=`` duration either. A view whose last partition has ended is not checked,
    nor is a view of pushed rows, which are online at once.
    """
    if view.ttl is None or isinstance(view.source, PushSource) or has_ended(view.partitions):
        return
    age, why = _max_lookup_age(view)
    if view.ttl < age:
        yield (
            f"feature view '{view.name}' has a ttl of {view.ttl}, but its newest row is up to {age} old when a service looks it up: {why}. "
            f"Until the next row is there, its features are STALE or MISSING. Hint: {_advise_ttl(view, age)}"
        )
    elif isinstance(view.freshness, timedelta) and view.ttl < view.freshness:
        yield (
            f"feature view '{view.name}' has a ttl of {view.ttl}, but freshness= allows its newest materialisation to be {view.freshness} old: "
            f"its features are STALE or MISSING before anything warns. Hint: set ttl={view.freshness!r} or more, or a shorter freshness="
        )


def explain_early_stamp(view: FeatureView) -> Iterator[str]:
    """Yield why training looks up rows of a view before a service can have them; nothing if their times say when they exist.

    Only a query is examined: whether a function stamps rows with the start of their partition cannot be seen.
    """
    if view.created_timestamp is not None or view.partitions is None or has_ended(view.partitions) or not _is_stamped_at_start(view):
        return
    if getattr(view.partitions, "end_offset", 0) == 0:
        step = partition_length(view.partitions)
        yield (
            f"feature view '{view.name}' stamps rows with the start of their partition, but partitions of {step} are materialised when they "
            f"have ended: training finds a row up to {step} earlier than a service can. Hint: select getvariable('window_end') as another "
            "column, and name it as created_timestamp="
        )


def _max_lookup_age(view: FeatureView) -> tuple[timedelta, str]:
    """Return the maximum age of a view's newest row when it is looked up, and why; zero for a view without partitions."""
    if view.partitions is None:
        return timedelta(0), ""
    step, early = partition_length(view.partitions), getattr(view.partitions, "end_offset", 0)
    lag = f"partitions of {step} are materialised when they have ended" if early == 0 else f"partitions of {step} with end_offset={early}"
    if _is_stamped_at_start(view):
        return (2 - early) * step, f"{lag}, and its query stamps rows with the start of their partition"
    return (1 - early) * step, lag


def _is_stamped_at_start(view: FeatureView) -> bool:
    """Return whether the view is an SQL query that uses the start of the partition as the event time."""
    if not isinstance(view.source, Sql):
        return False
    name = rf'"?{re.escape(view.event_timestamp)}"?(?!\w)'
    return re.search(rf"getvariable\(\s*'window_start'\s*\)\s+(as\s+)?{name}", view.source.query, re.IGNORECASE) is not None


def _advise_ttl(view: FeatureView, age: timedelta) -> str:
    return f"set ttl={age!r} or more, or use shorter partitions; a ttl is counted from '{view.event_timestamp}'"
