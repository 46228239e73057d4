"""Label bias: labels arrive for some kinds of predictions more often, so that metrics on them do not represent the window."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Iterator

SIGNIFICANCE = 0.001  # the share of windows without bias that are reported as biased
MIN_EFFECT = 0.1  # the smallest reported effect: a Kolmogorov-Smirnov distance, or a difference of shares with a label
MIN_ROWS = 20  # of predictions with a label, and without one
_MIN_EXPECTED = 5.0  # expected count of a class in the χ² test


def describe_label_bias(scores: pl.Series, labelled: np.ndarray) -> str:
    """Return for which predictions labels have arrived more often than for the others; empty when the difference is not significant.

    Parameters
    ----------
    scores
        The predictions, shape (rows,): numbers, probabilities or classes.
    labelled
        Whether each prediction has a label, shape (rows,).

    Notes
    -----
    Numbers with and without a label are compared by the two-sample Kolmogorov–Smirnov test, classes by the χ² test, each at a level of
    0.001. An effect below 0.1 is not reported, regardless of the number of rows.
    """
    known = scores.is_not_null().to_numpy()
    scores, labelled = scores.filter(pl.Series(known)), labelled[known]
    if min(int(labelled.sum()), int((~labelled).sum())) < MIN_ROWS:
        return ""
    if scores.dtype.is_numeric():
        return _compare_numbers(scores.cast(pl.Float64).to_numpy(), labelled)
    return _compare_classes(scores.cast(pl.String).to_numpy(), labelled)


def _compare_numbers(scores: np.ndarray, labelled: np.ndarray) -> str:
    from scipy import special  # type: ignore[import-untyped]  # it has no stubs

    first, second = np.sort(scores[labelled]), np.sort(scores[~labelled])
    steps = np.unique(scores)
    shares = [np.searchsorted(part, steps, side="right") / len(part) for part in (first, second)]
    distance = float(np.abs(shares[0] - shares[1]).max())
    if distance < MIN_EFFECT or special.kolmogorov(np.sqrt(len(first) * len(second) / len(scores)) * distance) > SIGNIFICANCE:
        return ""
    quartiles = np.unique(np.quantile(scores, (0.25, 0.5, 0.75)))
    # Quartiles of tied scores may separate nothing; the step of the largest distance always does.
    for edges in (quartiles[quartiles < steps[-1]], steps[[np.abs(shares[0] - shares[1]).argmax()]]):
        bins = np.searchsorted(edges, scores, side="left")
        if 0 < len(often := _find_frequent(bins, labelled)) <= len(edges):
            break
    return _compare_shares(" or ".join(_name_ranges(often, edges)), np.isin(bins, often), labelled)


def _compare_classes(classes: np.ndarray, labelled: np.ndarray) -> str:
    from scipy import special

    _, codes = np.unique(classes, return_inverse=True)
    rows, hits = np.bincount(codes), np.bincount(codes, labelled)
    share = float(labelled.mean())
    tested = rows * min(share, 1 - share) >= _MIN_EXPECTED
    if int(tested.sum()) < 2:
        return ""
    expected = rows[tested] * share
    statistic = float(((hits[tested] - expected) ** 2 / (expected * (1 - share))).sum())
    if np.abs(hits / rows - share)[tested].max() < MIN_EFFECT or special.chdtrc(int(tested.sum()) - 1, statistic) > SIGNIFICANCE:
        return ""
    often = _find_frequent(codes, labelled)
    names = " or ".join(np.unique(classes[np.isin(codes, often)]))
    return _compare_shares(f"of {names}", np.isin(codes, often), labelled)


def _find_frequent(groups: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """Return the groups whose share of predictions with a label is larger than the overall share."""
    rows, hits = np.bincount(groups), np.bincount(groups, labelled)
    return np.flatnonzero(hits > rows * labelled.mean())


def _name_ranges(bins: np.ndarray, edges: np.ndarray) -> Iterator[str]:
    """Yield a text for each run of neighbouring bins."""
    for _, run in groupby(enumerate(bins), key=lambda pair: pair[1] - pair[0]):
        numbers = [number for _, number in run]
        low, high = numbers[0], numbers[-1]
        above, below = f"{edges[low - 1]:.4g}" if low else "", f"{edges[high]:.4g}" if high < len(edges) else ""
        yield f"between {above} and {below}" if above and below else f"above {above}" if above else f"below {below}"


def _compare_shares(named: str, inside: np.ndarray, labelled: np.ndarray) -> str:
    return f"predictions {named} ({labelled[inside].mean():.0%} of these have a label, {labelled[~inside].mean():.0%} of the others)"
