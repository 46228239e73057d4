"""Blocks of time with correlated errors, which the bootstrap resamples instead of single rows.

The block length follows from the errors by the blocking method (H. Flyvbjerg, H. G. Petersen, *J. Chem. Phys.* 91, 461, 1989), with the
test of M. Jonsson, *Phys. Rev. E* 98, 043304, 2018: neighbours are averaged until neighbouring averages are no longer correlated.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_assets.compute.training.responses import CachedPredictor

MIN_BLOCKS = 8  # with fewer, the variance between blocks cannot be estimated
MIN_ROWS = 4 * MIN_BLOCKS
_SIGNIFICANCE = 0.01  # probability that independent errors are found dependent
_MARGIN = 4  # the length of a block, as a multiple of the shortest blocks that look independent; chosen by simulation of AR(1) errors
_MIN_TESTED = 8  # averages that a test of dependence needs
INDEPENDENT = "independent rows"


@dataclass(frozen=True, eq=False)
class TimeBlocks:
    """Rows grouped in blocks of time.

    Parameters
    ----------
    ids
        The number of each row's block, from 0 in the order of time, shape (rows,).
    length
        The approximate time span of a block.
    declared
        Whether the project declares the length; if not, the length is estimated from the errors.
    """

    ids: np.ndarray
    length: timedelta
    declared: bool = False

    @property
    def count(self) -> int:
        """Number of blocks."""
        return int(self.ids.max()) + 1 if len(self.ids) else 0

    def __str__(self) -> str:
        """Return the number of blocks, their length and the origin of the length as text."""
        return f"{self.count} blocks of {_format_span(self.length)}, {'as declared' if self.declared else 'estimated from the errors'}"


def find_blocks(times: pl.Series, errors: Sequence[np.ndarray], block_length: timedelta | None = None) -> TimeBlocks | None:
    """Group rows in blocks of time.

    Parameters
    ----------
    times
        The time of each row, shape (rows,).
    errors
        Series of prediction errors, each of shape (rows,), as from :func:`prediction_errors`. A series with NaN or infinity is ignored.
    block_length
        The block length that the project declares; zero declares independent rows. Estimated from the errors when None.

    Returns
    -------
    TimeBlocks or None
        None when rows count as independent: by declaration, because no dependence was found, or because there are fewer than 32 rows or
        only one time.
    """
    stamps = times.cast(pl.Datetime("us", getattr(times.dtype, "time_zone", None))).to_physical().fill_null(0).to_numpy()
    if block_length is not None:
        step = round(block_length.total_seconds() * 1e6)
        ids = np.unique((stamps - stamps.min()) // step, return_inverse=True)[1] if step and len(stamps) else None
        return None if ids is None else TimeBlocks(ids, block_length, declared=True)
    rows = len(stamps)
    if rows < MIN_ROWS or stamps.min() == stamps.max():
        return None
    # Rows with equal times are shuffled: their stored order follows their values, which would look like dependence.
    order = np.lexsort((np.random.default_rng(0).random(rows), stamps))
    shortest = max((measure_block_rows(series[order]) for series in errors if np.isfinite(series).all()), default=1)
    if shortest == 1:
        return None
    count = max(MIN_BLOCKS, rows // (_MARGIN * shortest))
    ids = np.empty(rows, dtype=int)
    ids[order] = np.arange(rows) * count // rows
    return TimeBlocks(ids, timedelta(microseconds=int(stamps.max() - stamps.min()) // count))


def measure_block_rows(series: np.ndarray) -> int:
    """Return the number of rows (a power of 2) of the shortest blocks whose means look independent; 1 if single rows do.

    Parameters
    ----------
    series
        Errors in the order of time, shape (rows,).
    """
    from scipy import stats  # type: ignore[import-untyped]  # it has no stubs

    averages, evidence_by_level = np.asarray(series, dtype=float) - np.mean(series), list[float]()
    while len(averages) >= _MIN_TESTED and (variance := float(averages.var())) > 0:
        rows = len(averages)
        lagged = float((averages[1:] * averages[:-1]).sum()) / rows / variance
        evidence_by_level.append(rows * ((rows - 1) / rows**2 + lagged) ** 2)
        averages = averages[rows % 2 :].reshape(-1, 2).mean(axis=1)
    remaining = np.cumsum(evidence_by_level[::-1])[::-1]  # the evidence for dependence at each level and all above
    for level, evidence in enumerate(remaining):
        if evidence < stats.chi2.ppf(1 - _SIGNIFICANCE, len(remaining) - level):
            return int(2**level)
    return int(2 ** len(remaining))


def prediction_errors(models: Sequence[CachedPredictor], y: np.ndarray) -> list[np.ndarray]:
    """Return series of prediction errors: signed errors and losses of each model, then the loss difference of two models.

    Parameters
    ----------
    models
        One or two models with cached predictions of the same rows.
    y
        The labels.
    """
    by_model = [_errors_and_losses(model, y) for model in models]
    return [*(series for errors in by_model for series in errors), *([by_model[0][-1] - by_model[1][-1]] if len(by_model) == 2 else [])]


def _errors_and_losses(model: CachedPredictor, y: np.ndarray) -> list[np.ndarray]:
    """Return signed errors and losses; for class labels without probabilities, only the 0/1 loss."""
    classes, rows = getattr(model, "classes_", None), np.arange(len(y))
    if classes is None and np.issubdtype(np.asarray(y).dtype, np.number):
        signed = np.asarray(y, dtype=float) - np.asarray(model.predict(rows), dtype=float).reshape(len(y), -1).mean(axis=1)
        return [signed, np.abs(signed)]
    if classes is None or not hasattr(model, "predict_proba"):
        return [(model.predict(rows) != y).astype(float)]
    shares = np.asarray(model.predict_proba(rows), dtype=float)
    truth = np.asarray(y)[:, None] == np.asarray(classes)[None, :]
    return [truth[:, -1] - shares[:, -1], -np.log(np.clip((truth * shares).sum(axis=1), 1e-6, 1))]


def _format_span(length: timedelta) -> str:
    for unit, size in (("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1)):
        if length.total_seconds() >= size:
            count = length.total_seconds() / size
            return f"{count:.3g} {unit}{'' if f'{count:.3g}' == '1' else 's'}"
    return f"{length.total_seconds():.3g} seconds"
