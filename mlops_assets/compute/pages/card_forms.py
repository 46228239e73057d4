"""Render a model card as Markdown or as one self-contained HTML page."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mlops_assets.compute.pages.ci_report import escape_markdown
from mlops_assets.compute.pages.rendering import render
from mlops_assets.compute.text import replace_controls

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlops_assets.compute.pages.card import Card, CardTable

_BLOCK_START = re.compile(r"^([-+=]|\d{1,9}[.)])")  # starts a list, a rule or a heading at the start of a line
_INNER_UNDERSCORE = re.compile(r"(?<=[^\W_])\\_(?=[^\W_])")  # within a word it starts no emphasis: leave the source readable
_LONG_WORD = 40  # characters


def render_markdown(card: Card) -> str:
    """Return a card as Markdown without its charts; texts of the project are shown literally."""
    return "\n".join(_markdown_lines(card)).rstrip() + "\n"


def render_html(card: Card) -> str:
    """Return a card as an HTML page with its charts; texts of the project are shown literally."""
    return render("card.html.jinja", card=card, cell_class=_cell_class)


def _markdown_lines(card: Card) -> Iterator[str]:
    yield from (f"# {_escape(card.title)}", "")
    for text in card.paragraphs:
        yield from (_escape_line(text), "")
    yield from (*(f"- {_escape(name)}: {_escape(value)}" for name, value in card.facts), "")
    for section in card.sections:
        yield from (f"## {_escape(section.title)}", "")
        for problem in section.problems:
            yield from (f"> **Warning:** {_escape(problem)}", "")
        for text in section.paragraphs:
            yield from (_escape_line(text), "")
        for table in section.tables:
            yield from (*_table_lines(table), "")
        if section.code:
            yield from (*_fence(replace_controls(section.code)), "")


def _fence(code: str) -> tuple[str, ...]:
    """Return the lines of a fenced code block, whose fence is longer than any run of backticks in the code."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", code)), default=0))
    return f"{fence}sh", *code.splitlines(), fence


def _table_lines(table: CardTable) -> Iterator[str]:
    yield f"| {' | '.join(_escape(heading) for heading in table.headings)} |"
    yield f"|{''.join(' ---: |' if heading in table.numeric else ' --- |' for heading in table.headings)}"
    for row in table.rows:
        yield f"| {' | '.join(_escape(cell) for cell in row)} |"


def _escape_line(text: str) -> str:
    """Return a text escaped for the start of a line, so that Markdown reads no list, rule or heading."""
    return _BLOCK_START.sub(lambda found: f"{found[1][:-1]}\\{found[1][-1]}", _escape(text))


def _escape(text: str) -> str:
    return _INNER_UNDERSCORE.sub("_", escape_markdown(replace_controls(text)))


def _cell_class(table: CardTable, heading: str, cell: str | None = None) -> str | None:
    """Return the CSS class of a cell, or of its heading when ``cell`` is None, for a verdict, a number or a long word; None for others."""
    if not heading and cell in ("passed", "failed"):
        return cell
    if heading in table.numeric:
        return "figure"
    return "long" if any(len(word) > _LONG_WORD for word in (heading if cell is None else cell).split()) else None
