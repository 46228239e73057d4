"""How far a window strays from the reference when nothing has drifted, learned from windows of the reference itself.

Tests that assume independent rows alarm on every real week: weather, schedules and campaigns make the rows of one day alike. So the
reference is cut into windows of real time, and each is compared with all the others. The same rows dealt at random into windows of the
same sizes tell what chance alone does, and how that depends on the number of rows.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlops_assets.compute.monitoring.cells import CellIndex
from mlops_assets.compute.monitoring.distances import measure_distances

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import polars as pl

    from mlops_assets.compute.monitoring.cells import Binning, Counts

STATISTICS = ("ks", "wasserstein", "js", "null_rate")
_TINY = 1e-30
_ROWS_AT_ONCE, _CELLS_AT_ONCE = 500_000, 50_000  # counted together: what fits into a cache
_WAY = 0.75  # from the largest distance of a window to the largest attainable one
_TAIL, _DEALT_TAIL = 0.25, 0.1  # the share of windows from which the tail is extrapolated; there are many dealt ones


@dataclass(frozen=True)
class ExponentialTail:
    """The upper tail of a statistic, exponential above a level.

    Parameters
    ----------
    level, excess
        The tail begins at ``level``; above it the statistic exceeds it by ``excess`` on average.
    above, windows
        In how many windows of how many it does.
    """

    level: float
    excess: float
    above: int
    windows: int

    @classmethod
    def of(cls, values: np.ndarray, share: float = _TAIL) -> ExponentialTail:
        """Fit the tail of a sample, shape (windows,), to this share of it."""
        ordered = np.sort(values)
        above = max(1, int(len(ordered) * share))
        level = float(ordered[-above - 1])
        return cls(level, float((ordered[-above:] - level).mean()), above, len(ordered))

    @property
    def share(self) -> float:
        """The probability that a further window is in the tail."""
        return self.above / (self.windows + 1)

    def quantile(self, rate: float) -> float:
        """Return what a further window exceeds with probability ``rate``: the predictive quantile, which allows for the fitted mean's error."""
        if rate >= self.share:
            return self.level
        return self.level + self.above * self.excess * math.expm1(math.log(self.share / rate) / self.above)

    def own_rates(self, values: np.ndarray) -> np.ndarray:
        """Return, for each window of the sample, the probability that it exceeds what it did, as the other windows tell; at most the tail's share.

        A tail that was fitted to a window finds it less strange than it is.
        """
        beyond = np.maximum(values - self.level, 0)
        others = max(self.above - 1, 1)
        rest = np.maximum(self.above * self.excess - beyond, _TINY)
        result: np.ndarray = np.maximum(self.share * np.exp(-others * np.log1p(beyond / rest)), _TINY)
        return result


@dataclass(frozen=True, eq=False)
class DriftCalibration:
    """One column's distances without drift. Statistics are in the order of ``STATISTICS``.

    Parameters
    ----------
    chance
        ν: the mean square of the distance of n rows taken at random is ν (1/n + 1/rows of the reference); shape (statistics,).
    tails
        Tails of the squared distances of dealt windows, in units of their mean square; one for each statistic.
    parts
        As how many independent statistics they are, taken together.
    strays
        Distance of each window of real time to the others, shape (statistics, windows); no window without times.
    sizes
        1/n + 1/rows of these windows, of the same shape.
    always_filled
        Whether every window had a value.
    ever_constant
        Whether any window of real time had one value only.
    """

    chance: np.ndarray
    tails: tuple[ExponentialTail, ...]
    parts: float
    strays: np.ndarray
    sizes: np.ndarray
    always_filled: bool
    ever_constant: bool = False

    def by_chance(self, sampling_variance: np.ndarray, rate: float) -> np.ndarray:
        """Return what rows taken at random exceed with probability ``rate`` in any statistic, for each; shapes (statistics, windows)."""
        units = np.array([tail.quantile(rate / self.parts) for tail in self.tails]) * self.chance
        result: np.ndarray = np.sqrt(units[:, None] * sampling_variance)
        return result

    def as_json(self) -> dict[str, Any]:
        """Return the calibration as JSON holds it."""
        arrays = {name: [[_short(x) for x in row] for row in getattr(self, name)] for name in ("strays", "sizes")}
        tails = {"tails": [asdict(tail) for tail in self.tails], "parts": self.parts}
        windows = {"always_filled": self.always_filled, "ever_constant": self.ever_constant}
        return {"chance": self.chance.tolist(), **tails, **arrays, **windows}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> DriftCalibration:
        """Return a stored calibration."""
        strays, sizes = (np.array(stored[name], dtype=float) for name in ("strays", "sizes"))
        tails = tuple(ExponentialTail(**tail) for tail in stored["tails"])
        constant = stored.get("ever_constant", True)  # a profile that was stored before this was counted cannot say
        return cls(np.array(stored["chance"]), tails, stored["parts"], strays, sizes, stored["always_filled"], constant)


def least_effects(psi: float) -> np.ndarray:
    """Return what counts as an effect, for each statistic, shape (statistics,).

    Parameters
    ----------
    psi
        The PSI of a normal column whose mean moves by √psi standard deviations. The Kolmogorov–Smirnov and Wasserstein statistics of that move
        and its Jensen–Shannon distance (to second order) are the limits; for nulls, the rate that has the same Jensen–Shannon distance.
    """
    return np.array([math.erf(math.sqrt(psi / 8)), math.sqrt(psi), math.sqrt(psi / (8 * math.log(2))), psi / (4 * math.log(2))])


@dataclass(frozen=True, eq=False)
class Thresholds:
    """What each statistic of each column must exceed to count as drift.

    Parameters
    ----------
    limits
        Shape (columns, statistics).
    by_rank
        Where the reference has too few windows for the stated rate, and the rule for few windows gives the limit; shape (columns, statistics).
    needed
        How many windows of the reference the stated rate needs; 0 when chance alone decides.
    """

    limits: np.ndarray
    by_rank: np.ndarray
    needed: int = 0


def compute_thresholds(
    calibrations: Sequence[DriftCalibration], sizes: np.ndarray, rate: float, least: np.ndarray, attainable: np.ndarray | None = None
) -> Thresholds:
    """Return what each statistic of each column must exceed to count as drift.

    Parameters
    ----------
    calibrations
        Of each column.
    sizes
        From :func:`sampling_variance` for the window to judge, shape (columns, statistics).
    rate
        The probability that a window without drift exceeds any threshold.
    least
        From :func:`least_effects`.
    attainable
        From :func:`mlops_assets.compute.monitoring.attainable.attainable_distances`, shape (columns, statistics); no threshold is above it.

    Notes
    -----
    A threshold is at least the least effect, and at least what rows taken at random exceed with probability ``rate / columns``. Where
    windows of the reference exceed that, their own tail decides: with b the mean square by which they differ beyond chance, the threshold is
    c q √(b + ν (1/n + 1/rows)). q is exceeded with probability rate / parts, where parts says as how many independent statistics those are which
    stray together (Cheverud 2001, Nyholt 2004, here read off the windows); it is extrapolated as if tails were exponential, unless there are more than
    parts / rate windows. c allows for a reference that is itself only so many windows, of which those that follow each other are alike.

    An extrapolation from few windows can leave the range of the statistic. So no threshold lies further than three quarters of the way from the
    largest distance of a reference window to the largest attainable one. One in n + 1 windows without drift exceeds the largest distance of n
    windows, whatever the statistic; a quarter of these, or fewer, exceed the threshold.
    """
    shape = (len(calibrations), len(STATISTICS))
    largest = np.full(shape, np.inf) if attainable is None else attainable.reshape(shape)
    base = [
        np.maximum(least, c.by_chance(one[:, None], rate / len(calibrations))[:, 0]) for c, one in zip(calibrations, sizes, strict=True)
    ]
    limits, by_rank = np.minimum(np.array(base).reshape(shape), largest), np.zeros(shape, dtype=bool)
    found = [(place, stray) for place, c in enumerate(calibrations) for stray in _straying(c, rate / len(calibrations), least)]
    if not found:
        return Thresholds(limits, by_rank)
    # A window that stays below the other bounds does not count.
    rates = np.min([stray.tail.own_rates(stray.scaled) ** stray.over for _, stray in found], axis=0)
    level = rate / _parts(rates, _TAIL, len(found))
    for place, stray in found:
        at = place, stray.statistic
        scale = math.sqrt(stray.beyond + calibrations[place].chance[stray.statistic] * sizes[at])
        extrapolated = stray.allowance * scale * stray.tail.quantile(level)
        bound = _bound(scale * float(stray.scaled.max()), float(largest[at]))
        by_rank[at] = extrapolated > max(bound, limits[at])
        limits[at] = max(limits[at], min(extrapolated, bound))
    return Thresholds(limits, by_rank, math.ceil(1 / level) - 1)


def _bound(observed: float, largest: float) -> float:
    """Return three quarters of the way from the largest observed distance to the largest attainable one, never above the latter."""
    return observed + _WAY * (largest - observed) if observed < largest else largest


def _parts(least_rates: np.ndarray, share: float, most: int) -> float:
    """Return as how many independent statistics several are: of so many, the least of their rates is below x in a share n x of the windows.

    Parameters
    ----------
    least_rates
        The least rate of each window, shape (windows,).
    share
        Of the windows, at which n is read off: rarer ones are few, and tell more of one column's tail than of what columns share.
    most
        How many there are.
    """
    at = float(np.quantile(least_rates, share))
    return min(max(share / at, 1.0), float(max(most, 1)))


@dataclass(frozen=True, eq=False)
class _Stray:
    """A statistic of which some windows of the reference exceed what chance explains."""

    statistic: int
    beyond: float  # b
    allowance: float  # c
    tail: ExponentialTail
    scaled: np.ndarray  # the windows' values, in units of their root mean square
    over: np.ndarray  # which windows exceed it


def _straying(calibration: DriftCalibration, rate: float, least: np.ndarray) -> list[_Stray]:
    if not calibration.strays.shape[1]:
        return []
    over = calibration.strays > np.maximum(least[:, None], calibration.by_chance(calibration.sizes, rate))
    squares, expected = calibration.strays**2, calibration.chance[:, None] * calibration.sizes
    beyond = np.maximum(_mean(squares - expected), 0)
    scaled = np.sqrt(_in_units(squares, beyond[:, None] + expected))
    places = np.flatnonzero(over.any(axis=1)).tolist()
    return [_Stray(k, float(beyond[k]), _allowance(scaled[k]), ExponentialTail.of(scaled[k]), scaled[k], over[k]) for k in places]


def _allowance(values: np.ndarray) -> float:
    """Return by how much further windows stray than those the reference consists of.

    Those pull the reference to themselves, by 1 / n in the mean square, and a further one is as much off: √((1 + 1/n) / (1 − 1/n)), n being worth
    (1 − r) / (1 + r) for each window when neighbours are correlated by r (Bayley and Hammersley 1946).
    """
    centred = values - values.mean()
    square = float(centred @ centred)
    r = min(max(float(centred[1:] @ centred[:-1]) / square, 0.0), 0.9) if square > 0 else 0.0
    n = max(len(values) * (1 - r) / (1 + r), 3.0)
    return math.sqrt((n + 1) / (n - 1))


def sampling_variance(window: Counts, reference: Counts) -> np.ndarray:
    """Return 1/n + 1/rows for each statistic and window, shape (statistics, windows): of the values or, where nulls count, of the rows."""
    by_value = 1 / np.maximum(window.values, 1) + 1 / np.maximum(reference.values, 1)
    by_row = 1 / np.maximum(window.rows, 1) + 1 / np.maximum(reference.rows, 1)
    return np.stack([by_value, by_value, by_row, by_row])


def calibrate(layout: Binning, column: pl.Series, spread: float, real: np.ndarray | None, dealt: np.ndarray) -> DriftCalibration:
    """Learn a column's distances without drift.

    Parameters
    ----------
    layout
        Where the column is cut.
    column
        Rows of the reference.
    spread
        Its standard deviation.
    real
        The window of real time of each row, from 0, shape (rows,); None without times.
    dealt
        The same for windows whose rows are taken at random, several times, shape (deals, rows).
    """
    rows = CellIndex.of(layout, column)
    found, sizes, filled = _strays(rows, spread, dealt)
    ratios = found**2 / sizes
    chance = _mean(ratios)
    units = _in_units(ratios, chance[:, None])
    tails = tuple(ExponentialTail.of(row, _DEALT_TAIL) for row in units)
    rates = np.min([tail.own_rates(row) for tail, row in zip(tails, units, strict=True)], axis=0)
    parts = _parts(rates, _DEALT_TAIL / 2, int((chance > 0).sum()))
    if real is None:
        none = np.zeros((len(STATISTICS), 0))
        return DriftCalibration(chance, tails, parts, none, none, filled)
    strays, real_sizes, filled = _strays(rows, spread, real[None])
    return DriftCalibration(chance, tails, parts, strays, real_sizes, filled, _ever_constant(column, real))


def _ever_constant(column: pl.Series, windows: np.ndarray) -> bool:
    """Return whether any window has one value only."""
    import polars as pl

    present = pl.DataFrame({"window": windows, "value": column}).drop_nulls()
    distinct = present.group_by("window").agg(pl.col("value").n_unique())["value"]
    return bool((distinct == 1).any())


def _strays(rows: CellIndex, spread: float, cuts: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return the distance of each window to the others and its size, both of shape (statistics, windows), and whether all have values."""
    whole = rows.tally(np.zeros(len(rows.cell), dtype=int))
    windows = int(cuts[0].max()) + 1
    together = max(1, min(_ROWS_AT_ONCE // cuts.shape[1], _CELLS_AT_ONCE // (windows * max(whole.cells.shape[1], 1))))
    strays, sizes, filled = [], [], True
    for first in range(0, len(cuts), together):
        some = cuts[first : first + together]
        tally = rows.tally(some + windows * np.arange(len(some))[:, None])
        # What is compared with must not hold the window itself: the distance would be too small.
        rest = whole - tally
        found = measure_distances(rows.layout, tally, rest, spread)
        strays.append(np.stack([found[name] for name in STATISTICS]))
        sizes.append(sampling_variance(tally, rest))
        filled = filled and bool((tally.nulls < tally.rows).all())
    return np.concatenate(strays, axis=1), np.concatenate(sizes, axis=1), filled


def _short(value: float) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _mean(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    result: np.ndarray = np.where(known, values, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    return result


def _in_units(values: np.ndarray, unit: np.ndarray) -> np.ndarray:
    known = np.isfinite(values) & (unit > 0)
    result: np.ndarray = np.divide(values, unit, out=np.zeros(values.shape), where=known)
    return result
