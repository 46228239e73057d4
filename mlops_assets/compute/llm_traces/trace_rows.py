"""The rows of traces: one for each span, with its measures in columns."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.llm_traces.attribute_sources import OPERATIONS, SOURCES, find_content
from mlops_assets.values.llm.span import SCORE, SECOND, Span

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import polars as pl

COMMENT = "mlops.feedback.comment"  # an attribute of feedback
# The columns of a trace table, in their order.
TRACE_COLUMNS = {
    "trace_id": "Identifies the request.",
    "span_id": "Identifies the step of the request.",
    "parent_id": "The step that called this one; null for the root.",
    "name": "What the step does.",
    "trace_started_at": "Start of the trace's first span, in UTC, limited to the day of the trace; it determines the partition.",
    "started_at": "Start of the step, in UTC.",
    "seconds": "Duration of the step.",
    "status": "ok or error.",
    "error": "Why the step failed; null when it did not.",
    "refusal": "Why a service refused the call, e.g. budget; on the root only, and null if the model failed.",
    "operation": "The operation by OpenTelemetry's conventions, e.g. chat.",
    "model": "The model that answered, as the endpoint names it; else the requested model.",
    "prompt_name": "The prompt.",
    "prompt_version": "The version of the prompt.",
    "prompt_digest": "The hash of the prompt.",
    "input_tokens": "Tokens of the prompt, as the endpoint reports them.",
    "output_tokens": "Tokens of the answer, as the endpoint reports them.",
    "cost": "Cost in US dollars; null when it is unknown.",
    "price_version": "The version of the prices.",
    "may_be_billed": "Failed requests within the step that the provider may have billed; their cost is unknown.",
    "seconds_to_first_token": "Seconds until the first text of a stream.",
    "cached": "Whether the answer comes from a cache.",
    "api_key": "Name of the client's API key; never the key.",
    "input": "The variables or messages as JSON, redacted; null unless content is captured.",
    "output": "The answer, redacted; null unless content is captured.",
    "feedback": "The last score that a user gave to the trace, from 0 to 1; on the root only.",
    "feedback_comment": "The comment of the last feedback.",
    "attributes": "The other attributes as JSON.",
}
TRACE_KEY, TRACE_TIME = ("trace_id", "span_id"), "trace_started_at"
_NUMBERS = ("cost", "seconds_to_first_token")
_COUNTS = ("prompt_version", "input_tokens", "output_tokens", "may_be_billed")
_MAX_COUNT = 2**63
_DIGITS = re.compile(r"[0-9]{1,18}(\.[0-9]{1,18})?")
_FIRST_DAY, _DAY = date(1970, 1, 1), 86_400 * SECOND


@dataclass(frozen=True)
class TraceRows:
    """The rows of traces.

    Parameters
    ----------
    frame
        A row for each span except feedback, with the columns :data:`TRACE_COLUMNS`.
    lost_feedback
        The number of feedback spans whose trace is not among the spans.
    """

    frame: pl.DataFrame
    lost_feedback: int


def build_trace_rows(by_day: Mapping[date, Sequence[Span]]) -> TraceRows:
    """Return the rows of traces, with feedback in the columns of the root.

    A value that does not fit its column is null there and stays among the attributes, as do values without a column. A trace belongs to the
    day for which it was logged: ``trace_started_at`` is limited to that day.

    Parameters
    ----------
    by_day
        Day → the spans that were logged for it.
    """
    import polars as pl

    rows, lost = list[dict[str, Any]](), 0
    for day, spans in by_day.items():
        traces: dict[str, list[Span]] = {}
        for span in spans:
            traces.setdefault(span.trace_id, []).append(span)
        for trace in traces.values():
            steps = [span for span in trace if not span.is_feedback]
            given = [span for span in trace if span.is_feedback]
            if steps:
                rows.extend(_build_trace(day, steps, given))
            else:
                lost += len(given)
    frame = pl.DataFrame(rows, schema={name: _choose_type(name) for name in TRACE_COLUMNS}, orient="row")
    return TraceRows(frame.sort("trace_started_at", "trace_id", "started_at", "span_id"), lost)


def _choose_type(name: str) -> Any:  # noqa: ANN401  (a type of polars)
    import polars as pl

    if name.endswith("_at"):
        return pl.Datetime("us", "UTC")
    if name in _COUNTS:
        return pl.Int64
    return pl.Boolean if name == "cached" else pl.Float64 if name in ("seconds", "feedback", *_NUMBERS) else pl.String


def _build_trace(day: date, steps: Sequence[Span], feedback: Iterable[Span]) -> list[dict[str, Any]]:
    midnight = (day - _FIRST_DAY).days * _DAY
    start = min(max(min(span.start for span in steps), midnight), midnight + _DAY - 1) // 1000
    rows = {span.span_id: _build_row(span, start) for span in steps}
    last = max(feedback, key=lambda span: (span.start, span.span_id), default=None)
    if last is not None:
        score, comment = last.attributes.get(SCORE), last.attributes.get(COMMENT)
        rows[find_root(steps).span_id] |= {"feedback": _to_number(score), "feedback_comment": _to_text(comment)}
    return list(rows.values())


def find_root(steps: Sequence[Span]) -> Span:
    """Return the first span of a trace whose parent is not in the trace.

    Parameters
    ----------
    steps
        Spans of one trace; at least one.
    """
    ids = {span.span_id for span in steps}
    tops = [span for span in steps if span.parent_id not in ids] or list(steps)
    return min(tops, key=lambda span: (span.parent_id is not None, span.start, -span.end))


def _build_row(span: Span, trace_start: int) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    rest = dict(span.attributes)
    for name, sources in SOURCES.items():
        found = ((source, _convert_value(name, span.attributes.get(source))) for source in sources)
        source, columns[name] = next(((source, value) for source, value in found if value not in (None, "")), ("", None))
        rest.pop(source, None)
    for name in ("input", "output"):
        text, taken = find_content(name, span.attributes)
        columns[name] = _to_text(text)
        for source in taken:
            del rest[source]
    return columns | {
        "trace_id": span.trace_id,
        "span_id": span.span_id,
        "parent_id": span.parent_id,
        "name": _to_text(span.name),
        "trace_started_at": trace_start,
        "started_at": span.start // 1000,
        "seconds": span.seconds,
        "status": span.status,
        "error": _to_text(span.error) or None,
        "attributes": _to_text(json.dumps(rest, ensure_ascii=False, sort_keys=True)) if rest else None,
    }


def _convert_value(name: str, value: object) -> str | float | bool | None:
    if name == "operation":
        text = _to_text(value)
        return None if text is None else OPERATIONS.get(text, text)
    if name == "cached":
        return value if isinstance(value, bool) else None
    if name in _COUNTS:
        return _to_count(value)
    return _to_number(value) if name in _NUMBERS else _to_text(value)


def _to_text(value: object) -> str | None:
    """Return a value as text that the lake can store."""
    return None if value is None else str(value).replace("\0", "\ufffd")


def _to_number(value: object) -> float | None:
    value = _parse_number(value)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf") else None


def _to_count(value: object) -> int | None:
    """Return a count as an integer, also from a float or a text; None for other values."""
    value = _parse_number(value)
    if isinstance(value, bool) or not (isinstance(value, int) or (isinstance(value, float) and value.is_integer())):
        return None
    return int(value) if 0 <= value < _MAX_COUNT else None


def _parse_number(value: object) -> object:
    """Return the number of a text of digits; any other value unchanged."""
    if not isinstance(value, str) or not _DIGITS.fullmatch(value):
        return value
    return float(value) if "." in value else int(value)
