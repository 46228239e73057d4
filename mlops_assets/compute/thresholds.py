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

from mlops_assets.compute.cells import tally_windows
from mlops_assets.compute.distances import distances

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import polars as pl

    from mlops_assets.compute.cells import Layout, Tally

STATISTICS = ("ks", "wasserstein", "js", "null_rate")
_TINY = 1e-30
_TAIL, _DEALT_TAIL = 0.25, 0.1  # the share of windows from which the tail is extrapolated; there are many dealt ones


@dataclass(frozen=True)
class Tail:
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
    def of(cls, values: np.ndarray, share: float = _TAIL) -> Tail:
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
class Calibration:
    """One column's distances without drift. Statistics are in the order of ``STATISTICS``.

    Parameters
    ----------
    chance
        ν: the mean square of the distance of n rows taken at random is ν (1/n + 1/rows of the reference); shape (statistics,).
    tails
        Tails of the squared distances of dealt windows, in units of their mean square; one for each statistic.
    joint
        Tail of −ln of the least rate at which any of a dealt window's statistics is exceeded.
    strays
        Distance of each window of real time to the others, shape (statistics, windows); no window without times.
    sizes
        1/n + 1/rows of these windows, of the same shape.
    always_filled
        Whether every window had a value.
    """

    chance: np.ndarray
    tails: tuple[Tail, ...]
    joint: Tail
    strays: np.ndarray
    sizes: np.ndarray
    always_filled: bool

    def by_chance(self, size: np.ndarray, rate: float) -> np.ndarray:
        """Return what rows taken at random exceed with probability ``rate`` in any statistic, for each; shapes (statistics, windows)."""
        level = _level(self.joint, rate, int((self.chance > 0).sum()))
        units = np.array([tail.quantile(level) for tail in self.tails]) * self.chance
        result: np.ndarray = np.sqrt(units[:, None] * size)
        return result

    def as_json(self) -> dict[str, Any]:
        """Return the calibration as JSON holds it."""
        arrays = {name: [[_short(x) for x in row] for row in getattr(self, name)] for name in ("strays", "sizes")}
        tails = {"tails": [asdict(tail) for tail in self.tails], "joint": asdict(self.joint)}
        return {"chance": self.chance.tolist(), **tails, **arrays, "always_filled": self.always_filled}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Calibration:
        """Return a stored calibration."""
        strays, sizes = (np.array(stored[name], dtype=float) for name in ("strays", "sizes"))
        tails = tuple(Tail(**tail) for tail in stored["tails"])
        return cls(np.array(stored["chance"]), tails, Tail(**stored["joint"]), strays, sizes, stored["always_filled"])


def least_effects(psi: float) -> np.ndarray:
    """Return what counts as an effect, for each statistic, shape (statistics,).

    Parameters
    ----------
    psi
        The PSI of a normal column whose mean moves by √psi standard deviations. The Kolmogorov–Smirnov and Wasserstein statistics of that move
        and its Jensen–Shannon distance (to second order) are the limits; for nulls, the rate that has the same Jensen–Shannon distance.
    """
    return np.array([math.erf(math.sqrt(psi / 8)), math.sqrt(psi), math.sqrt(psi / (8 * math.log(2))), psi / (4 * math.log(2))])


def thresholds(calibrations: Sequence[Calibration], sizes: np.ndarray, rate: float, least: np.ndarray) -> np.ndarray:
    """Return what each statistic of each column must exceed to count as drift, shape (columns, statistics).

    Parameters
    ----------
    calibrations
        Of each column.
    sizes
        From :func:`size` for the window to judge, shape (columns, statistics).
    rate
        The probability that a window without drift exceeds any threshold.
    least
        From :func:`least_effects`.

    Notes
    -----
    A threshold is at least the least effect, and at least what rows taken at random exceed with probability ``rate / columns``. Where
    windows of the reference exceed that, their own tail decides: with b the mean square by which they differ beyond chance, it is
    q √(b + ν (1/n + 1/rows)), and the level of q is the one at which the windows of the reference, taken over all columns together, exceed any of
    their thresholds at ``rate`` (Westfall and Young 1993, minP). With fewer than 1 / rate windows that level is extrapolated, as if
    tails were exponential, and never less strict than ``rate``, nor more than ``rate`` shared among the statistics (Bonferroni).
    """
    base = [
        np.maximum(least[:, None], c.by_chance(size[:, None], rate / len(calibrations)))[:, 0]
        for c, size in zip(calibrations, sizes, strict=True)
    ]
    result = np.array(base).reshape(len(calibrations), len(STATISTICS))
    found = [(place, *exceeding) for place, c in enumerate(calibrations) for exceeding in _exceeding(c, rate / len(calibrations), least)]
    if found:
        # A window that stays below the other bounds does not count.
        rates = np.min([tail.own_rates(scaled) ** over for _, _, _, tail, scaled, over in found], axis=0)
        level = _level(Tail.of(-np.log(rates)), rate, len(found))
        for place, statistic, beyond, tail, _, _ in found:
            scale = math.sqrt(beyond + calibrations[place].chance[statistic] * sizes[place][statistic])
            result[place, statistic] = max(result[place, statistic], scale * tail.quantile(level))
    return result


def _level(joint: Tail, rate: float, parts: int) -> float:
    """Return the rate at which each of several parts may be exceeded so that any is at ``rate``: as measured, within what is possible."""
    return min(max(math.exp(-joint.quantile(rate)), rate / max(parts, 1)), rate)


def _exceeding(calibration: Calibration, rate: float, least: np.ndarray) -> list[tuple[int, float, Tail, np.ndarray, np.ndarray]]:
    """Return, for each statistic whose real windows go beyond chance: its place, b, tail, the windows in units of their root mean square, and which go."""
    if not calibration.strays.shape[1]:
        return []
    over = calibration.strays > np.maximum(least[:, None], calibration.by_chance(calibration.sizes, rate))
    squares, expected = calibration.strays**2, calibration.chance[:, None] * calibration.sizes
    beyond = np.maximum(_mean(squares - expected), 0)
    scaled = np.sqrt(_in_units(squares, beyond[:, None] + expected))
    places = np.flatnonzero(over.any(axis=1)).tolist()
    return [(place, float(beyond[place]), Tail.of(scaled[place]), scaled[place], over[place]) for place in places]


def size(window: Tally, reference: Tally) -> np.ndarray:
    """Return 1/n + 1/rows for each statistic and window, shape (statistics, windows): of the values or, where nulls count, of the rows."""
    by_value = 1 / np.maximum(window.values, 1) + 1 / np.maximum(reference.values, 1)
    by_row = 1 / np.maximum(window.rows, 1) + 1 / np.maximum(reference.rows, 1)
    return np.stack([by_value, by_value, by_row, by_row])


def calibrate(layout: Layout, column: pl.Series, spread: float, real: np.ndarray | None, dealt: Sequence[np.ndarray]) -> Calibration:
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
        The window of real time of each row, from 0; None without times.
    dealt
        The same, several times, for windows whose rows are taken at random.
    """
    found, sizes, filled = _strays(layout, column, spread, dealt)
    ratios = found**2 / sizes
    chance = _mean(ratios)
    units = _in_units(ratios, chance[:, None])
    tails = tuple(Tail.of(row, _DEALT_TAIL) for row in units)
    joint = Tail.of(-np.log(np.min([tail.own_rates(row) for tail, row in zip(tails, units, strict=True)], axis=0)), _DEALT_TAIL)
    none = np.zeros((len(STATISTICS), 0))
    strays, real_sizes, filled = (none, none, filled) if real is None else _strays(layout, column, spread, [real])
    return Calibration(chance, tails, joint, strays, real_sizes, filled)


def _strays(layout: Layout, column: pl.Series, spread: float, windows: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return the distance of each window to the others and its size, both of shape (statistics, windows), and whether all have values."""
    strays, sizes, filled = [], [], True
    for window in windows:
        tally = tally_windows(layout, column, window, int(window.max()) + 1)
        # What is compared with must not hold the window itself: the distance would be too small.
        rest = tally.total() - tally
        found = distances(layout, tally, rest, spread)
        strays.append(np.stack([found[name] for name in STATISTICS]))
        sizes.append(size(tally, rest))
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
