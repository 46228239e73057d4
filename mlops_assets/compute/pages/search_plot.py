"""A search as a picture: what its trials reached one after the other, and over each hyperparameter."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.training.plots import png
from mlops_assets.values.search import Range, Search

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_assets.compute.training.search import Trial

_MOST = 8  # hyperparameters that get a panel


def search_plot(search: Search, found: Sequence[Trial], metric: str) -> bytes:
    """Return a picture of a search, as PNG.

    Parameters
    ----------
    search
        As declared.
    found
        Its trials, by number; those without a value are left out.
    metric
        What they reached; greater is better.
    """
    from matplotlib.figure import Figure

    scored = [trial for trial in found if trial.value is not None and math.isfinite(trial.value)]
    space = search.space[:_MOST]
    wide = min(1 + len(space), 3)
    high = -(-(1 + len(space)) // wide)
    figure = Figure(figsize=(4 * wide, 3 * high), dpi=80, layout="constrained")
    values = [float(trial.value or 0) for trial in scored]
    axes = _panel(figure, (high, wide, 1), "trial")
    axes.plot([trial.number for trial in scored], values, "o", markersize=4, label="a trial")
    axes.step([trial.number for trial in scored], [max(values[: at + 1]) for at in range(len(values))], where="post", label="best so far")
    axes.set_ylabel(_short(metric), fontsize=9, parse_math=False)
    if values:
        axes.legend(fontsize=8)
    for at, (name, known) in enumerate(space):
        axes = _panel(figure, (high, wide, at + 2), name)
        _over(axes, known, [trial.params[name] for trial in scored], values)
    return png(figure)


def _panel(figure: Any, place: tuple[int, int, int], name: str) -> Any:  # noqa: ANN401  (matplotlib's)
    axes = figure.add_subplot(*place)
    axes.set_xlabel(_short(name), fontsize=9, parse_math=False)
    axes.tick_params(labelsize=8)
    return axes


def _over(axes: Any, known: Range | tuple[Any, ...], tried: Sequence[Any], values: Sequence[float]) -> None:  # noqa: ANN401
    """Draw what was reached over the values of one hyperparameter."""
    if isinstance(known, Range):
        axes.plot(tried, values, "o", markersize=4)
        axes.set_xscale("log" if known.log else "linear")
        return
    names = [_text(value) for value in known]
    axes.plot([names.index(_text(value)) for value in tried], values, "o", markersize=4)
    axes.set_xticks(range(len(names)), [_short(name) for name in names], parse_math=False)


def _text(value: Any) -> str:  # noqa: ANN401  (any choice)
    """Return a choice as it reads; it may come from a record, where a tuple has become a list."""
    return json.dumps(value, default=str)


def _short(text: str) -> str:
    return text if len(text) <= 24 else text[:23] + "…"
