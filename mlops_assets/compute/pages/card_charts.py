"""The importance chart of a model card."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

from mlops_assets.compute.text import format_number, truncate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_assets.compute.training.importance import ColumnImportance

_WIDTH, _LINE, _LEFT = 640.0, 22.0, 190.0


def draw_importance(importances: Sequence[ColumnImportance]) -> str:
    """Return a horizontal bar per column as SVG, with one standard deviation to each side; empty when no importance is defined.

    Parameters
    ----------
    importances
        Most important column first; columns with an undefined importance are left out.
    """
    known = [importance for importance in importances if math.isfinite(importance.drop)]
    if not known:
        return ""
    low = min(0.0, *(i.drop - i.error for i in known))
    high = max(0.0, *(i.drop + i.error for i in known)) or 1.0
    scale = (_WIDTH - _LEFT - 70) / ((high - low) or 1.0)

    def place(value: float) -> float:
        return _LEFT + (value - low) * scale

    shapes = [shape for row, i in enumerate(known) for shape in _draw_bar(i, row * _LINE, place(0.0), place(i.drop), i.error * scale)]
    height = _LINE * len(known)
    shapes.append(f'<path class="axis" d="M{place(0.0):.1f} 0V{height:.1f}"/>')
    return f'<svg viewBox="0 0 {_WIDTH:.0f} {height:.0f}" role="img" aria-label="mean decrease of the metric by column">{"".join(shapes)}</svg>'


def _draw_bar(importance: ColumnImportance, y: float, zero: float, end: float, error: float) -> list[str]:
    name = truncate(importance.column, 28)
    return [
        f'<text x="{_LEFT - 8:.1f}" y="{y + 15:.1f}" text-anchor="end">{escape(name)}</text>',
        f'<rect class="now" x="{min(zero, end):.1f}" y="{y + 5:.1f}" width="{abs(end - zero):.1f}" height="12" rx="1.5"/>',
        f'<path class="error" d="M{end - error:.1f} {y + 11:.1f}h{2 * error:.1f}"/>',
        f'<text class="faint" x="{max(zero, end + error) + 6:.1f}" y="{y + 15:.1f}">{format_number(importance.drop)}</text>',
    ]
