"""Whether a context supports the numbers of an answer: it states them, or they follow from two of its numbers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mlops_assets.compute.groundedness.quantities import EXACTLY, Quantity, find_quantities
from mlops_assets.compute.groundedness.units import CLOCK, DATE, MONEY, PERCENT, TIME
from mlops_assets.compute.groundedness.words import STOP_WORDS, match_stems, stem_word

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROUNDED = 0.02  # relative tolerance of a derived percentage, which an answer may round
EXACT, DERIVED, UNSUPPORTED = 1.0, 0.7, 0.0


def match_dates(answer: float, context: float) -> bool:
    """Return True if a date of the context has every part (year, month, day) that a date of the answer states."""
    parts = [(int(value // 1e4), int(value // 100 % 100), int(value % 100)) for value in (answer, context)]
    return all(part in (0, expected) for part, expected in zip(*parts, strict=True))


def match_quantities(answer: Quantity, context: Quantity) -> bool:
    """Return True if two quantities have one dimension and are equal within their tolerance.

    A bare number of either text may have any dimension; a bare number of the answer may be the year of a date.
    """
    if context.dimension == DATE and answer.dimension in {DATE, ""}:
        return match_dates(answer.value if answer.dimension else answer.value * 1e4, context.value)
    if answer.dimension != context.dimension and not _are_compatible(answer.dimension, context.dimension):
        return False
    tolerance = max(answer.tolerance, context.tolerance)
    scale = max(abs(answer.value), abs(context.value), 1e-12)
    return abs(answer.value - context.value) <= tolerance * scale


def _are_compatible(first: str, second: str) -> bool:
    """Return True if two dimensions are compatible: a bare number fits any unit, and cents fit any currency."""
    return "" in {first, second} or (first.startswith(MONEY) and second.startswith(MONEY) and MONEY in {first, second})


def derive_quantities(quantities: Sequence[Quantity]) -> list[Quantity]:
    """Return the quantities that follow from any two given ones: sums, differences, durations, years, percentages and multiples."""
    derived = []
    for i, first in enumerate(quantities):
        for second in quantities[i + 1 :]:
            derived += [
                Quantity(value, dimension, "", -1, ROUNDED if dimension == PERCENT else EXACTLY)
                for value, dimension in _combine(first, second)
            ]
    return derived


def _combine(first: Quantity, second: Quantity) -> Iterator[tuple[float, str]]:
    """Yield value and dimension of each quantity that follows from two quantities."""
    a, b, dimensions = first.value, second.value, {first.dimension, second.dimension}
    years = [q for q in (first, second) if not q.dimension and 1500 <= q.value <= 2100 and q.value == int(q.value)]
    if dimensions == {CLOCK}:
        yield abs(a - b), TIME
    elif len(years) == 1 and TIME in dimensions:
        whole = (first if years[0] is second else second).value / 525_600
        if whole >= 1 and whole == int(whole):
            yield from ((years[0].value + sign * whole, "") for sign in (1, -1))
    elif DATE in dimensions or CLOCK in dimensions or years:
        return
    elif len(dimensions) == 1:
        yield abs(a - b), first.dimension
        yield a + b, first.dimension
        if 0 < min(a, b) < max(a, b):
            yield 100 * min(a, b) / max(a, b), PERCENT
    elif PERCENT in dimensions:
        (share,) = (q.value for q in (first, second) if q.dimension == PERCENT)
        (whole_value, dimension) = next((q.value, q.dimension) for q in (first, second) if q.dimension != PERCENT)
        yield share * whole_value / 100, dimension
    elif "" in dimensions:
        (count, amount, dimension) = (a, b, second.dimension) if not first.dimension else (b, a, first.dimension)
        if 2 <= count <= 12:
            yield count * amount, dimension


def score_numbers(answer: str, context: str) -> float:
    """Return how far the context supports the numbers of an answer: 1 stated, 0.7 derived from two numbers, 0 neither.

    Parameters
    ----------
    answer, context
        The texts; the number with the lowest support decides. A number is not stated if the context counts the same noun with other
        numbers.

    Returns
    -------
    float
        1.0 for an answer without numbers.

    Examples
    --------
    >>> score_numbers("Every fifth passenger, 20 %, waited.", "One in five passengers waited.")
    1.0
    >>> score_numbers("It left 45 minutes late.", "Scheduled for 14:35, it left at 15:20.")
    0.7
    >>> score_numbers("It left 45 hours late.", "It left 45 minutes late.")
    0.0
    """
    claims = find_quantities(answer)
    if not claims:
        return EXACT
    context_quantities = find_quantities(context)
    supports = [
        EXACT
        if any(match_quantities(claim, candidate) for candidate in context_quantities)
        and not _contradicts_count(claim, answer, context_quantities, context)
        else UNSUPPORTED
        for claim in claims
    ]
    if UNSUPPORTED in supports:
        derived = derive_quantities(context_quantities)
        supports = [
            support or (DERIVED if any(match_quantities(claim, candidate) for candidate in derived) else UNSUPPORTED)
            for support, claim in zip(supports, claims, strict=True)
        ]
    return min(supports)


def _read_noun(quantity: Quantity, text: str) -> str:
    """Return the stem of the noun that a bare number counts, the word right after it; empty if there is none."""
    after = re.match(r"\s+([^\W\d_]+)", text[quantity.start + len(quantity.text) :])
    return stem_word(after[1]) if after and not quantity.dimension and after[1].lower() not in STOP_WORDS else ""


def _contradicts_count(claim: Quantity, answer: str, context_quantities: Sequence[Quantity], context: str) -> bool:
    """Return True if the context counts the noun of a claim, but never with the number of the claim."""
    noun = _read_noun(claim, answer)
    counts = [candidate for candidate in context_quantities if noun and match_stems(_read_noun(candidate, context), noun)]
    return bool(counts) and not any(match_quantities(claim, candidate) for candidate in counts)
