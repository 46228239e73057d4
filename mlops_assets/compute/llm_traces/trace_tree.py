"""Traces as trees of steps, with totals of their model calls, from the rows of their spans."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    import polars as pl

    Row = Mapping[str, Any]

_EMBEDDINGS = "embeddings"
_MODEL_OPERATIONS = (
    "chat",
    "text_completion",
    "generate_content",
    _EMBEDDINGS,
)  # of OpenTelemetry; the tokens of an agent are those of its calls
_AGENT_OPERATIONS = ("execute_tool", "invoke_agent", "retrieval")  # a model call below them is not part of a model call above them
_TREE_COLUMNS = ("trace_id", "span_id", "parent_id", "started_at", "seconds", "operation", "model")


@dataclass(frozen=True)
class TraceStep:
    """A span in the tree of its trace.

    Parameters
    ----------
    row
        The row of the span, with the columns of a trace table.
    depth
        The number of ancestors of the span.
    offset
        The start of the span, in seconds after the start of the trace.
    """

    row: Row
    depth: int
    offset: float


@dataclass(frozen=True)
class Trace:
    """The spans of one request in the order of a tree: each span is followed by the steps that it calls.

    Parameters
    ----------
    trace_id
        The id.
    root
        The row of the first span that no other span of the trace calls.
    steps
        All spans.
    started_at
        Start of the first span, in UTC.
    """

    trace_id: str
    root: Row
    steps: tuple[TraceStep, ...]
    started_at: datetime

    @property
    def seconds(self) -> float:
        """Seconds from the start of the first span to the end of the last."""
        seconds: float = max(step.offset + step.row["seconds"] for step in self.steps)
        return seconds

    @property
    def calls(self) -> list[Row]:
        """The rows of the model calls, each counted once.

        A call directly within another call is part of that call, e.g. the call of a client within the call of a framework. A call below a
        tool or an agent counts separately.
        """
        calls: list[Row] = []
        ancestors: list[tuple[int, bool]] = []  # depth of the calls, tools and agents above the step; whether each is a call
        for step in self.steps:
            while ancestors and ancestors[-1][0] >= step.depth:
                ancestors.pop()
            is_call = _is_call(step.row)
            if is_call and not (ancestors and ancestors[-1][1]):
                calls.append(step.row)
            if is_call or step.row["operation"] in _AGENT_OPERATIONS:
                ancestors.append((step.depth, is_call))
        return calls

    @property
    def models(self) -> list[str]:
        """The distinct models that were called."""
        return list(dict.fromkeys(row["model"] for row in self.calls if row["model"] is not None))

    @property
    def input(self) -> str | None:
        """The input of the first span with an input; None if content is not captured."""
        return next((step.row["input"] for step in self.steps if step.row["input"] is not None), None)

    def sum_calls(self, column: str) -> float | None:
        """Return the sum of a column over the model calls; None if there are no calls or a value is unknown.

        Parameters
        ----------
        column
            ``input_tokens``, ``output_tokens`` or ``cost``.
        """
        values = [_read_measure(row, column) for row in self.calls]
        known = [value for value in values if value is not None]
        return sum(known) if values and len(known) == len(values) else None

    def split_answers(self, prompt: str) -> list[Trace]:
        """Return the subtree of each answer of a prompt; the whole trace if ``prompt`` is empty.

        A span of the prompt within another one, such as the request to the model within a call of a service, is part of the same answer.

        Parameters
        ----------
        prompt
            The name of the prompt; empty for any.
        """
        if not prompt:
            return [self]
        answers, end = list[Trace](), 0
        for position, step in enumerate(self.steps):
            if position >= end and step.row["prompt_name"] == prompt:
                later = range(position + 1, len(self.steps))
                end = next((number for number in later if self.steps[number].depth <= step.depth), len(self.steps))
                answers.append(replace(self, root=step.row, steps=self.steps[position:end]))
        return answers


def _is_call(row: Row) -> bool:
    return row["operation"] in _MODEL_OPERATIONS or (row["operation"] is None and row["model"] is not None)


def _read_measure(row: Row, column: str) -> float | None:
    value: float | None = row[column]
    return 0 if value is None and column == "output_tokens" and row["operation"] == _EMBEDDINGS else value


def build_traces(frame: pl.DataFrame) -> list[Trace]:
    """Return the traces of a trace table, newest first.

    Parameters
    ----------
    frame
        Rows of spans, with the columns of a trace table.
    """
    by_trace: dict[str, list[Row]] = {}
    for row in frame.iter_rows(named=True):
        by_trace.setdefault(row["trace_id"], []).append(row)
    traces = [_build_trace(trace_id, rows) for trace_id, rows in by_trace.items()]
    return sorted(traces, key=lambda trace: (trace.started_at, trace.trace_id), reverse=True)


def select_roots(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the root of each trace: its first span whose parent is not in the trace, e.g. because another application called it.

    Parameters
    ----------
    frame
        Rows of spans of whole traces, with the columns of a trace table.
    """
    import polars as pl

    called = frame.select("trace_id", pl.col("span_id").alias("parent_id"))
    tops = frame.join(called, on=["trace_id", "parent_id"], how="anti")
    circles = frame.join(tops, on="trace_id", how="anti")
    first = (pl.col("parent_id").is_not_null(), "started_at", pl.col("seconds").neg(), "span_id")
    roots = pl.concat([tops, circles]).sort(*first).unique("trace_id", keep="first", maintain_order=True)
    return roots.sort("trace_started_at", "trace_id")


def select_calls(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of the model calls, chosen as by :attr:`Trace.calls`, in the order of the table.

    Parameters
    ----------
    frame
        Rows of spans of whole traces, with the columns of a trace table.
    """
    import polars as pl

    rows = [(row["trace_id"], row["span_id"]) for trace in build_traces(frame.select(_TREE_COLUMNS)) for row in trace.calls]
    calls = pl.DataFrame(rows, schema={"trace_id": pl.String, "span_id": pl.String}, orient="row")
    return frame.join(calls, on=["trace_id", "span_id"], how="semi")


def select_answers(frame: pl.DataFrame, prompt: str) -> pl.DataFrame:
    """Return the row of each answer of a prompt, or of each trace if ``prompt`` is empty, with the total cost of its model calls.

    Parameters
    ----------
    frame
        Rows of spans of whole traces, with the columns of a trace table.
    prompt
        The name of the prompt; empty for any.
    """
    import polars as pl

    traces = build_traces(frame.select(*_TREE_COLUMNS, "prompt_name", "cost"))
    answers = [answer for trace in traces for answer in trace.split_answers(prompt)]
    rows = [(answer.trace_id, answer.root["span_id"], answer.sum_calls("cost")) for answer in answers]
    schema = {"trace_id": pl.String, "span_id": pl.String, "total": pl.Float64}
    found = frame.join(pl.DataFrame(rows, schema=schema, orient="row"), on=["trace_id", "span_id"], maintain_order="left")
    return found.with_columns(pl.coalesce("total", "cost").alias("cost")).drop("total")


def _build_trace(trace_id: str, rows: Sequence[Row]) -> Trace:
    ids = {row["span_id"] for row in rows}
    children: dict[str | None, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row["parent_id"] is not None, row["started_at"], -row["seconds"], row["span_id"])):
        children.setdefault(row["parent_id"] if row["parent_id"] in ids else None, []).append(row)
    ordered = list(_walk_tree(children, rows))
    start = min(row["started_at"] for row in rows)
    steps = tuple(TraceStep(row, depth, (row["started_at"] - start).total_seconds()) for row, depth in ordered)
    return Trace(trace_id, ordered[0][0], steps, start)


def _walk_tree(children: Mapping[str | None, Sequence[Row]], rows: Iterable[Row]) -> Iterator[tuple[Row, int]]:
    """Yield each row once with its depth; spans that call each other in a circle come last, as roots."""
    seen: set[str] = set()
    stack = [(row, 0) for row in reversed(children.get(None, ()))]
    waiting = list(rows)[::-1]
    while stack or waiting:
        row, depth = stack.pop() if stack else (waiting.pop(), 0)
        if row["span_id"] not in seen:
            seen.add(row["span_id"])
            yield row, depth
            stack += [(child, depth + 1) for child in reversed(children.get(row["span_id"], ()))]
