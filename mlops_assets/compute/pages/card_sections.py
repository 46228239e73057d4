"""Build the sections of a model card from recorded and measured facts."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mlops_assets.compute.features.signature import describe_values
from mlops_assets.compute.pages.card import CardTable, Section
from mlops_assets.compute.pages.card_charts import draw_importance
from mlops_assets.compute.pages.charts import draw_reliability
from mlops_assets.compute.text import UNKNOWN, format_number
from mlops_assets.compute.training.probabilities import BINARY, MULTICLASS, REGRESSION
from mlops_assets.compute.training.resampling import MAX_RESAMPLED_ROWS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mlops_assets.compute.training.importance import PermutationImportance
    from mlops_assets.compute.training.probabilities import PredictionQuality
    from mlops_assets.values.evaluation import Evaluation, Split

MAX_ROWS = 60  # per table
MAX_CLASSES = 20
_DIGITS = 4


def data_section(table: str, parts: Mapping[str, Split], event_timestamp: str | None, label: str, kind: str) -> Section:
    """Return the section on the rows of each part of the training set: counts, time span, label distribution.

    Parameters
    ----------
    table
        The key of the training set.
    parts
        The parts of the training set by name; empty parts are not shown.
    event_timestamp, label
        Column names; without ``event_timestamp``, the time span is not shown.
    kind
        From :func:`mlops_assets.compute.training.probabilities.detect_task`.
    """
    parts = {name: part for name, part in parts.items() if len(part.y)}
    headings = ("part", "rows", *(("first, UTC", "last, UTC") if event_timestamp else ()))
    rows = tuple((name, f"{len(part.y):,}", *_format_span(part, event_timestamp)) for name, part in parts.items())
    distribution = _describe_labels if kind == REGRESSION else _count_classes
    return Section(
        "Data",
        (f"Rows of {table}; the label is {label}. The model was fitted on train and evaluated on holdout.",),
        (CardTable(headings, rows, frozenset({"rows"})), distribution(parts, label)),
    )


def mention_refit(data: Section) -> Section:
    """Return the data section with an additional sentence: the served model was refit on all parts."""
    words = "The served model was refit on all parts after the gates passed."
    return replace(data, paragraphs=tuple(f"{paragraph} {words}" for paragraph in data.paragraphs))


def _format_span(part: Split, event_timestamp: str | None) -> tuple[str, ...]:
    if not event_timestamp:
        return ()
    times = part.rows[event_timestamp]
    return tuple(UNKNOWN if t is None else f"{t:%Y-%m-%d %H:%M}" for t in (times.min(), times.max()))  # type: ignore[str-bytes-safe]


def _count_classes(parts: Mapping[str, Split], label: str) -> CardTable:
    """Return a table of each class's share in each part, the most frequent first; the last row counts the classes beyond the maximum."""
    counts: dict[str, dict[str, int]] = {}
    for name, part in parts.items():
        values, class_counts = np.unique(part.y, return_counts=True)
        for value, count in zip(values.tolist(), class_counts.tolist(), strict=True):
            counts.setdefault(str(value), {})[name] = count
    ordered = sorted(counts, key=lambda value: -sum(counts[value].values()))
    rows = [(value, *(_format_share(counts[value].get(name, 0), len(part.y)) for name, part in parts.items())) for value in ordered]
    if len(rows) > MAX_CLASSES:
        rows = [*rows[:MAX_CLASSES], (f"{len(rows) - MAX_CLASSES} more classes", *("" for _ in parts))]
    return CardTable((f"share of {label}", *parts), tuple(rows), frozenset(parts))


def _format_share(count: int, rows: int) -> str:
    return f"{count / max(rows, 1):.1%} ({count:,})"


def _describe_labels(parts: Mapping[str, Split], label: str) -> CardTable:
    """Return a table of the mean, standard deviation, minimum, median and maximum of a numeric label in each part."""
    headings = (label, "mean", "standard deviation", "min", "median", "max")
    rows = []
    for name, part in parts.items():
        y = part.y.astype(float)
        figures = (y.mean(), y.std(), y.min(), np.median(y), y.max()) if len(y) else ()
        rows.append((name, *(format_number(float(value), _DIGITS) for value in figures)))
    return CardTable(headings, tuple(rows), frozenset(headings[1:]))


def features_section(signature: Sequence[Mapping[str, Any]], sources: Mapping[str, str]) -> Section:
    """Return the section on the columns of ``X``: type, source, nulls and range in the training rows.

    Parameters
    ----------
    signature
        From :func:`mlops_assets.compute.features.signature.describe_signature`.
    sources
        Column → the table or view that it comes from; a column without an entry is shown as ``unknown``.
    """
    rows = tuple(
        (
            seen["column"],
            seen["dtype"],
            sources.get(seen["column"], "unknown"),
            f"{seen['nulls']:.1%}" if seen["nulls"] else "none",
            describe_values(seen),
        )
        for seen in signature
    )
    headings = ("column", "type", "source", "null", "training values")
    words = "Columns of X in order. Predictions for unseen values are not evaluated."
    return Section("Features and signature", (words,), (CardTable(headings, rows, frozenset({"null"})),))


def metrics_section(evaluation: Evaluation, intervals: Mapping[str, tuple[float, float]], method: str) -> Section:
    """Return the section on holdout metrics with confidence intervals and a baseline.

    Parameters
    ----------
    evaluation
        The evaluation on the holdout.
    intervals
        Metric → bounds of its 95 % confidence interval.
    method
        The unit of the intervals, such as independent rows.
    """
    baseline, headings = dict(evaluation.baseline), ("metric", "holdout", "95 % CI", "baseline (Dummy)")
    rows = tuple(
        (
            name,
            format_number(value, _DIGITS),
            format_interval(*intervals.get(name, (math.nan, math.nan))),
            format_number(baseline.get(name, math.nan), _DIGITS),
        )
        for name, value in evaluation.metrics
    )
    words = (
        f"scikit-learn scorers on {evaluation.rows:,} holdout rows; greater is better. "
        f"Unit of the intervals: {method}. Means have Student's t interval; with more than {MAX_RESAMPLED_ROWS:,} rows, so have metrics with a linear form "
        "(ROC AUC, R², RMSE, F1, Jaccard, precision, recall, balanced accuracy). All other intervals are bootstrap intervals. They do not include the variance of training."
    )
    return Section(
        "Metrics",
        (words,),
        (CardTable(headings, rows, frozenset(headings[1:])),),
        tuple(f"{name}: {why}" for name, why in evaluation.problems),
    )


def slices_section(evaluation: Evaluation) -> Section | None:
    """Return the section on metrics by slice of the holdout, of at most ``MAX_ROWS`` slices; None when no slice was measured."""
    if not evaluation.slices:
        return None
    metrics = [name for name, _ in evaluation.metrics]
    rows = tuple(
        (f"{s.column} = {s.value}", f"{s.rows:,}", *(format_number(dict(s.metrics)[m], _DIGITS) for m in metrics))
        for s in evaluation.slices
    )
    notes = (f"The first {MAX_ROWS} of {len(rows)}.",) if len(rows) > MAX_ROWS else ()
    headings = ("slice", "rows", *metrics)
    return Section("Slices", notes, (CardTable(headings, rows[:MAX_ROWS], frozenset(headings[1:])),))


def calibration_section(quality: PredictionQuality | None) -> Section:
    """Return the section on calibration: scores, a table of bins and a reliability diagram.

    Parameters
    ----------
    quality
        From :func:`mlops_assets.compute.training.probabilities.assess_predictions`; None when there are no probabilities.
    """
    if quality is None:
        return Section("Calibration", ("The model predicts no probabilities.",))
    headings, percent = ("predicted", "observed", "rows"), quality.kind != REGRESSION
    rows = tuple(
        (_format_bin_mean(b.predicted, percent), _format_bin_mean(b.observed, percent), f"{b.rows:,}") for b in quality.calibration.bins
    )
    return Section(
        "Calibration",
        (_calibration_summary(quality), "Ten quantile bins of holdout predictions: mean prediction and observed mean."),
        (CardTable(headings, rows, frozenset(headings)),),
        chart=draw_reliability(quality.calibration, "predicted against observed on the holdout"),
        square=True,
    )


def _calibration_summary(quality: PredictionQuality) -> str:
    error = quality.calibration.error
    if quality.kind == REGRESSION:
        return f"Mean distance of predictions from the observed mean of their bin: {format_number(error)}, in units of the label."
    scope = {BINARY: f"for class {quality.positive}", MULTICLASS: "for the predicted class"}[quality.kind]
    return f"Brier score {format_number(quality.brier, _DIGITS)}; expected calibration error {format_number(error, _DIGITS)} {scope}. 0 is best for both."


def _format_bin_mean(value: float, percent: bool) -> str:  # noqa: FBT001
    return f"{value:.1%}" if percent else format_number(value, _DIGITS)


def importance_section(importance: PermutationImportance) -> Section:
    """Return the section on permutation importance: a table of at most ``MAX_ROWS`` columns, and a chart of at most 30.

    Parameters
    ----------
    importance
        From :func:`mlops_assets.compute.training.importance.permutation_importance`.
    """
    words = (
        f"Permutation importance on {importance.rows:,} holdout rows: mean decrease of {importance.metric} when one column is shuffled, with its standard deviation.",
        "Correlated columns share their importance. Importance does not imply causation.",
    )
    rows = tuple(
        (column.column, format_number(column.drop, _DIGITS), format_number(column.error, _DIGITS))
        for column in importance.columns[:MAX_ROWS]
    )
    headings = ("column", "mean decrease", "std")
    hidden = importance.left_out + max(0, len(importance.columns) - MAX_ROWS)
    problems = (f"{hidden} columns are not shown.",) if hidden else ()
    if not any(math.isfinite(column.drop) for column in importance.columns):
        problems = (*problems, f"{importance.metric} is undefined on these rows.")
    return Section(
        "Importance", words, (CardTable(headings, rows, frozenset(headings[1:])),), problems, chart=draw_importance(importance.columns[:30])
    )


def limits_section(limits: Sequence[str], warnings: Sequence[str], checked_for: Sequence[str]) -> Section:
    """Return the section on declared limits and on warnings of the checks.

    Parameters
    ----------
    limits
        The limits that the model declares.
    warnings
        Findings of the leakage checks.
    checked_for
        The kinds of problems that were checked; empty when nothing was checked.
    """
    nothing = () if limits else ("No limits are declared. Declare what the model must not be used for with limits=.",)
    unknown = () if checked_for else ("Leakage was not checked.",)
    clean = (f"Checked for {', '.join(checked_for)}: nothing found.",) if checked_for and not warnings else ()
    return Section("Limits and warnings", (*limits, *nothing, *unknown, *clean), problems=tuple(warnings))


def gates_section(rows: Iterable[tuple[str, bool, float | None, float | None, str, str]]) -> Section:
    """Return the section on gate results.

    Parameters
    ----------
    rows
        Name, whether it passed, value, threshold, interval as text, and reason of each gate.
    """
    headings = ("gate", "", "value", "threshold", "interval", "reason")
    cells = tuple(
        (g, "passed" if ok else "failed", format_number(v, _DIGITS), format_number(t, _DIGITS), i, why) for g, ok, v, t, i, why in rows
    )
    words = () if cells else ("No gate is declared.",)
    return Section("Gates", words, (CardTable(headings, cells, frozenset({"value", "threshold", "interval"})),) if cells else ())


def plain_section(title: str, words: Sequence[str], *tables: tuple[tuple[str, ...], Sequence[tuple[str, ...]]], code: str = "") -> Section:
    """Return a section from paragraphs, tables and commands; tables without rows are left out.

    Parameters
    ----------
    title
        Heading of the section.
    words
        Paragraphs.
    tables
        Headings and rows of each table.
    code
        Shell commands.
    """
    card_tables = tuple(CardTable(headings, tuple(rows), frozenset({"rows", "partitions"})) for headings, rows in tables if rows)
    return Section(title, tuple(words), card_tables, code=code)


def format_interval(low: float | None, high: float | None) -> str:
    """Return an interval as text; a dash for an unknown interval."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return UNKNOWN
    return f"{format_number(low, _DIGITS)} … {format_number(high, _DIGITS)}"
