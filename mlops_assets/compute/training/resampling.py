"""Paired bootstrap: confidence intervals of metrics, and of differences on the same rows.

Where a metric is a mean over rows, the interval is Student's t interval of the mean of paired differences. All other metrics are
resampled up to 1,000 times: the same rows are drawn with replacement for both models, and percentiles of the differences give the interval
(B. Efron, R. Tibshirani, *An Introduction to the Bootstrap*, 1993, chapter 13). A draw is an array of row counts, and a vectorised
metric evaluates many draws at once. A vectorised metric is used only if it agrees with scikit-learn's scorer. Without a vectorised
metric, the scorer is called for each of fewer draws. Ratios and roots of means and the area under the ROC curve of many rows are not
resampled: they are linearized to a mean over rows.

Errors of rows that follow each other in time are often correlated. Whole blocks of time are then drawn in place of rows. The interval is
widened for the number of blocks: Student's quantile replaces the normal one. :mod:`mlops_assets.compute.training.time_blocks` chooses the
length of a block.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlops_assets.compute.training.evaluate import make_scorer
from mlops_assets.compute.training.metric_range import clip_interval
from mlops_assets.compute.training.score_forms import CountedMetric, find_vectorised_form
from mlops_assets.compute.training.time_blocks import INDEPENDENT, find_blocks, prediction_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import timedelta

    import polars as pl

    from mlops_assets.compute.training.responses import CachedPredictor

RESAMPLES = 1000
CONFIDENCE = 0.95
MAX_RESAMPLED_ROWS = 20_000  # with more rows, a metric with a linear form gets Student's interval of that form
_MAX_DRAWN_COUNTS = 100_000_000  # rows times draws of a vectorised metric
_MAX_SCORED = 20_000_000  # rows times draws of a scorer that is called once per draw
_CHUNK = 1 << 18  # counts that fit a processor's cache
_MIN_DEFINED = 200  # minimum number of draws for percentiles; fewer give a normal interval
_UNDEFINED_BOUNDS = 0.05  # maximum share of draws without a value; with more, the interval is unknown

Bounds = tuple[float, float]


@dataclass(frozen=True, eq=False)
class _Spread:
    """An estimate with its standard error or bootstrap draws, and degrees of freedom (0 for draws of single rows)."""

    value: float
    error: float = math.nan
    freedom: int = 0
    draws: np.ndarray | None = None

    def interval(self, confidence: float) -> Bounds:
        """Return the ends of the confidence interval; NaN when unknown."""
        from scipy import stats  # type: ignore[import-untyped]  # it has no stubs

        if self.draws is None:
            width = float(stats.t.ppf((1 + confidence) / 2, self.freedom)) * self.error if self.freedom else math.nan
            return self.value - width, self.value + width
        draws = self.draws[np.isfinite(self.draws)]
        if not math.isfinite(self.value) or len(draws) < (1 - _UNDEFINED_BOUNDS) * len(self.draws):
            return math.nan, math.nan
        if len(draws) < _MIN_DEFINED:
            width = float(stats.norm.ppf((1 + confidence) / 2) * draws.std(ddof=1)) * self._compute_widening(confidence)
            return self.value - width, self.value + width
        low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2]) - self.value
        return self.value + float(low) * self._compute_widening(confidence), self.value + float(high) * self._compute_widening(confidence)

    def _compute_widening(self, confidence: float) -> float:
        """Return the factor that widens an interval of few blocks; 1 for independent rows."""
        from scipy import stats

        if not self.freedom:
            return 1.0
        student = float(stats.t.ppf((1 + confidence) / 2, self.freedom) / stats.norm.ppf((1 + confidence) / 2))
        return student * math.sqrt((self.freedom + 1) / self.freedom)


class PairedIntervals:
    """Intervals of a candidate's metrics, and of differences from the champion on the same rows.

    Parameters
    ----------
    candidate, champion
        The cached predictions of both models for the same rows; without a champion, there are no differences.
    y
        The labels.
    rows
        Every column of the same rows, for slices.
    seed
        Text, such as the candidate's digest: equal texts give equal draws, and so equal intervals.
    times
        The event time of each row. Blocks of time are resampled when the errors of neighbours are correlated. Rows count as
        independent when None.
    block_length
        The block length that the project declares; zero declares independent rows. Estimated from the errors when None.
    """

    def __init__(  # noqa: PLR0913  (models, rows and their time)
        self,
        candidate: CachedPredictor,
        champion: CachedPredictor | None,
        y: np.ndarray,
        rows: pl.DataFrame,
        seed: str,
        *,
        times: pl.Series | None = None,
        block_length: timedelta | None = None,
    ) -> None:
        self._models = [candidate] if champion is None else [candidate, champion]
        self._y, self._rows = y, rows
        self._blocks = None if times is None else find_blocks(times, prediction_errors(self._models, y), block_length)
        self._seed = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8])
        self._known: dict[tuple[str, tuple[str, str] | None], list[_Spread]] = {}

    @property
    def method(self) -> str:
        """The resampled unit: ``independent rows``, or blocks of time."""
        return INDEPENDENT if self._blocks is None else str(self._blocks)

    def value(self, metric: str, confidence: float = CONFIDENCE, within: tuple[str, str] | None = None) -> Bounds:
        """Return the interval of the candidate's metric, over all rows or a slice ``(column, value)``; NaN when unknown."""
        return clip_interval(metric, *self._estimate_spreads(metric, within)[0].interval(confidence))

    def difference(self, metric: str, confidence: float = CONFIDENCE, within: tuple[str, str] | None = None) -> Bounds:
        """Return the interval of candidate − champion; NaN when unknown or without a champion."""
        if len(self._models) == 1:
            return math.nan, math.nan
        return clip_interval(metric, *self._estimate_spreads(metric, within)[-1].interval(confidence), is_difference=True)

    def _estimate_spreads(self, metric: str, within: tuple[str, str] | None) -> list[_Spread]:
        """Return the spread of the candidate's metric and, with a champion, of the difference; each is estimated once."""
        if (metric, within) not in self._known:
            chosen = self._select_rows(within)
            blocks = None if self._blocks is None else np.unique(self._blocks.ids[chosen], return_inverse=True)[1]
            self._known[metric, within] = estimate_spreads(metric, self._models, chosen, self._y[chosen], self._seed, blocks)
        return self._known[metric, within]

    def _select_rows(self, within: tuple[str, str] | None) -> np.ndarray:
        """Return the row numbers of a slice, whose value is compared as text; all rows for None."""
        if within is None:
            return np.arange(len(self._y))
        column, value = within
        values = [v for v in self._rows[column].unique() if str(v) == value]
        return np.flatnonzero(self._rows[column].is_in(values, nulls_equal=True).to_numpy()) if values else np.zeros(0, dtype=int)


def estimate_spreads(  # noqa: PLR0913  (models, rows and their blocks)
    metric: str, models: Sequence[CachedPredictor], chosen: np.ndarray, y: np.ndarray, seed: int, blocks: np.ndarray | None = None
) -> list[_Spread]:
    """Return the spread of the first model's metric and, for two models, of the difference first − second.

    A spread has NaN as its value when the metric is undefined, or when there is only one block.

    Parameters
    ----------
    metric
        A scikit-learn scorer name.
    models
        The cached predictions of one or two models.
    chosen, y
        The numbers of the rows, and their labels.
    seed
        The seed of the draws.
    blocks
        The block number of each row, consecutive from 0; None when rows are independent.
    """
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # a draw in which a metric is undefined is counted as such
        scorers = [_make_draw_scorer(metric, model, chosen, y) for model in models]
        scores = [score(np.arange(len(y))) for score in scorers]
        freedom = 0 if blocks is None else int(blocks.max(initial=0))
        if not all(math.isfinite(value) for value in scores) or (blocks is not None and not freedom):
            return [_Spread(math.nan)] * len(models)
        forms = [find_verified_form(metric, model, chosen, y, value) for model, value in zip(models, scores, strict=True)]
        by_row = [values for form in forms if form is not None and (values := _find_row_values(form, len(y))) is not None]
        if len(by_row) == len(models):
            return [_measure_mean_spread(values, blocks) for values in (by_row[0], *([by_row[0] - by_row[1]] if len(models) == 2 else []))]
        vectorised = [form for form in forms if form is not None]
        drawn = (
            _evaluate_draws(vectorised, len(y), seed, blocks)
            if len(vectorised) == len(models)
            else _score_draws(scorers, len(y), seed, blocks)
        )
    first = _Spread(scores[0], draws=drawn[0], freedom=freedom)
    return [first] if len(models) == 1 else [first, _Spread(scores[0] - scores[1], draws=drawn[0] - drawn[1], freedom=freedom)]


def _make_draw_scorer(metric: str, model: CachedPredictor, chosen: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], float]:
    """Return a function that scores drawn rows, given as positions in ``chosen``; NaN where the scorer raises an error."""
    scorer = make_scorer(metric, getattr(model, "classes_", None))

    def score(drawn: np.ndarray) -> float:
        try:
            return float(scorer(model, chosen[drawn], y[drawn]))
        except (ValueError, TypeError, AttributeError):
            return math.nan

    return score


def find_verified_form(metric: str, model: CachedPredictor, chosen: np.ndarray, y: np.ndarray, value: float) -> CountedMetric | None:
    """Return the vectorised metric if it agrees with the scorer on these rows, otherwise None."""
    try:
        form = find_vectorised_form(metric, model, chosen, y)
        vectorised = math.nan if form is None else float(form(np.ones((1, len(y))))[0])
    except (ValueError, TypeError, AttributeError, IndexError):
        return None
    return form if math.isclose(vectorised, value, rel_tol=1e-9, abs_tol=1e-12) else None


def _find_row_values(form: CountedMetric, rows: int) -> np.ndarray | None:
    """Return row values whose mean is the metric; None when the metric must be resampled.

    With many rows, the values may be a linear approximation of the metric.
    """
    return form.linearize() if form.by_row is None and rows > MAX_RESAMPLED_ROWS else form.by_row


def _measure_mean_spread(values: np.ndarray, blocks: np.ndarray | None) -> _Spread:
    """Return the spread of a mean over independent rows, or over blocks of unequal size."""
    rows, mean = len(values), float(values.mean())
    if blocks is None:
        return _Spread(mean, float(values.std(ddof=1)) / math.sqrt(rows) if rows > 1 else math.nan, rows - 1)
    deviations = np.bincount(blocks, values - mean)
    count = len(deviations)
    return _Spread(mean, math.sqrt(count / (count - 1) * float((deviations**2).sum())) / rows, count - 1)


def _evaluate_draws(forms: Sequence[CountedMetric], rows: int, seed: int, blocks: np.ndarray | None) -> np.ndarray:
    """Return the metric of each draw, shape (forms, draws)."""
    draws = min(RESAMPLES, max(_MIN_DEFINED, _MAX_DRAWN_COUNTS // rows))
    rng, step = np.random.default_rng(seed), max(1, _CHUNK // rows)
    values = []
    for begin in range(0, draws, step):
        counts = _draw_counts(rng, min(step, draws - begin), rows if blocks is None else int(blocks.max()) + 1)
        values.append(np.stack([form(counts if blocks is None else counts[:, blocks]) for form in forms]))
    return np.concatenate(values, axis=1)


def _draw_counts(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """Draw ``count`` units with replacement ``size`` times; return counts, shape (size, count)."""
    drawn = rng.integers(0, count, size=(size, count)) + np.arange(size)[:, None] * count
    return np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count).astype(float)


def _score_draws(scorers: Sequence[Callable[[np.ndarray], float]], rows: int, seed: int, blocks: np.ndarray | None) -> np.ndarray:
    """Return the scores of draws with one scorer call per draw, shape (scorers, draws)."""
    rng, count = np.random.default_rng(seed), min(2 * _MIN_DEFINED, max(40, _MAX_SCORED // rows))
    if blocks is None:
        draws = [rng.integers(0, rows, size=rows) for _ in range(count)]
    else:
        members = np.split(np.argsort(blocks, kind="stable"), np.cumsum(np.bincount(blocks))[:-1])
        draws = [np.concatenate([members[block] for block in rng.integers(0, len(members), size=len(members))]) for _ in range(count)]
    return np.array([[score(drawn) for drawn in draws] for score in scorers])
