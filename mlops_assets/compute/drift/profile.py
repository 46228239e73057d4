"""The reference profile of a version: a description of each column of its training set.

The profile is stored with the version, and monitors compare every later window with it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mlops_assets.compute.drift.associations import find_associations
from mlops_assets.compute.drift.binning import (
    CATEGORICAL,
    NUMERIC,
    Binning,
    Counts,
    bin_categories,
    bin_numbers,
    count_categories,
    count_numbers,
    count_presence,
)
from mlops_assets.compute.drift.column_values import FACTS, ColumnValues
from mlops_assets.compute.drift.dependencies import find_dependencies
from mlops_assets.compute.drift.distances import correct_crossings
from mlops_assets.compute.drift.domain_classifier import build_reference
from mlops_assets.compute.drift.embeddings import MAX_EMBEDDINGS, SHIFT, describe_embeddings, find_size
from mlops_assets.compute.drift.texts import MAX_TEXTS, MAX_WORDS, WORDS, count_words, is_text, list_vocabulary
from mlops_assets.compute.drift.thresholds import DriftCalibration, calibrate
from mlops_assets.compute.drift.window_statistics import StatisticHistory
from mlops_assets.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT = 4  # 2 stores calibrations by the name of each statistic, 3 measures of texts, 4 of embeddings; 1 to 3 can still be read
FEATURE, PREDICTION = "feature", "prediction"  # roles of columns: inputs of the model, and what it predicted
BY_WINDOW = "by window"  # key of a profile: window length in whole seconds → the profile calibrated on windows of that length
WINDOW_LENGTH = "window length"  # key of such a profile: the length in seconds that a monitor declares
ASSOCIATIONS = "associations"  # key of a profile: associations between columns; missing like histories
CLASSIFIERS = "classifiers"  # key of a profile: what domain classifiers compare with; missing where no monitor declares one
DEPENDENCIES = "dependencies"  # key of associations: columns that follow from others; missing in older profiles
HISTORY = "history"  # key of a column: its statistics in each calibrating window; missing in older profiles and without event times
MEASURES = "measures"  # key of a column that is compared by measures: their profiles
VOCABULARY, SPACE = "vocabulary", "space"  # keys of such a column: the known words of texts, and the space of embeddings
TEXT, EMBEDDING = "text", "embedding"  # the kinds of such columns
MIN_REFERENCE_ROWS = 100
MIN_WINDOWS, MAX_WINDOWS, MIN_WINDOW_ROWS = 20, 200, 30
MAX_CALIBRATION_ROWS = 250_000
MIN_SAMPLED_ROWS = 50  # of a window: with 30, clean windows alarmed too often
_SHUFFLED_WINDOWS = 600  # windows of random rows, over all shuffles
_MAX_SHUFFLED, _MIN_SHUFFLES = 15_000_000, 5  # values of rows that have several, over all shuffles
_NO_POINTS = np.zeros(0)


@dataclass(frozen=True, eq=False)
class ColumnProfile:
    """One column of a reference, or of a window, which is counted in the reference's cells and bins.

    Parameters
    ----------
    dtype
        Name of the column's polars type.
    binning
        The cells and bins in which the column is counted.
    counts
        The counts of the column's rows.
    facts
        For a numeric column: mean, std, min, median, max; None where not finite. Empty for other columns.
    unseen
        Up to three categories of a window that the reference lacks, most frequent first.
    crossing
        The correction of a window's Wasserstein distance, from :func:`correct_crossings`.
    only_category
        The only category of a categorical column; None when it has none or several.
    """

    dtype: str
    binning: Binning
    counts: Counts
    facts: Mapping[str, float | None]
    unseen: tuple[str, ...] = ()
    crossing: float = 0.0
    only_category: str | None = None

    @classmethod
    def from_series(cls, column: pl.Series, reference: ColumnProfile | None = None) -> ColumnProfile:
        """Count a column in the cells and bins of a reference; without a reference, in cells and bins of its own."""
        return cls.from_values(ColumnValues.from_series(column, reference.binning.kind if reference else ""), reference)

    @classmethod
    def from_values(cls, values: ColumnValues, reference: ColumnProfile | None = None, binning: Binning | None = None) -> ColumnProfile:
        """Count sorted or counted values in the cells and bins of a reference; without one, in ``binning`` or in cells of their own."""
        dtype, rows, nulls = values.dtype, values.categories, values.nulls
        known = reference.binning if reference else binning
        if values.kind == NUMERIC:
            binning = known or bin_numbers(values.ordered)
            counts = count_numbers(binning, values.ordered, nulls, values.infinite)
            crossing = correct_crossings(binning, values.ordered, counts, reference.counts) if reference and reference.spread else 0.0
            return cls(dtype, binning, counts, values.facts, (), crossing)
        if values.kind == CATEGORICAL:
            binning = known or bin_categories(rows)
            only = next(iter(rows)) if len(rows) == 1 else None
            return cls(dtype, binning, count_categories(binning, rows, nulls), {}, _find_unseen(binning, rows), only_category=only)
        binning = known or Binning(values.kind, _NO_POINTS, _NO_POINTS, _NO_POINTS)
        return cls(dtype, binning, count_presence(values.rows, nulls), {})

    @property
    def spread(self) -> float:
        """The standard deviation; 0 when it is undefined."""
        return self.facts.get("std") or 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the column's profile as a dict of JSON values, without the attributes that only windows have."""
        counts = {"cells": self.counts.cells[0], "sums": self.counts.sums[0], "bins": self.binning.bins(self.counts)[0]}
        missing = {"nulls": int(self.counts.nulls[0]), "infinite": int(self.counts.infinite[0])}
        return {
            "dtype": self.dtype,
            **self.binning.as_json(),
            **self.facts,
            **missing,
            **{name: array.tolist() for name, array in counts.items()},
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> ColumnProfile:
        """Return the column's profile that :meth:`as_json` described."""
        sums = np.array([stored["sums"]], dtype=float).reshape(1, -1)
        counts = Counts(np.array([stored["cells"]]), sums, np.array([stored["nulls"]]), np.array([stored["infinite"]]))
        facts = {name: stored[name] for name in FACTS if name in stored}
        return cls(stored["dtype"], Binning.from_json(stored), counts, facts)


def _find_unseen(binning: Binning, rows: Mapping[str, int]) -> tuple[str, ...]:
    """Return up to three categories that the reference lacks; none when it has too many categories to store."""
    if binning.known is None:
        return ()
    known = {*binning.values, *binning.known}
    return tuple(islice((value for value in rows if value not in known), 3))


def build_profile(
    X: pl.DataFrame,
    event_times: pl.Series | None = None,
    *,
    role: str = FEATURE,
    window: timedelta = timedelta(days=1),
    classifiers: Mapping[tuple[str, ...], int] | None = None,
) -> dict[str, Any]:
    """Return the profile of a version's training rows or predictions, with which later windows are compared.

    Parameters
    ----------
    X
        The training rows, or predictions from :func:`mlops_assets.compute.drift.prediction_drift.select_predictions`. Strings, booleans,
        categoricals and enums are compared by value and numbers by size; texts and embeddings by measures. Of other types, only nulls
        are compared.
    event_times
        The time of each row, shape (rows,). Windows use the time zone of these times: pass New York's times for New York's days.
        Without times, thresholds allow for chance alone. This is right for independent rows and alarms too often for dependent rows.
    role
        ``feature`` or ``prediction``. A window may lack a prediction, e.g. a probability. Associations between predictions are not
        compared: one follows from the other.
    window
        The length of the monitor's windows. It is shortened where the reference would have fewer than 20 of them.
    classifiers
        Columns → the maximum number of rows of a window, for each domain classifier to calibrate; no columns for all.

    Returns
    -------
    dict
        JSON values: ``format``, ``rows``, ``windows`` (the number of calibrating windows of real time), ``window_seconds`` and ``columns``.
        Each column has its type, nulls and counts by bin and by value. A numeric one also has its mean, standard deviation and extremes,
        and counts at about 1,000 quantiles. From these, the Kolmogorov–Smirnov statistic and the Wasserstein distance (in standard
        deviations) follow to about 0.001, and the PSI exactly. ``calibration`` is the result of :func:`calibrate`, None with fewer than 100 rows.
        ``classifiers`` have a sample of the rows each.
        ``history`` has the column's statistics in each calibrating window of real time, ``associations`` those between columns, with dependencies.
        A text column, see :func:`mlops_assets.compute.drift.texts.is_text`, has ``vocabulary``, and ``measures`` with a profile each.
        An embedding column, see :func:`mlops_assets.compute.drift.embeddings.find_size`, has ``space`` and ``measures``.

    Raises
    ------
    DataError
        There is no row, or the lengths differ.
    """
    _check_rows(X, event_times)
    windows = None if X.height < MIN_REFERENCE_ROWS else _choose_windows(X.height, event_times, window)
    columns = {name: _describe_column(X[name], windows, role) for name in X.columns}
    real = 0 if windows is None or windows.real is None else int(windows.real.max()) + 1
    profile: dict[str, Any] = {
        "format": FORMAT,
        "rows": X.height,
        "windows": real,
        "window_seconds": windows.seconds if windows else None,
        "columns": columns,
    }
    if windows is not None and classifiers:
        profile[CLASSIFIERS] = [_build_classifier(X, columns, windows, *each) for each in sorted(classifiers.items())]
    if windows is None or windows.real is None or role == PREDICTION:
        return profile
    binnings = {name: Binning.from_json(stored) for name, stored in columns.items() if MEASURES not in stored}
    rows = X[windows.rows]
    dependencies = {DEPENDENCIES: find_dependencies(rows, binnings, windows.real)}
    return profile | {ASSOCIATIONS: find_associations(rows, binnings, windows.real) | dependencies}


def _build_classifier(
    X: pl.DataFrame, columns: Mapping[str, Any], windows: _CalibrationWindows, declared: tuple[str, ...], max_rows: int
) -> dict[str, Any]:
    """Return what a domain classifier compares with; columns of texts and embeddings take no part."""
    kinds = {name: (stored["kind"], tuple(stored["values"])) for name, stored in columns.items() if MEASURES not in stored}
    groups = windows.shuffled[0] if windows.real is None else windows.real
    return build_reference(X[windows.rows], kinds, groups, declared, max_rows).as_json()


def _check_rows(X: pl.DataFrame, event_times: pl.Series | None) -> None:
    if not X.height:
        raise DataError("the reference has no rows", hint="pass the rows that the model was trained on")
    if event_times is not None and len(event_times) != X.height:
        raise DataError(
            f"the reference has {X.height} rows of X, but {len(event_times)} event times", hint="give the same rows in the same order"
        )


def _describe_column(column: pl.Series, windows: _CalibrationWindows | None, role: str) -> dict[str, Any]:
    if is_text(column):
        return {"role": role, "kind": TEXT, "dtype": str(column.dtype)} | ({} if windows is None else _describe_texts(column, windows))
    if windows is not None and column.dtype.is_nested() and (size := find_size(column[windows.sample(MAX_EMBEDDINGS).rows])):
        return {"role": role, "kind": EMBEDDING, "dtype": str(column.dtype), **_describe_embeddings(column, windows, size)}
    profile = ColumnProfile.from_series(column)
    calibrated = {"calibration": None} if windows is None else _calibrate(profile, column[windows.rows], windows)
    return {"role": role, **profile.as_json(), **calibrated}


def _describe_texts(column: pl.Series, windows: _CalibrationWindows) -> dict[str, Any]:
    """Return the vocabulary of a text column and the profile of each measure; words are calibrated on windows of whole texts."""
    sampled = windows.sample(MAX_TEXTS)
    words = count_words(column[sampled.rows])
    if words > MAX_WORDS:  # each shuffle repeats every word
        sampled = sampled.sample(len(sampled.rows) * MAX_WORDS // words)
    vocabulary, measures = list_vocabulary(column[sampled.rows], sampled.real)
    described = {}
    for name, measure in measures.items():
        values = ColumnValues.from_series(measure.values)
        profile = ColumnProfile.from_values(values, binning=_bin_each(values.categories) if name == WORDS else None)
        described[name] = {**profile.as_json(), **_calibrate(profile, measure.values, sampled.repeat(measure.rows))}
    return {VOCABULARY: vocabulary, MEASURES: described}


def _describe_embeddings(column: pl.Series, windows: _CalibrationWindows, size: int) -> dict[str, Any]:
    """Return the space of an embedding column and the profile of each measure."""
    sampled = windows.sample(MAX_EMBEDDINGS)
    count = len(sampled.rows)
    random = np.random.default_rng(0).permutation(np.arange(count) % max(10, min(MAX_WINDOWS, count // 150)))
    groups = random if sampled.real is None else sampled.real
    space, measures = describe_embeddings(column[sampled.rows], groups, size)
    described = {}
    for name, measure in measures.items():
        profile = ColumnProfile.from_series(measure.values)
        # The values of a shift depend on each other within a window, so that its windows calibrate it even if they are random.
        inside = replace(sampled, real=groups) if name == SHIFT else sampled
        described[name] = {**profile.as_json(), **_calibrate(profile, measure.values, inside.repeat(measure.rows))}
    return {SPACE: space.as_json(), MEASURES: described}


def _bin_each(categories: Mapping[str, int]) -> Binning:
    """Return a binning with a bin for each category, however rare."""
    return Binning(CATEGORICAL, _NO_POINTS, _NO_POINTS, _NO_POINTS, tuple(categories), (), len(categories))


def _calibrate(profile: ColumnProfile, values: pl.Series, windows: _CalibrationWindows) -> dict[str, Any]:
    """Return how the values of the calibrating windows differ from each other."""
    calibration: DriftCalibration = calibrate(profile.binning, values, profile.spread, windows.real, windows.shuffled)
    described = {"calibration": calibration.as_json()}
    if windows.real is None:
        return described
    return described | {HISTORY: StatisticHistory.from_series(values, windows.real, profile.binning, profile.spread).as_json()}


@dataclass(frozen=True, eq=False)
class _CalibrationWindows:
    """The rows that calibrate thresholds, with their windows of real time and of several random shuffles."""

    rows: np.ndarray  # indices
    real: np.ndarray | None  # the window of each row; None without event times
    shuffled: np.ndarray  # the random window of each row, shape (shuffles, rows)
    seconds: float | None  # the length of a window of real time

    def sample(self, count: int) -> _CalibrationWindows:
        """Return an even selection of some ``count`` rows in total, but of at least 50 rows of each window, or all that it has."""
        if len(self.rows) <= count:
            return self
        group = self.shuffled[0] if self.real is None else self.real
        by_window, sizes = np.argsort(group, kind="stable"), np.bincount(group)
        place = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # of a row in its window
        quotas = np.maximum(sizes * count // len(group), MIN_SAMPLED_ROWS)
        quota, size = np.repeat(quotas, sizes), np.repeat(sizes, sizes)
        chosen = np.sort(by_window[(place + 1) * quota // size > place * quota // size])
        random = np.random.default_rng(0)
        shuffled = np.stack([random.permutation(group[chosen]) for _ in self.shuffled])
        return _CalibrationWindows(self.rows[chosen], None if self.real is None else self.real[chosen], shuffled, self.seconds)

    def repeat(self, members: np.ndarray) -> _CalibrationWindows:
        """Return the windows of values that belong to these members of ``rows``; a row may have several values."""
        real, shuffles = None if self.real is None else self.real[members], max(_MAX_SHUFFLED // max(len(members), 1), _MIN_SHUFFLES)
        return _CalibrationWindows(self.rows[members], real, self.shuffled[:shuffles, members], self.seconds)


def _choose_windows(rows: int, event_times: pl.Series | None, window: timedelta) -> _CalibrationWindows:
    """Choose the rows and windows that calibrate thresholds: all rows, or a random sample of the maximum size."""
    labels, seconds = (None, None) if event_times is None else _label_windows(event_times, window)
    chosen = np.arange(rows) if labels is None else np.flatnonzero(labels >= 0)
    random = np.random.default_rng(0)  # the same rows give the same thresholds
    if len(chosen) > MAX_CALIBRATION_ROWS:
        chosen = np.sort(random.choice(chosen, MAX_CALIBRATION_ROWS, replace=False))
    real = None if labels is None else np.unique(labels[chosen], return_inverse=True)[1]
    shuffled = np.arange(len(chosen)) % max(10, min(100, len(chosen) // 500)) if real is None else real
    shuffles = -(-_SHUFFLED_WINDOWS // (int(shuffled.max()) + 1))
    return _CalibrationWindows(chosen, real, np.stack([random.permutation(shuffled) for _ in range(shuffles)]), seconds)


def _label_windows(event_times: pl.Series, window: timedelta) -> tuple[np.ndarray | None, float | None]:
    """Return the window number of each row and the window length in seconds; both None with fewer than two windows.

    Only windows with enough rows are numbered, and of many windows a selection; the number of all other rows is −1.
    """
    clock = event_times.dt.replace_time_zone(None) if isinstance(event_times.dtype, pl.Datetime) else event_times
    micros = clock.cast(pl.Datetime("us")).to_physical()
    first, last = micros.min(), micros.max()
    if not isinstance(first, int) or not isinstance(last, int) or first == last:
        return None, None
    length = min(int(window / timedelta(microseconds=1)), -(-(last - first) // MIN_WINDOWS))
    numbers, position, counts = np.unique(
        (micros // length - first // length).fill_null(-1).to_numpy(), return_inverse=True, return_counts=True
    )
    large_enough = np.flatnonzero((counts >= MIN_WINDOW_ROWS) & (numbers >= 0))
    if len(large_enough) < 2:
        return None, None
    chosen = large_enough[_select_windows(len(large_enough))]
    return np.where(np.isin(position, chosen), position, -1), length / 1e6


def _select_windows(count: int) -> np.ndarray:
    """Return at most 200 of the numbers below a count, ascending."""
    if count <= MAX_WINDOWS:
        return np.arange(count)
    # At random: with equal steps, 200 of 349 days have no Monday.
    return np.sort(np.random.default_rng(0).choice(count, MAX_WINDOWS, replace=False))
