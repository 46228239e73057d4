"""Evidently's data-drift report, rendered only on request: Evidently imports slowly, and its report has several megabytes."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    import polars as pl

MAX_ROWS = 20_000


def render_evidently(reference: pl.DataFrame, current: pl.DataFrame, *, max_rows: int = MAX_ROWS) -> str:
    """Return Evidently's data-drift report as one HTML document of some 5 MB.

    Parameters
    ----------
    reference
        Rows that the model was trained on.
    current
        Rows of the window.
    max_rows
        Maximum rows per frame; of a larger frame, evenly spaced rows are compared, because a million rows take minutes.

    Raises
    ------
    MissingExtraError
        Evidently is not installed.
    DataError
        No common column has values in both frames.

    Notes
    -----
    Evidently's tests assume independent rows, so on real days they report drift for most columns.
    """
    evidently, presets = _import_evidently()
    shared = [name for name in reference.columns if name in current.columns and _has_values(reference[name]) and _has_values(current[name])]
    if not shared:
        raise DataError("the reference and the window have no column with values in common", hint="give rows with the model's columns")
    frames = [_sample_evenly(frame.select(shared), max_rows).to_pandas() for frame in (current, reference)]
    with warnings.catch_warnings():
        # Evidently warns of a division by zero on constant columns.
        warnings.simplefilter("ignore")
        report = evidently.Report([presets.DataDriftPreset()]).run(*frames)
        html: str = report.get_html_str(as_iframe=False)
    return html


def _import_evidently() -> tuple[Any, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import evidently
            from evidently import presets
    except ImportError as error:
        raise MissingExtraError.from_extra("evidently", "evidently") from error
    return evidently, presets


def _has_values(column: pl.Series) -> bool:
    return column.null_count() < len(column)


def _sample_evenly(frame: pl.DataFrame, max_rows: int) -> pl.DataFrame:
    return frame.gather_every(max(1, -(-frame.height // max_rows)))
