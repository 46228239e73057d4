"""When a feature view is too old: Dagster's own policies, evaluated by Dagster's own daemon."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.core.partitions import partition_length
from mlops_assets.values.features import FeatureView

MIN_WINDOW = timedelta(minutes=1)  # of Dagster


def build_freshness_policy(view: FeatureView) -> dg.FreshnessPolicy | None:
    """Return the freshness policy of a feature view; None when nothing says how fresh it must be, or nothing new can come.

    A view whose partitions have ended is as fresh as it will ever be: a project on past data must not be alarmed for ever. While its
    partitions go on, the newest materialisation may be as old as ``freshness=`` says, or the ttl, but never less than two partitions:
    between two of them there is nothing to materialise.
    """
    if has_ended(view.partitions):
        return None
    if isinstance(view.freshness, str):
        return _build_cron_policy(view, view.freshness)
    allowed = view.freshness or view.ttl
    if allowed is None:
        return None
    step = partition_length(view.partitions) if view.partitions is not None else timedelta(0)
    fail = max(allowed, MIN_WINDOW) if view.freshness else max(allowed, 2 * step, MIN_WINDOW)
    warn = max(fail * 0.75, MIN_WINDOW)
    return dg.FreshnessPolicy.time_window(fail_window=fail, warn_window=warn if warn < fail else None)


def has_ended(partitions: dg.PartitionsDefinition | None) -> bool:
    """Return whether the last partition lies in the past, so that nothing new can come."""
    end = getattr(partitions, "end", None)
    return end is not None and _to_datetime(end) <= datetime.now(UTC)


def _to_datetime(end: object) -> datetime:
    """Dagster keeps the end as a datetime, or as a timestamp with its time zone."""
    seconds = getattr(end, "timestamp", 0.0)
    return datetime.fromtimestamp(seconds() if callable(seconds) else seconds, UTC)


def _build_cron_policy(view: FeatureView, cron: str) -> dg.FreshnessPolicy:
    from dagster._utils.schedules import get_smallest_cron_interval, is_valid_cron_string

    if not is_valid_cron_string(cron):
        raise DefinitionError(
            f"'{view.key}' has freshness={cron!r}, which is no cron schedule", hint="e.g. '0 6 * * *' for every day at six, or a timedelta"
        )
    timezone = getattr(view.partitions, "timezone", None) or "UTC"
    return dg.FreshnessPolicy.cron(deadline_cron=cron, lower_bound_delta=get_smallest_cron_interval(cron), timezone=timezone)
