"""The metadata of a performance report: coverage, counts, metrics and slices."""

from typing import Any

from mlops_assets.compute.monitoring.performance import PerformanceReport
from mlops_assets.compute.monitoring.window_slices import WindowSlice
from mlops_assets.orchestrate.core.metadata import to_markdown

TOP = 8  # columns or slices in metadata


def list_performance_facts(report: PerformanceReport) -> dict[str, Any]:
    """Return the coverage, counts, metrics and slices of a performance report."""
    metrics = [
        {"metric": m.name, "value": m.value, "from": m.low, "to": m.high, "holdout": m.reference, "": m.problem} for m in report.metrics
    ]
    arrivals, slices = report.arrivals, [_list_slice_facts(found) for found in report.slices]
    counts = {
        "repeated labels": arrivals.repeated,
        "corrected labels": arrivals.corrected,
        "predictions that repeat a key": arrivals.duplicated,
        "bias of the labels": arrivals.bias,
    }
    curve = report.calibration
    calibration = {} if curve is None else {"expected calibration error": curve.error, "calibration drift": curve.drift}
    return {
        "coverage": arrivals.coverage,
        "labels": arrivals.labelled,
        "share without a prediction": arrivals.unpredicted / max(1, arrivals.predicted),
        **{name: value for name, value in counts.items() if value},
        **{name: value for name, value in calibration.items() if value is not None},
        **{m.name: m.value for m in report.metrics if m.value is not None},
        "metrics": to_markdown(metrics),
        **({"slices": to_markdown(slices)} if slices else {}),
        **({"worst slices": ", ".join(f"{s.column} = {s.value}" for s in report.worst_slices[:TOP])} if report.worst_slices else {}),
    }


def _list_slice_facts(found: WindowSlice) -> dict[str, Any]:
    facts: dict[str, Any] = {"slice": f"{found.column} = {found.value}", "rows": found.rows}
    for name, value in found.metrics:
        low, high = found.interval(name)
        facts |= {name: value, f"{name} from": low, f"{name} to": high}
    return facts | {"significantly below the whole": ", ".join(found.below)}
