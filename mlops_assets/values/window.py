"""Half-open spans of event time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING

from mlops_assets.errors import DefinitionError
from mlops_assets.values.arguments import check_constructor

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    import dagster as dg


@check_constructor
@dataclass(frozen=True, slots=True)
class TimeWindow:
    """The span of event time that one materialisation covers.

    Parameters
    ----------
    start, end
        Aware datetimes; those of a partition are in UTC. ``start`` belongs to the window, ``end`` does not.

    Raises
    ------
    DefinitionError
        A bound has no time zone, or the end is not after the start.

    See Also
    --------
    dataset : Its function receives the window of its partition.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> import mlops_assets as ml
    >>> day = ml.TimeWindow(datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 2, tzinfo=UTC))
    >>> day.end - day.start
    datetime.timedelta(days=1)
    """

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        """Refuse naive or reversed bounds."""
        if self.start.tzinfo is None or self.end.tzinfo is None:
            raise DefinitionError(
                f"ml.TimeWindow was given {self.start.isoformat()} and {self.end.isoformat()}, which have no time zone",
                hint="give aware datetimes, e.g. datetime(2024, 1, 1, tzinfo=UTC)",
            )
        if self.end <= self.start:
            raise DefinitionError(
                f"ml.TimeWindow ends at {self.end.isoformat()}, not after its start {self.start.isoformat()}",
                hint="give the start first; the end does not belong to the window",
            )


def window_of(definition: dg.PartitionsDefinition | None, key: str) -> TimeWindow | None:
    """Return the span of event time of one partition, in UTC; None when unpartitioned."""
    if definition is None:
        return None
    span = definition.time_window_for_partition_key(key)  # type: ignore[attr-defined]  # only time windows are accepted
    return TimeWindow(span.start.astimezone(UTC), span.end.astimezone(UTC))


def join_windows(windows: Iterable[TimeWindow]) -> list[TimeWindow]:
    """Return windows sorted by start, with adjacent ones merged, so that a year of days becomes one window."""
    spans: list[TimeWindow] = []
    for window in sorted(windows, key=lambda w: w.start):
        if spans and spans[-1].end == window.start:
            spans[-1] = TimeWindow(spans[-1].start, window.end)
        else:
            spans.append(window)
    return spans
