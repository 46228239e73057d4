"""A half-open span of time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING

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
        Aware datetimes in UTC; ``start`` belongs to the window, ``end`` does not.
    """

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        """Refuse naive or reversed bounds."""
        if self.start.tzinfo is None or self.end.tzinfo is None:
            msg = f"a TimeWindow needs aware datetimes, got {self.start!r} and {self.end!r}"
            raise ValueError(msg)
        if self.end <= self.start:
            msg = f"a TimeWindow must end after it starts, got {self.start!r} and {self.end!r}"
            raise ValueError(msg)


def window_of(definition: dg.PartitionsDefinition | None, key: str) -> TimeWindow | None:
    """Return the span of event time of one partition, in UTC; None when unpartitioned."""
    if definition is None:
        return None
    span = definition.time_window_for_partition_key(key)  # type: ignore[attr-defined]  # only time windows are accepted
    return TimeWindow(span.start.astimezone(UTC), span.end.astimezone(UTC))


def merged(windows: Iterable[TimeWindow]) -> list[TimeWindow]:
    """Return windows in order, those that touch as one: a year of days is one comparison."""
    spans: list[TimeWindow] = []
    for window in sorted(windows, key=lambda w: w.start):
        if spans and spans[-1].end == window.start:
            spans[-1] = TimeWindow(spans[-1].start, window.end)
        else:
            spans.append(window)
    return spans
