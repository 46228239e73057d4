"""HTML pages from Jinja2 templates, which escape every value except markup that this package renders itself."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.text import format_duration, format_number

if TYPE_CHECKING:
    import jinja2

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")  # not allowed in HTML, or not encodable as UTF-8


def replace_unprintable(text: str) -> str:
    """Return a text with each unprintable character replaced by U+FFFD."""
    return _UNPRINTABLE.sub("�", text)


def render(template: str, **values: Any) -> str:  # noqa: ANN401  (any value)
    """Return one self-contained HTML document.

    Parameters
    ----------
    template
        The file name of the template in ``templates/``.
    values
        Escaped wherever the template shows them; ``markupsafe.Markup`` is trusted.
    """
    return _environment().get_template(template).render(values)


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__ or "mlops_assets.compute.pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.globals.update(format_number=format_number, format_duration=format_duration)
    return environment


def _finalize(value: object) -> object:
    """Replace unprintable characters in every text that a template shows; other values stay."""
    from markupsafe import Markup

    if not isinstance(value, str):
        return value
    return type(value)(replace_unprintable(value)) if isinstance(value, Markup) else replace_unprintable(value)
