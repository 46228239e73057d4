"""Silences, in which alerts are not sent: weekly or daily ones that a project declares, and those that a person sets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from mlops_assets.errors import DefinitionError
from mlops_assets.values.arguments import check_constructor
from mlops_assets.values.names import to_names

if TYPE_CHECKING:
    from collections.abc import Sequence

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TIME = re.compile(r"(?:(mon|tue|wed|thu|fri|sat|sun) )?([01]\d|2[0-3]):([0-5]\d)")
_DAY = 24 * 60  # minutes


@check_constructor
@dataclass(frozen=True, init=False)
class Silence:
    """A weekly or daily span of time without alerts; alerts that are still open at its end are sent then.

    Parameters
    ----------
    start, end
        The span in local time: ``"sat 00:00"`` and ``"mon 06:00"``, or ``"22:00"`` and ``"06:00"`` for every day. The end is not included.
    timezone
        The time zone of ``start`` and ``end``, e.g. ``"Europe/Berlin"``.
    checks
        Patterns of the silent checks, runs and jobs: ``"<asset>:<check>"``, ``"run of <asset>"`` or ``"job <name>"``, with ``*`` for any
        text.

    Raises
    ------
    DefinitionError
        A time cannot be read, only one time names a day, both times are equal, or the time zone does not exist.

    See Also
    --------
    Alerts : Takes ``silence=``.

    Examples
    --------
    >>> from datetime import datetime, UTC
    >>> import mlops_assets as ml
    >>> weekend = ml.monitoring.Silence("sat 00:00", "mon 06:00", timezone="Europe/Berlin")
    >>> weekend.contains(datetime(2024, 1, 7, 12, tzinfo=UTC))
    True
    """

    start: str
    end: str
    timezone: str
    checks: tuple[str, ...]

    def __init__(self, start: str, end: str, *, timezone: str = "UTC", checks: str | Sequence[str] = "*") -> None:
        values = {"start": start.lower(), "end": end.lower(), "timezone": timezone, "checks": to_names(checks)}
        for attribute, value in values.items():
            object.__setattr__(self, attribute, value)
        described = f"Silence('{start}', '{end}')"
        matches = [_TIME.fullmatch(text) for text in (self.start, self.end)]
        if not all(matches):
            raise DefinitionError(f"{described} has a time that cannot be read", hint="write e.g. 'sat 00:00' or '22:00'")
        if len({bool(match and match[1]) for match in matches}) > 1:
            raise DefinitionError(f"{described} names a day in one time only", hint="name a day in both, or in neither")
        if self.start == self.end:
            raise DefinitionError(f"{described} has no length", hint="give an end that differs from the start")
        try:
            ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError):
            raise DefinitionError(
                f"{described} has the unknown time zone '{timezone}'", hint="give a name such as 'UTC' or 'Europe/Berlin'"
            ) from None

    def contains(self, moment: datetime) -> bool:
        """Return whether a moment, an aware datetime, lies in the span.

        Examples
        --------
        >>> from datetime import datetime, UTC
        >>> import mlops_assets as ml
        >>> ml.monitoring.Silence("22:00", "06:00").contains(datetime(2024, 1, 7, 12, tzinfo=UTC))
        False
        """
        local = moment.astimezone(ZoneInfo(self.timezone))
        period = _DAY * 7 if " " in self.start else _DAY
        first, last = (_read_minutes(text) for text in (self.start, self.end))
        now = (local.weekday() * _DAY + local.hour * 60 + local.minute) % period
        return (now - first) % period < (last - first) % period


def _read_minutes(text: str) -> int:
    """Return the minutes since the start of the week, or of the day if the text names no day."""
    day, _, clock = text.rpartition(" ")
    return (_DAYS.index(day) * _DAY if day else 0) + int(clock[:2]) * 60 + int(clock[3:])


@dataclass(frozen=True)
class TimedSilence:
    """A silence that a person set.

    Parameters
    ----------
    pattern
        The pattern of the silent checks, runs and jobs, with ``*`` for any text.
    until
        The end of the silence, an aware datetime.
    reason, actor
        Why the silence was set, and the person who set it.
    number
        The number of the silence in the database; 0 before it is recorded.
    """

    pattern: str
    until: datetime
    reason: str
    actor: str
    number: int = 0


def is_silent(subject: str, now: datetime, weekly: Sequence[Silence], timed: Sequence[TimedSilence]) -> bool:
    """Return whether alerts about a subject are silent now."""
    if any(now < silence.until and fnmatchcase(subject, silence.pattern) for silence in timed):
        return True
    return any(silence.contains(now) and any(fnmatchcase(subject, pattern) for pattern in silence.checks) for silence in weekly)
