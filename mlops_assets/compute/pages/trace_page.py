"""A trace as one HTML page: facts, a waterfall of its spans, and captured inputs and outputs. Self-contained, without scripts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops_assets.compute.pages.rendering import render
from mlops_assets.compute.text import UNKNOWN, format_number, indent_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlops_assets.compute.llm_traces.trace_tree import Trace, TraceStep

_MIN_WIDTH = 0.3  # of a bar, as a percentage, so that a short span is visible
_MAX_INDENT = 12  # levels of the tree that are indented
_TEXTS = ("input", "output")


@dataclass(frozen=True)
class WaterfallBar:
    """A span in the waterfall.

    Parameters
    ----------
    step
        The span.
    left, width
        Position and width of its bar, as percentages of the duration of the trace.
    """

    step: TraceStep
    left: float
    width: float

    @property
    def indent(self) -> int:
        """The levels by which the name is indented."""
        return min(self.step.depth, _MAX_INDENT)

    @property
    def texts(self) -> list[tuple[str, str]]:
        """Name and text of input, output and further attributes, where the span has them."""
        row = self.step.row
        named = [*((name, row[name]) for name in _TEXTS), ("attributes", row["attributes"]), ("comment", row["feedback_comment"])]
        return [(name, indent_json(text)) for name, text in named if text is not None]


def render_trace(trace: Trace, source: str) -> str:
    """Return a trace as one HTML document.

    Parameters
    ----------
    trace
        The trace.
    source
        The name of the service or application.
    """
    bars = list(_place_bars(trace))
    return render("trace.html.jinja", trace=trace, source=source, facts=list(_list_facts(trace)), bars=bars)


def _place_bars(trace: Trace) -> Iterator[WaterfallBar]:
    whole = trace.seconds or 1.0
    for step in trace.steps:
        left = min(100 * step.offset / whole, 100 - _MIN_WIDTH)
        yield WaterfallBar(step, left, min(max(100 * step.row["seconds"] / whole, _MIN_WIDTH), 100 - left))


def _list_facts(trace: Trace) -> Iterator[tuple[str, str]]:
    root = trace.root
    tokens = [trace.sum_calls(name) for name in ("input_tokens", "output_tokens")]
    yield "start", f"{trace.started_at:%Y-%m-%d %H:%M:%S} UTC"
    yield "duration", f"{format_number(trace.seconds)} s"
    if root["prompt_name"] is not None:
        yield "prompt", f"{root['prompt_name']}, version {UNKNOWN if root['prompt_version'] is None else root['prompt_version']}"
    yield "model", ", ".join(trace.models) or UNKNOWN
    yield "tokens", " + ".join(UNKNOWN if count is None else f"{count:,.0f}" for count in tokens)
    yield "cost", format_number(trace.sum_calls("cost"))
    if root["feedback"] is not None:
        yield "feedback", format_number(root["feedback"], 2)
