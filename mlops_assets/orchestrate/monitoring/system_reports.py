"""The step of a system report: the requests of each window by version, and the objectives of the service."""

from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
import polars as pl

from mlops_assets.compute.monitoring.system_metrics import ObjectiveVerdict, SystemReport
from mlops_assets.compute.tables.verify import Outcome
from mlops_assets.compute.text import format_number
from mlops_assets.orchestrate.core.graph import Node
from mlops_assets.orchestrate.core.metadata import to_markdown
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.monitoring.reports import WINDOW_START, build_page_path, write_page
from mlops_assets.orchestrate.monitoring.system_reading import hash_request_windows, read_system_report
from mlops_assets.orchestrate.monitoring.window_summary import WindowState, build_check_facts, build_summary_facts
from mlops_assets.orchestrate.tables.quality import CheckedTable
from mlops_assets.orchestrate.tables.tables import build_check_specs, publish_table
from mlops_assets.values.dataset import Table
from mlops_assets.values.monitoring import BREACH, GOOD, NOT_ENOUGH, Monitor
from mlops_assets.values.platform import Platform
from mlops_assets.values.window import TimeWindow

_RULES = Table(event_timestamp=WINDOW_START)
_SCHEMA: dict[str, Any] = {
    WINDOW_START: pl.Datetime("us", "UTC"),
    "version": pl.Int64,
    **dict.fromkeys(("requests", "errors", "refused", "rows", "looked_up", "missing"), pl.Int64),
    **dict.fromkeys(("requests_per_second", "error_rate", "missing_rate", "p50", "p95", "p99"), pl.Float64),
}


def system_node(monitor: Monitor, platform: Platform) -> Node:
    """Return the node of the system report; its external input is the request log of the service."""
    return Node(monitor.system_key, monitor.partitions, external_inputs=lambda keys: hash_request_windows(monitor, platform, keys))


def list_system_checks(monitor: Monitor) -> list[dg.AssetCheckSpec]:
    """Return the specs of the checks of objectives, which never keep a report from being written."""
    names = [objective.name for objective in monitor.objectives]
    return build_check_specs(monitor.system_key, names, warnings=names)


def system_body(monitor: Monitor) -> Callable[[StepContext], Iterator[object]]:
    """Return the body of the step that publishes system reports."""

    def body(step: StepContext) -> Iterator[object]:
        yield from publish_table(step, _RULES, lambda: _publish_system(step, monitor))

    return body


def _publish_system(step: StepContext, monitor: Monitor) -> CheckedTable:
    """Measure the windows of this step, write the pages that no other report draws, and return the table to commit."""
    platform = step.stores.platform
    reports = [
        (partition, window, read_system_report(monitor, platform, window)) for partition, window in step.windows if window is not None
    ]
    if not (monitor.drift or monitor.label_expectations or monitor.estimates):
        for partition, _, _ in reports:
            write_page(step, monitor, partition, [])
    partition, _, last = reports[-1]
    facts = build_summary_facts([WindowState(p, _find_state(r), _summarise(r)) for p, _, r in reports], "breached")
    facts |= {
        "requests": last.whole.requests,
        "versions": to_markdown([_describe_counts(version, counts, last.seconds) for version, counts in last.versions]),
        "page": dg.MetadataValue.path(str(build_page_path(platform.home, monitor.name, partition))),
    }
    outcomes = [
        _build_outcome(objective.name, [(p, v) for p, _, r in reports for v in r.verdicts if v.name == objective.name])
        for objective in monitor.objectives
    ]
    return CheckedTable(pl.concat([_build_rows(window, report) for _, window, report in reports]), outcomes, facts)


def _build_rows(window: TimeWindow, report: SystemReport) -> pl.DataFrame:
    rows = [
        {WINDOW_START: window.start, "version": version, **_describe_counts(version, counts, report.seconds), "looked_up": counts.looked_up}
        | {"missing": counts.missing}
        for version, counts in report.versions or ((None, report.whole),)
    ]
    return pl.DataFrame(rows, schema=_SCHEMA)


def _describe_counts(version: int | None, counts: Any, seconds: float) -> dict[str, Any]:  # noqa: ANN401  (SystemCounts)
    return {
        "version": version,
        "requests": counts.requests,
        "errors": counts.errors,
        "refused": counts.client_errors,
        "rows": counts.rows,
        "requests_per_second": counts.requests / seconds,
        "error_rate": counts.errors / counts.requests if counts.requests else None,
        "missing_rate": counts.missing_rate,
        **{name: counts.quantile(share) for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))},
    }


def _find_state(report: SystemReport) -> str:
    states = {verdict.state for verdict in report.verdicts}
    return next((state for state in (BREACH, GOOD) if state in states), NOT_ENOUGH)


def _summarise(report: SystemReport) -> str:
    whole = report.whole
    latency = "".join(f", p95 {format_number(value)} s" for value in [whole.quantile(0.95)] if value is not None)
    return "; ".join(
        [f"{whole.requests:,} requests, {whole.errors:,} failed{latency}", *(v.reason for v in report.verdicts if v.state == BREACH)]
    )


def _build_outcome(name: str, verdicts: list[tuple[str, ObjectiveVerdict]]) -> Outcome:
    breaches = [(partition, verdict) for partition, verdict in verdicts if verdict.state == BREACH]
    last = (breaches or verdicts)[-1][1]
    facts = build_check_facts([WindowState(partition, v.state, v.reason) for partition, v in verdicts], "breached") | {
        "value": last.value,
        "bound": last.bound,
        "error budget used up": last.budget_used,
        "seconds until it is exhausted": last.seconds_left,
    }
    return Outcome(
        name,
        passed=not breaches,
        blocking=False,
        serious=any(verdict.budget_used is not None and verdict.budget_used >= 1 for _, verdict in breaches),
        message="; ".join(f"{partition}: {verdict.reason}" for partition, verdict in breaches),
        hint="`mlops serve status` shows the workers, /metrics the current counts",
        facts={fact: value for fact, value in facts.items() if value is not None},
    )
