"""The step that estimates performance before labels arrive: it reads predictions only."""

from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
import polars as pl

from mlops_assets.compute.monitoring.estimates import EstimateReport
from mlops_assets.compute.monitoring.windows import PredictionWindow
from mlops_assets.compute.pages.monitor_page import VersionReports
from mlops_assets.orchestrate.core.graph import Node
from mlops_assets.orchestrate.core.metadata import to_markdown
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.monitoring.reports import (
    RULES,
    WINDOW_START,
    build_outcomes,
    group_by_partition,
    link_predictions,
    list_window_facts,
    measure_windows,
    write_page,
)
from mlops_assets.orchestrate.monitoring.window_summary import WindowState, build_summary_facts
from mlops_assets.orchestrate.tables.quality import CheckedTable
from mlops_assets.orchestrate.tables.tables import build_check_specs, publish_table
from mlops_assets.values.monitoring import Monitor


def build_estimate_node(project: Project, monitor: Monitor) -> Node:
    """Return the node of the estimate report; the predictions are its only input, so that it never waits for labels."""
    return Node(monitor.estimate_key, monitor.partitions, (link_predictions(project, monitor),))


def list_estimate_checks(monitor: Monitor) -> list[dg.AssetCheckSpec]:
    """Return the specs of the checks of estimates, which only warn."""
    names = [expectation.name for expectation in monitor.estimates]
    return build_check_specs(monitor.estimate_key, names, warnings=names)


def build_estimate_body(monitor: Monitor) -> Callable[[StepContext], Iterator[object]]:
    """Return the body of the step that publishes estimate reports."""

    def body(step: StepContext) -> Iterator[object]:
        yield from publish_table(step, RULES, lambda: _publish_estimates(step, monitor))

    return body


def _publish_estimates(step: StepContext, monitor: Monitor) -> CheckedTable:
    """Estimate performance, write the pages, record the reports for decisions, and return the table to commit."""
    measurements = measure_windows(step, monitor, with_drift=monitor.drift is not None)
    with_performance = step.stores.lake.records(monitor.performance_key)
    for partition, group in group_by_partition(measurements).items():
        if partition not in with_performance:  # else the performance step draws the page
            write_page(step, monitor, partition, [VersionReports(m.window.version, m.drift, estimate=m.estimate) for m in group])
    records = [measured.estimate_record for measured in measurements if measured.estimate_record]
    step.stores.decisions.record_reports(monitor.name, monitor.model.name, records)
    reports = [(measured.window, measured.estimate) for measured in measurements if measured.estimate is not None]
    last, report = reports[-1]
    facts = build_summary_facts([WindowState(w.partition, r.state, r.summary, w.version) for w, r in reports], "breached")
    facts |= _list_estimate_facts(report) | list_window_facts(step, monitor, last, measurements)
    outcomes = build_outcomes([e.name for e in monitor.estimates], [(w, r.verdicts) for w, r in reports])
    return CheckedTable(pl.concat([_build_estimate_rows(w, r) for w, r in reports]), outcomes, facts)


def _build_estimate_rows(window: PredictionWindow, report: EstimateReport) -> pl.DataFrame:
    schema: dict[str, Any] = {WINDOW_START: pl.Datetime("us", "UTC"), "version": pl.Int64, "state": pl.String, "predicted": pl.Int64}
    schema |= {"metric": pl.String, **dict.fromkeys(("estimate", "low", "high", "reference"), pl.Float64), "problem": pl.String}
    common = {WINDOW_START: window.span.start, "version": window.version, "state": report.state, "predicted": report.rows}
    reference = dict(report.reference)
    rows = [
        {"metric": m.name, "estimate": m.value, "low": m.low, "high": m.high, "reference": reference.get(m.name), "problem": m.problem}
        for m in report.metrics
    ]
    return pl.DataFrame([common | row for row in rows], schema=schema)


def _list_estimate_facts(report: EstimateReport) -> dict[str, Any]:
    reference = dict(report.reference)
    rows = [
        {"metric": m.name, "estimate": m.value, "from": m.low, "to": m.high, "holdout": reference.get(m.name), "": m.problem}
        for m in report.metrics
    ]
    values = {f"estimated {m.name}": m.value for m in report.metrics if m.value is not None}
    return {"predictions": report.rows, **values, "estimates": to_markdown(rows)}
