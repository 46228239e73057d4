"""Render the monitor reports of one window as a self-contained page: readable without colours, in print and in dark mode."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops_assets.compute.drift.binning import CATEGORICAL
from mlops_assets.compute.drift.drift_report import CAP_RULE
from mlops_assets.compute.drift.drift_statistics import name_statistic, reported_statistics
from mlops_assets.compute.drift.profile import PREDICTION
from mlops_assets.compute.monitoring.window_slices import MIN_SLICE_ROWS
from mlops_assets.compute.pages import charts
from mlops_assets.compute.pages.charts import Point
from mlops_assets.compute.pages.rendering import render
from mlops_assets.compute.pages.shap_section import describe_dependence, draw_dependence
from mlops_assets.compute.text import UNKNOWN, format_number
from mlops_assets.values.expectations.error_change import ErrorChange
from mlops_assets.values.monitoring import BREACH, CANNOT, GOOD, IN_TRAINING, INVERTED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markupsafe import Markup

    from mlops_assets.compute.drift.column_drift import ColumnDrift
    from mlops_assets.compute.drift.drift_report import DriftReport
    from mlops_assets.compute.explanation.performance_drop import DropExplanation
    from mlops_assets.compute.explanation.shap_summary import ShapSummary
    from mlops_assets.compute.monitoring.estimates import EstimateReport, EstimateScore
    from mlops_assets.compute.monitoring.performance import PerformanceReport
    from mlops_assets.compute.monitoring.system_metrics import ObjectiveVerdict, SystemCounts, SystemReport
    from mlops_assets.compute.monitoring.window_calibration import WindowCalibration
    from mlops_assets.compute.monitoring.window_slices import WindowSlice

MAX_CHARTS, MAX_ROWS = 6, 150


@dataclass(frozen=True)
class VersionReports:
    """The reports of one version in one window.

    Parameters
    ----------
    version
        The version that predicted; None when nothing was predicted.
    drift, performance
        The reports; None for a report that does not exist (yet).
    history
        The first metric in this and earlier windows, oldest first; the last point is this window.
    estimate
        The estimates without labels; None when the monitor has no estimated metric.
    scores
        The accuracy of the estimates, measured with the labels that have arrived.
    explanation
        The loss of a metric due to the drift of each column; None when no metric fell, or the drop was not explained.
    dependence
        What the predictions depended on; None for a window without a breach or drift.
    """

    version: int | None
    drift: DriftReport | None = None
    performance: PerformanceReport | None = None
    history: tuple[Point, ...] = ()
    estimate: EstimateReport | None = None
    scores: tuple[EstimateScore, ...] = ()
    explanation: DropExplanation | None = None
    dependence: ShapSummary | None = None


@dataclass(frozen=True)
class MonitorPage:
    """The content of a window's page.

    Parameters
    ----------
    monitor, partition
        The monitor's name, and the partition key of the window.
    model
        The name of the model that predicted.
    versions
        A section for each version that predicted.
    notes
        Additional sentences, e.g. on decisions.
    system
        The requests of the service; None for a monitor without objectives.
    """

    monitor: str
    partition: str
    model: str
    versions: tuple[VersionReports, ...]
    notes: tuple[str, ...] = ()
    system: SystemReport | None = None

    @property
    def origin(self) -> str:
        """The line of the header that names the model and the versions that predicted."""
        known = [str(reports.version) for reports in self.versions if reports.version is not None]
        return f"Predictions of {self.model}, version{'s' * (len(known) > 1)} {', '.join(known) or 'unknown'}"


@dataclass(frozen=True)
class _State:
    """The verdict of one report: its CSS class, its sign, a headline and a sentence."""

    kind: str
    mark: str
    headline: str
    text: str


@dataclass(frozen=True)
class _Figure:
    """A chart with its caption."""

    caption: str
    chart: Markup


@dataclass(frozen=True)
class _VersionSection:
    """The part of the page about one version."""

    reports: VersionReports
    title: str
    states: tuple[_State, ...]
    history: _Figure | None
    calibration: _Figure | None
    slices: list[WindowSlice]


def render_monitor(page: MonitorPage) -> str:
    """Return a window's reports as one HTML document that has no scripts and loads no other file.

    Parameters
    ----------
    page
        The content of the page.

    Returns
    -------
    str
    """
    several = len(page.versions) > 1
    return render(
        "monitor.html.jinja",
        page=page,
        sections=[_build_section(reports, f"Version {reports.version}" if several else "") for reports in page.versions],
        max_rows=MAX_ROWS,
        coverage_text=_coverage_text,
        explanation_caption=_explanation_caption,
        dependence_caption=describe_dependence,
        dependence_chart=lambda summary: _mark_safe(draw_dependence(summary)),
        metrics_caption=_metrics_caption,
        slices_caption=_slices_caption,
        slice_cell=_build_slice_cell,
        shown_columns=_select_shown_columns,
        format_severity=_format_severity,
        column_chart=_column_chart,
        threshold_chart=_threshold_chart,
        columns_caption=_columns_caption,
        gauge_percent=_gauge_percent,
        statistics=reported_statistics(),
        objective_state=_objective_state,
        system_cells=_build_system_cells,
        PREDICTION=PREDICTION,
        deciding_statistic_text=_deciding_statistic_text,
        thresholds_text=_describe_thresholds,
    )


def _build_section(reports: VersionReports, title: str) -> _VersionSection:
    report = reports.performance
    return _VersionSection(
        reports,
        title,
        (*_list_estimate_states(reports.estimate), _performance_state(report), _drift_state(reports.drift)),
        _history_figure(reports.history, report) if report else None,
        _calibration_figure(report) if report else None,
        [metrics for metrics in report.slices if metrics.rows >= MIN_SLICE_ROWS][:MAX_ROWS] if report else [],
    )


def _performance_state(report: PerformanceReport | None) -> _State:
    if report is None:
        return _State("", UNKNOWN, "No performance report", "labels are not joined to these predictions")
    kind, mark, headline = {
        GOOD: ("good", "✓", "Performance is good" if report.verdicts else "Performance is measured"),
        BREACH: ("bad", "✗", "Performance is too low"),
        INVERTED: ("bad", "✗", "The labels look inverted"),
        IN_TRAINING: ("", UNKNOWN, "In training data: performance is not evaluated"),
        CANNOT: ("", UNKNOWN, "Performance cannot be measured"),
    }.get(report.state, ("", "…", "Not enough data to evaluate performance"))
    return _State(kind, mark, headline, report.summary.partition(": ")[2])


def _list_estimate_states(report: EstimateReport | None) -> tuple[_State, ...]:
    """Return the verdict on the estimates; empty when the monitor expects none."""
    if report is None:
        return ()
    kind, mark, headline = {
        GOOD: ("good", "✓", "Estimated performance is good"),
        BREACH: ("warn", "!", "Estimated performance is too low"),
        IN_TRAINING: ("", UNKNOWN, "In training data: performance is not estimated"),
        CANNOT: ("", UNKNOWN, "Performance cannot be estimated"),
    }.get(report.state, ("", "…", "Not enough data to evaluate estimated performance"))
    return (_State(kind, mark, headline, report.summary.partition(": ")[2]),)


def _drift_state(report: DriftReport | None) -> _State:
    if report is None:
        return _State("", UNKNOWN, "No drift report", "the monitor declares no drift expectation")
    if report.state == IN_TRAINING:
        return _State("", UNKNOWN, "In training data: drift is not evaluated", report.summary)
    if not report.enough:
        return _State("", "…", "Not enough data to evaluate drift", report.summary)
    count = len(report.drifted)
    if not count:
        text = f"{report.compared} look as they did in training, on {report.rows:,} rows"
        return _State("good", "✓", "No drift", "; ".join((text, *report.notes)))
    names = ", ".join(report.drifted[:8]) + ("…" if count > 8 else "")
    return _State("warn", "!", f"{count} of {len(report.columns)} columns drifted", "; ".join((names, *report.notes)))


def _objective_state(verdict: ObjectiveVerdict) -> _State:
    kind, mark, headline = {
        GOOD: ("good", "✓", f"{verdict.name} keeps its objective"),
        BREACH: ("bad", "✗", f"{verdict.name} misses its objective"),
    }.get(verdict.state, ("", "…", f"Not enough requests to evaluate {verdict.name}"))
    return _State(kind, mark, headline, verdict.reason)


def _build_system_cells(counts: SystemCounts, seconds: float) -> list[str]:
    """Return the cells of a row: requests, throughput, rates, quantiles of the latency in milliseconds."""
    rates = [counts.errors / counts.requests if counts.requests else None, counts.missing_rate]
    quantiles = [counts.quantile(share) for share in (0.5, 0.95, 0.99)]
    return [
        f"{counts.requests:,}",
        format_number(counts.requests / seconds),
        *(UNKNOWN if rate is None else f"{rate:.2%}" for rate in rates[:1]),
        f"{counts.client_errors:,}",
        *(format_number(None if value is None else 1_000 * value) for value in quantiles),
        *(UNKNOWN if rate is None else f"{rate:.2%}" for rate in rates[1:]),
    ]


def _select_shown_columns(report: DriftReport) -> list[ColumnDrift]:
    """Return the columns with a card: drifted columns without a chart, then the most drifted columns with a chart; six of each at most."""
    with_chart = [column for column in report.columns if column.bars][:MAX_CHARTS]
    return [*[column for column in report.columns if not column.bars and column.drifted][:MAX_CHARTS], *with_chart]


def _column_chart(column: ColumnDrift) -> Markup | str:
    if not column.bars:
        return ""
    draw = charts.draw_categories if column.kind == CATEGORICAL else charts.draw_histogram
    return _mark_safe(draw(column.bars, f"{column.name}: shares of values in the reference and in this window. {column.why}"))


def _threshold_chart(column: ColumnDrift) -> Markup | str:
    if not column.bars or column.value is None or not column.threshold or not math.isfinite(column.severity):
        return ""
    label = f"{name_statistic(column.statistic)} {format_number(column.value)}, threshold {format_number(column.threshold)}"
    return _mark_safe(charts.draw_threshold(column.reference_values, column.threshold, column.value, label))


def _mark_safe(svg: str) -> Markup:
    from markupsafe import Markup

    return Markup(svg)  # noqa: S704  (our own charts, their texts escaped)


def _format_severity(column: ColumnDrift) -> str:
    """Return the severity as text, e.g. "1.2 ×"; "beyond" when it is infinite."""
    return f"{format_number(column.severity, 2)} ×" if math.isfinite(column.severity) else "beyond"


def _gauge_percent(column: ColumnDrift) -> str:
    """Return the filled share of the column's gauge in percent; it is full at 1.5 times the threshold."""
    share = min(column.severity, 1.5) / 1.5 if math.isfinite(column.severity) else 1.0
    return f"{share * 100:.0f}"


def _deciding_statistic_text(column: ColumnDrift) -> str:
    return name_statistic(column.statistic, short=True) if column.statistic else column.why


def _columns_caption(report: DriftReport) -> str:
    hidden = f"; {len(report.columns) - MAX_ROWS} columns with lower drift are not shown" if len(report.columns) > MAX_ROWS else ""
    labels = "; ".join(f"{statistic.short}: {statistic.label}" for statistic in reported_statistics())
    return f"All columns, most drifted first{hidden}. {labels}."


def _describe_thresholds(report: DriftReport) -> str:
    rate = f"Expected false alarms: {_format_percent(report.false_alarm_rate)} of windows"
    if not report.windows:
        return f"{rate} if rows are independent. The reference has no event times, so that its windows cannot be compared."
    min_windows = math.ceil(1 / report.false_alarm_rate)
    extrapolated = f" (extrapolated: fewer than {min_windows})" if report.windows < min_windows else ""
    return (
        f"{rate}, calibrated on {report.windows} reference windows{extrapolated}. A change below the minimum effect never counts as drift."
        f"{_capped_text(report)}"
    )


def _format_percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _capped_text(report: DriftReport) -> str:
    """Return the rule for columns with a capped threshold and its rate of false alarms; empty without such columns."""
    if not report.capped:
        return ""
    return (
        f" Not evaluated at {_format_percent(report.false_alarm_rate)}: {', '.join(report.capped)}; {report.needed} reference windows are needed, "
        f"there are {report.windows}. {CAP_RULE}. Without drift, at most one window in {report.windows + 1} exceeds that largest distance "
        "in one column, and about a quarter of these the threshold."
    )


def _coverage_text(report: PerformanceReport) -> str:
    arrivals = report.arrivals
    keyless = f"; {arrivals.keyless} predictions have no key" if arrivals.keyless else ""
    trained = f"; {report.rows_in_training:,} predictions of training rows are left out" if report.rows_in_training else ""
    counts = {"repeated": arrivals.repeated, "replaced by a later label": arrivals.corrected}
    labels = "".join(f"; {number:,} labels were {what}" for what, number in counts.items() if number)
    again = f"; {arrivals.duplicated:,} predictions repeat a key, and each counts" if arrivals.duplicated else ""
    bias = f"; {arrivals.bias}" if arrivals.bias else ""
    return (
        f"{arrivals.labelled:,} of {arrivals.predicted:,} predictions {arrivals.predicate} ({arrivals.coverage:.1%})"
        f"{keyless}{trained}{labels}{again}{bias}."
    )


def _explanation_caption(found: DropExplanation) -> str:
    return (
        f"Increase of {found.metric} when columns are restored to the reference distribution; 95 % CI. Labels and all other columns stay unchanged. "
        f"Measured on {found.rows:,} rows in {format_number(found.seconds, 2)} s."
    )


def _metrics_caption(report: PerformanceReport) -> str:
    resampled = f"; {_format_percent(report.confidence)} CI by jackknife over {report.intervals}" if report.intervals else ""
    return f"Metrics; greater is better{resampled}."


def _slices_caption(report: PerformanceReport, shown: Sequence[WindowSlice]) -> str:
    """Return the caption of the slices: how many have too few rows, and how many more are not in the table."""
    small = sum(metrics.rows < MIN_SLICE_ROWS for metrics in report.slices)
    hidden = len(report.slices) - small - len(shown)
    left_out = f", {small} with fewer than {MIN_SLICE_ROWS} rows left out" if small else ""
    worst = (
        f"; ▼ significantly below the whole window, with {_format_percent(report.confidence)} confidence for all slices together"
        if report.worst_slices
        else ""
    )
    return f"By slice with {_format_percent(report.confidence)} CI{left_out}{f'; {hidden} more are not shown' if hidden else ''}{worst}."


def _build_slice_cell(found: WindowSlice, metric: str, value: float) -> str:
    """Return a metric of a slice with its interval; a mark precedes a metric that is significantly below that of the whole window."""
    low, high = found.interval(metric)
    between = "" if low is None or high is None else f" ({format_number(low)} to {format_number(high)})"
    return f"{'▼ ' if metric in found.below else ''}{format_number(value)}{between}"


def _history_figure(points: Sequence[Point], report: PerformanceReport) -> _Figure | None:
    """Return the chart of the report's first metric by window; None with fewer than two windows or without a metric."""
    if len(points) < 2 or not report.metrics:
        return None
    name = report.metrics[0].name
    bound = next((verdict.bound for verdict in report.verdicts if verdict.expectation != ErrorChange.NAME), None)
    line = f"; dashed: the minimum, {format_number(bound)}" if bound is not None else ""
    caption = f"{name} by window with its {_format_percent(report.confidence)} CI; red: a breach; hollow: not evaluated{line}"
    label = f"{name} of {len(points)} windows, the last one {format_number(points[-1].value)}"
    return _Figure(caption, _mark_safe(charts.draw_history(points, bound, label)))


def _calibration_drift(curve: WindowCalibration) -> str:
    """Return a clause that compares the calibration with that of the holdout; empty without a stored calibration."""
    if curve.drift is None:
        return ""
    found = "differs from" if curve.drifted else "is as on"
    return f"; calibration {found} the holdout: mean difference {format_number(curve.drift)}, significance limit {format_number(curve.drift_limit)}"


def _calibration_figure(report: PerformanceReport) -> _Figure | None:
    if not report.calibration or not report.calibration.bins:
        return None
    curve = report.calibration
    between = (
        "" if curve.low is None else f" ({_format_percent(report.confidence)} CI {format_number(curve.low)} to {format_number(curve.high)})"
    )
    caption = f"Predicted against observed; expected calibration error {format_number(curve.error)}{between}{_calibration_drift(curve)}"
    return _Figure(caption, _mark_safe(charts.draw_reliability(report.calibration, caption)))
