"""Numbers of a text with their units: ``half a litre``, ``one in five``, ``3:20 pm``, ``9 February 2021``, ``1,200,000``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from mlops_assets.compute.groundedness.units import (
    CLOCK,
    COUNTS,
    DATE,
    FRACTIONS,
    MONTHS,
    MULTIPLIERS,
    PERCENT,
    ROUGH_UNITS,
    SMALL_NUMBERS,
    UNITS,
)
from mlops_assets.compute.groundedness.words import MAX_CACHED

if TYPE_CHECKING:
    from collections.abc import Iterator

_TOKEN = re.compile(
    r"\d{4}-\d{2}(?:-\d{2})?(?!\d)"  # an ISO date
    r"|\d{1,2}:\d{2}(?!\d)"  # a time of day
    r"|\d{1,3}(?:[,'’\u00a0\u202f\u2009]\d{3})+(?:\.\d+)?(?![\d,]*\d)|\d+(?:\.\d+)?"
    r"|[$€£¥%]|°\s?[CFcf]\b|[^\W\d_]+[²]?(?:/[^\W\d_]+)?|[-–−]"
)
_CODE = re.compile(r"(?<!\w)[^\W\d_]+-?\d[\w-]*|\d+-?(?:bit|[A-Za-z]{3,}\b)|\d+(?:\.\d+){2,}")
HEDGED = 0.06  # the relative tolerance of a number after one of _HEDGES
_HEDGES = {"about", "almost", "approximately", "around", "circa", "just", "nearly", "over", "roughly", "some", "than", "under"}
EXACTLY = 1e-6  # the relative tolerance of other numbers, for the rounding errors of unit conversions
_BEFORE_A_UNIT = {"about", "after", "almost", "for", "in", "nearly", "one", "within"}
_MAGNITUDES = {"k": 1e3, "m": 1e6, "bn": 1e9}


@dataclass(frozen=True)
class Quantity:
    """A number of a text.

    Parameters
    ----------
    value
        The number in the base unit of its dimension: minutes, metres, grams; a date is year · 10 000 + month · 100 + day.
    dimension
        Such as ``time``, ``percent`` or ``money:usd``; empty for a bare number.
    text
        The number and its unit as the text has them.
    start
        The position of its first character.
    tolerance
        The relative difference up to which another number counts as equal.
    """

    value: float
    dimension: str
    text: str
    start: int
    tolerance: float = EXACTLY


@dataclass(frozen=True)
class _Token:
    text: str
    start: int
    end: int


def _tokenize(text: str) -> list[_Token]:
    """Return the tokens of a text in lower case; codes such as ``B6`` are skipped."""
    masked = _CODE.sub(lambda match: match[0] if _is_number_with_unit(match[0]) else "~" * len(match[0]), text)
    return [_Token(re.sub(r"\s", "", match[0]).lower(), match.start(), match.end()) for match in _TOKEN.finditer(masked)]


def _is_number_with_unit(text: str) -> bool:
    """Return True for a number and its unit without a space, such as ``5km``, ``3k`` or ``8am``."""
    return (match := re.fullmatch(r"\d+-?([A-Za-z]+)", text)) is not None and match[1].lower() in {*UNITS, *_MAGNITUDES, "am", "pm", "bn"}


class _QuantityReader:
    """Reads quantities from the tokens of a text, from left to right.

    Each ``_read_…`` method starts at the token ``at`` and moves ``at`` past the tokens that it reads. If the tokens do not match, it leaves
    ``at`` unchanged and returns None. Methods that read a quantity return its value, dimension and tolerance.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _tokenize(text)
        self.at = 0

    def peek(self, ahead: int = 0) -> str:
        index = self.at + ahead
        return self.tokens[index].text if 0 <= index < len(self.tokens) else ""

    def read(self) -> Iterator[Quantity]:
        while self.at < len(self.tokens):
            start = self.at
            quantity = self._read_date() or self._read_clock() or self._read_ratio() or self._read_fraction() or self._read_amount()
            if quantity is None:
                self.at = start + 1
                continue
            value, dimension, tolerance = quantity
            first, last = self.tokens[start], self.tokens[self.at - 1]
            if self.peek(start - self.at - 1) in _HEDGES:
                tolerance = max(tolerance, HEDGED)
            yield Quantity(value, dimension, self.text[first.start : last.end], first.start, tolerance)

    def _read_date(self) -> tuple[float, str, float] | None:
        if match := re.fullmatch(r"(\d{4})-(\d{2})(?:-(\d{2}))?", self.peek()):
            self.at += 1
            return int(match[1]) * 1e4 + int(match[2]) * 100 + int(match[3] or 0), DATE, 0.0
        day = month = year = 0
        if (
            self.peek().isdecimal()
            and int(self.peek()) <= 31
            and (self.peek(1) in MONTHS or (self.peek(1), self.peek(2) in MONTHS) == ("of", True))
        ):
            day, month = int(self.peek()), MONTHS.get(self.peek(1)) or MONTHS[self.peek(2)]
            self.at += 2 if self.peek(1) in MONTHS else 3
        elif self.peek() in MONTHS and re.fullmatch(r"\d{1,2}|[12]\d{3}", self.peek(1)):
            month = MONTHS[self.peek()]
            day = int(self.peek(1)) if len(self.peek(1)) <= 2 else 0
            self.at += 2 if day else 1
        if month and re.fullmatch(r"[12]\d{3}", self.peek()):
            year = int(self.peek())
            self.at += 1
        return (year * 1e4 + month * 100 + day, DATE, 0.0) if month else None

    def _read_clock(self) -> tuple[float, str, float] | None:
        named = {"noon": 720, "midday": 720, "midnight": 0}
        if self.peek() in named:
            self.at += 1
            return named[self.tokens[self.at - 1].text], CLOCK, 0.0
        match = re.fullmatch(r"(\d{1,2})(?::(\d{2}))?", self.peek())
        half_day = self.peek(1) if self.peek(1) in {"am", "pm"} else {"a": "am", "p": "pm"}.get(self.peek(1) if self.peek(2) == "m" else "")
        if match is None or (match[2] is None and half_day is None):
            return None
        hour, minute = int(match[1]), int(match[2] or 0)
        hour = hour % 12 + 12 * (half_day == "pm") if half_day else hour
        self.at += 1 if half_day is None else 2 if self.peek(1) in {"am", "pm"} else 3
        return hour * 60 + minute, CLOCK, 0.0

    def _read_ratio(self) -> tuple[float, str, float] | None:
        """Read ``one in five`` and ``3 out of 10`` as a percentage."""
        start = self.at
        first = self._read_number()
        if first is not None and self.peek() in {"in", "out"}:
            self.at += 1 if self.peek() == "in" else 2
            second = self._read_number()
            if second and second < 1000 and second > first:
                return 100 * first / second, PERCENT, 0.02
        self.at = start
        return None

    def _read_fraction(self) -> tuple[float, str, float] | None:
        """Read ``a third``, ``three quarters of``, ``half an hour`` and ``a quarter of a kilogram``."""
        start, count = self.at, 1.0
        if self.peek() in {"a", "an", "one"} or self.peek() in SMALL_NUMBERS or self.peek().isdecimal():
            count = {"a": 1.0, "an": 1.0}.get(self.peek()) or SMALL_NUMBERS.get(self.peek()) or float(self.peek())
            self.at += 1
        word = self.peek()
        is_half = word == "half" and self.peek(-1) not in {"first", "second"} and self.peek(1) not in {"-", "–"}
        if not is_half and (word not in FRACTIONS or self.at == start or self.peek(1) in {"-", "–"}):
            self.at = start
            return None
        self.at += 1
        value = count * FRACTIONS[word]
        ahead = 1 if self.peek() == "of" else 0
        ahead += 1 if self.peek(ahead) in {"a", "an"} else 0
        if self.peek(ahead) == "percentage":
            self.at += ahead + 2
            return value, PERCENT, 0.02
        if ahead and self.peek(ahead) in UNITS:
            dimension, factor = UNITS[self.peek(ahead)]
            self.at += ahead + 1
            return value * factor, dimension, 0.02
        if not self._is_fraction(word):
            self.at = start
            return None
        return 100 * value, PERCENT, 0.02

    def _is_fraction(self, word: str) -> bool:
        """Return True if the word before ``at`` is a fraction, not an ordinal as in ``a fourth runway``."""
        if word == "half" or word.endswith("s") or self.at >= len(self.tokens):
            return True
        last = self.tokens[self.at - 1]
        after = self.text[last.end : last.end + 1]
        return after in {".", ",", ";", ")"} or self.peek() in {
            "of",
            "less",
            "more",
            "lower",
            "higher",
            "fewer",
            "than",
            "from",
            "compared",
        }

    def _read_amount(self) -> tuple[float, str, float] | None:
        currency = UNITS[self.peek()][0] if self.peek() in {"$", "€", "£", "¥"} else None
        start = self.at
        self.at += currency is not None
        if currency is None and self.peek() in {"a", "an", "one"} and self.peek(-1) in _BEFORE_A_UNIT and self.peek(1) in UNITS:
            self.at += 1
            return self._read_unit(1.0)
        value = None if self.peek() == "one" and self.peek(1) in {"in", "out"} else self._read_number()
        if value is None:
            self.at = start
            return None
        if currency is not None:
            factor = _MAGNITUDES.get(self.peek(), 0)
            self.at += bool(factor)
            return value * (factor or 1), currency, EXACTLY
        return self._read_unit(value)

    def _read_unit(self, value: float) -> tuple[float, str, float] | None:
        """Read the unit after a number, which may be squared, and return value, dimension and tolerance."""
        unit, token_count = self.peek(), 1
        if unit == "square" and (base := UNITS.get(self.peek(1))) is not None and base[0] == "length":
            self.at += 2
            return value * base[1] ** 2, "area", EXACTLY
        if unit in {"percentage", "per"} and self.peek(1) in {"point", "points", "cent"}:
            unit, token_count = "%", 2
        if unit in {"bn", "k"}:
            self.at += 1
            return value * _MAGNITUDES[unit], "", EXACTLY
        if self.peek() in {"to", "and", "or", "-", "–"}:
            return value, self._peek_dimension_of_range(), EXACTLY
        if unit not in UNITS:
            return value, "", EXACTLY
        self.at += token_count
        dimension, factor = UNITS[unit]
        return value * factor, dimension, 0.04 if unit in ROUGH_UNITS else EXACTLY

    def _peek_dimension_of_range(self) -> str:
        """Return ``percent`` for ``5 to 14 %``, otherwise empty: the first number of other ranges has no unit to convert."""
        return PERCENT if re.fullmatch(r"\d+(?:\.\d+)?", self.peek(1)) and self.peek(2) in {"%", "percent"} else ""

    def _read_number(self) -> float | None:
        """Read digits or number words, with ``thousand`` and ``million``."""
        word = self.peek()
        start = self.at
        if re.match(r"\d", word) and not re.search(r"[:-]", word):
            value = float(re.sub(r"[^\d.]", "", word))
            self.at += 1
        elif word in COUNTS:
            self.at += 1
            return COUNTS[word]
        elif word in {"a", "an"} and self.peek(1) in MULTIPLIERS:
            value = 1.0
            self.at += 1
        elif word in SMALL_NUMBERS:
            value = self._read_words()
        else:
            return None
        while self.peek() in MULTIPLIERS:
            value *= MULTIPLIERS[self.peek()]
            self.at += 1
            if value % 100 == 0 and value < 1e6 and not self.text[self.tokens[start].start].isdigit():
                value += self._read_remainder()
        if word == "one" and self.at == start + 1 and self.peek() not in UNITS and self.peek() not in {"in", "out"}:
            self.at = start  # "the one in Ghent"
            return None
        return value

    def _read_words(self) -> float:
        """Read ``seven`` or ``twenty-seven``."""
        value = SMALL_NUMBERS[self.peek()]
        self.at += 1
        ahead = 1 if self.peek() in {"-", "–"} else 0
        if value >= 20 and 0 < SMALL_NUMBERS.get(self.peek(ahead), 0) < 10:
            value += SMALL_NUMBERS[self.peek(ahead)]
            self.at += ahead + 1
        return value

    def _read_remainder(self) -> float:
        """Read ``and five`` after ``two hundred``; 0 if no such number follows."""
        ahead = 1 if self.peek() == "and" else 0
        if self.peek(ahead) not in SMALL_NUMBERS:
            return 0.0
        self.at += ahead
        return self._read_words()


@lru_cache(maxsize=MAX_CACHED)
def find_quantities(text: str) -> tuple[Quantity, ...]:
    """Return the numbers of a text with their units.

    Parameters
    ----------
    text
        The text; codes such as ``B6`` and ``32-bit`` are not numbers.

    Returns
    -------
    tuple[Quantity, ...]
        The numbers in their order.

    Examples
    --------
    >>> [(q.value, q.dimension) for q in find_quantities("One fifth of 1,200 flights took half an hour.")]
    [(20.0, 'percent'), (1200.0, ''), (30.0, 'time')]
    """
    return tuple(_QuantityReader(text).read())
