"""Plot a hyperparameter search: the score of each trial, in order and over each hyperparameter."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.text import truncate
from mlops_assets.compute.training.plots import encode_png
from mlops_assets.values.search import Search, SearchRange

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_assets.compute.training.search import Trial

_MAX_PANELS = 8  # hyperparameters shown


def plot_search(search: Search, trials: Sequence[Trial], metric: str) -> bytes:
    """Return a plot of a search as PNG, with a panel for each of the first eight hyperparameters.

    Parameters
    ----------
    search
        The declared search.
    trials
        Ordered by number; trials without a finite value are left out.
    metric
        Name of the score; a higher score is better.
    """
    from matplotlib.figure import Figure

    scored = [trial for trial in trials if trial.value is not None and math.isfinite(trial.value)]
    space = search.space[:_MAX_PANELS]
    wide = min(1 + len(space), 3)
    high = -(-(1 + len(space)) // wide)
    figure = Figure(figsize=(4 * wide, 3 * high), dpi=80, layout="constrained")
    scores = [float(trial.value or 0) for trial in scored]
    axes = _add_panel(figure, (high, wide, 1), "trial")
    axes.plot([trial.number for trial in scored], scores, "o", markersize=4, label="trial")
    axes.step([trial.number for trial in scored], [max(scores[: at + 1]) for at in range(len(scores))], where="post", label="best so far")
    axes.set_ylabel(truncate(metric, 24), fontsize=9, parse_math=False)
    if scores:
        axes.legend(fontsize=8)
    for at, (name, domain) in enumerate(space):
        axes = _add_panel(figure, (high, wide, at + 2), name)
        _plot_parameter(axes, domain, [trial.params[name] for trial in scored], scores)
    return encode_png(figure)


def _add_panel(figure: Any, position: tuple[int, int, int], name: str) -> Any:  # noqa: ANN401  (matplotlib's)
    axes = figure.add_subplot(*position)
    axes.set_xlabel(truncate(name, 24), fontsize=9, parse_math=False)
    axes.tick_params(labelsize=8)
    return axes


def _plot_parameter(axes: Any, domain: SearchRange | tuple[Any, ...], values: Sequence[Any], scores: Sequence[float]) -> None:  # noqa: ANN401
    """Plot scores over the values of one hyperparameter, whose domain is a range or a tuple of choices."""
    if isinstance(domain, SearchRange):
        axes.plot(values, scores, "o", markersize=4)
        axes.set_xscale("log" if domain.log else "linear")
        return
    names = [_format_choice(value) for value in domain]
    axes.plot([names.index(_format_choice(value)) for value in values], scores, "o", markersize=4)
    axes.set_xticks(range(len(names)), [truncate(name, 24) for name in names], parse_math=False)


def _format_choice(value: Any) -> str:  # noqa: ANN401  (any choice)
    """Return a choice as JSON, so that a declared tuple has the same text as the list that a record stores."""
    return json.dumps(value, default=str)
