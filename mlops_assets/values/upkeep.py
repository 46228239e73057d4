"""The declared upkeep of a platform: its schedule, and the minimum age of what it deletes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from mlops_assets.errors import DefinitionError
from mlops_assets.values.arguments import check_constructor


@check_constructor
@dataclass(frozen=True)
class Upkeep:
    """Scheduled maintenance of a platform, as the asset ``upkeep/lake_upkeep``; given to ``build_definitions(upkeep=...)``.

    It merges files of the lake, expires snapshots, and removes artifacts, layouts and online views that are not needed. An online view is
    removed if this project does not put it online, no version with an alias looks it up, and its rows have not changed within
    ``older_than``. This holds for views of other projects on the same platform too.

    Parameters
    ----------
    cron_schedule
        The cron schedule of the asset.
    cron_timezone
        Time zone of the schedule.
    older_than
        Minimum age of the snapshots, unreferenced files and artifacts that are deleted, and of the last change of an online view that is
        removed. Layouts of undeclared views are removed at any age, because they can be rebuilt. Choose more than the duration of any
        notebook session that reads one snapshot. A running Dagster step keeps the snapshots that it reads, however long it runs.

    Raises
    ------
    DefinitionError
        ``older_than`` is negative.

    See Also
    --------
    build_definitions : Takes ``upkeep=``.

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
        """Refuse a negative age."""
        if self.older_than < timedelta(0):
            raise DefinitionError(
                f"Upkeep(older_than={self.older_than}) is a negative duration", hint="give a duration of 0 or more, e.g. timedelta(days=7)"
            )
