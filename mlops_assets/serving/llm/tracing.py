"""Trace the steps of an application: a context manager opens a trace, and a decorator adds a span for each call."""

from __future__ import annotations

import functools
import inspect
import os
import time
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from mlops_assets.values.arguments import check_arguments
from mlops_assets.values.llm.span import AttributeValue, Span, make_span_id, make_trace_id
from mlops_assets.values.llm.trace_source import TraceSource
from mlops_assets.values.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlops_assets.serving.logs.trace_log import TraceLog

P = ParamSpec("P")
R = TypeVar("R")


@dataclass
class RecordedSpan:
    """A span that has not ended.

    Parameters
    ----------
    trace_id, span_id
        Ids of the trace and of the span.
    attributes
        Name → value; the application adds its own while the span is open.
    finished
        The ended spans of the trace; all open spans of a trace share the list.
    """

    trace_id: str
    span_id: str
    attributes: dict[str, AttributeValue] = field(default_factory=dict)
    finished: list[Span] = field(default_factory=list)


_CURRENT: ContextVar[RecordedSpan | None] = ContextVar("current_span", default=None)


@check_arguments
@contextmanager
def start_trace(source: TraceSource, name: str = "request") -> Iterator[RecordedSpan]:
    """Record a trace until the ``with`` block ends, and write its spans to the log of a source.

    If the block raises an exception, the trace is written as well, and its root has the status ``error``.

    Parameters
    ----------
    source
        The source whose log the trace is written to.
    name
        The name of the root span.

    Yields
    ------
    RecordedSpan
        The root; set ``attributes`` such as ``gen_ai.request.model`` or ``mlops.output``.

    Raises
    ------
    ServiceError
        The log cannot be written, or the variable of the source holds no headers.
    MissingExtraError
        The source has an ``otlp_endpoint``, and the extra ``otlp`` is not installed.
    OSError
        The trace cannot be written.

    See Also
    --------
    trace : Adds a span for each call of a function.
    TraceSource : Imports the traces into the lake.

    Examples
    --------
    >>> import tempfile
    >>> import mlops_assets as ml
    >>> bot = ml.llm.TraceSource("bot", folder=tempfile.mkdtemp())
    >>> @ml.llm.trace
    ... def retrieve(question: str) -> list[str]:
    ...     return ["JFK: 15 min"]
    >>> with ml.llm.start_trace(bot, "answer") as root:
    ...     facts = retrieve("Is JFK late?")
    ...     root.attributes["mlops.output"] = facts[0]
    """
    folder = source.folder or Path(Platform.from_env().home) / "services" / source.name / "traces"
    place = (str(folder), source.name, source.otlp_endpoint, source.otlp_headers_env)
    _open_log(*place, os.getpid())
    start = time.time_ns()
    root = RecordedSpan(make_trace_id(start), make_span_id())
    try:
        with _record(root, None, name, start):
            yield root
    finally:
        _open_log(*place, os.getpid()).write(root.finished[::-1])


@functools.cache
def _open_log(folder: str, name: str, otlp_endpoint: str | None, otlp_headers_env: str | None, _process: int) -> TraceLog:
    """Return the log of this process: a forked process needs its own files and exporter."""
    from mlops_assets.serving.logs.trace_log import TraceLog

    if otlp_endpoint is None:
        return TraceLog(Path(folder))
    from multiprocessing.util import Finalize

    from mlops_assets.serving.llm.span_exporter import SpanExporter

    exporter = SpanExporter(otlp_endpoint, name, headers_env=otlp_headers_env)
    Finalize(None, exporter.close, exitpriority=0)  # at the end of this process only, which multiprocessing may have started
    return TraceLog(Path(folder), export=exporter.add)


@contextmanager
def _record(span: RecordedSpan, parent_id: str | None, name: str, start: int) -> Iterator[None]:
    """Make a span the current one until the block ends; then add it to the finished spans."""
    clock, error, token = time.perf_counter_ns(), "", _CURRENT.set(span)
    try:
        yield
    except BaseException as raised:
        error = type(raised).__name__  # the message may hold content
        raise
    finally:
        _CURRENT.reset(token)
        end, status = start + time.perf_counter_ns() - clock, "error" if error else "ok"
        span.finished.append(Span(span.trace_id, span.span_id, parent_id, name, start, end, status, error, span.attributes))


@check_arguments
def trace(function: Callable[P, R]) -> Callable[P, R]:
    """Record each call of a function as a span of the current trace; a call outside of a trace is not recorded.

    The span is a child of the span in which the function is called. An exception gives the span the status ``error`` with the name of the
    exception's class, and is raised. Arguments and results are not recorded.

    Parameters
    ----------
    function
        The function; it may be a coroutine function.

    Returns
    -------
    Callable
        The function with the same signature.

    See Also
    --------
    start_trace : Opens a trace.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> @ml.llm.trace
    ... def retrieve(question: str) -> list[str]:
    ...     return ["JFK: 15 min"]
    >>> retrieve("Is JFK late?")
    ['JFK: 15 min']
    """
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def call_async(*args: P.args, **kwargs: P.kwargs) -> Any:  # noqa: ANN401  (the function's own result)
            with _record_call(function.__qualname__):
                return await function(*args, **kwargs)

        return cast("Callable[P, R]", call_async)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with _record_call(function.__qualname__):
            return function(*args, **kwargs)

    return call


@contextmanager
def _record_call(name: str) -> Iterator[None]:
    parent = _CURRENT.get()
    if parent is None:
        yield
        return
    span = RecordedSpan(parent.trace_id, make_span_id(), finished=parent.finished)
    with _record(span, parent.span_id, name, time.time_ns()):
        yield
