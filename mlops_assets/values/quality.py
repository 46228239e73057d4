"""Limits on the rows of a table, declared or learned from a reference period."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, Literal

from mlops_assets.errors import DefinitionError
from mlops_assets.values.arguments import check_constructor
from mlops_assets.values.names import to_pairs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

NULLS, RANGE, CATEGORIES, ROWS = "null share", "range", "categories", "rows"
DECLARED = "declared"
Bounds = tuple[float | None, float | None]


@dataclass(frozen=True)
class Limit:
    """One limit on the rows of a partition.

    Parameters
    ----------
    rule
        ``null share`` and ``rows`` limit a number of the whole partition; ``range`` and ``categories`` limit the value in every row.
    column
        The column; ``""`` for ``rows``.
    low, high
        The inclusive bounds; None where there is no bound.
    values
        The allowed categories, for ``categories``.
    origin
        ``declared``, or the partitions that it was learned from and the margin.
    """

    rule: str
    column: str = ""
    low: float | None = None
    high: float | None = None
    values: tuple[str, ...] = ()
    origin: str = DECLARED

    @property
    def text(self) -> str:
        """The limit in words, with its origin."""
        low, high = (None if bound is None else f"{bound:.6g}" for bound in (self.low, self.high))
        if self.rule == CATEGORIES:
            return f"one of {', '.join(self.values)} ({self.origin})"
        if self.rule == NULLS:
            return f"at most {self.high or 0:.2%} ({self.origin})"
        words = f"{low} to {high}" if low and high else f"at least {low}" if low else f"at most {high}"
        return f"{words} ({self.origin})"


@check_constructor
@dataclass(frozen=True, init=False)
class Quality:
    """Limits on the rows of every partition of a table.

    Parameters
    ----------
    nulls
        Column → maximum share of nulls in a partition.
    ranges
        Column → minimum and maximum, inclusive; None for no limit. NaN is outside of every range; nulls are not compared.
    categories
        Column → the values that may occur, compared as text.
    rows
        Minimum and maximum number of rows of a partition; None for no limit.
    learn_from
        The partitions to learn limits from: a number of first partitions, or the first day and the day after the last, by partition key
        (``("2013-01-01", "2013-02-01")``). Limits are learned for the row count, and for every column except keys and times: the null
        share, the range of numbers, and the categories of texts with few values. They are stored in the lake as ``quality/<name>``, and
        stay valid until the declaration or these partitions change. A declared limit replaces a learned one.
    margin
        The fraction by which learned bounds are widened: the fraction of the width for a range, of the value for a constant column, and of
        the number for row counts and null shares. A null share is widened by at least one percentage point.
    severity
        ``"error"`` does not commit a partition that breaks a limit; ``"warn"`` commits it with a warning.

    Raises
    ------
    DefinitionError
        Nothing is declared, or a limit, the margin or the severity is invalid.

    See Also
    --------
    dataset : Declares ``quality=`` of a table.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.Quality(nulls={"dep_delay": 0.05}, ranges={"distance": (0, 6000)}, rows=(500, None)).severity
    'error'
    >>> ml.Quality(learn_from=14, severity="warn").learn_from
    14
    """

    nulls: tuple[tuple[str, float], ...]
    ranges: tuple[tuple[str, Bounds], ...]
    categories: tuple[tuple[str, tuple[str, ...]], ...]
    rows: Bounds | None
    learn_from: int | tuple[str, str] | None
    margin: float
    severity: str

    def __init__(  # noqa: PLR0913  (a flat declaration reads best)
        self,
        *,
        nulls: Mapping[str, float] | None = None,
        ranges: Mapping[str, Bounds] | None = None,
        categories: Mapping[str, Sequence[Any]] | None = None,
        rows: Bounds | None = None,
        learn_from: int | tuple[str | date, str | date] | None = None,
        margin: float = 0.25,
        severity: Literal["error", "warn"] = "error",
    ) -> None:
        values = {
            "nulls": to_pairs(nulls),
            "ranges": to_pairs({name: (bounds[0], bounds[1]) for name, bounds in (ranges or {}).items()}),
            "categories": to_pairs({name: tuple(str(v) for v in allowed) for name, allowed in (categories or {}).items()}),
            "rows": rows,
            "learn_from": learn_from if learn_from is None or isinstance(learn_from, int) else (str(learn_from[0]), str(learn_from[1])),
            "margin": margin,
            "severity": severity,
        }
        for attribute, value in values.items():
            object.__setattr__(self, attribute, value)
        for problem, hint in self._list_mistakes():
            raise DefinitionError(f"ml.Quality: {problem}", hint=hint)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns with a declared limit, each once."""
        return tuple(dict.fromkeys(name for declared in (self.nulls, self.ranges, self.categories) for name, _ in declared))

    @property
    def blocks(self) -> bool:
        """Whether a partition that breaks a limit is not committed."""
        return self.severity == "error"

    @property
    def declared(self) -> tuple[Limit, ...]:
        """The declared limits, without learned ones."""
        return (
            *(Limit(NULLS, name, high=share) for name, share in self.nulls),
            *(Limit(RANGE, name, low, high) for name, (low, high) in self.ranges),
            *(Limit(CATEGORIES, name, values=allowed) for name, allowed in self.categories),
            *((Limit(ROWS, "", *self.rows),) if self.rows else ()),
        )

    def _list_mistakes(self) -> Iterator[tuple[str, str]]:
        """Yield problem and hint of each mistake in the declaration."""
        if not (self.declared or self.learn_from):
            yield "nothing is declared", "give nulls=, ranges=, categories=, rows= or learn_from="
        for name, share in self.nulls:
            if not 0 <= share <= 1:
                yield f"the null share of '{name}' is {share}", "give a share between 0 and 1"
        for name, (low, high) in (*self.ranges, *((("rows", self.rows),) if self.rows else ())):
            if (low is None and high is None) or (low is not None and high is not None and low > high):
                yield f"the limits of '{name}' are {low} and {high}", "give the minimum and the maximum; None on one side at most"
        for name, allowed in self.categories:
            if not allowed:
                yield f"'{name}' has no allowed category", "name the values that may occur"
        if self.margin < 0:
            yield f"margin={self.margin}", "give a margin of 0 or more"
        if self.severity not in {"error", "warn"}:
            yield f"severity={self.severity!r}", "give 'error' or 'warn'"
        yield from self._list_learning_mistakes()

    def _list_learning_mistakes(self) -> Iterator[tuple[str, str]]:
        if isinstance(self.learn_from, int) and self.learn_from < 1:
            yield f"learn_from={self.learn_from}", "give the number of first partitions to learn from, 1 or more"
        # Keys of another format are compared later, when the partitions are known.
        iso = isinstance(self.learn_from, tuple) and all(key[:4].isdigit() and key[4:5] in ("", "-") for key in self.learn_from)
        if iso and isinstance(self.learn_from, tuple) and self.learn_from[0] >= self.learn_from[1]:
            yield f"learn_from={self.learn_from} ends before it begins", "give the first day and the day after the last"
