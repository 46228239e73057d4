"""Runs compared on one page: self-contained, without scripts, readable without colours, on paper and in the dark."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

from mlops_assets.compute.pages.charts import Line, lines, number
from mlops_assets.compute.pages.run_comparison import metric_rows, param_rows
from mlops_assets.compute.pages.style import STYLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mlops_assets.compute.pages.run_comparison import ComparedRun, MetricRow, ParamRow

MOST_CURVES = 60
_STYLE = """
.of0{--line:#1f5fd0}.of1{--line:#c2410c}.of2{--line:#12703f}.of3{--line:#8b3fb8}.of4{--line:#b3261e}.of5{--line:#0e7490}.of6{--line:#7a5c00}.of7{--line:#4c5a6e}
@media (prefers-color-scheme:dark){.of0{--line:#78a9ff}.of1{--line:#ffa06b}.of2{--line:#6fd29b}.of3{--line:#d3a1f5}.of4{--line:#ff9087}.of5{--line:#67d3e8}
.of6{--line:#e5c558}.of7{--line:#b1bccb}}
.series{fill:none;stroke:var(--line);stroke-width:1.75;stroke-linejoin:round}.dot{fill:var(--line)}
.of1.series,.of5.series{stroke-dasharray:6 3}.of2.series,.of6.series{stroke-dasharray:2 3}.of3.series,.of7.series{stroke-dasharray:8 3 2 3}
.runs svg,.key svg{display:inline-block;width:30px;height:10px;margin-right:8px;vertical-align:0}
.key{margin-bottom:2px}.curves{display:grid;grid-template-columns:repeat(auto-fill,minmax(330px,1fr));gap:14px;margin-top:12px}
.curves figure{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:12px 14px;break-inside:avoid;min-width:0}
figcaption{font-weight:600;font-size:13.5px;overflow-wrap:anywhere;margin-bottom:6px}
td,thead th{padding-left:14px}td:first-child,th:first-child{padding-left:0}tbody th{font-weight:500;max-width:44ch;white-space:normal;overflow-wrap:anywhere}
td.value{max-width:36ch;white-space:normal;overflow-wrap:anywhere}
.best{font-weight:700;color:var(--good)}tr.differs td{font-weight:600}tr.same{color:var(--faint)}
"""


def runs_page(runs: Sequence[ComparedRun]) -> str:
    """Return runs side by side as one HTML document: metrics with the best marked, parameters, curves.

    Parameters
    ----------
    runs
        In the order of the columns.
    """
    title = f"{len(runs)} runs of {', '.join(dict.fromkeys(run.experiment for run in runs))}"
    body = [
        f'<header><p class="faint small">Comparison of runs</p><h1>{escape(title)}</h1></header>',
        _runs(runs),
        *_metrics(runs),
        *_params(runs),
        *_curves(runs),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{_STYLE}</style></head><body><main>{''.join(body)}</main></body></html>"
    )


def _runs(runs: Sequence[ComparedRun]) -> str:
    rows = [
        f"<tr><th>{_swatch(i)}{escape(run.title)}</th><td>{escape(run.experiment)}</td><td>{escape(run.status)}</td>"
        f"<td>{run.started_at:%Y-%m-%d %H:%M:%S} UTC</td><td>{_duration(run)}</td><td class='value'>{escape(_tags(run))}</td></tr>"
        for i, run in enumerate(runs)
    ]
    return _table(("run", "experiment", "status", "started", "took", "tags"), rows, "runs")


def _metrics(runs: Sequence[ComparedRun]) -> Iterable[str]:
    rows = metric_rows(runs)
    if rows:
        yield "<h2>Metrics</h2>"
        yield '<p class="faint small">The last value of each; ✓ marks the best: the smallest (↓) of losses and errors, else the greatest (↑).</p>'
        yield _table(("metric", *(run.title for run in runs)), [_metric(row) for row in rows], "metrics")


def _metric(row: MetricRow) -> str:
    cells = [f'<td class="best">✓ {_figure(v)}</td>' if i in row.best else f"<td>{_figure(v)}</td>" for i, v in enumerate(row.values)]
    return f"<tr><th>{escape(row.name)} <span class='faint'>{'↓' if row.smaller else '↑'}</span></th>{''.join(cells)}</tr>"


def _params(runs: Sequence[ComparedRun]) -> Iterable[str]:
    rows = param_rows(runs)
    if rows:
        count = sum(row.differs for row in rows)
        yield f"<h2>Parameters</h2><p class='faint small'>{count} of {len(rows)} differ, {'and come first' if count else 'all are equal'}.</p>"
        yield _table(("parameter", *(run.title for run in runs)), [_param(row) for row in rows], "params")


def _param(row: ParamRow) -> str:
    cells = "".join(f"<td class='value'>{'–' if value is None else escape(value)}</td>" for value in row.values)
    return f'<tr class="{"differs" if row.differs else "same"}"><th>{escape(row.name)}</th>{cells}</tr>'


def _curves(runs: Sequence[ComparedRun]) -> Iterable[str]:
    names = sorted({name for run in runs for name, (steps, _) in run.curves.items() if len(steps) > 1})
    if not names:
        return
    more = f" The first {MOST_CURVES} of {len(names)}." if len(names) > MOST_CURVES else ""
    yield f"<h2>Curves</h2><p class='faint small'>By step.{more}</p>"
    yield f'<p class="key">{"".join(f"<span>{_swatch(i)}{escape(run.title)}</span>" for i, run in enumerate(runs))}</p>'
    yield '<div class="curves">'
    for name in names[:MOST_CURVES]:
        drawn = [Line(run.title, *run.curves[name], kind=f"of{i % 8}") for i, run in enumerate(runs) if name in run.curves]
        yield f"<figure><figcaption>{escape(name)}</figcaption>{lines(drawn, f'{name} by step')}</figure>"
    yield "</div>"


def _table(head: Sequence[str], rows: Sequence[str], kind: str) -> str:
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    return f'<div class="table"><table class="{kind}"><thead><tr>{cells}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _swatch(i: int) -> str:
    return f'<svg viewBox="0 0 30 10" aria-hidden="true"><path class="series of{i % 8}" d="M1 5h28"/></svg>'


def _figure(value: float | None) -> str:
    if value is None:
        return "–"
    if not math.isfinite(value):
        return {"nan": "NaN", "inf": "∞", "-inf": "−∞"}[str(float(value))]
    return number(value, 5)


def _duration(run: ComparedRun) -> str:
    if run.duration is None:
        return "–"
    seconds = run.duration.total_seconds()
    return f"{number(seconds)} s" if seconds < 120 else f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _tags(run: ComparedRun) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(run.tags.items()))
