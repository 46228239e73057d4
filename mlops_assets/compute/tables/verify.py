"""Verify collected rows against their rules before anything is committed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from mlops_assets.compute.tables.quality import describe_limits, find_limit_violations
from mlops_assets.compute.tables.row_rules import (
    RuleViolation,
    find_key_violations,
    find_schema_violations,
    find_time_violations,
    find_zone_violations,
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
        How to correct the data or the rule.
    blocking
        Whether a failure prevents the commit of the data.
    serious
        Whether a failure that does not block has the severity of an error instead of a warning.
    facts
        Figures for the asset check's metadata.
    reason
        Why a gate passed; empty for other checks.
    """

    check: str
    passed: bool
    message: str = ""
    hint: str = ""
    blocking: bool = True
    serious: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


def check_names(table: Table) -> tuple[str, ...]:
    """Return the names of the checks that :func:`verify` runs for a table."""
    declared = (
        ("schema", table.schema),
        ("key", table.key),
        ("event_time", table.event_timestamp),
        ("not_empty", table.partitions),
        ("quality", table.quality),
    )
    return tuple(name for name, declaration in declared if declaration)


def verify(
    frame: pl.DataFrame,
    table: Table,
    windows: Sequence[tuple[str, TimeWindow | None]],
    *,
    limits: Sequence[Limit] | None = None,
    violations: Sequence[RuleViolation] | None = None,
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
    violations
        The violations of these rows from an earlier call of :func:`find_violations`; None finds them here.

    Returns
    -------
    list of Outcome
        One for each name of :func:`check_names`, in that order.
    """
    violations = list(find_violations(frame, table, windows, limits=limits)) if violations is None else violations
    return [_make_outcome(name, [f for f in violations if f.check == name], frame, table, windows, limits) for name in check_names(table)]


def find_violations(
    frame: pl.DataFrame, table: Table, windows: Sequence[tuple[str, TimeWindow | None]], *, limits: Sequence[Limit] | None = None
) -> Iterator[RuleViolation]:
    """Yield every broken rule; parameters as in :func:`verify`.

    Raises
    ------
    DataError
        The lake cannot hold a column.
    """
    time = table.event_timestamp
    if table.schema is not None:
        yield from find_schema_violations(frame, table.schema)
    frame = cast_to_stored(frame)  # check keys and times as stored: two times that differ in nanoseconds become one
    if table.key:
        yield from find_key_violations(frame, table.key, time)
    if time:
        yield from find_time_violations(frame, time, windows, table.max_future)
        clocks = (table.created_timestamp, *(known for _, known in table.known_at))
        yield from find_zone_violations(frame, [c for c in dict.fromkeys(clocks) if c and c != time])
    if table.partitions is not None and not table.allow_empty:
        yield from _find_emptiness_violations(frame, time or "", windows)
    if table.quality is not None:
        yield from find_limit_violations(frame, time, windows, table.quality.declared if limits is None else limits)


def _make_outcome(  # noqa: PLR0913  (what a check is about)
    check: str,
    violations: Sequence[RuleViolation],
    frame: pl.DataFrame,
    table: Table,
    windows: Sequence[tuple[str, TimeWindow | None]],
    limits: Sequence[Limit] | None,
) -> Outcome:
    """Return the outcome of one check, with the message of its first violation."""
    blocking = check != "quality" or table.quality is None or table.quality.blocks
    facts = _measure_safely(check, frame, table, windows, limits)
    if not violations:
        return Outcome(check, passed=True, blocking=blocking, facts=facts)
    counted = f"{len(violations)} rule(s) broken; the first: " if check in {"schema", "quality"} and len(violations) > 1 else ""
    message = counted + violations[0].message + locate_first(frame, violations[0].rows, table, windows)
    return Outcome(check, passed=False, message=message, hint=violations[0].hint, blocking=blocking, facts=facts)


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
    """Return figures for the metadata of one check."""
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


def _find_emptiness_violations(
    frame: pl.DataFrame, column: str, windows: Sequence[tuple[str, TimeWindow | None]]
) -> Iterator[RuleViolation]:
    """Yield one violation for all partitions without rows, if there are any."""
    if empty := list(_list_empty_partitions(frame, column, windows)):
        message = f"partition '{empty[0]}' has no row" + (
            f", nor have {len(empty) - 1} others up to '{empty[-1]}'" if len(empty) > 1 else ""
        )
        hint = "deliver the data and materialise the partition again; if a partition may be empty, set allow_empty=True"
        yield RuleViolation("not_empty", column, "not empty", message, hint)


def _list_empty_partitions(frame: pl.DataFrame, column: str, windows: Sequence[tuple[str, TimeWindow | None]]) -> Iterator[str]:
    """Yield the keys of partitions without rows; none when the time column is missing or not in UTC."""
    if column not in frame.columns or not is_utc(frame[column].dtype):
        return
    times = frame[column].drop_nulls().sort()
    spans = [(key, window) for key, window in windows if window is not None]
    edges = pl.Series([edge for _, window in spans for edge in (window.start, window.end)], dtype=times.dtype)
    positions = times.search_sorted(edges).to_list()
    yield from (key for (key, _), first, end in zip(spans, positions[::2], positions[1::2], strict=True) if first == end)
