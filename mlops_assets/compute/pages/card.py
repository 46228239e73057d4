"""A model card as values: sections of plain text and tables, which are rendered as Markdown or HTML.

No text in a card is markup: names of the project are shown literally. The sections follow
M. Mitchell et al., *Model Cards for Model Reporting*, 2019.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class CardTable:
    """A table of a model card.

    Parameters
    ----------
    headings
        Names of the columns.
    rows
        Each row has one cell per heading.
    numeric
        Headings whose cells are numbers, aligned right.
    """

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Section:
    """A section of a model card.

    Parameters
    ----------
    title
        Heading of the section.
    paragraphs
        Plain text.
    tables
        Shown after the paragraphs.
    problems
        Warnings, shown first.
    code
        Shell commands.
    chart
        SVG, in the HTML form only; the tables hold the same numbers.
    square
        Whether the chart is as high as it is wide.
    """

    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[CardTable, ...] = ()
    problems: tuple[str, ...] = ()
    code: str = ""
    chart: str = ""
    square: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the section as a dict of JSON values."""
        tables = [{**asdict(table), "numeric": sorted(table.numeric)} for table in self.tables]
        return {**asdict(self), "tables": tables}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Section:
        """Rebuild the section from the result of :meth:`as_json`."""
        tables = tuple(
            CardTable(tuple(table["headings"]), tuple(map(tuple, table["rows"])), frozenset(table["numeric"])) for table in stored["tables"]
        )
        texts = {name: tuple(stored[name]) for name in ("paragraphs", "problems")}
        return cls(**{**stored, **texts, "tables": tables})


@dataclass(frozen=True)
class Card:
    """A model card.

    Parameters
    ----------
    title
        ``model@version``.
    paragraphs
        What the model is for.
    facts
        Names and values shown at the top.
    sections
        In reading order.
    """

    title: str
    paragraphs: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
