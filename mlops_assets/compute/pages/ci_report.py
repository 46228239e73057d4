"""The report of a candidate for its pull request, in Markdown that GitHub and GitLab render alike."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.text import format_number, truncate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

BETTER, WORSE, SAME, BLOCKED, FIRST = "better", "worse", "no different", "blocked", "the first"
_SIGNS = {BETTER: "✅", SAME: "✅", FIRST: "✅", WORSE: "⚠️", BLOCKED: "❌"}
_SPECIAL = re.compile(r"([\\`*_\[\]<>#|~@&$])")
_NUMERIC = frozenset({"rows", "candidate", "champion", "Δ", "95 % CI of Δ"})
_MAX_ROWS = 30  # per table
_MAX_LENGTH = 60  # of a changed value


@dataclass(frozen=True)
class MetricRow:
    """One metric on the holdout of the candidate.

    Parameters
    ----------
    champion
        The champion's value on the same rows; None without a champion, NaN when undefined.
    low, high
        95 % confidence interval of candidate − champion; None when unknown.
    gates
        Names of the gates on this metric.
    """

    metric: str
    candidate: float
    champion: float | None = None
    low: float | None = None
    high: float | None = None
    gates: tuple[str, ...] = ()


@dataclass(frozen=True)
class SliceRow:
    """One metric on one slice of the holdout; ``champion`` is None without a champion, NaN when undefined."""

    slice: str
    rows: int
    metric: str
    candidate: float
    champion: float | None = None


@dataclass(frozen=True)
class FieldChange:
    """A field that differs: ``was`` is its value for the champion, ``now`` for the candidate."""

    field: str
    was: str
    now: str


@dataclass(frozen=True)
class CiReport:
    """The content of one candidate's report.

    Parameters
    ----------
    model
        The name of the model.
    candidate
        The candidate's digest; the report shows its first 12 characters.
    compared
        Name of the champion, e.g. ``version 3 of prod``; empty without one.
    metrics, slices
        The rows of the tables of metrics.
    gates
        Gate → (passed, reason).
    data
        Differences of the training rows from those of the champion.
    record
        Other differences between the run records.
    cost
        Name → value with its unit.
    reproduce
        Shell commands that train the same candidate.
    pictures
        Title → path of an image, relative to the report.
    problems
        Warnings, shown after the gates.
    intervals
        The unit that the bootstrap resamples.
    """

    model: str
    candidate: str
    compared: str
    metrics: Sequence[MetricRow]
    gates: Mapping[str, tuple[bool, str]]
    slices: Sequence[SliceRow] = ()
    data: Sequence[FieldChange] = ()
    record: Sequence[FieldChange] = ()
    cost: Mapping[str, str] = field(default_factory=dict)
    reproduce: Sequence[str] = ()
    pictures: Mapping[str, str] = field(default_factory=dict)
    problems: Sequence[str] = ()
    intervals: str = ""

    @property
    def verdict(self) -> str:
        """``blocked``, ``the first``, ``worse``, ``better`` or ``no different``: the first that applies.

        A gate that fails blocks the candidate. The candidate is worse when the interval of any metric's difference lies below 0, and better
        when an interval lies above 0.
        """
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
        """Whether every gate passed."""
        return self.verdict != BLOCKED


def render_report(reports: Sequence[CiReport]) -> str:
    """Return the reports as one Markdown document.

    Parameters
    ----------
    reports
        One per model.
    """
    return "\n".join(line for report in reports for line in _write_report_lines(report)).rstrip() + "\n"


def escape_markdown(value: object) -> str:
    """Return a text escaped for Markdown, so that it makes no markup, no mention and no new table row; white space becomes one space.

    Examples
    --------
    >>> print(escape_markdown("<b>|@team"))
    &lt;b&gt;&#124;&#64;team
    """
    return _SPECIAL.sub(lambda found: _escape_character(found[1]), " ".join(str(value).split()))


def _escape_character(sign: str) -> str:
    return {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(sign) or f"&#{ord(sign)};" if sign in "<>&|@#" else f"\\{sign}"


def _write_report_lines(report: CiReport) -> Iterator[str]:
    yield f"## {_SIGNS[report.verdict]} {escape_markdown(report.model)}: {_headline(report)}"
    yield ""
    yield f"Candidate `{report.candidate[:12]}`" + (
        f", compared with {escape_markdown(report.compared)} on the same rows." if report.compared else "."
    )
    yield ""
    yield from _table_lines(
        ("metric", "candidate", "champion", "Δ", "95 % CI of Δ", "gate"), (_build_metric_cells(row, report) for row in report.metrics)
    )
    if report.compared and report.intervals:
        yield from (f"The bootstrap resamples {escape_markdown(report.intervals)}.", "")
    metric_gates = {name for row in report.metrics for name in row.gates}
    other_gates = (
        (escape_markdown(name), _passed_sign(passed), escape_markdown(reason))
        for name, (passed, reason) in report.gates.items()
        if name not in metric_gates
    )
    yield from _table_lines(("gate", "", "reason"), other_gates)
    for problem in report.problems:
        yield from (f"> ⚠️ {escape_markdown(problem)}", "")
    yield from _folded_table_lines(
        "Slices", ("slice", "rows", "metric", "candidate", "champion", "Δ"), [_build_slice_cells(row) for row in report.slices]
    )
    columns = ("", "was", "is")
    yield from _folded_table_lines("Training data", columns, [_build_change_cells(row) for row in report.data], none="unchanged")
    yield from _folded_table_lines("Other changes of the record", columns, [_build_change_cells(row) for row in report.record], none="none")
    if report.pictures:
        yield from (" ".join(f"![{escape_markdown(title)}]({path})" for title, path in report.pictures.items()), "")
    yield from _table_lines(("cost", ""), ((escape_markdown(name), escape_markdown(figure)) for name, figure in report.cost.items()))
    if report.reproduce:
        yield from ("Reproduce this candidate:", "", "```sh", *report.reproduce, "```", "")


def _headline(report: CiReport) -> str:
    """Return the gates that block the candidate; if none does, the verdict and the number of gates."""
    failed = [name for name, (passed, _) in report.gates.items() if not passed]
    if failed:
        return f"blocked by {', '.join(escape_markdown(name) for name in failed)}"
    gates = f"passed its {len(report.gates)} gate{'s' * (len(report.gates) != 1)}" if report.gates else "no gate is declared"
    verdicts = {FIRST: "the first candidate", SAME: "no different from the champion"}
    return f"{verdicts.get(report.verdict, f'{report.verdict} than the champion')}, {gates}"


def _build_metric_cells(row: MetricRow, report: CiReport) -> tuple[str, ...]:
    results = [report.gates[name] for name in row.gates]
    gate = "; ".join(f"{_passed_sign(passed)} {escape_markdown(reason)}" for passed, reason in results) or "–"
    interval = "–" if row.low is None or row.high is None else f"{row.low:+.4f} to {row.high:+.4f}".replace("-", "−")
    return (
        escape_markdown(row.metric),
        _format_metric(row.candidate),
        _format_metric(row.champion),
        _format_difference(row.candidate, row.champion),
        interval,
        gate,
    )


def _build_slice_cells(row: SliceRow) -> tuple[str, ...]:
    delta = _format_difference(row.candidate, row.champion)
    return (
        escape_markdown(row.slice),
        f"{row.rows:,}",
        escape_markdown(row.metric),
        _format_metric(row.candidate),
        _format_metric(row.champion),
        delta,
    )


def _build_change_cells(row: FieldChange) -> tuple[str, ...]:
    return escape_markdown(row.field), escape_markdown(truncate(row.was, _MAX_LENGTH)), escape_markdown(truncate(row.now, _MAX_LENGTH))


def _passed_sign(passed: bool) -> str:  # noqa: FBT001
    return "✅" if passed else "❌"


def _format_metric(value: float | None) -> str:
    return format_number(value, 4, nan="undefined")


def _format_difference(candidate: float, champion: float | None) -> str:
    return "–" if champion is None or not math.isfinite(candidate - champion) else f"{candidate - champion:+.4f}".replace("-", "−")


def _table_lines(heads: Sequence[str], rows: Any) -> Iterator[str]:  # noqa: ANN401  (an iterable of rows)
    """Yield the lines of a table; nothing without rows."""
    body = [f"| {' | '.join(row)} |" for row in rows]
    if body:
        sides = "".join(" ---: |" if head in _NUMERIC else " --- |" for head in heads)
        yield from (f"| {' | '.join(heads)} |", f"|{sides}", *body, "")


def _folded_table_lines(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], *, none: str = "") -> Iterator[str]:
    """Yield the lines of a table that a reader unfolds; without rows, a line with ``none``, or nothing when ``none`` is empty.

    Rows beyond the maximum are counted, not shown.
    """
    if not rows:
        if none:
            yield from (f"{title}: {none}.", "")
        return
    yield from (f"<details><summary>{title} ({len(rows)})</summary>", "")
    yield from _table_lines(heads, rows[:_MAX_ROWS])
    if len(rows) > _MAX_ROWS:
        yield from (f"{len(rows) - _MAX_ROWS} more rows are not shown.", "")
    yield from ("</details>", "")
