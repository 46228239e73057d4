"""The result of a replay as one HTML page: self-contained, without scripts, readable without colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops_assets.compute.pages.charts import Line, draw_lines
from mlops_assets.compute.pages.rendering import render
from mlops_assets.compute.replay.advice import advise

if TYPE_CHECKING:
    from markupsafe import Markup

    from mlops_assets.compute.replay.result import PolicyComparison, PolicyResult, ReplayResult

_LINE_STYLES = 8  # the number of line styles in the style sheet


@dataclass(frozen=True)
class _Row:
    """A policy, its mean metric, and its comparison with the first policy (None for the first policy itself)."""

    policy: PolicyResult
    mean: float
    against: PolicyComparison | None


def render_replay(result: ReplayResult) -> str:
    """Return the result of a replay as one HTML document.

    Parameters
    ----------
    result
        The result; the table compares each policy with the first one.
    """
    baseline = result.policies[0].policy
    return render(
        "replay.html.jinja",
        result=result,
        advice=advise(result),
        baseline=baseline,
        rows=[_Row(policy, policy.mean(result.metric), result.compare(policy.policy, baseline)) for policy in result.policies],
        chart=_draw(result),
        verdict=describe_comparison,
        has_drift=any(policy.drift is not None for policy in result.policies),
    )


def describe_comparison(found: PolicyComparison) -> str:
    """Return in words which of two policies is better."""
    if found.significant:
        better, worse = (found.policy, found.other) if found.difference > 0 else (found.other, found.policy)
        return f"{better} is better than {worse}"
    if found.low == found.high == 0:
        return "equal"
    return "not significant" if found.low == found.low else f"too few windows: {found.windows}"


def _draw(result: ReplayResult) -> Markup:
    from markupsafe import Markup

    windows = result.policies[0].windows
    lines = [
        Line(p.policy, range(len(windows)), [w.metrics[result.metric] for w in p.windows], kind=f"of{i % _LINE_STYLES}")
        for i, p in enumerate(result.policies)
    ]
    ends = (windows[0].window, windows[-1].window)
    return Markup(draw_lines(lines, f"{result.metric} by {result.by}", width=1000.0, ends=ends))  # noqa: S704  (our own SVG, its texts escaped)
