"""ADWIN (Bifet and Gavaldà 2007): find a change of the mean of a stream of numbers between 0 and 1, such as losses."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property

import numpy as np

MAX_CHUNKS = 256  # of a stream before older ones are merged
_SHARE = 1 / 16  # of the following numbers: the maximum size of a merged chunk
_MAX_CORRELATION = 0.9  # of neighbouring chunks
_TINY = 1e-9  # variance
_FEW = 6  # chunks at which the estimate of a design effect is doubled
_END = 0.5  # of the bound: an increase ends below it
FIELDS = ("counts", "sums", "squares", "starts")


@dataclass(frozen=True, eq=False)
class Chunks:
    """Sums over consecutive numbers of a stream, oldest first; each array has the shape (chunks,).

    Parameters
    ----------
    counts
        How many numbers each chunk has.
    sums, squares
        Their sums, and the sums of their squares.
    starts
        The time of the first number of each chunk, in microseconds since 1970 in UTC.
    """

    counts: np.ndarray
    sums: np.ndarray
    squares: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        """Return the number of chunks."""
        return len(self.counts)

    @cached_property
    def rows(self) -> int:
        """The number of all numbers."""
        return int(self.counts.sum())

    @cached_property
    def total(self) -> float:
        """The sum of all numbers."""
        return float(self.sums.sum())

    @cached_property
    def square(self) -> float:
        """The sum of the squares of all numbers."""
        return float(self.squares.sum())

    @property
    def mean(self) -> float:
        """The mean of all numbers; NaN without any."""
        return self.total / self.rows if self.rows else math.nan

    @property
    def start(self) -> datetime:
        """The time of the first number."""
        return datetime.fromtimestamp(int(self.starts[0]) / 1e6, UTC)

    def take(self, first: int, stop: int | None = None) -> Chunks:
        """Return the chunks from a position to before another one; to the end when None."""
        return Chunks(*(getattr(self, name)[first:stop] for name in FIELDS))

    def append(self, newer: Chunks) -> Chunks:
        """Return these chunks and newer ones; of more than 256, older ones are merged."""
        joined = Chunks(*(np.concatenate([getattr(self, name), getattr(newer, name)]) for name in FIELDS))
        return joined if len(joined) <= MAX_CHUNKS else joined._merge_older()

    def _merge_older(self) -> Chunks:
        """Merge neighbours that have at most a sixteenth of the numbers that follow them, so that a stream of any length has few chunks."""
        firsts, size, following = [len(self) - 1], 0, 0
        for number in range(len(self) - 1, -1, -1):
            count = int(self.counts[number])
            if size and size + count > following * _SHARE:
                size, following = 0, following + size
                firsts.append(number)
            size += count
            firsts[-1] = number
        heads = np.array(firsts[::-1])
        counts, sums, squares = (np.add.reduceat(getattr(self, name), heads) for name in FIELDS[:3])
        return Chunks(counts, sums, squares, self.starts[heads])


def split_losses(losses: np.ndarray, times: np.ndarray, max_chunks: int) -> Chunks:
    """Return the sums of losses in the order of time; losses of one time are in one chunk.

    Parameters
    ----------
    losses
        Numbers between 0 and 1, shape (rows,).
    times
        The time of each in microseconds since 1970 in UTC, shape (rows,).
    max_chunks
        The maximum number of chunks, which have about equally many rows.
    """
    ordered = np.sort(times)
    # The number of earlier rows decides the chunk, so that the order of rows with equal times does not matter.
    number = np.searchsorted(ordered, times, side="left") * max_chunks // max(1, len(times))
    present, chunk = np.unique(number, return_inverse=True)
    starts = np.full(len(present), np.iinfo(np.int64).max)
    np.minimum.at(starts, chunk, times)
    return Chunks(np.bincount(chunk), np.bincount(chunk, losses), np.bincount(chunk, losses**2), starts)


NO_CHUNKS = Chunks(np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.int64))


@dataclass(frozen=True)
class Level:
    """Sums over the numbers before an increase of their mean.

    Parameters
    ----------
    rows
        How many numbers.
    total, squares
        Their sum, and the sum of their squares.
    until
        The time of the first number after the increase.
    effect
        The design effect: by how much dependence between neighbours increases the variance of a mean; 1 for independent numbers.
    """

    rows: int
    total: float
    squares: float
    until: datetime
    effect: float

    @property
    def mean(self) -> float:
        """The mean of the numbers."""
        return self.total / self.rows

    def is_exceeded(self, newer: Chunks, delta: float, share: float) -> bool:
        """Return whether the mean of newer numbers is above this mean by more than a share of the bound."""
        rows = self.rows + newer.rows
        variance = max(0.0, (self.squares + newer.square) / rows - ((self.total + newer.total) / rows) ** 2)
        return bool(newer.mean - self.mean > share * _compute_bound(self.rows / self.effect, newer.rows / self.effect, variance, delta))


@dataclass(frozen=True, eq=False)
class Adwin:
    """The state of the detector: an adaptive window of the newest numbers without a change of their mean.

    Parameters
    ----------
    delta
        The confidence parameter: the approximate probability of a false detection.
    window
        The adaptive window.
    before
        The numbers before the last increase; None as long as no increase was detected.
    increased
        Whether the mean of the adaptive window is above the mean before the last increase. It must first exceed that mean by the bound;
        from then on, half of the bound suffices.
    """

    delta: float
    window: Chunks = NO_CHUNKS
    before: Level | None = None
    increased: bool = False

    def advance(self, chunks: Chunks) -> Adwin:
        """Return the state after newer numbers: older ones are dropped as long as any split of the window shows two different means.

        Parameters
        ----------
        chunks
            Sums over the newer numbers.
        """
        window, before, increased = self.window.append(chunks), self.before, self.increased
        while (change := _find_change(window, self.delta)) is not None:
            split, effect = change
            older, window = window.take(0, split), window.take(split)
            if window.mean > older.mean and not self._exceeds(before, older, increased=increased):
                before, increased = Level(older.rows, older.total, older.square, window.start, effect), True
        return replace(self, window=window, before=before, increased=self._exceeds(before, window, increased=increased))

    def _exceeds(self, before: Level | None, newer: Chunks, *, increased: bool) -> bool:
        # One bound for both would end and begin a lasting increase again and again.
        return before is not None and newer.rows > 0 and before.is_exceeded(newer, self.delta, _END if increased else 1.0)


def _find_change(window: Chunks, delta: float) -> tuple[int, float] | None:
    """Return the number of chunks before the clearest change of the mean, and the design effect; None if no split shows a change."""
    if len(window) < 2:
        return None
    counts, sums = np.cumsum(window.counts)[:-1], np.cumsum(window.sums)[:-1]
    rows = window.rows
    variance = max(0.0, window.square / rows - window.mean**2)
    older, newer = sums / counts, (window.total - sums) / (rows - counts)
    effects = _estimate_effects(window, older, newer)
    excess = np.abs(older - newer) - _compute_bound(counts / effects, (rows - counts) / effects, variance, delta)
    best = int(np.argmax(excess))
    return (best + 1, float(effects[best])) if excess[best] > 0 else None


def _estimate_effects(window: Chunks, older: np.ndarray, newer: np.ndarray) -> np.ndarray:
    """Return the design effect of each split, if chunks are autoregressive of order 1: by how much this increases the variance of a mean.

    Deviations are from the mean before and the mean after the split, ``older`` and ``newer``, so that the change itself does not count.
    """
    squares, products = (_sum_products(window, lag, older, newer) for lag in (0, 1))
    counts = np.cumsum(window.counts)[:-1]
    within = window.square - counts * older**2 - (window.rows - counts) * newer**2
    varied = (within > _TINY * window.rows) & (squares > _TINY * window.rows)
    correlation = np.clip(products / np.where(varied, squares, 1.0), 0.0, _MAX_CORRELATION)
    effects = squares / np.where(varied, within, 1.0) * (1 + correlation) / (1 - correlation)
    # An estimate from few chunks is uncertain, and one that is too small causes false detections.
    raised: np.ndarray = np.where(varied, np.maximum(effects * (1 + _FEW / len(window)), 1.0), 1.0)
    return raised


def _sum_products(window: Chunks, lag: int, older: np.ndarray, newer: np.ndarray) -> np.ndarray:
    """Return for each split the sum of products of the deviations of chunks that are ``lag`` apart, on the same side of the split."""
    sums, counts, last = window.sums, window.counts.astype(float), len(window) - lag
    first, second = slice(None, last), slice(lag, None)
    mixed = sums[first] * counts[second] + counts[first] * sums[second]
    totals = np.zeros((3, last + 1))
    np.cumsum([sums[first] * sums[second], -mixed, counts[first] * counts[second]], axis=1, out=totals[:, 1:])
    splits = np.arange(1, len(window))
    before, after = totals[:, splits - lag], totals[:, -1:] - totals[:, splits]
    products: np.ndarray = before[0] + before[1] * older + before[2] * older**2 + after[0] + after[1] * newer + after[2] * newer**2
    return products


def _compute_bound(older: np.ndarray | float, newer: np.ndarray | float, variance: float, delta: float) -> np.ndarray:
    """Return the maximum difference of two means without a change, as in the paper: a normal bound, corrected for few numbers."""
    size = 1 / (1 / np.asarray(older) + 1 / np.asarray(newer))
    tests = np.log(2 * np.log(np.maximum(np.asarray(older) + np.asarray(newer), 3)) / delta)
    bound: np.ndarray = np.sqrt(2 / size * variance * tests) + 2 / (3 * size) * tests
    return bound
