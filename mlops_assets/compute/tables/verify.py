"""Verify collected rows against their rules before anything is committed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from mlops_assets.compute.tables.quality import describe_limits, find_limit_violations
from mlops_assets.compute.tables.row_rules import (
    RuleViolation,
    find_clock_violations,
    find_key_violations,
    find_schema_violations,
    find_time_violations,
    is_utc,
    locate_first,
)
from mlops_assets.compute.tables.stored_types import cast_to_stored

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mlops_assets.values.dataset import Table
    from mlops_assets.values.quality import Limit
    from mlops_assets.values.window import TimeWindow


@dataclass(frozen=True)
class Outcome:
    """The outcome of one check.

    Parameters
    ----------
    check
        The check's name.
    passed
        Whether the rule holds.
    message
        The message of a failed check: partition, column, first bad value and the rule.
    hint
        What to do about it.
    blocking
        Whether a failure keeps the data from being committed.
    serious
        Whether a failure that does not block has the severity of an error rather than of a warning.
    facts
        Figures for the asset check's metadata.
    """

    check: str
    passed: bool
    message: str = ""
    hint: str = ""
    blocking: bool = True
    serious: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)


def check_names(table: Table) -> tuple[str, ...]:
    """Return the names of the checks that :func:`verify` makes."""
    declared = (
        ("schema", table.schema),
        ("key", table.key),
        ("event_time", table.event_timestamp),
        ("not_empty", table.partitions),
        ("quality", table.quality),
    )
    return tuple(name for name, given in declared if given)


def verify(
    frame: pl.DataFrame,
    table: Table,
    windows: Sequence[tuple[str, TimeWindow | None]],
    *,
    limits: Sequence[Limit] | None = None,
    found: Sequence[RuleViolation] | None = None,
) -> list[Outcome]:
    """Verify rows against all declared rules of their table.

    Parameters
    ----------
    frame
        Collected rows of all ``windows``.
    table
        The table's declaration: schema, key and times.
    windows
        Partition key and window of every partition that is about to be written; the window is None when unpartitioned.
    limits
        The quality limits, learned and declared; only the declared limits when None.
    found
        The violations of these rows from an earlier call of :func:`find_violations`; found here when None.

    Returns
    -------
    list of Outcome
        One for each name of :func:`check_names`, in that order.
    """
    found = list(find_violations(frame, table, windows, limits=limits)) if found is None else found
    return [_make_outcome(name, [f for f in found if f.check == name], frame, table, windows, limits) for name in check_names(table)]


def find_violations(
    frame: pl.DataFrame, table: Table, windows: Sequence[tuple[str, TimeWindow | None]], *, limits: Sequence[Limit] | None = None
) -> Iterator[RuleViolation]:
    """Yield every broken rule; parameters as in :func:`verify`."""
    time = table.event_timestamp
    if table.schema is not None:
        yield from find_schema_violations(frame, table.schema)
    frame = cast_to_stored(frame)  # two times may become one: keys and times are judged as the lake will hold them
    if table.key:
        yield from find_key_violations(frame, table.key, time)
    if time:
        yield from find_time_violations(frame, time, windows, table.max_future)
        clocks = (table.created_timestamp, *(known for _, known in table.known_at))
        yield from find_clock_violations(frame, [c for c in dict.fromkeys(clocks) if c and c != time])
    if table.partitions is not None and not table.allow_empty:
        yield from _find_empty_partitions(frame, time or "", windows)
    if table.quality is not None:
        yield from find_limit_violations(frame, time, windows, table.quality.declared if limits is None else limits)


def _make_outcome(  # noqa: PLR0913  (what a check is about)
    check: str,
    found: Sequence[RuleViolation],
    frame: pl.DataFrame,
    table: Table,
    windows: Sequence[tuple[str, TimeWindow | None]],
    limits: Sequence[Limit] | None,
) -> Outcome:
    blocking = check != "quality" or table.quality is None or table.quality.blocks
    facts = _measure_safely(check, frame, table, windows, limits)
    if not found:
        return Outcome(check, passed=True, blocking=blocking, facts=facts)
    counted = f"{len(found)} rule(s) broken; the first: " if check in {"schema", "quality"} and len(found) > 1 else ""
    message = counted + found[0].message + locate_first(frame, found[0].rows, table, windows)
    return Outcome(check, passed=False, message=message, hint=found[0].hint, blocking=blocking, facts=facts)


def _measure_safely(
    check: str, frame: pl.DataFrame, table: Table, windows: Sequence[tuple[str, TimeWindow | None]], limits: Sequence[Limit] | None
) -> Mapping[str, Any]:
    try:
        return _measure_columns(check, frame, table, windows, limits)
    except Exception as error:  # noqa: BLE001  (a figure for display fails no step)
        return {"figures": f"not shown ({type(error).__name__}: {error})"}


def _measure_columns(
    check: str, frame: pl.DataFrame, table: Table, windows: Sequence[tuple[str, TimeWindow | None]], limits: Sequence[Limit] | None
) -> Mapping[str, Any]:
    time = table.event_timestamp or ""
    if check == "schema":
        return {"rows": frame.height, "columns": frame.width}
    if check == "key":
        return {"keys": frame.height}
    if check == "event_time":
        return {"first": str(frame[time].min()), "last": str(frame[time].max())} if time in frame.columns else {}
    if check == "quality" and table.quality is not None:
        return describe_limits(table.quality.declared if limits is None else limits)
    return {"rows": frame.height, "empty partitions": len(list(_list_empty_partitions(frame, time, windows)))}


def _find_empty_partitions(frame: pl.DataFrame, column: str, windows: Sequence[tuple[str, TimeWindow | None]]) -> Iterator[RuleViolation]:
    if empty := list(_list_empty_partitions(frame, column, windows)):
        message = f"partition '{empty[0]}' has no row" + (
            f", nor have {len(empty) - 1} others up to '{empty[-1]}'" if len(empty) > 1 else ""
        )
        hint = "deliver the data and materialise the partition again; if a partition may be empty, set allow_empty=True"
        yield RuleViolation("not_empty", column, "not empty", message, hint)


def _list_empty_partitions(frame: pl.DataFrame, column: str, windows: Sequence[tuple[str, TimeWindow | None]]) -> Iterator[str]:
    if column not in frame.columns or not is_utc(frame[column].dtype):
        return
    times = frame[column].drop_nulls().sort()
    spans = [(key, window) for key, window in windows if window is not None]
    edges = pl.Series([edge for _, window in spans for edge in (window.start, window.end)], dtype=times.dtype)
    found = times.search_sorted(edges).to_list()
    yield from (key for (key, _), first, end in zip(spans, found[::2], found[1::2], strict=True) if first == end)
