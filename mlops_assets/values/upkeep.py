"""When the lake is looked after, and what is old enough to be given up."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from mlops_assets.errors import DefinitionError
from mlops_assets.values.arguments import check_constructor


@check_constructor
@dataclass(frozen=True)
class Upkeep:
    """Upkeep of the lake as an asset, ``upkeep/lake``, with a schedule; given to ``build_definitions(upkeep=...)``.

    Parameters
    ----------
    cron_schedule
        When it is materialised.
    cron_timezone
        Of the schedule.
    older_than
        Only states of the lake, and files that nothing names, that are older than this are given up. Longer than the longest
        notebook session that reads one state; steps of Dagster hold what they read, however long they run.

    Raises
    ------
    DefinitionError
        ``older_than`` is negative.

    Examples
    --------
    >>> from datetime import timedelta
    >>> import mlops_assets as ml
    >>> ml.Upkeep(older_than=timedelta(days=30)).cron_schedule
    '0 3 * * *'
    """

    cron_schedule: str = "0 3 * * *"
    cron_timezone: str = "UTC"
    older_than: timedelta = timedelta(days=7)

    def __post_init__(self) -> None:
        """Check the values."""
        if self.older_than < timedelta(0):
            raise DefinitionError(
                f"Upkeep(older_than={self.older_than}) lies in the future", hint="give a duration, e.g. timedelta(days=7)"
            )
