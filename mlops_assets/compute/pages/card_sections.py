"""The sections of a model card, each from what was recorded or measured."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from mlops_assets.compute.features.signature import held
from mlops_assets.compute.pages.card import Cells, Section
from mlops_assets.compute.pages.card_charts import bars
from mlops_assets.compute.pages.charts import number, reliability
from mlops_assets.compute.training.probabilities import BINARY, MULTICLASS, REGRESSION

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mlops_assets.compute.training.importance import Importances
    from mlops_assets.compute.training.probabilities import Trust
    from mlops_assets.values.evaluation import Evaluation, Split

MOST_ROWS = 60  # of a table
MOST_CLASSES = 20
_DIGITS = 4


def data_section(  # noqa: PLR0913  (what is said of the rows)
    table: str, parts: Mapping[str, Split], event_timestamp: str | None, label: str, kind: str, *, refitted: bool = False
) -> Section:
    """Return what it learned from and was judged on: rows, time span, labels.

    Parameters
    ----------
    table
        The training set.
    parts
        Its parts; one without rows, as validation may be, is left out.
    event_timestamp, label
        Columns of it.
    kind
        What the model does.
    refitted
        Whether the fit that serves was made on all parts after the gates.
    """
    judged = "It was fitted on train and is judged on holdout, which it has not seen."
    again = " What serves was fitted again on every part, after the gates." if refitted else ""
    parts = {name: part for name, part in parts.items() if len(part.y)}
    heads = ("part", "rows", *(("first, UTC", "last, UTC") if event_timestamp else ()))
    rows = tuple((name, f"{len(part.y):,}", *_span(part, event_timestamp)) for name, part in parts.items())
    told = _spread if kind == REGRESSION else _balance
    return Section(
        "Data",
        (f"Rows of {table}; the label is {label}. {judged}{again}",),
        (Cells(heads, rows, frozenset({"rows"})), told(parts, label)),
    )


def _span(part: Split, event_timestamp: str | None) -> tuple[str, ...]:
    if not event_timestamp:
        return ()
    times = part.rows[event_timestamp]
    return tuple("–" if t is None else f"{t:%Y-%m-%d %H:%M}" for t in (times.min(), times.max()))  # type: ignore[str-bytes-safe]


def _balance(parts: Mapping[str, Split], label: str) -> Cells:
    """Return each class's share of each part, the most frequent first."""
    counts: dict[str, dict[str, int]] = {}
    for name, part in parts.items():
        values, found = np.unique(part.y, return_counts=True)
        for value, count in zip(values.tolist(), found.tolist(), strict=True):
            counts.setdefault(str(value), {})[name] = count
    ordered = sorted(counts, key=lambda value: -sum(counts[value].values()))
    rows = [(value, *(_share(counts[value].get(name, 0), len(part.y)) for name, part in parts.items())) for value in ordered]
    if len(rows) > MOST_CLASSES:
        rows = [*rows[:MOST_CLASSES], (f"{len(rows) - MOST_CLASSES} more classes", *("" for _ in parts))]
    return Cells((f"share of {label}", *parts), tuple(rows), frozenset(parts))


def _share(count: int, rows: int) -> str:
    return f"{count / max(rows, 1):.1%} ({count:,})"


def _spread(parts: Mapping[str, Split], label: str) -> Cells:
    heads = (label, "mean", "standard deviation", "least", "median", "greatest")
    rows = []
    for name, part in parts.items():
        y = part.y.astype(float)
        figures = (y.mean(), y.std(), y.min(), np.median(y), y.max()) if len(y) else ()
        rows.append((name, *(_number(float(value)) for value in figures)))
    return Cells(heads, tuple(rows), frozenset(heads[1:]))


def features_section(signature: Sequence[Mapping[str, Any]], sources: Mapping[str, str]) -> Section:
    """Return the signature: every column of X, where it comes from, and what it held.

    Parameters
    ----------
    signature
        From :func:`mlops_assets.compute.features.signature.signature_of`.
    sources
        Column → where from.
    """
    rows = tuple(
        (
            seen["column"],
            seen["dtype"],
            sources.get(seen["column"], "unknown"),
            f"{seen['nulls']:.1%}" if seen["nulls"] else "none",
            held(seen),
        )
        for seen in signature
    )
    heads = ("column", "type", "from", "null", "held in training")
    words = "What the model takes, in this order. Nothing is known of what it says of values that it has not met."
    return Section("Features and signature", (words,), (Cells(heads, rows, frozenset({"null"})),))


def metrics_section(evaluation: Evaluation, intervals: Mapping[str, tuple[float, float]], method: str) -> Section:
    """Return what it reached on the holdout, how sure that is, and what a model reaches that ignores its input.

    Parameters
    ----------
    evaluation
        Of the holdout.
    intervals
        Metric → its 95 % interval.
    method
        What the intervals resample.
    """
    baseline, heads = dict(evaluation.baseline), ("metric", "holdout", "95 % interval", "ignoring the input")
    rows = tuple(
        (name, _number(value), interval(*intervals.get(name, (math.nan, math.nan))), _number(baseline.get(name, math.nan)))
        for name, value in evaluation.metrics
    )
    words = (
        f"On {evaluation.rows:,} rows of the holdout, by scikit-learn's scorers: greater is better. "
        f"Intervals are of drawing the same number of rows again ({method}), not of training again."
    )
    return Section(
        "Metrics", (words,), (Cells(heads, rows, frozenset(heads[1:])),), tuple(f"{name}: {why}" for name, why in evaluation.problems)
    )


def slices_section(evaluation: Evaluation) -> Section | None:
    """Return the metrics of parts of the holdout; None when no slice is declared."""
    if not evaluation.slices:
        return None
    metrics = [name for name, _ in evaluation.metrics]
    rows = tuple((f"{s.column} = {s.value}", f"{s.rows:,}", *(_number(dict(s.metrics)[m]) for m in metrics)) for s in evaluation.slices)
    more = (f"The first {MOST_ROWS} of {len(rows)}.",) if len(rows) > MOST_ROWS else ()
    heads = ("slice", "rows", *metrics)
    return Section("Slices", more, (Cells(heads, rows[:MOST_ROWS], frozenset(heads[1:])),))


def calibration_section(found: Trust | None) -> Section:
    """Return whether predictions mean what they say.

    Parameters
    ----------
    found
        From :func:`mlops_assets.compute.training.probabilities.trust`; None when there are no probabilities.
    """
    if found is None:
        return Section("Calibration", ("It gives no probabilities.",))
    heads, percent = ("predicted", "observed", "rows"), found.kind != REGRESSION
    rows = tuple((_level(b.predicted, percent), _level(b.observed, percent), f"{b.rows:,}") for b in found.calibration.bins)
    return Section(
        "Calibration",
        (_headline(found), "Ten ranges of equally many predictions on the holdout: the mean prediction, and what was observed."),
        (Cells(heads, rows, frozenset(heads)),),
        picture=reliability(found.calibration, "predicted against observed on the holdout"),
        small=True,
    )


def _headline(found: Trust) -> str:
    error = found.calibration.error
    if found.kind == REGRESSION:
        return f"Predictions are {number(error)} from the mean label of their range, in units of the label."
    of = {BINARY: f"of the probability of {found.about}", MULTICLASS: "of the class that is predicted"}[found.kind]
    return f"Brier score {number(found.brier, _DIGITS)}; expected calibration error {number(error, _DIGITS)} {of}. 0 is best for both."


def _level(value: float, percent: bool) -> str:  # noqa: FBT001
    return f"{value:.1%}" if percent else _number(value)


def importance_section(found: Importances) -> Section:
    """Return by how much the metric falls when a column is shuffled.

    Parameters
    ----------
    found
        From :func:`mlops_assets.compute.training.importance.permutation_importance`.
    """
    words = (
        f"By how much {found.metric} falls when one column of {found.rows:,} holdout rows is shuffled, on average, and its standard deviation.",
        "Columns that tell the same share what they are worth; this is no statement about causes.",
    )
    rows = tuple((one.column, _number(one.drop), _number(one.error)) for one in found.columns[:MOST_ROWS])
    heads = ("column", "fall", "±")
    left = found.left_out + max(0, len(found.columns) - MOST_ROWS)
    problems = (f"{left} columns are not shown: there are too many.",) if left else ()
    if not any(math.isfinite(one.drop) for one in found.columns):
        problems = (*problems, f"{found.metric} is undefined on these rows.")
    return Section("Importance", words, (Cells(heads, rows, frozenset(heads[1:])),), problems, picture=bars(found.columns[:30]))


def limits_section(limits: Sequence[str], warnings: Sequence[str], looked_for: Sequence[str]) -> Section:
    """Return what it must not be used for, and what was found that a reader should know.

    Parameters
    ----------
    limits
        As declared.
    warnings
        As found.
    looked_for
        What the warnings could have been.
    """
    nothing = () if limits else ("Nobody has declared limits: limits= of the model says what it must not be used for.",)
    unknown = () if looked_for else ("Leakage was not looked for.",)
    clean = (f"Looked for {', '.join(looked_for)}: nothing was found.",) if looked_for and not warnings else ()
    return Section("Limits and warnings", (*limits, *nothing, *unknown, *clean), problems=tuple(warnings))


def gates_section(rows: Iterable[tuple[str, bool, float | None, float | None, str, str]]) -> Section:
    """Return what every gate found.

    Parameters
    ----------
    rows
        Gate, whether it passed, value, threshold, interval, reason.
    """
    heads = ("gate", "", "value", "bound", "interval", "what it found")
    cells = tuple((g, "passed" if ok else "failed", _number(v), _number(t), i, why) for g, ok, v, t, i, why in rows)
    words = () if cells else ("No gate is declared.",)
    return Section("Gates", words, (Cells(heads, cells, frozenset({"value", "bound", "interval"})),) if cells else ())


def pairs_section(title: str, words: Sequence[str], *tables: tuple[tuple[str, ...], Sequence[tuple[str, ...]]], code: str = "") -> Section:
    """Return words, tables of heads and rows, and commands; tables without a row are left out.

    Parameters
    ----------
    title
        Of the section.
    words
        Paragraphs.
    tables
        Heads and rows.
    code
        Commands.
    """
    shown = tuple(Cells(heads, tuple(rows), frozenset({"rows", "partitions"})) for heads, rows in tables if rows)
    return Section(title, tuple(words), shown, code=code)


def interval(low: float | None, high: float | None) -> str:
    """Return an interval in words; a dash when there is none."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return "–"
    return f"{_number(low)} … {_number(high)}"


def _number(value: Any) -> str:  # noqa: ANN401  (a number, or nothing)
    return number(value, _DIGITS)
