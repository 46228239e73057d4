"""HTML pages from Jinja2 templates, which escape every value except markup that this package renders itself."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.text import format_duration, format_number, replace_controls

if TYPE_CHECKING:
    import jinja2


def render(template: str, **values: Any) -> str:  # noqa: ANN401  (any value)
    """Return one self-contained HTML document.

    Parameters
    ----------
    template
        The file name of the template in ``templates/``.
    values
        The values that the template shows. All are escaped, except ``markupsafe.Markup``.
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
    """Replace control characters in every text that a template shows; other values stay."""
    from markupsafe import Markup

    if not isinstance(value, str):
        return value
    return type(value)(replace_controls(value)) if isinstance(value, Markup) else replace_controls(value)
