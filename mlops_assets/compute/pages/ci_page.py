"""The report of a pull request as one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import html
import re
from typing import TYPE_CHECKING

from mlops_assets.compute.pages.style import STYLE

if TYPE_CHECKING:
    from pathlib import Path

_MORE = (
    "img{max-width:min(100%,340px);border-radius:10px;background:#fff}p:has(img){max-width:none}details{margin:14px 0}"
    "summary{cursor:pointer;font-weight:600}table{margin:10px 0 18px}th,td{text-align:left;padding-right:18px;white-space:normal;overflow-wrap:anywhere}"
    ".good{color:var(--good)}.bad{color:var(--bad)}.warn{color:var(--warn)}"
)
_SIGNS = {"✅": '<b class="good">✓</b>', "❌": '<b class="bad">✗</b>', "⚠️": '<b class="warn">!</b>'}  # fonts without emoji draw boxes
_PICTURE = re.compile(r'<img src="([^"]+)"')
_DETAILS = re.compile(r"&lt;(/?)(details|summary)&gt;")


def ci_page(text: str, folder: Path) -> str:
    """Return a report as a page, its pictures within.

    Parameters
    ----------
    text
        From :func:`mlops_assets.compute.pages.ci_report.markdown`; names and messages in it are escaped, and no HTML of others is let through.
    folder
        Where the paths of its pictures begin.
    """
    from markdown_it import MarkdownIt

    drawn = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    body = _DETAILS.sub(r"<\1\2>", drawn).replace("<p><details>", "<details>").replace("</summary></p>", "</summary>")
    body = body.replace("<p></details></p>", "</details>")
    for sign, plain in _SIGNS.items():
        body = body.replace(sign, plain)
    body = _PICTURE.sub(lambda found: f'<img src="{_within(folder, html.unescape(found[1]))}"', body)
    return f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><title>Candidate</title><style>{STYLE}{_MORE}</style><body><main>{body}</main></body></html>\n'


def _within(folder: Path, path: str) -> str:
    return f"data:image/png;base64,{base64.b64encode((folder / path).read_bytes()).decode()}"
