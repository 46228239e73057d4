"""The drift of a window from its reference: each column's statistics against thresholds learned from the reference."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mlops_assets.compute.drift.association_drift import evaluate_associations
from mlops_assets.compute.drift.associations import sample_rows
from mlops_assets.compute.drift.binning import CATEGORICAL, PRESENCE, find_kind
from mlops_assets.compute.drift.column_drift import ColumnComparison, ColumnDrift, evaluate_column, merge_measures, report_broken_column
from mlops_assets.compute.drift.column_values import ColumnValues
from mlops_assets.compute.drift.dependencies import evaluate_dependencies
from mlops_assets.compute.drift.domain_classifier import DOMAIN_CLASSIFIER, ClassifierReference, evaluate_by_classifier
from mlops_assets.compute.drift.drift_statistics import STATISTICS, deciding_statistics, min_effects, reported_statistics
from mlops_assets.compute.drift.embeddings import SHIFT, EmbeddingSpace, describe_other_lengths, holds_numbers
from mlops_assets.compute.drift.profile import (
    ASSOCIATIONS,
    CLASSIFIERS,
    DEPENDENCIES,
    EMBEDDING,
    FEATURE,
    FORMAT,
    HISTORY,
    MEASURES,
    MIN_REFERENCE_ROWS,
    PREDICTION,
    SPACE,
    TEXT,
    VOCABULARY,
    ColumnProfile,
)
from mlops_assets.compute.drift.statistic_drift import evaluate_statistics
from mlops_assets.compute.drift.texts import WORDS, measure_texts
from mlops_assets.compute.drift.thresholds import DriftCalibration, Thresholds, compute_thresholds
from mlops_assets.compute.drift.window_statistics import StatisticHistory
from mlops_assets.errors import DataError, suggest_name
from mlops_assets.values.monitoring import BREACH, GOOD, IN_TRAINING, NOT_ENOUGH

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mlops_assets.values.drift import DriftThreshold

RAISED_CAP = 0.8  # of the way from a cap to the largest distance
NO_CLASSIFIER = (
    "not evaluated: the version stores none for these columns. It was trained before a monitor declared it, "
    "or the log of its training has a warning; train again"
)
CAP_RULE = "Their thresholds lie three quarters of the way from the largest distance of a reference window to the largest attainable one"


@dataclass(frozen=True)
class DriftReport:
    """The drift report of a window.

    Parameters
    ----------
    rows
        The number of compared rows of the window, without those in training data.
    enough
        Whether there is a reference, and it and the window have enough rows to evaluate the drift; if not, ``columns`` is empty.
    columns
        Most drifted first.
    summary
        The result in words.
    false_alarm_rate
        The expected share of windows without drift that are reported as drifted.
    windows
        The number of reference windows that calibrate the thresholds; 0 without event times, when thresholds allow for chance alone.
    needed
        The number of reference windows that the rate needs; with fewer, thresholds of some columns may be capped. 0 when thresholds allow
        for chance alone.
    rows_in_training
        The number of the window's rows in training data: the version was fitted on them, so that they are not compared.
    notes
        Clauses on how the window was compared, e.g. what could not be compared. They follow the result in the summary.
    """

    rows: int
    enough: bool
    columns: tuple[ColumnDrift, ...]
    summary: str
    false_alarm_rate: float
    windows: int
    needed: int = 0
    rows_in_training: int = 0
    notes: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """``breach`` when a column has drifted, ``good`` when none has, ``in training data`` or ``not enough data`` when nothing is evaluated."""
        if not self.rows and self.rows_in_training:
            return IN_TRAINING
        return NOT_ENOUGH if not self.enough else BREACH if self.drifted else GOOD

    @property
    def capped(self) -> tuple[str, ...]:
        """The columns with a capped threshold, because the reference has too few windows for the stated rate."""
        return tuple(column.name for column in self.columns if column.capped)

    @property
    def compared(self) -> str:
        """The number of compared columns, and whether predictions are among them."""
        predictions = ", predictions included" if any(column.role == PREDICTION for column in self.columns) else ""
        return f"{len(self.columns)} columns{predictions}"

    @property
    def drifted(self) -> tuple[str, ...]:
        """The columns that have drifted, worst first."""
        return tuple(column.name for column in self.columns if column.drifted)

    def with_notes(self, notes: Iterable[str]) -> DriftReport:
        """Return a copy with notes appended to its notes and to its summary; empty notes are dropped."""
        added = tuple(note for note in notes if note)
        return replace(self, notes=self.notes + added, summary="; ".join((self.summary, *added)))

    def as_json(self) -> dict[str, Any]:
        """Return the report as a dict of JSON values; an infinite severity is None."""
        return {**asdict(self), "columns": [column.as_json() for column in self.columns]}


def measure_drift(  # noqa: PLR0913  (what a monitor declares)
    profile: Mapping[str, Any],
    current: pl.DataFrame | pl.LazyFrame,
    *,
    columns: Sequence[str] | None = None,
    fixed: Mapping[str, DriftThreshold] | None = None,
    classifier: bool = False,
    false_alarm_rate: float = 0.01,
    min_psi: float = 0.1,
    min_rows: int = 100,
) -> DriftReport:
    """Compare a window with the reference.

    Parameters
    ----------
    profile
        From :func:`build_profile`.
    current
        The window. A lazy frame is collected one column at a time, so that only one column is in memory.
    columns
        The columns to compare; when None, all features of the profile, and its predictions as far as the window has them. A column that the
        window lacks, or has with another type, counts as drifted.
    fixed
        Column → the statistic with a fixed threshold that replaces, for this column, the calibrated ones. A column of texts or
        embeddings has no such statistic: its calibrated measures are used, and a note says so.
    classifier
        Whether a domain classifier compares the columns as well, those with a fixed threshold included. The profile must have been built
        for it.
    false_alarm_rate
        The share of windows without drift in which any column may alarm. The rate holds for windows of real time when the profile had
        event times, and for independent rows when it had none. With fewer than some ``10 / false_alarm_rate`` reference windows,
        thresholds are extrapolated, see :func:`compute_thresholds`.
    min_psi
        The minimum effect as a PSI: a smaller change is not drift, however significant. Each statistic has its own minimum effect, its
        value for a normal column whose mean shifts by this PSI.
    min_rows
        The minimum number of rows; a window with fewer is not evaluated.

    Returns
    -------
    DriftReport

    Raises
    ------
    DataError
        ``columns`` names a column that the profile lacks, ``fixed`` a statistic that a column of this kind does not have, or a later
        version of the package wrote the profile.

    Notes
    -----
    Simulations measured the share of false alarms at a stated rate of 1 % (and 5 %). Independent rows in 20 columns gave 1–2 % (4–6 %)
    without a minimum effect, and below 0.5 % with the default. Ninety dependent days, some of them extreme, gave 2 % (5 %). A seasonal
    change counts as drift unless the reference covers the season.

    Examples
    --------
    >>> import polars as pl
    >>> from mlops_assets.compute.drift.profile import build_profile
    >>> profile = build_profile(pl.DataFrame({"carrier": ["UA", "AA", "DL", "B6"] * 100}))
    >>> measure_drift(profile, pl.DataFrame({"carrier": ["ua", "aa", "dl", "b6"] * 50})).drifted
    ('carrier',)
    """
    if profile["format"] > FORMAT:
        raise DataError(
            f"the reference is stored in format {profile['format']}, but this program reads {FORMAT}", hint="upgrade mlops_assets"
        )
    rows = int(current.lazy().select(pl.len()).collect().item())
    if problem := _explain_too_few(profile["rows"], rows, min_rows):
        return DriftReport(rows, enough=False, columns=(), summary=problem, false_alarm_rate=false_alarm_rate, windows=profile["windows"])
    schema = current.collect_schema()
    stored_columns = _choose_columns(profile["columns"], schema, columns)
    fixed, unused = _choose_fixed(stored_columns, fixed or {})
    broken = {name: why for name, stored in stored_columns.items() if (why := _explain_broken(stored, schema.get(name)))}
    comparisons = [each for name, stored in stored_columns.items() if name not in broken for each in _compare(name, stored, current)]
    calibrated = [comparison for comparison in comparisons if comparison.name not in fixed]
    # The views share the rate evenly, so that it holds for the whole report.
    domain = _find_classifier(profile, columns) if classifier else None
    views = 1 + any(comparison.history for comparison in calibrated) + bool(profile.get(ASSOCIATIONS)) + (domain is not None)
    allowed = _set_thresholds(calibrated, false_alarm_rate / views, min_psi)
    column_drifts = [evaluate_column(*each) for each in zip(calibrated, allowed.limits, allowed.capped, strict=True)]
    column_drifts = merge_measures(evaluate_statistics(calibrated, column_drifts, false_alarm_rate / views, min_psi))
    if profile.get(ASSOCIATIONS):
        column_drifts = _evaluate_relations(profile[ASSOCIATIONS], current, column_drifts, false_alarm_rate / views, min_psi)
    column_drifts += [
        _evaluate_fixed_threshold(comparison, fixed[comparison.name]) for comparison in comparisons if comparison.name in fixed
    ]
    found = f"{DOMAIN_CLASSIFIER} {NO_CLASSIFIER}" if classifier else ""
    if domain is not None:
        shared = [name for name in domain.columns if name in stored_columns and name not in broken]
        window = {name: sample_rows(_read_column(current, name)) for name in shared}
        column_drifts, words = evaluate_by_classifier(domain, window, column_drifts, false_alarm_rate / views, min_psi)
        found = f"{DOMAIN_CLASSIFIER} {words}"
    column_drifts += [
        report_broken_column(name, stored_columns[name]["role"], stored_columns[name]["kind"], why) for name, why in broken.items()
    ]
    ordered = tuple(sorted(column_drifts, key=lambda column: (-column.severity, column.name)))
    report = DriftReport(rows, True, ordered, "", false_alarm_rate, profile["windows"], allowed.needed)  # noqa: FBT003  (in order)
    lengths = [
        describe_other_lengths(name, _read_column(current, name), len(stored[SPACE]["mean"]))
        for name, stored in stored_columns.items()
        if stored["kind"] == EMBEDDING and name not in broken
    ]
    return replace(report, summary=summarise(report)).with_notes([found, unused, *lengths])


def _find_classifier(profile: Mapping[str, Any], columns: Sequence[str] | None) -> ClassifierReference | None:
    """Return what a domain classifier of these columns compares with; None when the profile was built without it."""
    references = map(ClassifierReference.from_json, profile.get(CLASSIFIERS, ()))
    return next((reference for reference in references if reference.declared == tuple(columns or ())), None)


def _evaluate_relations(
    stored: Mapping[str, Any], current: pl.DataFrame | pl.LazyFrame, columns: Sequence[ColumnDrift], rate: float, min_psi: float
) -> list[ColumnDrift]:
    """Return the reports of columns; those that break associations or contradict dependencies have drifted."""
    dependencies = stored.get(DEPENDENCIES, [])
    used = {*stored["codes"], *(name for each in dependencies for name in (each["column"], *each["on"]))}
    samples = {column.name: sample_rows(_read_column(current, column.name)) for column in columns if column.name in used}
    return evaluate_dependencies(dependencies, samples, evaluate_associations(stored, samples, columns, rate, min_psi), min_psi)


def _set_thresholds(comparisons: Sequence[ColumnComparison], rate: float, min_psi: float) -> Thresholds:
    """Return the thresholds of the columns that are tested by calibrated statistics."""
    effects, calibrations = min_effects(min_psi), [comparison.calibration for comparison in comparisons]
    variances = np.array([comparison.variances for comparison in comparisons]).reshape(-1, len(effects))
    maxima = np.array([comparison.maxima for comparison in comparisons]).reshape(variances.shape)
    histories = any(comparison.history for comparison in comparisons)
    allowed = compute_thresholds(calibrations, variances, rate, effects, maxima, cautious=histories)
    # Statistics of windows test these columns at the stated rate, which a cap and a saturated distance cannot. A window without any value
    # in the reference's range still exceeds a cap that lies near the largest KS distance.
    saturating = np.array([statistic.saturates for statistic in deciding_statistics()])
    is_js = np.array([statistic is STATISTICS["js"] for statistic in deciding_statistics()])
    has_history = np.array([comparison.history is not None for comparison in comparisons], dtype=bool)[:, None]
    narrow = np.array([comparison.is_narrow for comparison in comparisons], dtype=bool)[:, None]
    capped = has_history & allowed.capped
    raised = np.where(capped, allowed.limits + RAISED_CAP * (maxima - allowed.limits), allowed.limits)
    # Rows with a shared shift depend on each other: their histogram varies more than that of independent rows.
    shared = np.array([comparison.measure == SHIFT for comparison in comparisons], dtype=bool)[:, None]
    undecided = (narrow | shared) & saturating | capped & is_js
    return replace(allowed, limits=np.where(undecided, np.nan, raised), capped=allowed.capped & ~capped & ~undecided)


def _evaluate_fixed_threshold(comparison: ColumnComparison, threshold: DriftThreshold) -> ColumnDrift:
    return evaluate_column(comparison, np.array([threshold.value]), None, [STATISTICS[threshold.STATISTIC]])


def _choose_fixed(stored_columns: Mapping[str, Any], fixed: Mapping[str, DriftThreshold]) -> tuple[dict[str, DriftThreshold], str]:
    """Return the thresholds that apply, and a note on those of texts and embeddings; raise DataError for a statistic that a column does not have."""
    # New data turn a column of strings into text, and one of lists into embeddings, without any change of the project: this is no error.
    measured = [name for name in sorted(fixed) if MEASURES in stored_columns[name]]
    chosen = {name: threshold for name, threshold in fixed.items() if name not in measured}
    for name, threshold in chosen.items():
        kind = stored_columns[name]["kind"]
        if kind not in STATISTICS[threshold.STATISTIC].kinds:
            usable = ", ".join(s.label for s in reported_statistics() if kind in s.kinds)
            raise DataError(
                f"drift of '{name}' is tested by {type(threshold).__name__}, but the column is {kind} in the reference",
                hint=f"use one of {usable}, or None for the calibrated default" if usable else "use None for the calibrated default",
            )
    named = ", ".join(f"{name}: {type(fixed[name]).__name__}({fixed[name].value:g})" for name in measured)
    return chosen, f"fixed thresholds not used, because texts and embeddings are tested by calibrated measures: {named}" if measured else ""


def _explain_too_few(reference: int, rows: int, minimum: int) -> str:
    if reference < MIN_REFERENCE_ROWS:
        return f"not enough data: the reference has {reference} rows, {MIN_REFERENCE_ROWS} are needed"
    return f"not enough data: {rows} rows, {minimum} are needed" if rows < max(minimum, 1) else ""


def _choose_columns(known: Mapping[str, Any], schema: pl.Schema, columns: Sequence[str] | None) -> dict[str, Any]:
    if columns is None:
        return {name: stored for name, stored in known.items() if stored["role"] == FEATURE or name in schema}
    if unknown := [name for name in columns if name not in known]:
        raise DataError(f"the reference has no column '{unknown[0]}'", hint=suggest_name(unknown[0], known) + f"it has {', '.join(known)}")
    return {name: known[name] for name in columns}


def _explain_broken(stored: Mapping[str, Any], dtype: pl.DataType | None) -> str:
    """Return why a column cannot be compared with the reference; empty when it can."""
    if dtype is None:
        return "the column is missing"
    # A column without any value, in the window or in the reference, has no type of its own and fits any other type.
    kind = {TEXT: CATEGORICAL, EMBEDDING: PRESENCE}.get(stored["kind"], stored["kind"])
    same_kind = (
        dtype == pl.Null
        or stored["dtype"] == "Null"
        or (find_kind(dtype) == kind and (stored["kind"] != EMBEDDING or holds_numbers(dtype)))
    )
    if same_kind and (dtype == pl.Boolean) == (stored["dtype"] == "Boolean" and dtype != pl.Null):
        return ""
    return f"the column's type is {dtype}, but {stored['dtype']} in the reference"


def _compare(name: str, stored: Mapping[str, Any], current: pl.DataFrame | pl.LazyFrame) -> list[ColumnComparison]:
    """Return the comparison of a column by its values, or one by each of its measures."""
    column = _read_column(current, name)
    if MEASURES not in stored:
        return [_compare_values(name, stored["role"], stored, column)]
    sampled = sample_rows(column)
    measures, words = (
        measure_texts(sampled, stored[VOCABULARY])
        if stored["kind"] == TEXT
        else (EmbeddingSpace.from_json(stored[SPACE]).measure(sampled), None)
    )
    compared = {
        measure: _compare_values(name, stored["role"], stored[MEASURES][measure], each.values) for measure, each in measures.items()
    }
    return [replace(each, measure=measure, words=words if measure == WORDS else None) for measure, each in compared.items()]


def _compare_values(name: str, role: str, stored: Mapping[str, Any], column: pl.Series) -> ColumnComparison:
    reference = ColumnProfile.from_json(stored)
    values = ColumnValues.from_series(column, reference.binning.kind)
    profile, calibration = ColumnProfile.from_values(values, reference), DriftCalibration.from_json(stored["calibration"])
    if HISTORY not in stored:
        return ColumnComparison(name, role, reference, profile, calibration)
    history = StatisticHistory.from_json(stored[HISTORY])
    return ColumnComparison(name, role, reference, profile, calibration, history, history.measure(values))


def _read_column(current: pl.DataFrame | pl.LazyFrame, name: str) -> pl.Series:
    return current.select(name).collect()[name] if isinstance(current, pl.LazyFrame) else current[name]


def summarise(report: DriftReport) -> str:
    """Return how many columns drifted, and what changed in the three most drifted ones; the notes follow."""
    worst = [column for column in report.columns if column.drifted]
    if not worst:
        return "; ".join((f"no drift in {report.compared}{_describe_capped(report)}", *report.notes))
    named = "; ".join(f"{column.name}: {column.why}" for column in worst[:3])
    more = f"; and {len(worst) - 3} more" if len(worst) > 3 else ""
    return "; ".join((f"drift in {len(worst)} of {report.compared}. {named}{more}{_describe_capped(report)}", *report.notes))


def _describe_capped(report: DriftReport) -> str:
    """Return a clause for the summary: columns with a capped threshold cannot be tested at the false-alarm rate. Empty without such columns.

    The clause names at most three columns.
    """
    if not report.capped:
        return ""
    names = ", ".join(report.capped[:3]) + (f" and {len(report.capped) - 3} more" if len(report.capped) > 3 else "")
    return f"; {names} cannot be tested at {report.false_alarm_rate:.2g}: {report.windows} reference windows, {report.needed} needed. {CAP_RULE}"
