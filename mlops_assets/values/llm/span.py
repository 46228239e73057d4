"""Spans: the steps of a request to a language model, as OpenTelemetry records them."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias
from zlib import crc32

from mlops_assets.errors import DataError

AttributeValue: TypeAlias = str | int | float | bool | None
FEEDBACK, SCORE = "feedback", "mlops.feedback"  # name, and an attribute, of the spans that hold a user's feedback on a trace
STATUSES = ("ok", "error")
SECOND = 1_000_000_000  # nanoseconds
_MAX_TIME = 2**63  # nanoseconds since 1970 that fit 64 bits: the year 2262
_TRACE_ID, _SPAN_ID = re.compile(r"[0-9a-f]{32}"), re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Span:
    """One step of a request, with its start, its end and its attributes.

    Parameters
    ----------
    trace_id
        Id of the request, 32 hexadecimal digits; all spans of a request share it.
    span_id
        Id of the step, 16 hexadecimal digits.
    parent_id
        The ``span_id`` of the step that called this one; None for the root.
    name
        What the step does.
    start, end
        Nanoseconds since 1970 in UTC.
    status
        ``ok`` or ``error``.
    error
        Why the step failed; empty for ``ok``.
    attributes
        Name → value. Names follow OpenTelemetry's ``gen_ai`` conventions; those of this product start with ``mlops.``.

    Raises
    ------
    DataError
        An id, a time or the status is invalid.

    Examples
    --------
    >>> from mlops_assets.values.llm.span import Span
    >>> Span("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", None, "chat smollm2", 1_000_000_000, 1_250_000_000, "ok").seconds
    0.25
    """

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    start: int
    end: int
    status: str
    error: str = ""
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _TRACE_ID.fullmatch(self.trace_id):
            raise DataError(f"a span has the trace id {self.trace_id[:40]!r}", hint="a trace id is 32 hexadecimal digits in lower case")
        for name, value in (("span id", self.span_id), ("parent id", self.parent_id)):
            if value is not None and not _SPAN_ID.fullmatch(value):
                raise DataError(
                    f"a span of trace '{self.trace_id}': the {name} {value[:40]!r} is invalid",
                    hint="it is 16 hexadecimal digits in lower case",
                )
        if self.status not in STATUSES:
            raise DataError(f"span '{self.span_id}' has the status {self.status[:40]!r}", hint="a status is 'ok' or 'error'")
        if not 0 <= self.start <= self.end < _MAX_TIME:
            raise DataError(
                f"span '{self.span_id}' starts at {self.start} and ends at {self.end}",
                hint="times are nanoseconds since 1970, and a span ends after its start",
            )

    @property
    def seconds(self) -> float:
        """The duration."""
        return (self.end - self.start) / SECOND

    @property
    def is_feedback(self) -> bool:
        """Whether the span holds a user's feedback; an application's step may have the same name."""
        return self.name == FEEDBACK and SCORE in self.attributes


def make_trace_id(start: int) -> str:
    """Return a new trace id that names the second in which its trace starts, so that the trace is found without a search.

    Parameters
    ----------
    start
        Start of the trace, in nanoseconds since 1970.
    """
    seconds = b"%08x" % (start // SECOND)
    return (seconds + _compute_mark(seconds)).decode() + secrets.token_hex(10)


def read_start_second(trace_id: str) -> int | None:
    """Return the second that a trace id names, counted from 1970; None for an id that :func:`make_trace_id` did not make.

    Parameters
    ----------
    trace_id
        32 hexadecimal digits.
    """
    seconds = trace_id[:8].encode()
    return int(seconds, 16) if trace_id[8:12].encode() == _compute_mark(seconds) else None


def _compute_mark(seconds: bytes) -> bytes:
    """Return four digits by which :func:`read_start_second` recognises an id of :func:`make_trace_id`; 1 in 65,536 random ids has them."""
    return b"%04x" % (crc32(seconds) & 0xFFFF)


def make_span_id() -> str:
    """Return a new random span id."""
    return secrets.token_hex(8)
