"""What ``mlops traces`` prints: a row for each trace, and the steps of one trace."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.text import format_number, indent_json, replace_controls, truncate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlops_assets.compute.llm_traces.trace_tree import Trace, TraceStep

_ID_DIGITS = 16  # of the id in the table: the start of the trace, and 16 random bits
_MAX_INPUT = 48  # characters of the input in the table
_INDENT = "  "


def describe_trace(trace: Trace) -> dict[str, Any]:
    """Return the figures of a trace as JSON-like values."""
    return {
        "id": trace.trace_id,
        "start": trace.started_at.isoformat(timespec="milliseconds"),
        "seconds": round(trace.seconds, 6),
        "prompt version": trace.root["prompt_version"],
        "model": ", ".join(trace.models) or None,
        "input tokens": trace.sum_calls("input_tokens"),
        "output tokens": trace.sum_calls("output_tokens"),
        "cost": trace.sum_calls("cost"),
        "status": trace.root["status"],
        "feedback": trace.root["feedback"],
        "input": trace.input,
    }


def summarise_trace(trace: Trace) -> dict[str, str]:
    """Return the row of a trace in the table of traces."""
    facts = describe_trace(trace)
    tokens = [format_count(facts[name]) for name in ("input tokens", "output tokens")]
    return {
        "id": trace.trace_id[:_ID_DIGITS],
        "start": f"{trace.started_at:%Y-%m-%d %H:%M:%S}",
        "seconds": format_number(trace.seconds),
        "version": format_count(facts["prompt version"]),
        "model": replace_controls(facts["model"] or "–"),
        "tokens": " + ".join(tokens),
        "cost": format_number(facts["cost"]),
        "status": facts["status"],
        "feedback": format_number(facts["feedback"], 2),
        "input": truncate(shorten_input(trace.input), _MAX_INPUT),
    }


def format_count(value: float | None) -> str:
    """Return a count as text; a dash for None."""
    return "–" if value is None else f"{value:.0f}"


def shorten_input(text: str | None) -> str:
    """Return the values of an input in one line; a dash for None."""
    if text is None:
        return "–"
    value: object = text
    with suppress(ValueError, RecursionError):
        value = json.loads(text)
    if isinstance(value, dict):
        text = " · ".join(item if isinstance(item, str) else json.dumps(item, ensure_ascii=False) for item in value.values())
    return replace_controls(" ".join(text.split()))


def describe_full_trace(trace: Trace) -> dict[str, Any]:
    """Return a trace with all its spans as JSON-like values; a span has its depth in the tree and its offset in seconds."""
    return {
        **describe_trace(trace),
        "output": trace.root["output"],
        "feedback comment": trace.root["feedback_comment"],
        "error": trace.root["error"],
        "spans": [{"depth": step.depth, "offset": step.offset, **step.row} for step in trace.steps],
    }


def list_steps(trace: Trace) -> Iterator[dict[str, str]]:
    """Yield the row of each span in the table of spans, indented by its depth."""
    for step in trace.steps:
        yield _describe_step(step)


def _describe_step(step: TraceStep) -> dict[str, str]:
    row = step.row
    tokens = [format_count(row[name]) for name in ("input_tokens", "output_tokens")]
    return {
        "span": _INDENT * step.depth + replace_controls(row["name"]),
        "start": f"+{step.offset:.3f} s",
        "seconds": format_number(row["seconds"]),
        "tokens": " + ".join(tokens) if tokens != ["–", "–"] else "",
        "cost": "" if row["cost"] is None else format_number(row["cost"]),
        "model": replace_controls(row["model"] or ""),
        "error": replace_controls(row["error"] or ("error" if row["status"] == "error" else "")),
    }


def list_texts(trace: Trace) -> Iterator[tuple[str, str]]:
    """Yield name and text of what a trace captured: input and output of each span, and the comment of its feedback."""
    root = trace.steps[0].row
    for step in trace.steps:
        suffix = "" if step.row is root else f" of {step.row['name']}"
        for name in ("input", "output"):
            if step.row[name] is not None:
                yield name + suffix, indent_json(step.row[name])
    if trace.root["feedback_comment"] is not None:
        yield "comment of the feedback", trace.root["feedback_comment"]
