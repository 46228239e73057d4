"""Rules on rows, verified on collected data before anything is committed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from mlops_assets.values.window import merged

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mlops_assets.values.dataset import Table
    from mlops_assets.values.window import TimeWindow


@dataclass(frozen=True)
class Outcome:
    """What one check found.

    Parameters
    ----------
    check
        The check's name.
    passed
        Whether the rule holds.
    message
        When it does not: partition, column, first bad value and the rule.
    hint
        What to do about it.
    blocking
        Whether a failure keeps the data from being committed.
    facts
        Figures for the asset check's metadata.
    """

    check: str
    passed: bool
    message: str = ""
    hint: str = ""
    blocking: bool = True
    facts: Mapping[str, Any] = field(default_factory=dict)


def check_names(table: Table) -> tuple[str, ...]:
    """Return the names of the checks that :func:`verify` makes of a table."""
    declared = (("schema", table.schema), ("key", table.key), ("event_time", table.event_timestamp), ("not_empty", table.partitions))
    return tuple(name for name, given in declared if given)


def verify(frame: pl.DataFrame, table: Table, windows: Sequence[tuple[str, TimeWindow | None]]) -> list[Outcome]:
    """Check rows against everything declared of their table.

    Parameters
    ----------
    frame
        Collected rows of all ``windows``.
    table
        Schema, key and times that were declared.
    windows
        Partition key and window of every partition that is about to be written; the window is None when unpartitioned.

    Returns
    -------
    list of Outcome
        One for each name of :func:`check_names`, in that order.
    """
    checks = {
        "schema": lambda: _schema(frame, table),
        "key": lambda: _key(frame, table.key),
        "event_time": lambda: _event_time(frame, table.event_timestamp or "", windows),
        "not_empty": lambda: _not_empty(frame, table.event_timestamp or "", windows, allow_empty=table.allow_empty),
    }
    return [checks[name]() for name in check_names(table)]


def _schema(frame: pl.DataFrame, table: Table) -> Outcome:
    from pandera.errors import SchemaError, SchemaErrors

    facts = {"rows": frame.height, "columns": frame.width}
    try:
        table.schema.validate(frame, lazy=True)  # type: ignore[union-attr]  # check_names asked for it
    except SchemaErrors as error:
        first = error.schema_errors[0]
        return _schema_failure(frame, first, f"{len(error.schema_errors)} rule(s) broken; the first: ", facts)
    except SchemaError as error:
        return _schema_failure(frame, error, "", facts)
    return Outcome("schema", passed=True, facts=facts)


def _schema_failure(frame: pl.DataFrame, error: Any, before: str, facts: Mapping[str, Any]) -> Outcome:  # noqa: ANN401  (pandera's two error classes share no base with these fields)
    column = getattr(error.schema, "name", None) or "the table"
    rule = str(error.check) if error.check is not None else str(error)
    return Outcome(
        "schema",
        passed=False,
        message=f"{before}column '{column}' breaks {rule}{_first_bad(error, frame)}".replace("\n", " "),
        hint="mend the source or the function; if the data is right, change the schema",
        facts=facts,
    )


def _first_bad(error: Any, frame: pl.DataFrame) -> str:  # noqa: ANN401
    cases = getattr(error, "failure_cases", None)
    if isinstance(cases, pl.DataFrame) and cases.height:
        column = "failure_case" if "failure_case" in cases.columns else cases.columns[0]
        return f": first bad value {cases[column][0]!r} ({cases.height} of {frame.height} rows)"
    return f": {cases}" if isinstance(cases, str) else ""


def _key(frame: pl.DataFrame, key: tuple[str, ...]) -> Outcome:
    if missing := [c for c in key if c not in frame.columns]:
        return _missing_column("key", missing[0], frame)
    for column in key:
        if nulls := frame[column].null_count():
            return Outcome(
                "key",
                passed=False,
                message=f"column '{column}' is part of the key and null in {nulls} row(s)",
                hint="drop or repair rows without a key",
            )
    duplicated = frame.filter(pl.struct(key).is_duplicated())
    if duplicated.height:
        first = duplicated.select(key).row(0, named=True)
        times = duplicated.select(key).join(pl.DataFrame([first], schema=duplicated.select(key).schema), on=list(key)).height
        return Outcome(
            "key",
            passed=False,
            message=f"the key {first} is on {times} rows",
            hint="a key identifies one row: deduplicate, or add the column that tells them apart to key=",
        )
    return Outcome("key", passed=True, facts={"keys": frame.height})


def _event_time(frame: pl.DataFrame, column: str, windows: Sequence[tuple[str, TimeWindow | None]]) -> Outcome:
    if column not in frame.columns:
        return _missing_column("event_time", column, frame)
    times = frame[column]
    if times.dtype != pl.Datetime("us", "UTC") and not _utc(times.dtype):
        return Outcome(
            "event_time",
            passed=False,
            message=f"column '{column}' has type {times.dtype}, not a time in UTC",
            hint=f"`pl.col('{column}').dt.replace_time_zone(<where it was measured>).dt.convert_time_zone('UTC')` says which instant is meant",
        )
    if nulls := times.null_count():
        return Outcome(
            "event_time", passed=False, message=f"column '{column}' is null in {nulls} row(s)", hint="drop or repair rows without a time"
        )
    outside = frame.filter(~_inside(column, windows)) if _spans(windows) else frame.clear()
    if outside.height:
        return Outcome(
            "event_time",
            passed=False,
            message=f"column '{column}': {outside.height} row(s) lie outside of partition(s) {_label(windows)}; the first at {outside[column].min()!s}",
            hint="return the rows of the given window only; check the time zone of the partitions",
        )
    return Outcome("event_time", passed=True, facts={"first": str(times.min()), "last": str(times.max())})


def _utc(dtype: pl.DataType) -> bool:
    return isinstance(dtype, pl.Datetime) and dtype.time_zone == "UTC"


def _spans(windows: Sequence[tuple[str, TimeWindow | None]]) -> list[TimeWindow]:
    return merged(window for _, window in windows if window is not None)


def _inside(column: str, windows: Sequence[tuple[str, TimeWindow | None]]) -> pl.Expr:
    return pl.any_horizontal([(pl.col(column) >= w.start) & (pl.col(column) < w.end) for w in _spans(windows)])


def _not_empty(frame: pl.DataFrame, column: str, windows: Sequence[tuple[str, TimeWindow | None]], *, allow_empty: bool) -> Outcome:
    if column not in frame.columns or not _utc(frame[column].dtype):
        return Outcome("not_empty", passed=True, facts={"rows": frame.height})
    empty = list(_empty(frame[column].sort(), windows))
    if empty and not allow_empty:
        return Outcome(
            "not_empty",
            passed=False,
            message=f"partition '{empty[0]}' has no row" + (f", nor have {len(empty) - 1} others" if len(empty) > 1 else ""),
            hint="deliver the data and materialise the partition again; if nothing can happen in a partition, say allow_empty=True",
        )
    return Outcome("not_empty", passed=True, facts={"empty partitions": len(empty)})


def _empty(times: pl.Series, windows: Sequence[tuple[str, TimeWindow | None]]) -> Iterator[str]:
    for key, window in windows:
        if window is not None and times.search_sorted(window.start) == times.search_sorted(window.end):
            yield key


def _missing_column(check: str, column: str, frame: pl.DataFrame) -> Outcome:
    return Outcome(check, passed=False, message=f"column '{column}' is missing", hint=f"the frame has {', '.join(frame.columns)}")


def _label(windows: Sequence[tuple[str, TimeWindow | None]]) -> str:
    keys = [key for key, _ in windows]
    return f"'{keys[0]}'" if len(keys) == 1 else f"'{keys[0]}' to '{keys[-1]}'"
