"""One window's reports as a page: light, self-contained, readable without colours, on paper and in the dark."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from mlops_assets.compute.monitoring.cells import CATEGORICAL
from mlops_assets.compute.monitoring.column_drift import NAMES
from mlops_assets.compute.monitoring.drift import RULE
from mlops_assets.compute.pages import charts
from mlops_assets.compute.pages.charts import Point, number
from mlops_assets.compute.pages.style import STYLE
from mlops_assets.values.monitoring import BREACH, GOOD, IN_TRAINING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mlops_assets.compute.monitoring.column_drift import ColumnDrift
    from mlops_assets.compute.monitoring.drift import DriftReport
    from mlops_assets.compute.monitoring.performance import Metric, PerformanceReport
    from mlops_assets.values.evaluation import SliceMetrics

MOST_CHARTS, MOST_ROWS = 6, 150
SLICE_ROWS = 30  # a slice with fewer says nothing
_SHORT = {"ks": "KS", "wasserstein": "Wasserstein", "js": "JS", "null_rate": "null rate"}


@dataclass(frozen=True)
class Page:
    """What a page shows.

    Parameters
    ----------
    monitor, partition
        Name and window.
    model, version
        What made the predictions; several versions as text, e.g. ``"6, 7"``.
    drift, performance
        The reports; None for one that there is not (yet).
    history
        The first metric of this and earlier windows, oldest first, this one last.
    notes
        What else there is to say, e.g. what was decided.
    """

    monitor: str
    partition: str
    model: str
    version: str
    drift: DriftReport | None = None
    performance: PerformanceReport | None = None
    history: tuple[Point, ...] = ()
    notes: tuple[str, ...] = ()


def monitor_page(page: Page) -> str:
    """Return a window's reports as one HTML document without scripts and without anything to load.

    Parameters
    ----------
    page
        What it shows.
    """
    title = f"{page.monitor}, {page.partition}"
    origin = f"Predictions of {page.model}, version {page.version}"
    body = [
        f'<header><p class="faint small">Monitor</p><h1>{escape(title)}</h1><p class="faint">{escape(origin)}</p></header>',
        f'<div class="states">{_performance_state(page.performance)}{_drift_state(page.drift)}</div>',
        *(f"<p>{escape(note)}</p>" for note in page.notes),
        *_performance(page),
        *_drift(page.drift),
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>{''.join(body)}</main></body></html>"
    )


def _state(kind: str, mark: str, headline: str, text: str) -> str:
    return f'<section class="state {kind}"><strong>{mark} {escape(headline)}</strong><p>{escape(text)}</p></section>'


def _performance_state(report: PerformanceReport | None) -> str:
    if report is None:
        return _state("", "–", "No performance report", "labels are not joined to these predictions")
    kind, mark, headline = {
        GOOD: ("good", "✓", "Performance is good" if report.verdicts else "Performance is measured"),
        BREACH: ("bad", "✗", "Performance is too low"),
        IN_TRAINING: ("", "–", "In training data: performance is not judged"),
    }.get(report.state, ("", "…", "Not enough data to judge performance"))
    return _state(kind, mark, headline, report.summary.partition(": ")[2])


def _drift_state(report: DriftReport | None) -> str:
    if report is None:
        return _state("", "–", "No drift report", "the monitor expects nothing of drift")
    if report.state == IN_TRAINING:
        return _state("", "–", "In training data: drift is not judged", report.summary)
    if not report.enough:
        return _state("", "…", "Not enough data to judge drift", report.summary)
    count = len(report.drifted)
    if not count:
        return _state("good", "✓", "No drift", f"{len(report.columns)} columns look as they did in training, on {report.rows:,} rows.")
    return _state(
        "warn", "!", f"{count} of {len(report.columns)} columns drifted", ", ".join(report.drifted[:8]) + ("…" if count > 8 else "")
    )


def _drift(report: DriftReport | None) -> Iterable[str]:
    if report is None or not report.columns:
        return
    yield "<h2>Most drifted columns</h2>"
    yield (
        '<p class="key"><span><i style="background:var(--then)"></i>reference</span><span><i style="background:var(--now)"></i>this window</span>'
        "<span>below each chart: this window (◆) among windows of the reference, and the threshold (dashed)</span></p>"
    )
    shown = [column for column in report.columns if column.bars][:MOST_CHARTS]
    broken = [column for column in report.columns if not column.bars and column.drifted]
    yield f'<div class="cards">{"".join(_card(column) for column in [*broken[:MOST_CHARTS], *shown])}</div>'
    yield _columns_table(report.columns)
    yield f"<footer>{escape(_thresholds_text(report))}</footer>"


def _card(column: ColumnDrift) -> str:
    tag = (
        f'<span class="tag warn">{_times(column.severity)} the threshold</span>'
        if column.drifted
        else '<span class="tag">within its threshold</span>'
    )
    said = f"{column.name}: shares of values in the reference and in this window. {column.why}"
    draw = charts.rows if column.kind == CATEGORICAL else charts.columns
    chart = draw(column.bars, said) if column.bars else ""
    strip = ""
    if column.bars and column.value is not None and column.threshold and math.isfinite(column.severity):
        told = f"{NAMES[column.statistic]} {number(column.value)}, threshold {number(column.threshold)}"
        strip = charts.strip(column.usual, column.threshold, column.value, told)
    return f'<article class="card"><header><h3>{escape(column.name)}</h3>{tag}</header><p>{escape(column.why)}</p>{chart}{strip}</article>'


def _times(severity: float) -> str:
    return f"{number(severity, 2)} ×" if math.isfinite(severity) else "beyond"


def _columns_table(columns: Sequence[ColumnDrift]) -> str:
    heads = ("column", "× threshold", "decided by", "KS", "Wasserstein", "PSI", "JS", "null", "reference null", "new")
    body = "".join(_column_row(column) for column in columns[:MOST_ROWS])
    rest = f"; {len(columns) - MOST_ROWS} more are nearer to the reference than these" if len(columns) > MOST_ROWS else ""
    return _table(
        f"All columns, most drifted first{rest}. KS: Kolmogorov–Smirnov; Wasserstein in standard deviations of the reference; JS: Jensen–Shannon.",
        heads,
        body,
        "All columns",
    )


def _column_row(column: ColumnDrift) -> str:
    share = min(column.severity, 1.5) / 1.5 if math.isfinite(column.severity) else 1.0
    gauge = f'<span class="gauge" aria-hidden="true"><b style="width:{share * 100:.0f}%"></b></span>'
    severity = f'<span class="mark">{"▲ " if column.drifted else ""}{number(column.severity, 2)}</span>'
    cells = [
        f"{gauge}{severity}",
        escape(_SHORT.get(column.statistic, column.why)),
        *(number(value) for value in (column.ks, column.wasserstein, column.psi, column.js)),
        *(_share(value) for value in (column.null_rate, column.reference_null_rate, column.new_rate)),
    ]
    kind = ' class="warn"' if column.drifted else ""
    return f'<tr{kind}><th scope="row">{escape(column.name)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _thresholds_text(report: DriftReport) -> str:
    share = f"{report.false_alarm_rate:.2g} of the windows without drift alarm"
    if not report.windows:
        return f"Thresholds: {share}, if rows are independent; the reference has no event times from which to learn how its windows differ."
    few = (
        f", extrapolated as there are fewer than {math.ceil(1 / report.false_alarm_rate)}"
        if report.windows < 1 / report.false_alarm_rate
        else ""
    )
    return (
        f"Thresholds: {share}, judged by how {report.windows} windows of the reference differ from the rest of it{few}. "
        f"Less than the least effect is never drift.{_few_windows_text(report)}"
    )


def _few_windows_text(report: DriftReport) -> str:
    """Say which columns have too few reference windows, which rule judges them, and how often that rule alarms without drift."""
    if not report.by_rank:
        return ""
    return (
        f" Cannot be judged at {report.false_alarm_rate:.2g}: {', '.join(report.by_rank)}, for {report.windows} reference windows, {report.needed} needed. "
        f"{RULE}; without drift at most one window in {report.windows + 1} exceeds the former in one column, and about a quarter of these the limit."
    )


def _performance(page: Page) -> Iterable[str]:
    report = page.performance
    if report is None:
        return
    arrivals = report.arrivals
    yield "<h2>Performance</h2>"
    extra = f"; {arrivals.keyless} predictions have no key" if arrivals.keyless else ""
    extra += f"; {report.in_training:,} predictions of rows in training data are left out" if report.in_training else ""
    yield f'<p class="faint">{arrivals.labelled:,} of {arrivals.predicted:,} predictions have a label ({arrivals.coverage:.1%}){extra}.</p>'
    if report.metrics:
        heads = ("metric", "value", "interval", "on the holdout", "")
        caption = "Metrics, greater is better; intervals allow for chance in these rows" + (
            f" ({report.intervals})." if report.intervals else "."
        )
        yield _table(caption, heads, "".join(map(_metric_row, report.metrics)), "Metrics")
    if len(page.history) > 1 and report.metrics:
        yield _history(page.history, report)
    yield from _details(report)


def _history(points: Sequence[Point], report: PerformanceReport) -> str:
    name = report.metrics[0].name
    bound = report.verdicts[0].bound if report.verdicts else None
    line = f"; dashed: the least value that is good, {number(bound)}" if bound is not None else ""
    caption = f"{name} by window with its interval; red: a breach; hollow: not enough data, or in training data{line}"
    chart = charts.history(points, bound, f"{name} of {len(points)} windows, the last one {number(points[-1].value)}")
    return f'<figure class="wide scroll"><figcaption class="faint small">{escape(caption)}</figcaption>{chart}</figure>'


def _metric_row(metric: Metric) -> str:
    between = f"{number(metric.low)} to {number(metric.high)}" if metric.low is not None else "–"
    return (
        f'<tr><th scope="row">{escape(metric.name)}</th><td>{number(metric.value)}</td><td>{between}</td><td>{number(metric.reference)}</td>'
        f'<td class="words faint">{escape(metric.problem)}</td></tr>'
    )


def _details(report: PerformanceReport) -> Iterable[str]:
    plot, slices = "", ""
    if report.calibration and report.calibration.bins:
        said = f"Predicted against observed; expected calibration error {number(report.calibration.error)}"
        chart = charts.reliability(report.calibration, said)
        plot = f'<figure><figcaption class="faint small">{escape(said)}</figcaption>{chart}</figure>'
    large = [one for one in report.slices if one.rows >= SLICE_ROWS]
    if large:
        heads = ("slice", "rows", *(name for name, _ in large[0].metrics))
        few = len(report.slices) - len(large[:MOST_ROWS])
        left_out = f", {few} with fewer than {SLICE_ROWS} rows left out" if few else ""
        slices = _table(f"By slice{left_out}.", heads, "".join(map(_slice_row, large[:MOST_ROWS])), "Slices")
    if plot or slices:
        yield f'<div class="wide pair">{plot}{slices}</div>'


def _slice_row(found: SliceMetrics) -> str:
    values = "".join(f"<td>{number(value)}</td>" for _, value in found.metrics)
    return f'<tr><th scope="row">{escape(f"{found.column} {found.value}")}</th><td>{found.rows:,}</td>{values}</tr>'


def _table(caption: str, heads: Sequence[str], body: str, label: str) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    return (
        f'<div class="table" role="region" aria-label="{escape(label)}" tabindex="0"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
