"""A model card as Markdown, and as one HTML page that needs nothing else."""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING

from mlops_assets.compute.pages.ci_report import text
from mlops_assets.compute.pages.style import STYLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlops_assets.compute.pages.card import Card, Cells, Section

_OPENS = re.compile(r"^([-+=]|\d{1,9}[.)])")  # what begins a list, a rule or a heading where a line begins
_WITHIN = re.compile(r"(?<=[^\W_])\\_(?=[^\W_])")  # within a word it begins no emphasis, and whoever reads the source is thankful
_UNSEEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")  # has no place in a page, or cannot be written at all
_LONG = 40  # signs of a word
_STYLE = """
main{max-width:1040px}h1,h2,p,pre{overflow-wrap:anywhere}
section{margin-top:36px}section h2{margin:0 0 6px}dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 18px;margin:18px 0 0;font-size:13.5px}
dt{color:var(--faint);max-width:30ch;overflow-wrap:anywhere}dd{margin:0;overflow-wrap:anywhere}
table{width:auto;min-width:min(100%,420px)}
th,td{text-align:left;padding-right:22px;white-space:normal;vertical-align:top}.long{overflow-wrap:anywhere}th.figure,td.figure{text-align:right;white-space:nowrap}
th:last-child,td:last-child{padding-right:0}td:first-child{font-weight:600}
.problem{background:var(--warn-card);border-left:3px solid var(--warn);padding:6px 12px;border-radius:4px;margin:8px 0}
.problem b{color:var(--warn)}figure.picture{margin-top:14px;min-width:0;overflow-x:auto}.wide-svg svg{min-width:480px}.error{fill:none;stroke:var(--faint);stroke-width:1.5}
pre{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:12px 14px;white-space:pre-wrap;font-size:13px}
.beside{display:grid;grid-template-columns:minmax(0,3fr) minmax(0,2fr);gap:28px;align-items:start}.beside.small{grid-template-columns:300px 1fr}
.beside table{min-width:0}
@media (max-width:760px){.beside,.beside.small{grid-template-columns:1fr}.beside.small figure{max-width:300px}}
.passed{color:var(--good);font-weight:600}.failed{color:var(--bad);font-weight:600}
"""


def card_markdown(card: Card) -> str:
    """Return a card as Markdown; every word of the project is shown literally."""
    return "\n".join(_markdown(card)).rstrip() + "\n"


def card_page(card: Card) -> str:
    """Return a card as a page; every word of the project is escaped."""
    facts = "".join(f"<dt>{_html(name)}</dt><dd>{_html(value)}</dd>" for name, value in card.facts)
    head = f'<header><p class="faint small">Model card</p><h1>{_html(card.title)}</h1>{_paragraphs(card.words)}<dl>{facts}</dl></header>'
    body = "".join(f"<section><h2>{_html(s.title)}</h2>{_section(s)}</section>" for s in card.sections)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{_html(card.title)}: model card</title><style>{STYLE}{_STYLE}</style></head><body><main>{head}{body}</main></body></html>\n"
    )


def _markdown(card: Card) -> Iterator[str]:
    yield from (f"# {_text(card.title)}", "")
    for words in card.words:
        yield from (_line(words), "")
    yield from (*(f"- {_text(name)}: {_text(value)}" for name, value in card.facts), "")
    for section in card.sections:
        yield from (f"## {_text(section.title)}", "")
        for problem in section.problems:
            yield from (f"> **Warning:** {_text(problem)}", "")
        for words in section.words:
            yield from (_line(words), "")
        for cells in section.tables:
            yield from (*_rows(cells), "")
        if section.code:
            yield from (*_fenced(_plain(section.code)), "")


def _fenced(code: str) -> tuple[str, ...]:
    """Return code between fences that are longer than any in it."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", code)), default=0))
    return f"{fence}sh", *code.splitlines(), fence


def _rows(cells: Cells) -> Iterator[str]:
    yield f"| {' | '.join(_text(head) for head in cells.heads)} |"
    yield f"|{''.join(' ---: |' if head in cells.figures else ' --- |' for head in cells.heads)}"
    for row in cells.rows:
        yield f"| {' | '.join(_text(cell) for cell in row)} |"


def _line(words: str) -> str:
    """Return words that begin a line: they begin nothing else."""
    return _OPENS.sub(lambda found: f"{found[1][:-1]}\\{found[1][-1]}", _text(words))


def _text(words: str) -> str:
    return _WITHIN.sub("_", text(_plain(words)))


def _plain(words: str) -> str:
    return _UNSEEN.sub("�", words)


def _html(words: str) -> str:
    return escape(_plain(words))


def _section(section: Section) -> str:
    problems = "".join(f'<p class="problem"><b>Warning.</b> {_html(problem)}</p>' for problem in section.problems)
    tables = "".join(_table(cells) for cells in section.tables)
    code = f"<pre>{_html(section.code)}</pre>" if section.code else ""
    words = problems + _paragraphs(section.words)
    picture = _plain(section.picture)  # its names are escaped already
    if not picture:
        return words + tables + code
    beside, figure = ("beside small", "picture") if section.small else ("beside", "picture wide-svg")
    return f'{words}<div class="{beside}"><figure class="{figure}">{picture}</figure><div>{tables}</div></div>{code}'


def _paragraphs(words: tuple[str, ...]) -> str:
    return "".join(f"<p>{_html(one)}</p>" for one in words)


def _table(cells: Cells) -> str:
    kinds = ["figure" if head in cells.figures else "" for head in cells.heads]
    heads = "".join(_cell("th", head, kind) for head, kind in zip(cells.heads, kinds, strict=True))
    rows = "".join(
        f"<tr>{''.join(_cell('td', c, _verdict(h, c) or k) for h, c, k in zip(cells.heads, row, kinds, strict=True))}</tr>"
        for row in cells.rows
    )
    return f'<div class="table"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'


def _cell(tag: str, words: str, kind: str) -> str:
    """Return a cell; a word that is too long for it is broken, others are not."""
    kind = kind or "long" * any(len(word) > _LONG for word in words.split())
    return f"<{tag}{f' class={chr(34)}{kind}{chr(34)}' if kind else ''}>{_html(words)}</{tag}>"


def _verdict(head: str, cell: str) -> str:
    return cell if not head and cell in ("passed", "failed") else ""
