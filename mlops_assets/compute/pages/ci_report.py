"""What a pull request posts of a candidate, in Markdown that GitHub and GitLab draw alike."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

BETTER, WORSE, SAME, BLOCKED, FIRST = "better", "worse", "no different", "blocked", "the first"
_SIGNS = {BETTER: "✅", SAME: "✅", FIRST: "✅", WORSE: "⚠️", BLOCKED: "❌"}
_SPECIAL = re.compile(r"([\\`*_\[\]<>#|~@&$])")
_FIGURES = frozenset({"rows", "candidate", "champion", "Δ", "95 % interval of Δ"})
_MOST = 30  # rows of a table that a reader of a pull request looks at


@dataclass(frozen=True)
class MetricRow:
    """One metric on the candidate's holdout.

    Parameters
    ----------
    champion
        On the same rows; None when there is no champion, NaN when it is undefined.
    low, high
        The interval of candidate − champion; None when there is none.
    gates
        Names of the gates that look at it.
    """

    metric: str
    candidate: float
    champion: float | None = None
    low: float | None = None
    high: float | None = None
    gates: tuple[str, ...] = ()


@dataclass(frozen=True)
class SliceRow:
    """One metric of the rows on which a column has one value."""

    slice: str
    rows: int
    metric: str
    candidate: float
    champion: float | None = None


@dataclass(frozen=True)
class Difference:
    """One thing that was and is now."""

    field: str
    was: str
    now: str


@dataclass(frozen=True)
class CiReport:
    """Everything that the report of one candidate says.

    Parameters
    ----------
    compared
        Name of the champion that it met, e.g. ``version 3 of prod``; "" when there was none.
    gates
        Gate → (passed, reason).
    data
        How the rows it learned from differ from the champion's.
    record
        How its run record differs from the champion's, data aside.
    cost
        Name → figure with its unit.
    reproduce
        Commands.
    pictures
        Title → path relative to the report.
    intervals
        What the intervals resample.
    """

    model: str
    candidate: str
    compared: str
    metrics: Sequence[MetricRow]
    gates: Mapping[str, tuple[bool, str]]
    slices: Sequence[SliceRow] = ()
    data: Sequence[Difference] = ()
    record: Sequence[Difference] = ()
    cost: Mapping[str, str] = field(default_factory=dict)
    reproduce: Sequence[str] = ()
    pictures: Mapping[str, str] = field(default_factory=dict)
    problems: Sequence[str] = ()
    intervals: str = ""

    @property
    def verdict(self) -> str:
        """``blocked`` by a gate, ``the first``, ``better``, ``worse``, or ``no different`` by the intervals of the metrics."""
        if not all(passed for passed, _ in self.gates.values()):
            return BLOCKED
        if not self.compared:
            return FIRST
        lows = [row.low for row in self.metrics if row.low is not None]
        highs = [row.high for row in self.metrics if row.high is not None]
        if any(high < 0 for high in highs):
            return WORSE
        return BETTER if any(low > 0 for low in lows) else SAME

    @property
    def passed(self) -> bool:
        """Whether every gate has passed."""
        return self.verdict != BLOCKED


def markdown(reports: Sequence[CiReport]) -> str:
    """Return the whole report, of one model or of several.

    Parameters
    ----------
    reports
        One for each model.
    """
    return "\n".join(line for report in reports for line in _lines(report)).rstrip() + "\n"


def escape_markdown(value: object) -> str:
    """Return a name or a message as Markdown shows it literally: no markup, no mention, no new row of a table.

    Examples
    --------
    >>> print(text("<b>|@team"))
    &lt;b&gt;&#124;&#64;team
    """
    return _SPECIAL.sub(lambda found: _escaped(found[1]), " ".join(str(value).split()))


def _escaped(sign: str) -> str:
    return {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(sign) or f"&#{ord(sign)};" if sign in "<>&|@#" else f"\\{sign}"


def _lines(report: CiReport) -> Iterator[str]:
    yield f"## {_SIGNS[report.verdict]} {escape_markdown(report.model)}: {_headline(report)}"
    yield ""
    yield f"Candidate `{report.candidate[:12]}`" + (
        f", beside {escape_markdown(report.compared)} on the same rows." if report.compared else "."
    )
    yield ""
    yield from _table(
        ("metric", "candidate", "champion", "Δ", "95 % interval of Δ", "gate"), (_metric(row, report) for row in report.metrics)
    )
    if report.compared and report.intervals:
        yield from (f"The interval resamples {escape_markdown(report.intervals)}.", "")
    told = {name for row in report.metrics for name in row.gates}
    own = (
        (escape_markdown(name), _mark(passed), escape_markdown(reason))
        for name, (passed, reason) in report.gates.items()
        if name not in told
    )
    yield from _table(("gate", "", "what it found"), own)
    for problem in report.problems:
        yield from (f"> ⚠️ {escape_markdown(problem)}", "")
    yield from _folded("Slices", ("slice", "rows", "metric", "candidate", "champion", "Δ"), [_slice(row) for row in report.slices])
    columns = ("", "was", "is")
    yield from _folded("What it learned from", columns, [_difference(row) for row in report.data], none="the same data")
    yield from _folded("What else differs in the record", columns, [_difference(row) for row in report.record], none="nothing")
    if report.pictures:
        yield from (" ".join(f"![{escape_markdown(title)}]({path})" for title, path in report.pictures.items()), "")
    yield from _table(("cost", ""), ((escape_markdown(name), escape_markdown(figure)) for name, figure in report.cost.items()))
    if report.reproduce:
        yield from ("To have the same candidate on your machine:", "", "```sh", *report.reproduce, "```", "")


def _headline(report: CiReport) -> str:
    failed = [name for name, (passed, _) in report.gates.items() if not passed]
    if failed:
        return f"blocked by {', '.join(escape_markdown(name) for name in failed)}"
    of = f"passed its {len(report.gates)} gate{'s' * (len(report.gates) != 1)}" if report.gates else "no gate is declared"
    than = {FIRST: "the first candidate", SAME: "no different from the champion"}
    return f"{than.get(report.verdict, f'{report.verdict} than the champion')}, {of}"


def _metric(row: MetricRow, report: CiReport) -> tuple[str, ...]:
    found = [report.gates[name] for name in row.gates]
    gate = "; ".join(f"{_mark(passed)} {escape_markdown(reason)}" for passed, reason in found) or "–"
    interval = "–" if row.low is None or row.high is None else f"{row.low:+.4f} to {row.high:+.4f}"
    return escape_markdown(row.metric), _number(row.candidate), _number(row.champion), _delta(row.candidate, row.champion), interval, gate


def _slice(row: SliceRow) -> tuple[str, ...]:
    delta = _delta(row.candidate, row.champion)
    return escape_markdown(row.slice), f"{row.rows:,}", escape_markdown(row.metric), _number(row.candidate), _number(row.champion), delta


def _difference(row: Difference) -> tuple[str, ...]:
    return escape_markdown(row.field), escape_markdown(_short(row.was)), escape_markdown(_short(row.now))


def _short(value: str, most: int = 60) -> str:
    return value if len(value) <= most else value[: most - 1] + "…"


def _mark(passed: bool) -> str:  # noqa: FBT001
    return "✅" if passed else "❌"


def _number(value: float | None) -> str:
    return "–" if value is None else "undefined" if not math.isfinite(value) else f"{value:.4f}"


def _delta(candidate: float, champion: float | None) -> str:
    return "–" if champion is None or not math.isfinite(candidate - champion) else f"{candidate - champion:+.4f}"


def _table(heads: Sequence[str], rows: Any) -> Iterator[str]:  # noqa: ANN401  (an iterable of rows)
    body = [f"| {' | '.join(row)} |" for row in rows]
    if body:
        sides = "".join(" ---: |" if head in _FIGURES else " --- |" for head in heads)
        yield from (f"| {' | '.join(heads)} |", f"|{sides}", *body, "")


def _folded(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], *, none: str = "") -> Iterator[str]:
    """Yield a table that opens with a click, so that the verdict stays in sight."""
    if not rows:
        if none:
            yield from (f"{title}: {none}.", "")
        return
    yield from (f"<details><summary>{title} ({len(rows)})</summary>", "")
    yield from _table(heads, rows[:_MOST])
    if len(rows) > _MOST:
        yield from (f"and {len(rows) - _MOST} more.", "")
    yield from ("</details>", "")
