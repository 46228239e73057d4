"""The threshold from which a window's distance counts as drift, learned from windows of the reference.

Tests that assume independent rows alarm in every real week: weather, schedules and campaigns correlate the rows of one day. So the
reference is cut into windows of real time, and each window is compared with all the others. Random windows of the same rows and sizes
show the distances that chance alone gives, and how they depend on the number of rows.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlops_assets.compute.drift.binning import CellIndex
from mlops_assets.compute.drift.distances import Comparison
from mlops_assets.compute.drift.drift_statistics import deciding_statistics, measure_statistics, sampling_variances
from mlops_assets.compute.drift.exponential_tail import TAIL_SHARE, ExponentialTail, count_effective_tests, count_independent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import polars as pl

    from mlops_assets.compute.drift.binning import Binning

FORMAT_1_STATISTICS = ("ks", "wasserstein", "js", "null_rate")  # the order in which references of format 1 store them
_MAX_ROWS, _MAX_CELLS = 500_000, 50_000  # counted in one call, so that the arrays fit into the processor's cache
_CAP = 0.75  # of the way from the largest distance of a reference window to the largest attainable one
_RANDOM_TAIL_SHARE = 0.1  # of the random windows, to which a tail is fitted: a smaller share than of real ones, because they are many


@dataclass(frozen=True, eq=False)
class DriftCalibration:
    """One column's distances without drift: statistics in the order of :func:`deciding_statistics`, NaN if not calibrated.

    Parameters
    ----------
    chance
        ν: the mean square of the distance of n random rows is ν (1/n + 1/rows of the reference); shape (statistics,).
    tails
        Tails of the squared distances of random windows, in units of their mean square; one for each statistic.
    effective_tests
        The effective number of independent tests among the column's statistics.
    distances
        The distance of each reference window to the rest of the reference, shape (statistics, windows); no windows without event times.
    variances
        1/n + 1/rows of these windows, of the same shape.
    always_filled
        Whether every reference window had a value; without event times, whether every random window had one.
    ever_constant
        Whether any window of real time had only one distinct value; False without event times.
    """

    chance: np.ndarray
    tails: tuple[ExponentialTail, ...]
    effective_tests: float
    distances: np.ndarray
    variances: np.ndarray
    always_filled: bool
    ever_constant: bool = False

    def compute_chance_limits(self, variances: np.ndarray, rate: float) -> np.ndarray:
        """Return the limit of each statistic, shape (statistics, windows).

        Random rows exceed any of the limits with probability ``rate``. ``variances`` has the same shape.
        """
        units = np.array([tail.quantile(rate / self.effective_tests) for tail in self.tails]) * self.chance
        result: np.ndarray = np.sqrt(units[:, None] * variances)
        return result

    def as_json(self) -> dict[str, Any]:
        """Return the calibration as a dict of JSON values, by the name of each statistic; distances have five significant digits."""
        statistics = {
            statistic.name: {
                "chance": float(self.chance[place]),
                "tail": asdict(self.tails[place]),
                "strays": [_round_digits(value) for value in self.distances[place]],
                "sizes": [_round_digits(value) for value in self.variances[place]],
            }
            for place, statistic in enumerate(deciding_statistics())
        }
        windows = {"always_filled": self.always_filled, "ever_constant": self.ever_constant}
        return {"statistics": statistics, "parts": self.effective_tests, **windows}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> DriftCalibration:
        """Return a stored calibration of any format; a statistic without an entry counts as not calibrated."""
        by_name = stored.get("statistics") or _name_statistics(stored)
        entries = [by_name.get(statistic.name) for statistic in deciding_statistics()]
        windows = max((len(entry["strays"]) for entry in by_name.values()), default=0)
        distances, variances = (
            np.array([[math.nan] * windows if entry is None else entry[name] for entry in entries], dtype=float).reshape(
                len(entries), windows
            )
            for name in ("strays", "sizes")
        )
        return cls(
            np.array([math.nan if entry is None else entry["chance"] for entry in entries]),
            tuple(_UNCALIBRATED if entry is None else ExponentialTail(**entry["tail"]) for entry in entries),
            stored["parts"],
            distances,
            variances,
            stored["always_filled"],
            stored.get("ever_constant", True),  # older profiles lack it; True means that a constant column does not alarm
        )


_UNCALIBRATED = ExponentialTail(math.nan, math.nan, 0, 0)


def _name_statistics(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the statistics of a calibration of format 1 by name, from lists in the order of :data:`FORMAT_1_STATISTICS`."""
    lists = [stored[name] for name in ("chance", "tails", "strays", "sizes")]
    keys = ("chance", "tail", "strays", "sizes")
    return {name: dict(zip(keys, values, strict=True)) for name, *values in zip(FORMAT_1_STATISTICS, *lists, strict=True)}


@dataclass(frozen=True, eq=False)
class Thresholds:
    """The threshold of each statistic of each column; NaN for a statistic that is not calibrated and does not decide.

    Parameters
    ----------
    limits
        Shape (columns, statistics).
    capped
        Whether each limit is a cap, because the reference has too few windows for the stated rate; shape (columns, statistics).
    needed
        The number of reference windows that the stated rate needs; 0 when thresholds only account for sampling error.
    """

    limits: np.ndarray
    capped: np.ndarray
    needed: int = 0


def compute_thresholds(  # noqa: PLR0913  (what a threshold depends on)
    drift_calibrations: Sequence[DriftCalibration],
    variances: np.ndarray,
    rate: float,
    min_effects: np.ndarray,
    maxima: np.ndarray | None = None,
    *,
    cautious: bool = False,
) -> Thresholds:
    """Return the thresholds that the statistics of a window must exceed to count as drift.

    Parameters
    ----------
    drift_calibrations
        The calibration of each column.
    variances
        From :func:`sampling_variances` for the window to evaluate, shape (columns, statistics).
    rate
        The probability that a window without drift exceeds any threshold.
    min_effects
        From :func:`mlops_assets.compute.drift.drift_statistics.min_effects`.
    maxima
        From :func:`mlops_assets.compute.drift.drift_statistics.max_values`, shape (columns, statistics); no threshold is above it.
    cautious
        Whether heavy tails are fitted, and thresholds account for the estimation error of b. False for older references without
        histories of statistics, which keep the thresholds of their format.

    Returns
    -------
    Thresholds

    Notes
    -----
    A threshold is at least the minimum effect, and at least the value that random rows exceed with probability ``rate / columns``.
    Where reference windows exceed this bound, their own tail gives the threshold: with b the mean square by which they differ beyond
    chance, the threshold is c q √(b + ν (1/n + 1/rows)). q is exceeded with probability rate / m, where m is the effective number of
    independent tests (Cheverud 2001, Nyholt 2004), here estimated from the windows. q is extrapolated from an exponential tail, unless
    there are more than m / rate windows. c allows for a reference of few windows whose neighbours are correlated.

    An extrapolation from few windows can leave the range of the statistic. So no extrapolated threshold lies further than three quarters
    of the way from the largest distance of a reference window to the largest attainable one. Without drift, one in n + 1 windows exceeds
    the largest distance of n windows in a statistic. At most a quarter of these windows exceed the threshold.
    """
    shape = (len(drift_calibrations), len(min_effects))
    largest = np.full(shape, np.inf) if maxima is None else maxima.reshape(shape)
    rate_per_column = rate / len(drift_calibrations) if drift_calibrations else rate
    chance = [
        c.compute_chance_limits(variance[:, None], rate_per_column)[:, 0] for c, variance in zip(drift_calibrations, variances, strict=True)
    ]
    limits = np.minimum(np.maximum(min_effects, np.array(chance).reshape(shape)), largest)
    capped = np.zeros(shape, dtype=bool)
    fits = [
        (column, fit)
        for column, c in enumerate(drift_calibrations)
        for fit in _fit_window_tails(c, rate_per_column, min_effects, heavy=cautious)
    ]
    if not fits:
        return Thresholds(limits, capped)
    # A window that does not exceed the bound of chance and minimum effect has the rate 1.
    rates = np.min([fit.tail.leave_one_out_rates(fit.scaled) ** fit.over for _, fit in fits], axis=0)
    level = rate / count_effective_tests(rates, TAIL_SHARE, len(fits))
    for column, fit in fits:
        at = column, fit.statistic
        scale = math.sqrt(fit.beyond + drift_calibrations[column].chance[fit.statistic] * variances[at])
        widened = fit.widen(level) if cautious else 1.0
        extrapolated = fit.allowance * widened * scale * fit.tail.quantile(level)
        cap = _compute_cap(scale * float(fit.scaled.max()), float(largest[at]))
        capped[at] = extrapolated > max(cap, limits[at])
        limits[at] = max(limits[at], min(extrapolated, cap))
    return Thresholds(limits, capped, math.ceil(1 / level) - 1)


def _compute_cap(observed: float, largest: float) -> float:
    """Return the cap of a threshold, three quarters of the way from the largest observed to the largest attainable distance."""
    return observed + _CAP * (largest - observed) if observed < largest else largest


@dataclass(frozen=True, eq=False)
class _WindowTail:
    """The tail of a statistic that exceeds its bound in some reference windows; b and c are those of :func:`compute_thresholds`."""

    statistic: int  # its index among the deciding statistics
    beyond: float  # b
    allowance: float  # c
    independent: float  # the number of windows as if they were independent
    tail: ExponentialTail
    scaled: np.ndarray  # the windows' values, in units of their root mean square
    over: np.ndarray  # the windows that exceed the bound of chance and minimum effect

    def widen(self, rate: float) -> float:
        """Return Student's quantile divided by the normal one, for a distance that is exceeded with probability ``rate``: b is uncertain."""
        from scipy.special import ndtri, stdtrit  # type: ignore[import-untyped]  # it has no stubs

        return max(float(stdtrit(self.independent - 1, rate / 2) / ndtri(rate / 2)), 1.0)


def _fit_window_tails(calibration: DriftCalibration, rate: float, min_effects: np.ndarray, *, heavy: bool) -> list[_WindowTail]:
    """Return a tail for each statistic that exceeds chance and the minimum effect in at least one reference window."""
    if not calibration.distances.shape[1]:
        return []
    over = calibration.distances > np.maximum(min_effects[:, None], calibration.compute_chance_limits(calibration.variances, rate))
    squares, expected = calibration.distances**2, calibration.chance[:, None] * calibration.variances
    beyond = np.maximum(_mean(squares - expected), 0)
    scaled = np.sqrt(_divide(squares, beyond[:, None] + expected))
    rows = np.flatnonzero(over.any(axis=1)).tolist()
    return [
        _WindowTail(
            k,
            float(beyond[k]),
            _correct_for_few_windows(scaled[k]),
            count_independent(scaled[k]),
            ExponentialTail.fit(scaled[k], heavy=heavy),
            scaled[k],
            over[k],
        )
        for k in rows
    ]


def _correct_for_few_windows(values: np.ndarray) -> float:
    """Return the factor c by which a new window's distance exceeds, on average, the distance of a reference window.

    The reference contains its own n windows, which lowers their mean square distance by 1 / n; that of a new window is higher by 1 / n.
    So c = √((1 + 1/n) / (1 − 1/n)), where n is the number of windows as if they were independent.
    """
    n = count_independent(values)
    return math.sqrt((n + 1) / (n - 1))


def calibrate(binning: Binning, column: pl.Series, spread: float, real: np.ndarray | None, shuffled: np.ndarray) -> DriftCalibration:
    """Measure a column's distances without drift, between windows of the reference.

    Parameters
    ----------
    binning
        The binning of the column.
    column
        The column's rows in the reference.
    spread
        The standard deviation of the column.
    real
        The number of each row's window of real time, from 0, shape (rows,); None without times.
    shuffled
        The number of each row's random window in each of several shuffles, shape (shuffles, rows).

    Returns
    -------
    DriftCalibration
    """
    index = CellIndex.from_series(binning, column)
    distances, variances, filled = _compare_windows(index, spread, shuffled)
    ratios = distances**2 / variances
    chance = _mean(ratios)
    units = _divide(ratios, chance[:, None])
    tails = tuple(ExponentialTail.fit(row, _RANDOM_TAIL_SHARE, heavy=False) for row in units)
    rates = np.min([tail.leave_one_out_rates(row) for tail, row in zip(tails, units, strict=True)], axis=0)
    effective = count_effective_tests(rates, _RANDOM_TAIL_SHARE / 2, int((chance > 0).sum()))
    if real is None:
        none = np.zeros((len(chance), 0))
        return DriftCalibration(chance, tails, effective, none, none, filled)
    distances, variances, filled = _compare_windows(index, spread, real[None])
    return DriftCalibration(chance, tails, effective, distances, variances, filled, _has_constant_window(column, real))


def _has_constant_window(column: pl.Series, windows: np.ndarray) -> bool:
    """Return True if any window has only one distinct value; nulls are ignored."""
    import polars as pl

    present = pl.DataFrame({"window": windows, "value": column}).drop_nulls()
    distinct = present.group_by("window").agg(pl.col("value").n_unique())["value"]
    return bool((distinct == 1).any())


def _compare_windows(index: CellIndex, spread: float, cuts: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return the distance of each window to the rest of the reference, its sampling variance, and whether every window has values.

    Each of ``cuts`` has the window number of each row, shape (cuts, rows). Distances and variances have the shape (statistics, windows).
    """
    statistics = deciding_statistics()
    distances, variances, filled = [], [], True
    for comparison in _compare_in_batches(index, spread, cuts):
        by_name, windows = measure_statistics(comparison, statistics), comparison.windows
        distances.append(np.stack([by_name[statistic.name] for statistic in statistics]))
        variances.append(sampling_variances(windows, comparison.reference))
        filled = filled and bool((windows.nulls < windows.rows).all())
    return np.concatenate(distances, axis=1), np.concatenate(variances, axis=1), filled


def _compare_in_batches(index: CellIndex, spread: float, cuts: np.ndarray) -> Iterator[Comparison]:
    """Yield comparisons of windows with the rest of the reference, for a few of ``cuts`` at a time."""
    whole = index.count_windows(np.zeros(len(index.cells), dtype=int))
    windows = int(cuts[0].max()) + 1
    batch_size = max(1, min(_MAX_ROWS // cuts.shape[1], _MAX_CELLS // (windows * max(whole.cells.shape[1], 1))))
    for first in range(0, len(cuts), batch_size):
        batch = cuts[first : first + batch_size]
        counts = index.count_windows(batch + windows * np.arange(len(batch))[:, None])
        # The reference must not contain the window itself: the distance would be too small.
        yield Comparison(index.binning, counts, whole - counts, spread)


def _round_digits(value: float) -> float | None:
    """Return a number rounded to five significant digits; None when it is not finite."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _mean(values: np.ndarray) -> np.ndarray:
    """Return the mean of the finite values of each row; 0 for a row without finite values."""
    known = np.isfinite(values)
    result: np.ndarray = np.where(known, values, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    return result


def _divide(values: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Return ``values / unit``; 0 where a value is not finite or its unit is not positive."""
    known = np.isfinite(values) & (unit > 0)
    result: np.ndarray = np.divide(values, unit, out=np.zeros(values.shape), where=known)
    return result
