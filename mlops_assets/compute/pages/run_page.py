"""The comparison of runs as one HTML page: self-contained, without scripts, readable without colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlops_assets.compute.pages.charts import Line, draw_lines
from mlops_assets.compute.pages.rendering import render
from mlops_assets.compute.pages.run_comparison import compare_metrics, compare_params

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from markupsafe import Markup

    from mlops_assets.compute.pages.run_comparison import ComparedRun

MAX_CURVES = 60
_LINE_STYLES = 8  # the number of line styles in the style sheet


def render_runs(runs: Sequence[ComparedRun]) -> str:
    """Return a comparison of runs as one HTML document: metrics with the best value marked, parameters, and curves by step.

    Of the metrics that a run logged at more than one step, the first ``MAX_CURVES`` by name have a chart.

    Parameters
    ----------
    runs
        The runs, in the order of the page's columns.
    """
    title = f"{len(runs)} runs of {', '.join(dict.fromkeys(run.experiment for run in runs))}"
    return render("runs.html.jinja", title=title, **build_comparison_values(runs))


def build_comparison_values(runs: Sequence[ComparedRun]) -> dict[str, Any]:
    """Return the values that the template of a comparison shows: runs, metrics, params, curves and their number."""
    names = sorted({name for run in runs for name, (steps, _) in run.curves.items() if len(steps) > 1})
    return {
        "runs": runs,
        "metrics": compare_metrics(runs),
        "params": compare_params(runs),
        "curves": list(_draw_curves(runs, names[:MAX_CURVES])),
        "curve_count": len(names),
    }


def _draw_curves(runs: Sequence[ComparedRun], names: Sequence[str]) -> Iterator[tuple[str, Markup]]:
    from markupsafe import Markup

    for name in names:
        run_lines = [Line(run.title, *run.curves[name], kind=f"of{i % _LINE_STYLES}") for i, run in enumerate(runs) if name in run.curves]
        yield name, Markup(draw_lines(run_lines, f"{name} by step"))  # noqa: S704  (our own SVG, its texts escaped)
