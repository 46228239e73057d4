"""The section of a window's page that says what its predictions depended on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops_assets.compute.drift.column_drift import HistogramBar
from mlops_assets.compute.pages.charts import draw_categories
from mlops_assets.compute.text import format_number

if TYPE_CHECKING:
    from mlops_assets.compute.explanation.shap_summary import ShapSummary

_LETTERS = 22


def draw_dependence(summary: ShapSummary) -> str:
    """Return a bar chart of the mean |SHAP value| of the shown columns as SVG.

    Parameters
    ----------
    summary
        A summary without a problem.
    """
    bars = [HistogramBar(column.name, column.reference, column.size) for column in summary.shown]
    largest = ", ".join(f"{column.name} {format_number(column.size, 2)}" for column in summary.shown[:3])
    label = f"Mean |SHAP value| by column in the reference and in this window: {largest}"
    return draw_categories(bars, label, lambda size: format_number(size, 2), _LETTERS)


def describe_dependence(summary: ShapSummary) -> str:
    """Return the caption: what is explained, on which rows, and what the effects sum to.

    Parameters
    ----------
    summary
        A summary without a problem.
    """
    return (
        f"SHAP values of {summary.output}, on {summary.rows:,} of {summary.predictions:,} predictions and {summary.reference_rows} reference "
        f"rows of the version. The effect is the mean SHAP value. The effects of all columns sum to the mean in this window, "
        f"{format_number(summary.mean)}, minus that of the reference rows, {format_number(summary.base)}. "
        f"Computed in {format_number(summary.seconds, 2)} s."
    )
