"""The report of a pull request as one HTML page that loads no other file."""

from __future__ import annotations

import base64
import html
import re
from typing import TYPE_CHECKING

from mlops_assets.compute.pages.rendering import render

if TYPE_CHECKING:
    from pathlib import Path

_SIGNS = {"✅": '<b class="good">✓</b>', "❌": '<b class="bad">✗</b>', "⚠️": '<b class="warn">!</b>'}  # fonts without emoji draw boxes
_PICTURE = re.compile(r'<img src="([^"]+)"')
_DETAILS = re.compile(r"&lt;(/?)(details|summary)&gt;")


def render_candidate(text: str, folder: Path) -> str:
    """Return a pull-request report as one HTML page with embedded pictures.

    Parameters
    ----------
    text
        From :func:`mlops_assets.compute.pages.ci_report.render_report`; names and messages in the text are escaped, and no other HTML
        passes.
    folder
        The folder of the report's PNG pictures; paths in the text are relative to this folder.
    """
    from markdown_it import MarkdownIt
    from markupsafe import Markup

    rendered = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    body = _DETAILS.sub(r"<\1\2>", rendered).replace("<p><details>", "<details>").replace("</summary></p>", "</summary>")
    body = body.replace("<p></details></p>", "</details>")
    for sign, plain in _SIGNS.items():
        body = body.replace(sign, plain)
    body = _PICTURE.sub(lambda found: f'<img src="{_embed_image(folder, html.unescape(found[1]))}"', body)
    return render("candidate.html.jinja", body=Markup(body))  # noqa: S704  (rendered by markdown-it without raw HTML)


def _embed_image(folder: Path, path: str) -> str:
    return f"data:image/png;base64,{base64.b64encode((folder / path).read_bytes()).decode()}"
