"""Dependencies between columns: rows that agree in some columns agree in another one, as in a table that was joined.

All flights of an airport and an hour share one wind speed. A fault that changes some of these rows leaves the distribution of a column
unchanged if its values are common, e.g. zeros among calm hours. But the rows then contradict each other.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mlops_assets.compute.drift.binning import CATEGORICAL, NUMERIC

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlops_assets.compute.drift.binning import Binning
    from mlops_assets.compute.drift.column_drift import ColumnDrift

DEPENDENCY = "dependency on "  # followed by the columns that determine this one
MAX_EXCEPTIONS = 0.005  # of the rows of any reference window
MIN_LIMIT = 0.02  # the smallest share of exceptions that counts as drift
MAX_PER_COLUMN, MAX_DETERMINANTS, MAX_SEARCH_ROWS = 2, 16, 8_000
MIN_GROUP_ROWS, MIN_COVERED = 3, 0.6  # rows of a group that counts, and the share of rows in such groups
_MAX_BROKEN = 10 * MAX_EXCEPTIONS  # of the rows that are searched: a row that differs breaks its whole group
_MAX_COMMON = 0.9  # of the rows: the share of a column's most frequent value, above which its dependencies mean little


@dataclass(frozen=True)
class Dependency:
    """A column whose value follows from other columns, in each window of the reference.

    Parameters
    ----------
    column
        The dependent column.
    on
        One column or two columns that determine it.
    exceptions
        The largest share of exceptions in a reference window, see :func:`measure_exceptions`.
    """

    column: str
    on: tuple[str, ...]
    exceptions: float = 0.0

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of the dependency."""
        return (*self.on, self.column)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Dependency:
        """Return the dependency that :func:`dataclasses.asdict` described."""
        return cls(stored["column"], tuple(stored["on"]), stored["exceptions"])


def find_dependencies(frame: pl.DataFrame, binnings: Mapping[str, Binning], windows: np.ndarray) -> list[dict[str, Any]]:
    """Return the dependencies that hold in all windows of the reference, as JSON values; at most two for each column.

    Parameters
    ----------
    frame
        Rows of the reference.
    binnings
        The binning of each column; columns that are counted by presence have no dependencies.
    windows
        The window number of each row, from 0, shape (rows,).
    """
    codes = {name: encode_values(frame[name]) for name, binning in binnings.items() if binning.kind in (NUMERIC, CATEGORICAL)}
    codes = {name: each for name, each in codes.items() if np.bincount(each).max() <= _MAX_COMMON * len(each)}
    found = list[Dependency]()
    for dependency in _propose_dependencies(codes, windows):
        largest = float(measure_exceptions(dependency, codes, windows).max())
        if largest <= MAX_EXCEPTIONS and sum(other.column == dependency.column for other in found) < MAX_PER_COLUMN:
            found.append(replace(dependency, exceptions=largest))
    return [asdict(dependency) for dependency in found]


def encode_values(column: pl.Series) -> np.ndarray:
    """Return a number for each distinct value of a column, shape (rows,); 0 for null."""
    values = column if column.dtype.is_numeric() else column.cast(pl.String)
    result: np.ndarray = values.rank("dense").cast(pl.Int64).fill_null(0).to_numpy()
    return result


def measure_exceptions(dependency: Dependency, codes: Mapping[str, np.ndarray], windows: np.ndarray) -> np.ndarray:
    """Return the share of exceptions in each window, shape (windows,).

    A group is the rows of a window with equal values in the determining columns. An exception is a row whose value is not the most
    frequent one of its group. Groups of one or two rows do not count, and neither do rows with a null in these columns.

    Parameters
    ----------
    dependency
        The dependency.
    codes
        Column → the numbers from :func:`encode_values`.
    windows
        The window number of each row, from 0, shape (rows,).
    """
    count, known = np.bincount(windows), np.all([codes[name] > 0 for name in dependency.columns], axis=0)
    if not known.any():
        return np.zeros(len(count))
    windows, values = windows[known], codes[dependency.column][known]
    groups = _number_groups([windows, *(codes[name][known] for name in dependency.on)])
    cells, rows = np.unique(groups * (values.max() + 1) + values, return_counts=True)
    group = cells // (values.max() + 1)
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    size, largest = np.add.reduceat(rows, starts), np.maximum.reduceat(rows, starts)
    window = windows[np.unique(groups, return_index=True)[1]]
    counted = size >= MIN_GROUP_ROWS
    different = np.bincount(window[counted], (size - largest)[counted], minlength=len(count))
    result: np.ndarray = different / np.maximum(count, 1)
    return result


def evaluate_dependencies(
    stored: Sequence[Mapping[str, Any]], samples: Mapping[str, pl.Series], columns: Sequence[ColumnDrift], min_psi: float
) -> list[ColumnDrift]:
    """Return the reports of columns; those that contradict a dependency have drifted.

    Parameters
    ----------
    stored
        The result of :func:`find_dependencies`.
    samples
        Column → rows of the window, the same rows of each column.
    columns
        The reports of columns by the views. A column that has drifted explains each broken dependency that it takes part in.
    min_psi
        The minimum effect as a PSI. The limit is the rate that rises from 0 with the same Jensen–Shannon distance.
    """
    known = [each for each in map(Dependency.from_json, stored) if set(each.columns) <= set(samples)]
    if not known:
        return list(columns)
    codes = {name: encode_values(samples[name]) for name in {n for each in known for n in each.columns}}
    window, limit = np.zeros(len(next(iter(codes.values()))), dtype=int), max(min_psi / (4 * math.log(2)), MIN_LIMIT)
    shares = {each: float(measure_exceptions(each, codes, window)[0]) for each in known}
    drifted = {column.name for column in columns if column.drifted}
    blamed = blame_columns(known, [each for each in known if shares[each] > limit and not set(each.columns) & drifted], shares)
    return [
        _report(column, blamed[column.name], shares[blamed[column.name]], limit) if column.name in blamed else column for column in columns
    ]


def blame_columns(known: Sequence[Dependency], broken: Sequence[Dependency], shares: Mapping[Dependency, float]) -> dict[str, Dependency]:
    """Return column → its worst dependency, for the fewest columns that explain the broken dependencies.

    The column whose dependencies are all broken is preferred to one that others rely on without contradiction.

    Parameters
    ----------
    known, broken
        All dependencies, and those that the window contradicts.
    shares
        The share of exceptions of each.
    """
    blamed, left = dict[str, Dependency](), list(broken)

    def rank_suspicion(name: str) -> tuple[float, int, int, str]:
        count = sum(name in each.columns for each in left)
        return count / sum(name in each.columns for each in known), count, sum(name == each.column for each in left), name

    while left:
        worst = max({name for each in left for name in each.columns}, key=rank_suspicion)
        blamed[worst] = max((each for each in left if worst in each.columns), key=lambda each: shares[each])
        left = [each for each in left if worst not in each.columns]
    return blamed


def _propose_dependencies(codes: Mapping[str, np.ndarray], windows: np.ndarray) -> list[Dependency]:
    """Return possible dependencies from rows of some windows: fewer determining columns first, then fewer groups."""
    chosen = _choose_rows(windows)
    some, at = {name: each[chosen] for name, each in codes.items()}, windows[chosen]
    names = sorted(some, key=lambda name: -len(np.unique(some[name])))
    table = np.column_stack([some[name] for name in names]) if names else np.zeros((0, 0), dtype=int)
    varied = [i for i, name in enumerate(names) if len(np.unique(_number_groups([at, some[name]]))) > 2 * len(np.unique(at))]
    ranked = list[tuple[int, int, Dependency]]()
    single = {name: set[str]() for name in names}  # column → the columns that determine it alone
    for on in _list_determinants([names[i] for i in varied]):
        known = np.flatnonzero(np.all([some[name] > 0 for name in on], axis=0))
        if len(known) < MIN_COVERED * len(at):
            continue
        groups = _number_groups([at[known], *(some[name][known] for name in on)])
        order = np.argsort(groups, kind="stable")
        starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
        sizes = np.diff(np.append(starts, len(order)))
        if sizes[sizes >= MIN_GROUP_ROWS].sum() < MIN_COVERED * len(at):
            continue
        ordered = table[known[order]]
        differs = np.minimum.reduceat(ordered, starts) != np.maximum.reduceat(ordered, starts)
        broken = (differs & (sizes >= MIN_GROUP_ROWS)[:, None]).T @ sizes / len(at)
        for i in varied:
            if names[i] not in on and broken[i] <= _MAX_BROKEN and not single[names[i]] & set(on):
                single[names[i]] |= set(on) if len(on) == 1 else set()
                ranked.append((len(on), len(starts), Dependency(names[i], on)))
    return [dependency for *_, dependency in sorted(ranked, key=lambda each: (*each[:2], each[2].columns))]


def _choose_rows(windows: np.ndarray) -> np.ndarray:
    """Return the rows of evenly chosen windows: some 8,000 rows, from a minimum of two windows."""
    rows = np.bincount(windows)
    count = int(np.clip(MAX_SEARCH_ROWS / max(rows.mean(), 1), 2, len(rows)))
    return np.flatnonzero(np.isin(windows, np.linspace(0, len(rows) - 1, count).round().astype(int)))


def _list_determinants(names: Sequence[str]) -> list[tuple[str, ...]]:
    few = names[:MAX_DETERMINANTS]
    return [*((name,) for name in few), *combinations(few, 2)]


def _number_groups(keys: Sequence[np.ndarray]) -> np.ndarray:
    """Return the number of each row's combination of keys, from 0, shape (rows,)."""
    groups = np.zeros(len(keys[0]), dtype=int)
    for key in keys:
        groups = np.unique(groups * (key.max() + 1) + key, return_inverse=True)[1]
    return groups


def _report(column: ColumnDrift, dependency: Dependency, share: float, limit: float) -> ColumnDrift:
    """Return the report of a column that contradicts a dependency."""
    others = " and ".join(name for name in dependency.columns if name != column.name)
    return replace(
        column,
        statistic=DEPENDENCY + others,
        value=share,
        threshold=limit,
        severity=share / limit,
        drifted=True,
        why=(
            f"rows with equal {' and '.join(dependency.on)} differ in {dependency.column}: {share:.1%} of the rows, in the reference "
            f"windows {dependency.exceptions:.1%} at most; threshold {limit:.1%}"
        ),
        reference_values=(dependency.exceptions,),
    )
