"""Evidently's own report, for those who ask for it: slow to import and heavy to open, so never made by itself."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    import polars as pl

MOST_ROWS = 20_000


def evidently_page(reference: pl.DataFrame, current: pl.DataFrame, *, most_rows: int = MOST_ROWS) -> str:
    """Return Evidently's data-drift report as one HTML document of some 5 MB.

    Parameters
    ----------
    reference
        Rows that the model was trained on.
    current
        Rows of the window.
    most_rows
        Of each, at most so many are taken, evenly: its tests take minutes for a million.

    Raises
    ------
    MissingExtraError
        Evidently is not installed.
    DataError
        The two have no column in common that has values in both.

    Notes
    -----
    Its verdicts are its own: its tests suppose independent rows, so that on real days most columns drift by them.
    """
    evidently, presets = _evidently()
    shared = [name for name in reference.columns if name in current.columns and _filled(reference[name]) and _filled(current[name])]
    if not shared:
        raise DataError("the reference and the window have no column with values in common", hint="give rows with the model's columns")
    frames = [_some(frame.select(shared), most_rows).to_pandas() for frame in (current, reference)]
    with warnings.catch_warnings():
        # It divides by zero on columns with one value, and says so.
        warnings.simplefilter("ignore")
        report = evidently.Report([presets.DataDriftPreset()]).run(*frames)
        html: str = report.get_html_str(as_iframe=False)
    return html


def _evidently() -> tuple[Any, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import evidently
            from evidently import presets
    except ImportError as error:
        raise MissingExtraError.from_extra("evidently", "evidently") from error
    return evidently, presets


def _filled(column: pl.Series) -> bool:
    return column.null_count() < len(column)


def _some(frame: pl.DataFrame, most: int) -> pl.DataFrame:
    return frame.gather_every(max(1, -(-frame.height // most)))
