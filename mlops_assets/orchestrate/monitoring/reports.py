"""The monitor's steps: measure each version in each window, then publish tables, checks, pages and decisions."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from mlops_assets.compute.drift.drift_report import DriftReport
from mlops_assets.compute.drift.drift_statistics import reported_statistics
from mlops_assets.compute.drift.profile import PREDICTION
from mlops_assets.compute.monitoring.estimates import EstimateReport, EstimateScore, score_estimates
from mlops_assets.compute.monitoring.performance import PerformanceReport
from mlops_assets.compute.monitoring.verdicts import Verdict
from mlops_assets.compute.monitoring.windows import LabelTable, PredictionWindow, VersionReference, WindowMeasurement, measure_window
from mlops_assets.compute.pages.charts import Point
from mlops_assets.compute.pages.monitor_page import MonitorPage, VersionReports, render_monitor
from mlops_assets.compute.tables.verify import Outcome
from mlops_assets.errors import LakeError
from mlops_assets.orchestrate.core.graph import Edge, Node
from mlops_assets.orchestrate.core.metadata import to_markdown
from mlops_assets.orchestrate.core.monitor_windows import build_report_mapping, link_labels, predicted_partitions
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.monitoring.error_changes import ERRORS, add_error_verdicts
from mlops_assets.orchestrate.monitoring.explanations import explain_windows, list_explanation_facts
from mlops_assets.orchestrate.monitoring.performance_facts import TOP, list_performance_facts
from mlops_assets.orchestrate.monitoring.reading import (
    describe_missing_windows,
    list_missing_windows,
    read_labels,
    read_references,
    read_windows,
)
from mlops_assets.orchestrate.monitoring.same_weeks import read_same_weeks
from mlops_assets.orchestrate.monitoring.shap_summaries import list_dependence_facts, summarise_shap_values
from mlops_assets.orchestrate.monitoring.system_reading import read_system_report
from mlops_assets.orchestrate.monitoring.window_summary import WindowState, build_check_facts, build_summary_facts
from mlops_assets.orchestrate.retraining.decisions import record_decision
from mlops_assets.orchestrate.tables.quality import CheckedTable
from mlops_assets.orchestrate.tables.tables import build_check_specs, publish_table
from mlops_assets.stores.base.files import write_atomically
from mlops_assets.values.dataset import Table
from mlops_assets.values.decisions import Hold
from mlops_assets.values.monitoring import BREACH, Monitor
from mlops_assets.values.window import window_of

WINDOW_START = "window_start"
MAX_HISTORY = 60  # windows in a chart
PAGE_MODE = 0o644  # every user may read a page
RULES = Table(event_timestamp=WINDOW_START)


def drift_node(project: Project, monitor: Monitor) -> Node:
    """Return the node of the drift report; the predictions are its input."""
    return Node(monitor.drift_key, monitor.partitions, (link_predictions(project, monitor),))


def performance_node(project: Project, monitor: Monitor) -> Node:
    """Return the node of the performance report; the predictions and the tables with the labels are its inputs."""
    tables = (project.tables[p.name] for p in monitor.model.training_set.function.tables)
    labels = (link_labels(monitor, table.key, table.partitions) for table in tables if table.plain is None)
    return Node(monitor.performance_key, monitor.partitions, (link_predictions(project, monitor), *labels))


def link_predictions(project: Project, monitor: Monitor) -> Edge:
    """Return the edge from a monitor's report to the predictions of its window."""
    partitions = predicted_partitions(project, monitor)
    return Edge(monitor.predictions_key, partitions, build_report_mapping(partitions, monitor), required=True)


def list_drift_checks(monitor: Monitor) -> list[dg.AssetCheckSpec]:
    """Return the spec of the drift check, which only warns."""
    names = [monitor.drift.name] if monitor.drift else []
    return build_check_specs(monitor.drift_key, names, warnings=names)


def list_performance_checks(monitor: Monitor) -> list[dg.AssetCheckSpec]:
    """Return the specs of the performance checks, which only warn."""
    names = [expectation.name for expectation in monitor.label_expectations]
    return build_check_specs(monitor.performance_key, names, warnings=names)


def drift_body(monitor: Monitor) -> Callable[[StepContext], Iterator[object]]:
    """Return the body of the step that publishes drift reports."""

    def body(step: StepContext) -> Iterator[object]:
        yield from publish_table(step, RULES, lambda: _publish_drift(step, monitor))

    return body


def measure_windows(
    step: StepContext, monitor: Monitor, labels: LabelTable | None = None, *, with_drift: bool = True
) -> list[WindowMeasurement]:
    """Measure each version in each window of this step, without writing anything."""
    windows = read_windows(step, monitor)
    versions = {window.version for window in windows if window.version is not None}
    references = read_references(step.stores, step.project, monitor, versions)
    same_weeks, nothing = read_same_weeks(step.stores, monitor), VersionReference()
    measurements = []
    for window in windows:
        reference = nothing if window.version is None else references.get(window.version, nothing)
        chosen = same_weeks.choose(window, reference) if with_drift else reference
        measurements.append(measure_window(monitor, window, chosen, labels, with_drift=with_drift))
    return measurements


def _publish_drift(step: StepContext, monitor: Monitor) -> CheckedTable:
    """Measure drift, write the pages, record the reports for retraining decisions, and return the table to commit."""
    measurements = measure_windows(step, monitor)
    with_performance = step.stores.lake.records(monitor.performance_key)
    # The performance step draws the page of other windows, again when the predictions change.
    drawn = [measured for measured in measurements if measured.window.partition not in with_performance]
    summaries = summarise_shap_values(step, monitor, drawn)
    depended = {id(measured): found for measured, found in zip(drawn, summaries, strict=True)}
    for partition, group in group_by_partition(drawn).items():
        sections = [VersionReports(m.window.version, m.drift, estimate=m.estimate, dependence=depended[id(m)]) for m in group]
        write_page(step, monitor, partition, sections)
    step.stores.decisions.record_reports(
        monitor.name, monitor.model.name, [measured.drift_record for measured in measurements if measured.drift_record]
    )
    reports = [(measured.window, measured.drift) for measured in measurements if measured.drift is not None]
    states = [WindowState(w.partition, r.state, r.summary, w.version) for w, r in reports]
    summary = build_summary_facts(states, "drifted")
    drifted = [(window, report.drifted) for window, report in reports if report.drifted]
    outcome = Outcome(
        monitor.drift.name if monitor.drift else "",
        passed=not drifted,
        blocking=False,
        message="; ".join(f"{window.title}: {', '.join(names[:TOP])} drifted" for window, names in drifted),
        hint="look at the page of the window; drift alone never starts a retraining",
        facts=build_check_facts(states, "drifted")
        | {
            "rows": sum(report.rows for _, report in reports),
            "drifted": len({name for _, names in drifted for name in names}),
            "worst": max((column.severity for _, report in reports for column in report.columns), default=0.0),
        },
    )
    frame = pl.concat([_drift_rows(window, report) for window, report in reports], how="vertical_relaxed")
    last, report = reports[-1]
    facts = summary | _drift_facts(report) | list_dependence_facts(summaries) | list_window_facts(step, monitor, last, measurements)
    return CheckedTable(frame, [outcome] if monitor.drift else [], facts)


def group_by_partition(measurements: Sequence[WindowMeasurement]) -> dict[str, list[WindowMeasurement]]:
    """Return partition → its measurements, one for each version, in their order."""
    by_partition: dict[str, list[WindowMeasurement]] = {}
    for measured in measurements:
        by_partition.setdefault(measured.window.partition, []).append(measured)
    return by_partition


def list_window_facts(
    step: StepContext, monitor: Monitor, last: PredictionWindow, measurements: Sequence[WindowMeasurement]
) -> dict[str, Any]:
    """Return the title of the last window, the versions that predicted in it, and the path of its page."""
    versions = [
        measured.window.version
        for measured in measurements
        if measured.window.partition == last.partition and measured.window.version is not None
    ]
    missing = describe_missing_windows(list_missing_windows(step.stores, step.project, monitor))
    return {
        "window": last.title,
        "versions": ", ".join(map(str, versions)) or "none",
        **({"missing windows": missing} if missing else {}),
        "page": dg.MetadataValue.path(str(build_page_path(step.stores.platform.home, monitor.name, last.partition))),
    }


def _drift_rows(window: PredictionWindow, report: DriftReport) -> pl.DataFrame:
    statistics = [statistic.name for statistic in reported_statistics()]
    numbers = ("null_rate", "reference_null_rate", "new_rate", "value", "threshold", "severity")
    schema: dict[str, Any] = {
        WINDOW_START: pl.Datetime("us", "UTC"),
        "version": pl.Int64,
        "rows": pl.Int64,
        "notes": pl.String,
        "column": pl.String,
        "kind": pl.String,
    }
    schema |= {"statistic": pl.String, "drifted": pl.Boolean, "why": pl.String, **dict.fromkeys([*statistics, *numbers], pl.Float64)}
    common = {WINDOW_START: window.span.start, "version": window.version, "rows": report.rows, "notes": "; ".join(report.notes)}
    rows = [
        common
        | {
            "column": c.name,
            "kind": PREDICTION if c.role == PREDICTION else c.kind,
            "statistic": c.statistic,
            "drifted": c.drifted,
            "why": c.why,
        }
        | {name: c.statistics.get(name) for name in statistics}
        | {name: getattr(c, name) for name in numbers}
        for c in report.columns
    ]
    return pl.DataFrame(rows or [common], schema=schema)


def _drift_facts(report: DriftReport) -> dict[str, Any]:
    rows = [
        {"column": c.name, "drifted": c.drifted, "severity": c.severity, "by": c.statistic, "value": c.value, "threshold": c.threshold}
        for c in report.columns
    ]
    return {"drifted columns": len(report.drifted), "columns": to_markdown(rows[:TOP])}


def performance_body(monitor: Monitor) -> Callable[[StepContext], Iterator[object]]:
    """Return the body of the step that publishes performance reports."""

    def body(step: StepContext) -> Iterator[object]:
        yield from publish_table(step, RULES, lambda: _publish_performance(step, monitor))

    return body


def _publish_performance(step: StepContext, monitor: Monitor) -> CheckedTable:
    """Measure performance, record the reports and the retraining decision, write the pages, and return the table to commit."""
    # Drift is measured, not read: it takes a fraction of a second, and so the two steps need not wait for each other.
    labels = read_labels(step, monitor)
    earlier = _read_earlier_reports(step, monitor)
    measured_windows = measure_windows(step, monitor, labels, with_drift=monitor.drift is not None)
    measurements = add_error_verdicts(monitor.error_change, measured_windows, earlier, WINDOW_START)
    records = [measured.performance_record for measured in measurements if measured.performance_record]
    step.stores.decisions.record_reports(monitor.name, monitor.model.name, records)
    decided = record_decision(step.stores, step.project, monitor, step.context.instance)
    loop = decided.reason if isinstance(decided, Hold) else f"retrain: {decided.reason}"
    scores = {id(measured): _score(measured, earlier) for measured in measurements}
    explanations = explain_windows(step, monitor, measurements, labels)
    explained = {id(measured): found for measured, found in zip(measurements, explanations, strict=True)}
    summaries = summarise_shap_values(step, monitor, measurements)
    depended = {id(measured): found for measured, found in zip(measurements, summaries, strict=True)}
    for partition, group in group_by_partition(measurements).items():
        sections = [
            VersionReports(
                m.window.version,
                m.drift,
                m.performance,
                _build_history(earlier, m.window, m.performance),
                m.estimate,
                scores[id(m)],
                explained[id(m)],
                depended[id(m)],
            )
            for m in group
        ]
        write_page(step, monitor, partition, sections, loop)
    reports = [(measured.window, measured.performance) for measured in measurements if measured.performance is not None]
    estimates = [measured.estimate for measured in measurements if measured.performance is not None]
    rows = [_performance_rows(window, report, estimate) for (window, report), estimate in zip(reports, estimates, strict=True)]
    frame = pl.concat(rows, how="vertical_relaxed")
    last, report = reports[-1]
    summary = build_summary_facts([WindowState(w.partition, r.state, r.summary, w.version) for w, r in reports], "breached")
    scored = {f"estimate of {score.metric}": score.text for score in scores[id(measurements[-1])]}
    facts = (
        summary
        | list_explanation_facts(measurements, explanations)
        | list_dependence_facts(summaries)
        | list_performance_facts(report)
        | scored
    )
    facts |= list_window_facts(step, monitor, last, measurements) | {"the loop": loop}
    return CheckedTable(frame, build_outcomes([e.name for e in monitor.label_expectations], [(w, r.verdicts) for w, r in reports]), facts)


def _score(measured: WindowMeasurement, earlier: pl.DataFrame) -> tuple[EstimateScore, ...]:
    """Compare the estimates of a window with its labels; empty without estimates."""
    report, estimate = measured.performance, measured.estimate
    if report is None or estimate is None:
        return ()
    others = earlier.filter(pl.col(WINDOW_START) != measured.window.span.start)
    return score_estimates(estimate, report.metrics, report.state, others)


def build_outcomes(names: Sequence[str], reports: Sequence[tuple[PredictionWindow, Sequence[Verdict]]]) -> list[Outcome]:
    """Return the result of the check of each expectation, from the verdicts on each window."""
    return [_build_outcome(name, [(w, v) for w, verdicts in reports for v in verdicts if v.expectation == name]) for name in names]


def _build_outcome(name: str, verdicts: Sequence[tuple[PredictionWindow, Verdict]]) -> Outcome:
    breaches = [(window, verdict) for window, verdict in verdicts if verdict.state == BREACH]
    facts = build_check_facts([WindowState(w.partition, v.state, v.reason, w.version) for w, v in verdicts], "breached")
    if verdicts:
        last = breaches[-1][1] if breaches else verdicts[-1][1]
        facts |= {k: v for k, v in (("value", last.value), ("bound", last.bound)) if v is not None}
    return Outcome(
        name,
        passed=not breaches,
        blocking=False,
        message="; ".join(f"{window.title}: {verdict.reason}" for window, verdict in breaches),
        hint="look at the page of the window; `mlops monitor show` lists the decisions",
        facts=facts,
    )


def _performance_rows(window: PredictionWindow, report: PerformanceReport, estimate: EstimateReport | None) -> pl.DataFrame:
    schema: dict[str, Any] = {
        WINDOW_START: pl.Datetime("us", "UTC"),
        "version": pl.Int64,
        "state": pl.String,
        "predicted": pl.Int64,
        "labelled": pl.Int64,
        "biased": pl.Boolean,
    }
    schema |= {
        "metric": pl.String,
        "value": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
        "reference": pl.Float64,
        "problem": pl.String,
        "estimate": pl.Float64,
        ERRORS: pl.String,
    }
    common = {WINDOW_START: window.span.start, "version": window.version, "state": report.state}
    common |= {"predicted": report.arrivals.predicted, "labelled": report.arrivals.labelled, "biased": bool(report.arrivals.bias)}
    names = ("value", "low", "high", "reference", "problem")
    estimated = {found.name: found.value for found in estimate.metrics} if estimate is not None else {}
    rows = [common | {"metric": m.name, "estimate": estimated.get(m.name)} | {n: getattr(m, n) for n in names} for m in report.metrics]
    rows = rows or [common]
    rows[0] = rows[0] | {ERRORS: report.errors.as_text if report.errors else None}
    return pl.DataFrame(rows, schema=schema)


def _read_earlier_reports(step: StepContext, monitor: Monitor) -> pl.DataFrame:
    """Return the monitor's performance table as of the step's snapshot, with nulls in columns that an older table lacks."""
    columns = {"version": pl.Int64, "metric": pl.String, "state": pl.String, "predicted": pl.Int64, ERRORS: pl.String}
    numbers = dict.fromkeys(("value", "low", "high", "reference", "estimate"), pl.Float64)
    nothing = pl.DataFrame(schema={WINDOW_START: pl.Datetime("us", "UTC"), **columns, **numbers})
    try:
        return pl.concat([nothing, step.stores.lake.read(monitor.performance_key, snapshot=step.snapshot)], how="diagonal_relaxed")
    except LakeError:
        return nothing


def _build_history(earlier: pl.DataFrame, window: PredictionWindow, report: PerformanceReport | None) -> tuple[Point, ...]:
    """Return the history of the first metric up to this window, at most ``MAX_HISTORY`` points; empty without metrics.

    Each earlier window contributes the value of the version with the most predictions.
    """
    if report is None or not report.metrics:
        return ()
    first = report.metrics[0]
    rows = earlier.filter((pl.col("metric") == first.name) & (pl.col(WINDOW_START) < window.span.start))
    largest = rows.sort(WINDOW_START, "predicted").unique(WINDOW_START, keep="last", maintain_order=True).tail(MAX_HISTORY - 1)
    points = [
        Point(f"{row[WINDOW_START]:%Y-%m-%d %H:%M}", row["value"], row["low"], row["high"], row["state"])
        for row in largest.iter_rows(named=True)
    ]
    return (*points, Point(window.partition, first.value, first.low, first.high, report.state))


def build_page_path(home: str, monitor: str, partition: str) -> Path:
    """Return the path of a window's page."""
    return Path(home) / "reports" / monitor / f"{partition.replace(':', '-')}.html"


def write_page(step: StepContext, monitor: Monitor, partition: str, sections: Sequence[VersionReports], *notes: str) -> None:
    """Draw a page and store it. If it cannot be drawn, log a warning and store a page that says so: the step does not fail."""
    try:
        window = window_of(monitor.partitions, partition)
        system = read_system_report(monitor, step.stores.platform, window) if monitor.objectives and window else None
        text = render_monitor(MonitorPage(monitor.name, partition, monitor.model.name, tuple(sections), notes, system))
    except Exception as error:  # noqa: BLE001  (any error of a chart)
        step.context.log.warning(f"the page of {monitor.name} {partition} cannot be drawn: {type(error).__name__}: {error}")
        text = f"<!doctype html><title>{monitor.name}</title><p>This page could not be drawn ({type(error).__name__}); the report is in the lake."
    write_atomically(build_page_path(step.stores.platform.home, monitor.name, partition), text.encode(), mode=PAGE_MODE)
