"""A domain classifier: how well gradient boosting separates the rows of a window from those of the reference.

It finds changes of the joint distribution of columns that leave each column and each pair of columns unchanged. The profile stores a sample
of reference rows, and how well past windows of the reference were separated from the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mlops_assets.compute.drift.binning import CATEGORICAL, NUMERIC
from mlops_assets.compute.drift.statistic_changes import MIN_HISTORY, StatisticWindows, compare_with_past

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlops_assets.compute.drift.column_drift import ColumnDrift

DOMAIN_CLASSIFIER = "domain classifier"
MAX_THRESHOLD = 0.99  # AUC; with a higher threshold, the view cannot show a fault
SAMPLE_FACTOR, MAX_SAMPLE = 3, 5_000  # rows of the reference for each row of a window, and at most
MAX_WINDOWS, MIN_ROWS = 30, 30  # calibrating windows; rows of a window that is classified
MIN_IMPORTANCE, MIN_SHARE = 0.005, 1 / 3  # of a named column: the fall of the AUC, and its share of the largest fall
_FOLDS, _ITERATIONS, _DIGITS = 3, 50, 6


@dataclass(frozen=True, eq=False)
class ClassifierReference:
    """The rows of a reference that windows are separated from, and the AUCs of its own windows.

    Parameters
    ----------
    declared
        The columns that the expectation declares; empty for all.
    columns
        Column → its categories; None for a numeric column, and no categories for a column whose nulls alone are compared.
    sample
        Encoded rows of the reference, shape (rows, columns).
    separations
        The separation of each calibrating window from rows of other windows, shape (windows,), see :func:`convert_auc`.
    rows
        The number of rows of these windows, shape (windows,).
    max_rows
        The maximum number of rows of a window.
    """

    declared: tuple[str, ...]
    columns: Mapping[str, tuple[str, ...] | None]
    sample: np.ndarray
    separations: np.ndarray
    rows: np.ndarray
    max_rows: int

    @property
    def categorical(self) -> np.ndarray:
        """Whether each column has categories, shape (columns,)."""
        return np.array([categories is not None for categories in self.columns.values()])

    def encode(self, frame: Mapping[str, pl.Series]) -> np.ndarray:
        """Return rows as numbers, shape (rows, columns): rounded numbers, codes of categories, NaN for null."""
        return encode_rows(frame, self.columns)

    def as_json(self) -> dict[str, Any]:
        """Return the reference as a dict of JSON values."""
        return {
            "declared": list(self.declared),
            "columns": {name: None if values is None else list(values) for name, values in self.columns.items()},
            "order": list(self.columns),
            "sample": [[None if math.isnan(value) else value for value in column] for column in self.sample.T.tolist()],
            "separations": self.separations.round(_DIGITS).tolist(),
            "rows": self.rows.tolist(),
            "max_rows": self.max_rows,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> ClassifierReference:
        """Return the reference that :meth:`as_json` described."""
        columns = {name: None if stored["columns"][name] is None else tuple(stored["columns"][name]) for name in stored["order"]}
        sample = np.array(stored["sample"], dtype=float).T
        return cls(
            tuple(stored["declared"]), columns, sample, np.array(stored["separations"]), np.array(stored["rows"]), stored["max_rows"]
        )


def encode_rows(frame: Mapping[str, pl.Series], columns: Mapping[str, tuple[str, ...] | None]) -> np.ndarray:
    """Return rows as numbers, shape (rows, columns); ``columns`` are those of :class:`ClassifierReference`."""
    return np.array([_encode(frame[name], categories) for name, categories in columns.items()]).T


def _encode(column: pl.Series, categories: tuple[str, ...] | None) -> np.ndarray:
    if categories is None:
        # As they are stored: further digits would separate a window from the stored rows.
        values = column.cast(pl.Float64).round_sig_figs(_DIGITS).fill_null(math.nan).to_numpy()
        return np.where(np.isfinite(values), values, math.nan)
    if not categories:
        return column.is_null().cast(pl.Float64).to_numpy()
    codes = {name: float(code) for code, name in enumerate(categories)}
    encoded = column.cast(pl.String).replace_strict(codes, default=float(len(codes)), return_dtype=pl.Float64)
    return pl.select(pl.when(column.is_not_null()).then(encoded)).to_series().fill_null(math.nan).to_numpy()


def build_reference(
    frame: pl.DataFrame, kinds: Mapping[str, tuple[str, tuple[str, ...]]], windows: np.ndarray, declared: Sequence[str], max_rows: int
) -> ClassifierReference:
    """Return the sample of a reference, and how well its windows are separated from the others.

    Parameters
    ----------
    frame
        Rows of the reference.
    kinds
        Column → its kind, and its most frequent categories.
    windows
        The window number of each row, shape (rows,).
    declared
        The columns that the expectation declares; empty for all.
    max_rows
        The maximum number of rows of a window.
    """
    chosen = {name: kinds[name] for name in (declared or kinds) if name in kinds}
    columns = {name: None if kind == NUMERIC else values if kind == CATEGORICAL else () for name, (kind, values) in chosen.items()}
    random = np.random.default_rng(0)
    size = min(SAMPLE_FACTOR * max_rows, MAX_SAMPLE, frame.height)
    sampled = np.sort(random.choice(frame.height, size, replace=False))
    sample = encode_rows(frame[sampled].to_dict(), columns)
    reference = ClassifierReference(tuple(declared), columns, sample, np.zeros(0), np.zeros(0, dtype=int), max_rows)
    numbers, counts = np.unique(windows, return_counts=True)
    numbers = numbers[counts >= MIN_ROWS]
    even = (
        numbers[np.unique(np.linspace(0, len(numbers) - 1, min(len(numbers), MAX_WINDOWS)).round().astype(int))]
        if len(numbers)
        else numbers
    )
    separations, rows = [], []
    for number in even if len(even) >= MIN_HISTORY and columns else []:
        members = np.flatnonzero(windows == number)
        members = np.sort(random.choice(members, min(len(members), max_rows), replace=False))
        window = encode_rows(frame[members].to_dict(), columns)
        separations.append(convert_auc(_cross_validate(window, sample[windows[sampled] != number], reference.categorical).auc, len(window)))
        rows.append(len(window))
    return replace(reference, separations=np.array(separations), rows=np.array(rows, dtype=int))


def convert_auc(auc: float, rows: int) -> float:
    """Return the distance of the means, in standard deviations, of two normal distributions that are separated with this AUC.

    An AUC of 0 or 1 counts as half a row more or less.
    """
    from scipy.special import ndtri  # type: ignore[import-untyped]  # it has no stubs

    margin = 0.5 / max(rows, 1)
    return math.sqrt(2) * float(ndtri(min(max(auc, margin), 1 - margin)))


def _to_auc(separation: float) -> float:
    from scipy.special import ndtr

    return float(ndtr(separation / math.sqrt(2)))


@dataclass(frozen=True, eq=False)
class _CrossValidation:
    """The out-of-fold AUC, and how far it falls when a column's values are shuffled, shape (columns,)."""

    auc: float
    falls: np.ndarray


def _cross_validate(window: np.ndarray, reference: np.ndarray, categorical: np.ndarray, *, explain: bool = False) -> _CrossValidation:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold
    from threadpoolctl import threadpool_limits

    X, y = np.vstack([reference, window]), np.repeat([0, 1], [len(reference), len(window)])
    random, shuffled = np.random.default_rng(0), np.zeros((len(categorical), len(y)))
    scores = np.zeros(len(y))
    with threadpool_limits(1):  # threads that wait for each other cost more than they gain on so few rows
        for train, test in StratifiedKFold(_FOLDS, shuffle=True, random_state=0).split(X, y):
            # A column without any value cannot be binned; a constant one separates nothing.
            usable = np.where(np.isfinite(X[train]).any(axis=0), X, 0)
            model = HistGradientBoostingClassifier(
                max_iter=_ITERATIONS, categorical_features=categorical, early_stopping=False, random_state=0
            ).fit(usable[train], y[train])
            scores[test] = model.decision_function(usable[test])
            for k in range(len(categorical)) if explain else ():
                changed = usable[test].copy()
                changed[:, k] = random.permutation(changed[:, k])
                shuffled[k, test] = model.decision_function(changed)
    auc = float(roc_auc_score(y, scores))
    return _CrossValidation(auc, np.array([auc - roc_auc_score(y, row) for row in shuffled]) if explain else np.zeros(0))


def evaluate_by_classifier(
    reference: ClassifierReference, window: Mapping[str, pl.Series], columns: Sequence[ColumnDrift], rate: float, min_psi: float
) -> tuple[list[ColumnDrift], str]:
    """Return the reports of columns, and the finding of the classifier as text.

    If the classifier separates the window better than past windows, the columns that it needs have drifted. If columns are redundant, the
    classifier may need none of them; then the one with the largest fall has drifted.

    Parameters
    ----------
    reference
        The reference.
    window
        Column → the same rows of the window.
    columns
        The reports of columns by the other views. One that has drifted keeps its report.
    rate
        The probability that a window without drift alarms.
    min_psi
        The minimum effect as a PSI: that of two normal distributions with the standard deviation 1 whose means differ by √PSI.
    """
    if problem := _explain_unclassifiable(reference, window):
        return list(columns), f"not evaluated: {problem}"
    rows = len(next(iter(window.values())))
    size = min(rows, int(reference.rows.max()))
    picked = np.linspace(0, rows - 1, size).round().astype(int)
    encoded = reference.encode({name: window[name][picked] for name in reference.columns})
    measured = _cross_validate(encoded, reference.sample, reference.categorical)
    threshold = _find_threshold(reference, size, convert_auc(measured.auc, size), rate, min_psi)
    if threshold >= MAX_THRESHOLD:
        return list(columns), _explain_blindness(reference, threshold)
    words = f"AUC {measured.auc:.3f}, threshold {threshold:.3f}"
    if measured.auc <= threshold:
        return list(columns), words
    falls = _cross_validate(encoded, reference.sample, reference.categorical, explain=True).falls
    needed = _find_needed(dict(zip(reference.columns, falls.tolist(), strict=True)))
    reference_values = tuple(map(_to_auc, reference.separations.tolist()))
    named = ", ".join(sorted(needed, key=lambda name: -needed[name]))
    return [
        _report(column, needed, measured.auc, threshold, reference_values) if column.name in needed and not column.drifted else column
        for column in columns
    ], f"{words}, by {named}"


def _find_needed(falls: Mapping[str, float]) -> dict[str, float]:
    """Return column → fall of the AUC for the columns that the classifier needs; if it needs none, for the one with the largest fall."""
    largest = max(falls, key=lambda name: falls[name])
    limit = max(MIN_IMPORTANCE, MIN_SHARE * falls[largest])
    return {name: fall for name, fall in falls.items() if fall >= limit} or {largest: falls[largest]}


def _explain_unclassifiable(reference: ClassifierReference, window: Mapping[str, pl.Series]) -> str:
    """Return why a window cannot be classified; empty when it can."""
    if not reference.columns:
        return "no column is a number or a category"
    if (found := len(reference.separations)) < MIN_HISTORY:
        return f"{MIN_HISTORY} windows of the reference with {MIN_ROWS} rows are needed, it has {found}"
    if missing := [name for name in reference.columns if name not in window]:
        return f"{missing[0]} cannot be compared"
    rows = len(next(iter(window.values())))
    return f"{rows} rows, {MIN_ROWS} are needed" if rows < MIN_ROWS else ""


def _find_threshold(reference: ClassifierReference, rows: int, separation: float, rate: float, min_psi: float) -> float:
    """Return the AUC above which a window has drifted."""
    # The variance of the separation of equal distributions, by that of the Mann-Whitney statistic.
    sample = len(reference.sample)
    past, current = (math.pi / 3 * (1 / np.maximum(count, 1) + 1 / sample) for count in (reference.rows, np.array([rows])))
    windows = StatisticWindows(
        reference.separations[:, None],
        np.array([separation]),
        past[:, None],
        current,
        np.array([math.sqrt(min_psi)]),
        np.array([True]),
    )
    limit = float(reference.separations.mean() + compare_with_past(windows, rate).limits[0])
    # Past windows with a fixed composition, e.g. a timetable, have an AUC below 0.5; a window at 0.5 is no drift for that.
    return _to_auc(max(limit, math.sqrt(min_psi)))


def _explain_blindness(reference: ClassifierReference, threshold: float) -> str:
    median_auc = _to_auc(float(np.median(reference.separations)))
    return (
        f"blind: it separates a window of the reference from the others with an AUC of {median_auc:.3f} (median), so that its threshold is "
        f"{threshold:.4f}. Columns that hardly vary within a window cause this; compare the others with columns="
    )


def _report(
    column: ColumnDrift, needed: Mapping[str, float], auc: float, threshold: float, reference_values: tuple[float, ...]
) -> ColumnDrift:
    others = ", ".join(name for name in needed if name != column.name)
    joint = f" together with {others}" if others else ""
    fall = needed[column.name]
    shuffled = f"shuffling this column lowers the AUC by {fall:.3f}"
    if fall < MIN_IMPORTANCE:
        shuffled = f"no column is needed by itself; shuffling this one has the largest effect on the AUC, {fall:.3f}"
    return replace(
        column,
        statistic=DOMAIN_CLASSIFIER,
        value=auc,
        threshold=threshold,
        severity=auc / threshold,
        drifted=True,
        why=f"its values{joint} separate the window from the reference; AUC {auc:.3f}, threshold {threshold:.3f}; {shuffled}",
        reference_values=reference_values,
    )
