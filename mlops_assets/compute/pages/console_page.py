"""Pages of the web console as blocks of text, and their HTML: no script, one style sheet, forms and links only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from mlops_assets.compute.pages.rendering import render

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_assets.compute.pages.run_comparison import ComparedRun


@dataclass(frozen=True)
class ConsoleCell:
    """A text with a link or a colour.

    Parameters
    ----------
    text
        The text.
    href
        The address of the link; empty without a link.
    kind
        ``good``, ``bad``, ``warn`` or empty.
    """

    text: str
    href: str = ""
    kind: str = ""


ConsoleRow = tuple[ConsoleCell | str, ...]


@dataclass(frozen=True)
class ConsoleTable:
    """A table of a page.

    Parameters
    ----------
    title
        The heading above the table, which also names it for screen readers.
    headings
        One per column; a heading with a link sorts by its column.
    rows
        Each row has one cell per heading. The first cell heads its row.
    empty
        The text that replaces a table without rows.
    numeric
        Positions of the columns that are aligned right.
    choice
        Name of a query parameter: each row gets a box to choose it, and the form opens ``compare`` with the chosen ``values``.
    compare
        The path that compares the chosen rows.
    values
        One per row: the value of its box.
    more
        Links below the table, e.g. to the next page.
    """

    block: ClassVar = "table"
    title: str
    headings: tuple[ConsoleCell | str, ...]
    rows: tuple[ConsoleRow, ...]
    empty: str
    numeric: frozenset[int] = frozenset()
    choice: str = ""
    compare: str = ""
    values: tuple[str, ...] = ()
    more: tuple[ConsoleCell, ...] = ()


@dataclass(frozen=True)
class ConsoleFacts:
    """A block of names with their values."""

    block: ClassVar = "facts"
    title: str
    pairs: tuple[tuple[str, ConsoleCell | str], ...]


@dataclass(frozen=True)
class ConsoleNotice:
    """A statement in a coloured box.

    Parameters
    ----------
    kind
        ``good``, ``bad``, ``warn`` or empty.
    headline, text
        The statement, and its details.
    href
        The page with details; empty without such a page.
    command
        A command line that acts on the statement; empty without one.
    """

    kind: str
    headline: str
    text: str
    href: str = ""
    command: str = ""


@dataclass(frozen=True)
class ConsoleNotices:
    """Several statements next to each other."""

    block: ClassVar = "notices"
    title: str
    notices: tuple[ConsoleNotice, ...]


@dataclass(frozen=True, eq=False)
class ConsoleCharts:
    """Charts with captions.

    Parameters
    ----------
    charts
        Pairs of a caption and SVG that this package has drawn.
    wide
        Whether each chart takes the whole width.
    """

    block: ClassVar = "charts"
    title: str
    charts: tuple[tuple[str, str], ...]
    wide: bool = False


@dataclass(frozen=True, eq=False)
class ConsoleComparison:
    """A comparison of runs: metrics, parameters and curves."""

    block: ClassVar = "comparison"
    runs: tuple[ComparedRun, ...]


@dataclass(frozen=True)
class ConsoleForm:
    """A form of text fields that opens the same page with other parameters.

    Parameters
    ----------
    action
        The path of the page.
    fields
        Name, label, value and example of each field.
    button
        The text of the button.
    """

    block: ClassVar = "form"
    action: str
    fields: tuple[tuple[str, str, str, str], ...]
    button: str


ConsoleBlock = ConsoleTable | ConsoleFacts | ConsoleNotices | ConsoleCharts | ConsoleComparison | ConsoleForm


@dataclass(frozen=True)
class ConsolePage:
    """A page of the console.

    Parameters
    ----------
    title
        The heading.
    section
        The path of the entry in the navigation to which the page belongs.
    text
        Sentences below the heading.
    blocks
        In the order of the page.
    commands
        Pairs of a purpose and a command line that acts on what the page shows.
    above
        The page to which this one belongs; None for a page of the navigation.
    status
        The HTTP status.
    """

    title: str
    section: str
    text: str = ""
    blocks: Sequence[ConsoleBlock] = ()
    commands: Sequence[tuple[str, str]] = ()
    above: ConsoleCell | None = None
    status: int = 200


@dataclass(frozen=True)
class ConsoleFrame:
    """What all pages of one console have in common.

    Parameters
    ----------
    sections
        The entries of the navigation.
    dagster_url
        The address of the Dagster UI; empty when it is unknown.
    facts
        Names and values of the footer.
    style
        The path of the style sheet.
    """

    sections: tuple[ConsoleCell, ...]
    dagster_url: str
    facts: tuple[tuple[str, str], ...] = field(default=())
    style: str = "/console.css"


def render_console(page: ConsolePage, frame: ConsoleFrame) -> str:
    """Return a page of the console as an HTML document."""
    return render("console.html.jinja", page=page, frame=frame, as_cell=_as_cell, comparison_values=_build_comparison_values)


def render_console_style() -> str:
    """Return the style sheet of the console."""
    return render("console.css")


def _as_cell(cell: ConsoleCell | str) -> ConsoleCell:
    return ConsoleCell(cell) if isinstance(cell, str) else cell


def _build_comparison_values(block: ConsoleComparison) -> dict[str, Any]:
    from mlops_assets.compute.pages.run_page import build_comparison_values

    return build_comparison_values(block.runs)
