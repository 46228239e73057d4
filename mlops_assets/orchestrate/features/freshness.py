"""Freshness policies of feature views, which Dagster's daemon evaluates."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.core.partitions import partition_length
from mlops_assets.values.features import FeatureView

MIN_WINDOW = timedelta(minutes=1)  # Dagster accepts no shorter one


def build_freshness_policy(view: FeatureView) -> dg.FreshnessPolicy | None:
    """Return the freshness policy of a feature view; None without ``freshness=`` and ttl, or when its last partition has ended.

    ``freshness=`` is the maximum age of the newest materialisation, or a cron schedule. Without it, the maximum age is the ttl,
    but at least the length of two partitions: between the ends of two partitions there is nothing to materialise.
    Dagster warns at three quarters of the maximum age.
    A view whose last partition has ended gets no new rows, so a project on past data raises no alarm.
    """
    if has_ended(view.partitions):
        return None
    if isinstance(view.freshness, str):
        return _build_cron_policy(view, view.freshness)
    max_age = view.freshness or view.ttl
    if max_age is None:
        return None
    length = partition_length(view.partitions) if view.partitions is not None else timedelta(0)
    fail = max(max_age, MIN_WINDOW) if view.freshness else max(max_age, 2 * length, MIN_WINDOW)
    warn = max(fail * 0.75, MIN_WINDOW)
    return dg.FreshnessPolicy.time_window(fail_window=fail, warn_window=warn if warn < fail else None)


def has_ended(partitions: dg.PartitionsDefinition | None) -> bool:
    """Return whether the last partition has ended, so that no new rows can arrive."""
    end = getattr(partitions, "end", None)
    return end is not None and _to_datetime(end) <= datetime.now(UTC)


def _to_datetime(end: object) -> datetime:
    """Return the end of a partitions definition as a datetime; Dagster stores a datetime, or a timestamp with a time zone."""
    seconds = getattr(end, "timestamp", 0.0)
    return datetime.fromtimestamp(seconds() if callable(seconds) else seconds, UTC)


def _build_cron_policy(view: FeatureView, cron: str) -> dg.FreshnessPolicy:
    from dagster._utils.schedules import get_smallest_cron_interval, is_valid_cron_string

    if not is_valid_cron_string(cron):
        raise DefinitionError(
            f"'{view.key}' has freshness={cron!r}, which is not a cron schedule",
            hint="e.g. '0 6 * * *' for every day at six, or a timedelta",
        )
    timezone = getattr(view.partitions, "timezone", None) or "UTC"
    return dg.FreshnessPolicy.cron(deadline_cron=cron, lower_bound_delta=get_smallest_cron_interval(cron), timezone=timezone)
