"""Small charts as inline SVG: no script, colours from the page's style sheet, and a text alternative."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Literal

from mlops_assets.compute.text import format_number, truncate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mlops_assets.compute.drift.column_drift import HistogramBar
    from mlops_assets.compute.training.calibration import CalibrationCurve

MAX_THRESHOLDS = 3.0  # a statistic larger than this multiple of its threshold is drawn at the end of the axis


@dataclass(frozen=True)
class Point:
    """One window in a history.

    Parameters
    ----------
    label
        The name of the window.
    value
        The metric in the window; None where it is not known.
    low, high
        Ends of the metric's confidence interval.
    state
        ``good``, ``breach``, ``not enough data``, ``cannot be measured`` or ``in training data``.
    """

    label: str
    value: float | None
    low: float | None = None
    high: float | None = None
    state: str = "good"


@dataclass(frozen=True)
class TimelineMark:
    """An event of one window in a history.

    Parameters
    ----------
    index
        The position of the window among the points.
    kind
        ``version`` (a vertical line), ``drift`` or ``decision`` (a sign below the chart).
    text
        What happened.
    """

    index: int
    kind: Literal["version", "drift", "decision"]
    text: str


@dataclass(frozen=True, eq=False)
class Line:
    """One line of a chart.

    Parameters
    ----------
    label
        The name of the line, such as the run.
    x, y
        The line's points in the order of x; a value that is not finite makes a gap.
    kind
        The CSS class of the line.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    kind: str


def draw_histogram(bars: Sequence[HistogramBar], label: str) -> str:
    """Return a histogram as SVG: wide bars of the reference, with the window's narrow bars in front.

    Parameters
    ----------
    bars
        In order of the values.
    label
        The text alternative: what the chart shows.
    """
    width, height, foot = 320.0, 96.0, 18.0
    slot = width / max(len(bars), 1)
    top = max((share for bar in bars for share in (bar.reference, bar.current)), default=0) or 1.0

    def draw_bars(shares: Iterable[float], part: float) -> str:
        gap = slot * (1 - part) / 2
        placed = ((i * slot + gap, share / top * height) for i, share in enumerate(shares) if share)
        return "".join(
            f"M{_format_coordinate(x)} {_format_coordinate(height)}v{_format_coordinate(-tall)}h{_format_coordinate(slot * part)}v{_format_coordinate(tall)}z"
            for x, tall in placed
        )

    shapes = [
        f'<path class="reference" d="{draw_bars((bar.reference for bar in bars), 0.92)}"/>',
        f'<path class="current" d="{draw_bars((bar.current for bar in bars), 0.5)}"/>',
        f'<path class="axis" d="M0 {height}H{width}"/>',
        *(_draw_name(bar.label, (i + 0.5) * slot, height + 13, width) for i, bar in _select_named(bars)),
    ]
    return _wrap_svg(width, height + foot, label, shapes)


def draw_categories(bars: Sequence[HistogramBar], label: str, write: Callable[[float], str] = "{:.1%}".format, letters: int = 14) -> str:
    """Return a bar chart as SVG: horizontal bars of reference and window, with names and the window's shares or numbers.

    Parameters
    ----------
    bars
        Most frequent first.
    label
        The text alternative: what the chart shows.
    write
        Function from a share or number to its text.
    letters
        The maximum length of a name; longer ones are cut.
    """
    width, line, left = 320.0, 19.0, 8 + 6.0 * letters
    top = max((share for bar in bars for share in (bar.reference, bar.current)), default=0) or 1.0
    scale = (width - left - 44) / top
    shapes = []
    for i, bar in enumerate(bars):
        y = i * line
        shapes.append(
            f'<text x="{left - 6}" y="{_format_coordinate(y + 12)}" text-anchor="end">{escape(truncate(bar.label, letters))}</text>'
        )
        shapes.append(
            f'<path class="reference" d="M{left} {_format_coordinate(y + 2)}h{_format_coordinate(max(bar.reference * scale, 0.5))}v13h{_format_coordinate(-max(bar.reference * scale, 0.5))}z"/>'
        )
        shapes.append(
            f'<path class="current" d="M{left} {_format_coordinate(y + 5.5)}h{_format_coordinate(bar.current * scale)}v6h{_format_coordinate(-bar.current * scale)}z"/>'
        )
        end = left + max(bar.reference, bar.current) * scale + 5
        shapes.append(
            f'<text class="faint" x="{_format_coordinate(end)}" y="{_format_coordinate(y + 12)}">{escape(write(bar.current))}</text>'
        )
    return _wrap_svg(width, line * max(len(bars), 1), label, shapes)


def draw_threshold(reference_values: Sequence[float], threshold: float, value: float, label: str) -> str:
    """Return one axis as SVG with the threshold of a drift statistic, and its values in this window and in the reference windows.

    The axis ends at the largest of these values, at most at :data:`MAX_THRESHOLDS` thresholds; larger values are drawn at its end.

    Parameters
    ----------
    reference_values
        The statistic's values in the reference windows.
    threshold, value
        The threshold, and the statistic's value in this window.
    label
        The text alternative: what the chart shows.
    """
    width, middle = 320.0, 11.0
    limit = min(max([threshold * 1.15, value * 1.05, *reference_values]), threshold * MAX_THRESHOLDS) or 1.0
    scale = (width - 16) / limit

    def place(amount: float) -> float:
        return 6 + min(amount, limit) * scale

    dots = "".join(f"M{_format_coordinate(place(amount))} {middle}h0" for amount in reference_values)
    bad = value > threshold
    mark = _format_coordinate(place(value))
    shape = f"M{mark} {middle - 6}l6 6l-6 6l-6-6z" if value <= limit else f"M{_format_coordinate(width - 12)} {middle - 6}l10 6l-10 6z"
    return _wrap_svg(
        width,
        22.0,
        label,
        [
            f'<path class="axis" d="M6 {middle}H{width - 2}"/>',
            f'<path class="usual" d="{dots}"/>',
            f'<path class="limit" d="M{_format_coordinate(place(threshold))} 1v20"/>',
            f'<path class="{"bad" if bad else "now"}" d="{shape}"/>',
        ],
    )


def draw_history(points: Sequence[Point], bound: float | None, label: str, marks: Sequence[TimelineMark] = ()) -> str:
    """Return a chart of a metric over windows as SVG, with its intervals and the bound; empty when no value is known.

    Parameters
    ----------
    points
        Oldest first; the last is this window.
    bound
        The minimum that the expectation allows; None without one.
    label
        The text alternative: what the chart shows.
    marks
        Changes of the version, alarms and decisions.
    """
    width, height, left = 1040.0, 170.0, 48.0
    values = [x for p in points for x in (p.value, p.low, p.high) if x is not None] + ([bound] if bound is not None else [])
    if not values:
        return ""
    low, high = min(values), max(values)
    pad = (high - low) * 0.08 or 0.05
    low, high = low - pad, high + pad
    step = (width - left - 14) / max(len(points) - 1, 1)

    def place(i: int, value: float) -> tuple[str, str]:
        return _format_coordinate(left + i * step), _format_coordinate(8 + (high - value) / (high - low) * (height - 16))

    known_points = [(i, p) for i, p in enumerate(points) if p.value is not None]
    axis_values = [v for v in (low + pad, high - pad) if bound is None or abs(v - bound) > (high - low) * 0.1]
    shapes = [
        f'<text class="faint" x="{left - 6}" y="{place(0, v)[1]}" dy="4" text-anchor="end">{format_number(v)}</text>' for v in axis_values
    ]
    if bound is not None:
        y = place(0, bound)[1]
        shapes.append(
            f'<path class="limit" d="M{left} {y}H{width - 8}"/><text class="limit-text" x="{left - 6}" y="{y}" dy="4" text-anchor="end">{format_number(bound)}</text>'
        )
    spans = [(i, place(i, p.low), place(i, p.high)) for i, p in known_points if p.low is not None and p.high is not None]
    shapes.append(f'<path class="interval" d="{"".join(f"M{a[0]} {a[1]}V{b[1]}" for _, a, b in spans)}"/>')
    line = "".join(f"{'ML'[k > 0]}{' '.join(place(i, p.value or 0.0))}" for k, (i, p) in enumerate(known_points))
    shapes.append(f'<path class="line" d="{line}"/>')
    for i, p in known_points:
        x, y = place(i, p.value or 0.0)
        kind = {"breach": "bad", "good": "now"}.get(p.state, "unsure")
        size = 5 if i == len(points) - 1 else 3
        shapes.append(
            f'<circle class="{kind}" cx="{x}" cy="{y}" r="{size}"><title>{escape(p.label)}: {format_number(p.value)} ({escape(p.state)})</title></circle>'
        )
    shapes.append(f'<text class="faint" x="{left}" y="{height + 10}">{escape(truncate(points[0].label, 24))}</text>')
    if len(points) > 1:
        shapes.append(
            f'<text class="faint" x="{width - 8}" y="{height + 10}" text-anchor="end">{escape(truncate(points[-1].label, 24))}</text>'
        )
    shapes += [_draw_mark(mark, left + mark.index * step, height) for mark in marks]
    return _wrap_svg(width, height + (48 if marks else 16), label, shapes)


def _draw_mark(mark: TimelineMark, x: float, height: float) -> str:
    """Return a vertical line at ``x`` in a chart of this height, or a sign below the chart."""
    title = f"<title>{escape(mark.text)}</title>"
    if mark.kind == "version":
        text = f'<text x="{_format_coordinate(x + 4)}" y="12">{escape(truncate(mark.text, 16))}</text>'
        return f'<g>{title}<path class="version" d="M{_format_coordinate(x)} 4V{_format_coordinate(height - 4)}"/>{text}</g>'
    if mark.kind == "drift":
        return f'<path class="drift-mark" d="M{_format_coordinate(x)} {_format_coordinate(height + 19)}l5 9h-10z">{title}</path>'
    return f'<path class="bad" d="M{_format_coordinate(x)} {_format_coordinate(height + 35)}l5 5-5 5-5-5z">{title}</path>'


def draw_lines(lines: Sequence[Line], label: str, *, width: float = 340.0, ends: tuple[str, str] | None = None) -> str:
    """Return a chart of lines over common axes as SVG; only the text "no finite value" when no value is finite.

    Parameters
    ----------
    lines
        The lines. A line of more than 400 points is thinned to the minimum and the maximum of each group of neighbouring points.
    label
        The text alternative: what the chart shows.
    width
        The width in units of the picture; its height is 170.
    ends
        The names of the first and the last x; the numbers when None.
    """
    height, left = 170.0, 50.0
    finite_points = [(float(x), float(y)) for line in lines for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
    if not finite_points:
        return _wrap_svg(width, 40.0, label, ['<text class="faint" x="0" y="20">no finite value</text>'])
    (first, last), (low, high) = ((min(axis), max(axis)) for axis in zip(*finite_points, strict=True))
    pad = (high - low) * 0.06 or abs(high) * 0.05 or 0.05
    across, up = (width - left - 8) / ((last - first) or 1.0), (height - 12) / (high - low + 2 * pad)

    def place(x: float, y: float) -> tuple[str, str]:
        return _format_coordinate(left + (x - first) * across), _format_coordinate(6 + (high + pad - y) * up)

    shapes = [
        f'<path class="axis" d="M{left} 6V{height - 6}H{width - 4}"/>',
        *(
            f'<text class="faint" x="{left - 6}" y="{place(first, value)[1]}" dy="4" text-anchor="end">{format_number(value)}</text>'
            for value in dict.fromkeys((low, (low + high) / 2, high))
        ),
        *(
            f'<text class="faint" x="{place(x, low)[0]}" y="{height + 9}" text-anchor="{anchor}">{escape(name)}</text>'
            for x, anchor, name in dict.fromkeys(zip((first, last), ("start", "end"), ends or (f"{first:g}", f"{last:g}"), strict=True))
        ),
    ]
    for line in lines:
        path = "".join(f"M{' L'.join(' '.join(place(x, y)) for x, y in piece)}" for piece in _split_line(line) if len(piece) > 1)
        dots = "".join(
            '<circle class="dot {}" cx="{}" cy="{}" r="3"/>'.format(line.kind, *place(*piece[0]))
            for piece in _split_line(line)
            if len(piece) == 1
        )
        shapes.append(f'<g><title>{escape(line.label)}</title><path class="series {line.kind}" d="{path}"/>{dots}</g>')
    return _wrap_svg(width, height + 14, label, shapes)


def _split_line(line: Line, max_points: int = 400) -> list[list[tuple[float, float]]]:
    """Return the pieces of a line between its gaps; a piece of more than ``max_points`` points is thinned to about that many."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(line.x, line.y, strict=True):
        if math.isfinite(y):
            pieces[-1].append((float(x), float(y)))
        elif pieces[-1]:
            pieces.append([])
    size = max(1, 2 * len(line.x) // max_points)
    return [piece if len(piece) <= max_points else _thin_points(piece, size) for piece in pieces if piece]


def _thin_points(piece: list[tuple[float, float]], size: int) -> list[tuple[float, float]]:
    """Return the minimum and the maximum of each group of ``size`` neighbouring points, in the order of x."""
    groups = [piece[i : i + size] for i in range(0, len(piece), size)]
    ends = [{min(points, key=lambda p: p[1]), max(points, key=lambda p: p[1])} for points in groups]
    return [point for extremes in ends for point in sorted(extremes)]


def draw_reliability(curve: CalibrationCurve, label: str) -> str:
    """Return a reliability diagram as SVG: observed against predicted values of each bin, and the diagonal of perfect calibration.

    A vertical bar reaches two standard errors above and below the observed value.

    Parameters
    ----------
    curve
        From :func:`mlops_assets.compute.training.calibration.compute_calibration_curve`.
    label
        The text alternative: what the chart shows.
    """
    side, left = 240.0, 40.0
    ends = [x for b in curve.bins for x in (b.predicted, b.observed - 2 * b.error, b.observed + 2 * b.error)]
    shares = all(0 <= b.predicted <= 1 and 0 <= b.observed <= 1 for b in curve.bins)
    low, high = (0.0, 1.0) if shares else (min(ends), max(ends))
    if high <= low:
        low, high = low - 1, high + 1

    def x(value: float) -> str:
        return _format_coordinate(left + (min(max(value, low), high) - low) / (high - low) * (side - 8))

    def y(value: float) -> str:
        return _format_coordinate(side - (min(max(value, low), high) - low) / (high - low) * (side - 8))

    errors = "".join(f"M{x(b.predicted)} {y(b.observed - 2 * b.error)}V{y(b.observed + 2 * b.error)}" for b in curve.bins)
    dots = [
        f'<circle class="now" cx="{x(b.predicted)}" cy="{y(b.observed)}" r="4"><title>{_build_point_title(b.rows, b.predicted, b.observed)}</title></circle>'
        for b in curve.bins
    ]
    ticks = [low, (low + high) / 2, high]
    texts = [f'<text class="faint" x="{left - 6}" y="{y(t)}" dy="4" text-anchor="end">{format_number(t)}</text>' for t in ticks]
    texts += [
        f'<text class="faint" x="{x(t)}" y="{side + 15}" text-anchor="{anchor}">{format_number(t)}</text>'
        for t, anchor in zip(ticks, ("start", "middle", "end"), strict=True)
    ]
    frame = f'<path class="axis" d="M{left} 8V{side}H{left + side - 8}"/><path class="agree" d="M{x(low)} {y(low)}L{x(high)} {y(high)}"/>'
    return _wrap_svg(left + side, side + 20, label, [frame, f'<path class="interval" d="{errors}"/>', *dots, *texts])


def _build_point_title(rows: int, predicted: float, observed: float) -> str:
    return f"{rows} rows: predicted {format_number(predicted)}, observed {format_number(observed)}"


def _select_named(bars: Sequence[HistogramBar]) -> list[tuple[int, HistogramBar]]:
    """Return index and bar of the bars named below the chart: all of up to eight bars, else the first, the middle and the last."""
    if len(bars) <= 8:
        return list(enumerate(bars))
    return [(i, bars[i]) for i in (0, len(bars) // 2, len(bars) - 1)]


def _draw_name(name: str, x: float, y: float, width: float) -> str:
    """Return a name below the chart, centred at ``x`` unless it would leave the chart."""
    anchor, x = ("start", 0.0) if x < 40 else ("end", width) if x > width - 40 else ("middle", x)
    return f'<text class="faint" x="{_format_coordinate(x)}" y="{_format_coordinate(y)}" text-anchor="{anchor}">{escape(truncate(name, 18))}</text>'


def _format_coordinate(value: float) -> str:
    """Return a coordinate with at most one decimal."""
    return f"{value:.1f}".rstrip("0").rstrip(".")


def _wrap_svg(width: float, height: float, label: str, shapes: Iterable[str]) -> str:
    title = escape(label)
    return f'<svg viewBox="0 0 {_format_coordinate(width)} {_format_coordinate(height)}" role="img" aria-label="{title}">{"".join(shapes)}</svg>'
