"""Numbers, durations and long names as people read them, the same on every page, card and report."""

from __future__ import annotations

import json
import math
import re
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import timedelta

UNKNOWN = "–"
_INDENT, _MAX_LEVELS, _MAX_GROWTH = 2, 20, 10  # of indented JSON
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def format_number(value: float | None, digits: int = 3, *, nan: str = UNKNOWN) -> str:
    """Return a number as text with a true minus sign, in scientific notation when it is very small or very large.

    Parameters
    ----------
    value
        None is shown as a dash.
    digits
        The number of significant digits.
    nan
        The text for NaN.

    Examples
    --------
    >>> format_number(0.6942), format_number(-1234567.0), format_number(None), format_number(float("-inf"))
    ('0.694', '−1.23e+06', '–', '−∞')
    """
    if value is None:
        return UNKNOWN
    if not math.isfinite(value):
        return nan if math.isnan(value) else "∞" if value > 0 else "−∞"
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.{digits - 1}e}".replace("-", "−", 1) if value < 0 else f"{value:.{digits - 1}e}"
    return (f"{value:#.{digits}g}".rstrip(".") if value else "0").replace("-", "−")


def format_duration(duration: timedelta | None) -> str:
    """Return a duration in seconds below two minutes, in minutes below two hours, otherwise in hours; a dash for None.

    Examples
    --------
    >>> from datetime import timedelta
    >>> format_duration(timedelta(seconds=90)), format_duration(timedelta(minutes=10)), format_duration(None)
    ('90.0 s', '10.0 min', '–')
    """
    if duration is None:
        return UNKNOWN
    seconds = duration.total_seconds()
    return f"{format_number(seconds)} s" if seconds < 120 else f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def describe_span(span: timedelta) -> str:
    """Return a span of event time in days, or in hours if it is not a whole number of days.

    Examples
    --------
    >>> from datetime import timedelta
    >>> describe_span(timedelta(days=14)), describe_span(timedelta(days=1, hours=12))
    ('14 days', '36 hours')
    """
    number, unit = (span.days, "day") if not span.seconds else (span.total_seconds() / 3600, "hour")
    return f"{number:g} {unit}{'s' * (number != 1)}"


def truncate(text: str, max_length: int) -> str:
    """Return the text, cut to ``max_length`` characters with an ellipsis at the end if it is longer.

    Examples
    --------
    >>> truncate("carrier", 5)
    'carr…'
    """
    return text if len(text) <= max_length else text[: max_length - 1] + "…"


def replace_controls(text: str) -> str:
    r"""Return a text in which U+FFFD replaces characters that control a terminal, reorder a line or cannot be encoded.

    Newlines and tabs stay; a carriage return before a newline is dropped.

    Examples
    --------
    >>> replace_controls("late\x1b[2J")
    'late�[2J'
    """
    return _CONTROLS.sub("�", text.replace("\r\n", "\n"))


def indent_json(text: str) -> str:
    """Return the text of a JSON object or list with a line for each value; any other text unchanged.

    A text of more than 20 levels, or a text that would become 10 times as long, is also unchanged.

    Examples
    --------
    >>> print(indent_json('{"question": "Is it late?"}'))
    {
      "question": "Is it late?"
    }
    """
    with suppress(ValueError, RecursionError):
        value = json.loads(text)
        added = _measure_indentation(value) if isinstance(value, (dict, list)) else None
        if added is not None and len(text) + added <= _MAX_GROWTH * len(text):
            return json.dumps(value, indent=_INDENT, ensure_ascii=False)
    return text


def _measure_indentation(value: object, depth: int = 0) -> int | None:
    """Return the number of characters that indentation adds to a JSON value; None if the value is nested too deeply."""
    if not isinstance(value, (dict, list)) or not value:
        return 0
    if depth >= _MAX_LEVELS:
        return None
    size = len(value) * (1 + _INDENT * (depth + 1)) + 1 + _INDENT * depth
    for item in value.values() if isinstance(value, dict) else value:
        inner = _measure_indentation(item, depth + 1)
        if inner is None:
            return None
        size += inner
    return size
