"""Statistics of a window by column, compared with the same statistics of earlier windows.

Distances between rows cannot test a column that is nearly constant within a window, e.g. a feature that is computed once a day: every window
differs from all others. Its mean can be compared with the means of the reference windows. Rates of zeros and new values reveal faults of
few rows, which hardly change a distance. The null rate is among the distances.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mlops_assets.compute.drift.binning import CATEGORICAL, NUMERIC

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlops_assets.compute.drift.binning import Binning
    from mlops_assets.compute.drift.column_values import ColumnValues

MEAN, SPREAD, ZEROS, NEW_VALUES = "mean", "spread", "zero rate", "rate of new values"
QUANTILES = {"10 % quantile": 0.1, "median": 0.5, "90 % quantile": 0.9}
SHARE = "share of "  # followed by a category
MAX_LEVELS, MAX_SHARES = 500, 20  # distinct values of a column that are stored; categories whose share is a statistic
MAX_STEADY = 0.25  # of the windows, in which a quantile may have its median value
MAX_NEW = 0.005  # of the rows of reference windows, on average, whose value no other window has
_WINDOW, _VALUE, _ALONE = "window", "value", "alone"


@dataclass(frozen=True, eq=False)
class StatisticHistory:
    """The statistics of one column in the windows of the reference.

    Parameters
    ----------
    names
        The statistics: the mean, the logarithm of the standard deviation, quantiles, and rates and shares of rows.
    values
        Shape (windows, statistics), in the order of time; NaN where a statistic is undefined.
    rows
        The number of rows of each window, shape (windows,).
    spread
        The standard deviation of the column in the reference.
    levels
        The distinct values of the reference, as text for categories. None if there are too many: then no value counts as new.
    """

    names: tuple[str, ...]
    values: np.ndarray
    rows: np.ndarray
    spread: float
    levels: tuple[Any, ...] | None

    @classmethod
    def from_series(cls, column: pl.Series, windows: np.ndarray, binning: Binning, spread: float) -> StatisticHistory:
        """Measure a column in each window; ``windows`` has the window number of each row, from 0."""
        frame = pl.DataFrame({_WINDOW: windows, _VALUE: _select_values(column, binning.kind)})
        statistics, levels = _list_statistics(binning), _list_levels(frame[_VALUE], binning.kind)
        if levels is not None:
            # A value that only one window has was new in this window.
            alone = (pl.col(_WINDOW).min() == pl.col(_WINDOW).max()).over(_VALUE) & _is_inside(levels)
            frame, statistics = frame.with_columns(alone.alias(_ALONE)), statistics | {NEW_VALUES: pl.col(_ALONE).mean()}
        measured = frame.group_by(_WINDOW).agg(pl.len().alias("rows"), *_name_by_position(statistics)).sort(_WINDOW)
        return cls(tuple(statistics), _to_array(measured.drop(_WINDOW, "rows")), measured["rows"].to_numpy(), spread, levels)

    def measure(self, values: ColumnValues) -> np.ndarray:
        """Return the statistics of a window, shape (statistics,), in the order of ``names``; NaN where one is undefined."""
        if not values.rows:
            return np.full(len(self.names), math.nan)
        zeros = values.count_equal(np.zeros(1)) / values.rows
        measured = {
            MEAN: _replace_none(values.facts.get("mean")),
            SPREAD: _compute_log_spread(values),
            ZEROS: zeros,
            NEW_VALUES: self._measure_new_rate(values),
        }
        measured |= {name: values.quantile(share) for name, share in QUANTILES.items()}
        return np.array(
            [values.categories.get(n.removeprefix(SHARE), 0) / values.rows if n.startswith(SHARE) else measured[n] for n in self.names]
        )

    def _measure_new_rate(self, values: ColumnValues) -> float:
        """Return the share of rows whose value counts as new, see :func:`_is_inside`."""
        if not self.levels or isinstance(self.levels[0], str):
            known = sum(values.categories.get(level, 0) for level in self.levels or ())
            return (sum(values.categories.values()) + len(values.ordered) - known) / values.rows
        inner = np.array(self.levels[1:-1], dtype=float)
        return (values.count_between(self.levels[0], self.levels[-1]) - values.count_equal(inner)) / values.rows

    def min_effects(self, psi: float) -> np.ndarray:
        """Return the minimum change of each statistic that counts as drift, shape (statistics,).

        These are the changes of a normal column whose mean or standard deviation changes by the PSI, and of a rate that rises from 0 with
        the same Jensen–Shannon distance. NaN where the reference is constant, and for a quantile that is equal in most windows: such a
        quantile changes in steps. NaN also for the rate of new values if reference windows had many new values.
        """
        moved = math.sqrt(psi) * self.spread if self.spread > 0 else math.nan
        by_name = {MEAN: moved, SPREAD: math.sqrt(psi / 2), **dict.fromkeys(QUANTILES, moved)}
        effects = np.array([by_name.get(name, psi / (4 * math.log(2))) for name in self.names])
        middle = np.sort(self.values, axis=0)[len(self.values) // 2]
        steady = (self.values == middle).mean(axis=0) > MAX_STEADY
        unusable = np.array([name in QUANTILES for name in self.names]) & steady
        # In a column with many values, some are always new.
        unusable |= np.array([name == NEW_VALUES for name in self.names]) & (self.values.mean(axis=0) > MAX_NEW)
        result: np.ndarray = np.where(unusable, math.nan, effects)
        return result

    def sampling_variances(self, rows: np.ndarray) -> np.ndarray:
        """Return the variance of each statistic in windows of independent rows, shape (windows, statistics)."""
        by_name = {MEAN: self.spread**2, SPREAD: 0.5, **{name: self.spread**2 * _QUANTILE_VARIANCES[name] for name in QUANTILES}}
        pooled = np.nansum(self.values * self.rows[:, None], axis=0) / self.rows.sum()
        rates = np.maximum(pooled * (1 - pooled), 1 / self.rows.sum())
        variances = np.array([by_name.get(name, rate) for name, rate in zip(self.names, rates, strict=True)])
        result: np.ndarray = variances / np.maximum(rows, 1)[:, None]
        return result

    def was_concentrated(self, value: str) -> bool:
        """Return whether in at least one reference window 80 % or more of the rows had this value, which is passed as text."""
        if SHARE + value in self.names:
            return bool(np.nanmax(self.values[:, self.names.index(SHARE + value)]) >= 0.8)
        if not set(QUANTILES) <= set(self.names):
            return False
        low, _, high = (self.values[:, self.names.index(name)] for name in QUANTILES)
        return any(a == b and f"{a:.6g}" == value for a, b in zip(low, high, strict=True))

    @property
    def only_increases(self) -> np.ndarray:
        """Whether only an increase of a statistic counts as drift, shape (statistics,)."""
        return np.array([name == NEW_VALUES for name in self.names])

    @property
    def are_rates(self) -> np.ndarray:
        """Whether each statistic is a share of rows, shape (statistics,)."""
        return np.array([name in (ZEROS, NEW_VALUES) or name.startswith(SHARE) for name in self.names])

    def as_json(self) -> dict[str, Any]:
        """Return the history as a dict of JSON values; statistics have six significant digits."""
        return {
            "names": list(self.names),
            "values": [[_round_digits(value) for value in row] for row in self.values],
            "rows": self.rows.tolist(),
            "spread": self.spread,
            "levels": None if self.levels is None else list(self.levels),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> StatisticHistory:
        """Rebuild the history from the result of :meth:`as_json`."""
        values = np.array(stored["values"], dtype=float).reshape(len(stored["rows"]), len(stored["names"]))
        levels = None if stored["levels"] is None else tuple(stored["levels"])
        return cls(tuple(stored["names"]), values, np.array(stored["rows"]), stored["spread"], levels)


# p (1 - p) / φ² of a normal column with the standard deviation 1.
_QUANTILE_VARIANCES = {"10 % quantile": 2.92, "median": 1.57, "90 % quantile": 2.92}


def _replace_none(value: float | None) -> float:
    return math.nan if value is None else value


def _compute_log_spread(values: ColumnValues) -> float:
    """Return the logarithm of the sample's standard deviation; NaN for a constant column."""
    spread, count = values.facts.get("std"), len(values.ordered)
    return math.log(spread) + math.log(count / (count - 1)) / 2 if spread else math.nan


def _round_digits(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _name_by_position(statistics: Mapping[str, pl.Expr]) -> list[pl.Expr]:
    """Return the expressions with their positions as names: the name of a statistic may contain any category."""
    return [expression.alias(str(place)) for place, expression in enumerate(statistics.values())]


def _to_array(frame: pl.DataFrame) -> np.ndarray:
    return frame.cast(pl.Float64).fill_null(math.nan).to_numpy()


def _select_values(column: pl.Series, kind: str) -> pl.Series:
    """Return the values to measure: finite numbers or texts, and null for all others; for a column counted by presence, the null flags."""
    if kind == NUMERIC:
        numbers = column.cast(pl.Float64)
        return numbers.to_frame(_VALUE).select(pl.when(pl.col(_VALUE).is_finite()).then(_VALUE))[_VALUE]
    return column.cast(pl.String) if kind == CATEGORICAL else column.is_null()


def _is_inside(levels: tuple[Any, ...]) -> pl.Expr:
    """Return whether a value can count as new. Numbers out of the range cannot: seasons cause them, and the mean reveals them."""
    value = pl.col(_VALUE)
    if not levels or isinstance(levels[0], str):
        return value.is_not_null()
    return value.is_between(levels[0], levels[-1], closed="none")


def _list_levels(values: pl.Series, kind: str) -> tuple[Any, ...] | None:
    if kind not in (NUMERIC, CATEGORICAL) or values.n_unique() > MAX_LEVELS:
        return None
    return tuple(values.drop_nulls().unique().sort().to_list())


def _list_statistics(binning: Binning) -> dict[str, pl.Expr]:
    """Return name → expression of each statistic of a column, without the rate of new values; none for a column counted by presence."""
    value = pl.col(_VALUE)
    if binning.kind == CATEGORICAL:
        shares = binning.values[: min(binning.frequent, MAX_SHARES)]
        return {SHARE + name: (value == name).fill_null(value=False).mean() for name in shares}
    if binning.kind != NUMERIC:
        return {}
    quantiles = {name: value.quantile(share, "linear") for name, share in QUANTILES.items()}
    spread = pl.when(value.min() < value.max()).then(value.std().log())  # rounding gives a constant column a tiny spread
    return {MEAN: value.mean(), SPREAD: spread, **quantiles, ZEROS: (value == 0).fill_null(value=False).mean()}
