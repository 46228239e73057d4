"""The monitor's steps: each window's predictions beside the reference of their version, and beside their labels."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from mlops_assets.compute.monitoring.drift import DriftReport, measure_drift
from mlops_assets.compute.monitoring.performance import PerformanceReport, measure_performance
from mlops_assets.compute.monitoring.profile import BY_WINDOW, WINDOW_LENGTH
from mlops_assets.compute.monitoring.statistics import reported_statistics
from mlops_assets.compute.pages.charts import Point
from mlops_assets.compute.pages.monitor_page import Page, render_monitor
from mlops_assets.compute.tables.own_columns import MODEL_VERSION, OF_PREDICTIONS, from_table
from mlops_assets.compute.tables.verify import Outcome
from mlops_assets.errors import DataError, LakeError
from mlops_assets.orchestrate.core.graph import Edge, Node
from mlops_assets.orchestrate.core.metadata import markdown
from mlops_assets.orchestrate.core.monitor_windows import predicted_partitions, report_mapping
from mlops_assets.orchestrate.core.partitions import step_of
from mlops_assets.orchestrate.core.project import Project, TableRef, row_key
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.monitoring.window_summary import WindowState, summary_facts
from mlops_assets.orchestrate.tables.tables import Made, check_specs, publish
from mlops_assets.orchestrate.training.fitted_rows import mark_fitted_rows
from mlops_assets.orchestrate.training.loop import consider
from mlops_assets.serving.formats.packaging import POSITIVE, manifest_of
from mlops_assets.serving.formats.prediction_columns import of_one_version
from mlops_assets.stores.base.files import write_whole
from mlops_assets.stores.registry.records import Version
from mlops_assets.values.dataset import Table
from mlops_assets.values.decisions import DRIFT, PERFORMANCE, Hold, WindowReport
from mlops_assets.values.monitoring import BREACH, Drift, Monitor
from mlops_assets.values.window import TimeWindow

WINDOW_START, TOP, HISTORY = "window_start", 8, 60
PAGE_MODE = 0o644  # a page is there to be shown
_RULES = Table(event_timestamp=WINDOW_START)


@dataclass(frozen=True, eq=False)
class Window:
    """One window of predictions, the version that made most of them, and whether that version was fitted on each row."""

    partition: str
    span: TimeWindow
    rows: pl.DataFrame
    version: Version | None
    fitted: pl.Series

    @property
    def unseen(self) -> pl.DataFrame:
        """The rows that the version was not fitted on: only these are judged."""
        return self.rows.filter(~self.fitted)

    @property
    def versions(self) -> str:
        """Every version that predicted, for people."""
        return ", ".join(str(v) for v in sorted(self.rows[MODEL_VERSION].unique())) or "none"


def drift_node(project: Project, monitor: Monitor) -> Node:
    """Return the drift report and the predictions that it is made from."""
    return Node(monitor.drift_key, monitor.partitions, (_predictions_edge(project, monitor),))


def performance_node(project: Project, monitor: Monitor) -> Node:
    """Return the performance report, the predictions and the data with their labels."""
    labels = (
        project.edge(p, report_mapping(project.tables[p.name].partitions, monitor)) for p in monitor.model.training_set.function.tables
    )
    return Node(monitor.performance_key, monitor.partitions, (_predictions_edge(project, monitor), *(e for e in labels if e)))


def _predictions_edge(project: Project, monitor: Monitor) -> Edge:
    partitions = predicted_partitions(project, monitor)
    return Edge(monitor.predictions_key, partitions, report_mapping(partitions, monitor), required=True)


def drift_checks(monitor: Monitor) -> list[dg.AssetCheckSpec]:
    """Return the declaration of the drift check, which warns."""
    names = [monitor.drift.name] if monitor.drift else []
    return check_specs(monitor.drift_key, names, warnings=names)


def performance_checks(monitor: Monitor) -> list[dg.AssetCheckSpec]:
    """Return the declarations of the performance checks; they tell, and block nothing."""
    names = [expectation.name for expectation in monitor.performance]
    return check_specs(monitor.performance_key, names, warnings=names)


def drift_body(monitor: Monitor) -> Callable[[StepContext], Iterator[object]]:
    """Return the body of the step that compares windows with the reference."""

    def body(step: StepContext) -> Iterator[object]:
        yield from publish(step, _RULES, lambda: _drifts(step, monitor))

    return body


def _drifts(step: StepContext, monitor: Monitor) -> Made:
    found = [(window, drift_of(step, monitor, window)) for window in _windows(step, monitor)]
    measured = step.stores.lake.records(monitor.performance_key)
    for window, report in found:
        if window.partition not in measured:  # else the performance step has drawn the page, and draws it again when the predictions change
            _write(step, monitor, Page(monitor.name, window.partition, monitor.model.name, window.versions, report))
    told = [_told(w, DRIFT, report.state, report.summary) for w, report in found if w.version]
    step.stores.decisions.report(monitor.name, monitor.model.name, told)
    last, report = found[-1]
    summed = summary_facts([WindowState(w.partition, r.state, r.summary) for w, r in found], "drifted")
    worst = max((column.severity for _, r in found for column in r.columns), default=0.0)
    outcome = Outcome(
        monitor.drift.name if monitor.drift else "",
        passed=not any(r.drifted for _, r in found),
        blocking=False,
        message="; ".join(f"{w.partition}: {', '.join(r.drifted[:TOP])} drifted" for w, r in found if r.drifted),
        hint="drift explains, performance decides: look at the page of the window",
        facts={
            "state": summed["state"],
            "windows": summed["summary"],
            "rows": sum(r.rows for _, r in found),
            "drifted": len({name for _, r in found for name in r.drifted}),
            "worst": worst,
        },
    )
    frame = pl.concat([_drift_rows(window, report) for window, report in found], how="vertical_relaxed")
    return frame, [outcome] if monitor.drift else [], summed | _drift_facts(step, monitor, last, report)


def drift_of(step: StepContext, monitor: Monitor, window: Window) -> DriftReport:
    """Compare a window with the reference of the version that made most of its predictions."""
    declared = monitor.drift or Drift()
    profile, rows, in_training = _profile(step, monitor, window.version), window.unseen, int(window.fitted.sum())
    if profile is None or (in_training and rows.is_empty()):
        why = (
            f"version {window.version.version} was fitted on all {in_training} rows of the window"
            if in_training and window.version is not None
            else "nothing was predicted"
            if rows.is_empty()
            else "no reference is stored with the version that predicted"
        )
        return DriftReport(rows.height, False, (), why, declared.false_alarm_rate, 0, in_training=in_training)  # noqa: FBT003
    report = measure_drift(
        profile,
        rows,
        columns=declared.columns,
        false_alarm_rate=declared.false_alarm_rate,
        min_psi=declared.min_psi,
        min_rows=monitor.min_rows,
    )
    left_out = f"; {in_training} rows in training data are left out" if in_training else ""
    return replace(report, in_training=in_training, summary=report.summary + left_out + _other_length(step, monitor, profile))


def _other_length(step: StepContext, monitor: Monitor, profile: Mapping[str, Any]) -> str:
    """Return that the limits were calibrated on shorter windows than the monitor's: it is newer than the version."""
    length, partitions = step_of(monitor.partitions), predicted_partitions(step.project, monitor)
    if partitions is None or length == step_of(partitions) or profile.get(WINDOW_LENGTH) == length.total_seconds():
        return ""
    return f"; its limits are calibrated on windows of {step_of(partitions)}, not of {length}: train again"


def _profile(step: StepContext, monitor: Monitor, version: Version | None) -> Mapping[str, Any] | None:
    """Return the reference of a version, calibrated on windows as long as those of the monitor where the training knew of it."""
    stored = _manifest(step, version).get("profile")
    if not stored:
        return None
    profile: dict[str, Any] = json.loads(step.stores.artifacts.get(stored))
    found: Mapping[str, Any] = profile.get(BY_WINDOW, {}).get(str(int(step_of(monitor.partitions).total_seconds())), profile)
    return found


def _manifest(step: StepContext, version: Version | None) -> Mapping[str, Any]:
    return {} if version is None else manifest_of(step.stores.artifacts, version.artifact)


def _windows(step: StepContext, monitor: Monitor) -> list[Window]:
    """Read the predictions of this step's windows."""
    ref = step.project.by_key[monitor.predictions_key]
    rows = step.read(TableRef(ref.key, ref.partitions, ref.event_timestamp))
    versions = {v.version: v for v in step.stores.registry.versions(monitor.model.name)}
    time = ref.event_timestamp or ""
    fitted = cache(
        lambda version: mark_fitted_rows(step.stores, step.project, monitor.model, version, from_table(rows, OF_PREDICTIONS), time)
    )
    found = []
    for partition, span in step.windows:
        assert span is not None  # noqa: S101  (a monitor has windows)
        here = rows[time].is_between(span.start, span.end, closed="left")
        inside = from_table(rows.filter(here), OF_PREDICTIONS)
        most = inside[MODEL_VERSION].value_counts(sort=True)
        version = versions.get(most[MODEL_VERSION][0]) if most.height else None
        found.append(Window(partition, span, inside, version, fitted(version).filter(here)))
    return found


def _told(window: Window, kind: str, state: str, reason: str) -> WindowReport:
    assert window.version is not None  # noqa: S101  (asked for by the caller)
    return WindowReport(window.partition, window.span.end, window.version.version, state, kind, reason)


def _drift_rows(window: Window, report: DriftReport) -> pl.DataFrame:
    statistics = [statistic.name for statistic in reported_statistics()]
    numbers = ("null_rate", "reference_null_rate", "new_rate", "value", "threshold", "severity")
    schema: dict[str, Any] = {
        WINDOW_START: pl.Datetime("us", "UTC"),
        "version": pl.Int64,
        "rows": pl.Int64,
        "column": pl.String,
        "kind": pl.String,
    }
    schema |= {"statistic": pl.String, "drifted": pl.Boolean, "why": pl.String, **dict.fromkeys([*statistics, *numbers], pl.Float64)}
    head = {WINDOW_START: window.span.start, "version": window.version.version if window.version else None, "rows": report.rows}
    rows = [
        head
        | {"column": c.name, "kind": c.kind, "statistic": c.statistic, "drifted": c.drifted, "why": c.why}
        | {name: c.statistics.get(name) for name in statistics}
        | {name: getattr(c, name) for name in numbers}
        for c in report.columns
    ]
    return pl.DataFrame(rows or [head], schema=schema)


def _drift_facts(step: StepContext, monitor: Monitor, window: Window, report: DriftReport) -> dict[str, Any]:
    shown = [
        {"column": c.name, "drifted": c.drifted, "severity": c.severity, "by": c.statistic, "value": c.value, "threshold": c.threshold}
        for c in report.columns
    ]
    return {
        "window": window.partition,
        "drifted columns": len(report.drifted),
        "columns": markdown(shown[:TOP]),
        "versions": window.versions,
        "page": dg.MetadataValue.path(str(page_path(step.stores.platform.home, monitor.name, window.partition))),
    }


def performance_body(monitor: Monitor) -> Callable[[StepContext], Iterator[object]]:
    """Return the body of the step that measures windows by the labels that have arrived."""

    def body(step: StepContext) -> Iterator[object]:
        yield from publish(step, _RULES, lambda: _performances(step, monitor))

    return body


def _performances(step: StepContext, monitor: Monitor) -> Made:
    labels = step.frame(monitor.model.training_set.function)
    found = [(window, _performance_of(step, monitor, window, labels)) for window in _windows(step, monitor)]
    told = [_told(w, PERFORMANCE, report.state, report.summary) for w, report in found if w.version and report.verdicts]
    step.stores.decisions.report(monitor.name, monitor.model.name, told)
    decided = consider(step.stores, step.project, monitor, step.context.instance)
    loop = decided.reason if isinstance(decided, Hold) else f"retrain: {decided.reason}"
    for window, report in found:
        # Computed, not read: it takes a fraction of a second, and so the two steps need not wait for each other.
        history, drifted = _history(step, monitor, window, report), drift_of(step, monitor, window) if monitor.drift else None
        _write(step, monitor, Page(monitor.name, window.partition, monitor.model.name, window.versions, drifted, report, history, (loop,)))
    frame = pl.concat([_performance_rows(window, report) for window, report in found], how="vertical_relaxed")
    last, report = found[-1]
    summed = summary_facts([WindowState(w.partition, r.state, r.summary) for w, r in found], "breached")
    return frame, _outcomes(monitor, found), summed | _performance_facts(step, monitor, last, report) | {"the loop": loop}


def _performance_of(step: StepContext, monitor: Monitor, window: Window, labels: pl.DataFrame) -> PerformanceReport:
    declared = monitor.model.training_set
    key = row_key(step.project, monitor.model)
    if missing := [name for name in (*key, declared.label) if name not in labels.columns]:
        raise DataError(
            f"'{monitor.performance_key}' needs the column '{missing[0]}' of '{declared.key}' to find the label of a prediction",
            hint=f"return it from the function; it returns {', '.join(labels.columns)}",
        )
    run = None if window.version is None else step.stores.tracker.get(window.version.run_id)
    every = pl.Series([True] * window.rows.height, dtype=pl.Boolean)
    mine = every if window.version is None else (window.rows[MODEL_VERSION] == window.version.version).cast(pl.Boolean)
    rows = of_one_version(window.rows.filter(mine & ~window.fitted))
    manifest = _manifest(step, window.version)
    return measure_performance(
        rows,
        labels,
        key=key,
        label=declared.label,
        metrics=monitor.model.metrics,
        slices=[name for name in monitor.model.slices if name in rows.columns],
        expectations=monitor.performance,
        reference=run.metrics if run else None,
        classes=manifest.get("classes") or None,
        positive=manifest.get(POSITIVE),
        event_timestamp=step.project.by_key[monitor.predictions_key].event_timestamp,
        block_length=declared.block_length,
        in_training=int((mine & window.fitted).sum()),
    )


def _outcomes(monitor: Monitor, found: Sequence[tuple[Window, PerformanceReport]]) -> list[Outcome]:
    return [
        _outcome(name, [(w, v) for w, report in found for v in report.verdicts if v.expectation == name])
        for name in (e.name for e in monitor.performance)
    ]


def _outcome(name: str, verdicts: Sequence[tuple[Window, Any]]) -> Outcome:
    bad = [(window, verdict) for window, verdict in verdicts if verdict.state == BREACH]
    facts: dict[str, Any] = {}
    if verdicts:
        summed = summary_facts([WindowState(window.partition, verdict.state, verdict.reason) for window, verdict in verdicts], "breached")
        last = bad[-1][1] if bad else verdicts[-1][1]
        facts = {"state": summed["state"], "windows": summed["summary"]}
        facts |= {k: v for k, v in (("value", last.value), ("bound", last.bound)) if v is not None}
    return Outcome(
        name,
        passed=not bad,
        blocking=False,
        message="; ".join(f"{window.partition}: {verdict.reason}" for window, verdict in bad),
        hint="the monitor retrains when it says so; `mlops monitor show` tells what it decided",
        facts=facts,
    )


def _performance_rows(window: Window, report: PerformanceReport) -> pl.DataFrame:
    schema: dict[str, Any] = {
        WINDOW_START: pl.Datetime("us", "UTC"),
        "version": pl.Int64,
        "state": pl.String,
        "predicted": pl.Int64,
        "labelled": pl.Int64,
    }
    schema |= {
        "metric": pl.String,
        "value": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
        "reference": pl.Float64,
        "problem": pl.String,
    }
    head = {WINDOW_START: window.span.start, "version": window.version.version if window.version else None, "state": report.state}
    head |= {"predicted": report.arrivals.predicted, "labelled": report.arrivals.labelled}
    names = ("value", "low", "high", "reference", "problem")
    return pl.DataFrame([head | {"metric": m.name} | {n: getattr(m, n) for n in names} for m in report.metrics] or [head], schema=schema)


def _performance_facts(step: StepContext, monitor: Monitor, window: Window, report: PerformanceReport) -> dict[str, Any]:
    shown = [
        {"metric": m.name, "value": m.value, "from": m.low, "to": m.high, "holdout": m.reference, "": m.problem} for m in report.metrics
    ]
    slices = [{"slice": f"{s.column} = {s.value}", "rows": s.rows, **dict(s.metrics)} for s in report.slices]
    return {
        "window": window.partition,
        "coverage": report.arrivals.coverage,
        "labels": report.arrivals.labelled,
        "share without a prediction": report.arrivals.unpredicted / max(1, report.arrivals.predicted),
        **{m.name: m.value for m in report.metrics if m.value is not None},
        "metrics": markdown(shown),
        **({"slices": markdown(slices)} if slices else {}),
        "versions": window.versions,
        "page": dg.MetadataValue.path(str(page_path(step.stores.platform.home, monitor.name, window.partition))),
    }


def _history(step: StepContext, monitor: Monitor, window: Window, report: PerformanceReport) -> tuple[Point, ...]:
    """Return the first metric of the windows before this one, and of this one."""
    if not report.metrics:
        return ()
    first = report.metrics[0]
    try:
        earlier = step.stores.lake.read(monitor.performance_key, snapshot=step.snapshot)
    except LakeError:
        earlier = pl.DataFrame(schema={WINDOW_START: pl.Datetime("us", "UTC"), "metric": pl.String})
    mine = (
        earlier.filter((pl.col("metric") == first.name) & (pl.col(WINDOW_START) < window.span.start)).sort(WINDOW_START).tail(HISTORY - 1)
    )
    points = [
        Point(f"{row[WINDOW_START]:%Y-%m-%d %H:%M}", row["value"], row["low"], row["high"], row["state"])
        for row in mine.iter_rows(named=True)
    ]
    return (*points, Point(window.partition, first.value, first.low, first.high, report.state))


def page_path(home: str, monitor: str, partition: str) -> Path:
    """Return the page of a window."""
    return Path(home) / "reports" / monitor / f"{partition.replace(':', '-')}.html"


def _write(step: StepContext, monitor: Monitor, page: Page) -> None:
    """Draw a page and keep it; one that cannot be drawn is warned of and fails no step."""
    try:
        text = render_monitor(page)
    except Exception as error:  # noqa: BLE001  (whatever a chart ends in)
        step.context.log.warning(f"the page of {monitor.name} {page.partition} cannot be drawn: {type(error).__name__}: {error}")
        text = f"<!doctype html><title>{monitor.name}</title><p>This page could not be drawn ({type(error).__name__}); the report is in the lake."
    write_whole(page_path(step.stores.platform.home, monitor.name, page.partition), text.encode(), mode=PAGE_MODE)
