"""A model card: what a version is, in sections of plain words, which are made Markdown or a page.

Nothing in a card is markup: whatever a project calls its columns, both forms show it as it is. What a card says is after
M. Mitchell et al., *Model Cards for Model Reporting*, 2019.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cells:
    """A table.

    Parameters
    ----------
    heads
        Names of the columns.
    rows
        As many cells each.
    figures
        Those of the heads whose cells are numbers.
    """

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    figures: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Section:
    """One part of a card.

    Parameters
    ----------
    title
        In words.
    words
        Paragraphs.
    tables
        Below them.
    problems
        What a reader must not overlook.
    code
        Commands.
    picture
        SVG, on the page only: what it shows is in the tables as well.
    small
        Whether the picture is as high as it is wide.
    """

    title: str
    words: tuple[str, ...] = ()
    tables: tuple[Cells, ...] = ()
    problems: tuple[str, ...] = ()
    code: str = ""
    picture: str = ""
    small: bool = False


@dataclass(frozen=True)
class Card:
    """A whole card.

    Parameters
    ----------
    title
        ``model@version``.
    words
        What the model is for.
    facts
        Name and value of what is looked for first.
    sections
        In order.
    """

    title: str
    words: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
