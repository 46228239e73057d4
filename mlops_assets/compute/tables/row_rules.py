"""Rules on single rows with the rows that break them, for verification and quarantine."""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING, Any

import polars as pl

from mlops_assets.compute.user_code.user_errors import find_hint, shorten
from mlops_assets.errors import suggest_name
from mlops_assets.values.window import TimeWindow, join_windows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import timedelta

    from mlops_assets.values.dataset import Table

EARLIEST = datetime(1900, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class RuleViolation:
    """A broken rule, with the rows that break it.

    Parameters
    ----------
    check
        The asset check that the rule belongs to.
    column
        The column that breaks the rule; for the key, its columns joined by commas.
    rule
        The rule in words, for the quarantine.
    message
        The message: column, first bad value, number of bad rows, and the rule.
    hint
        How to correct the data or the rule.
    rows
        A Boolean for each row, True if the row breaks the rule. None when only the table as a whole breaks the rule, so that no row can
        be quarantined.
    """

    check: str
    column: str
    rule: str
    message: str
    hint: str
    rows: pl.Series | None = None


def find_schema_violations(frame: pl.DataFrame, schema: Any) -> Iterator[RuleViolation]:  # noqa: ANN401  (a pandera model)
    """Yield the violations of a pandera schema; when columns are missing, only these violations."""
    from pandera.errors import SchemaError, SchemaErrors

    required = [name for name, column in schema.to_schema().columns.items() if column.required and not column.regex]
    if missing := [name for name in required if name not in frame.columns]:
        yield from (build_missing_column_violation("schema", name, frame) for name in missing)
        return
    try:
        _skip_proven_rules(frame, schema).validate(frame, lazy=True)
    except SchemaErrors as error:
        yield from (_build_schema_violation(frame, schema_error) for schema_error in error.schema_errors)
    except SchemaError as error:
        yield _build_schema_violation(frame, error)


def _skip_proven_rules(frame: pl.DataFrame, schema: Any) -> Any:  # noqa: ANN401  (a pandera model)
    """Return the schema without ``unique`` for columns whose values are proven distinct: pandera counts each value, for ten times as long."""
    from pandera.polars import DataFrameModel

    model, built = schema, schema.to_schema()
    declared = vars(DataFrameModel)["validate"].__func__
    if model.validate.__func__ is not declared or built.coerce or built.parsers:
        return model  # the compared values may differ from those of the frame
    proven = [
        name
        for name, column in built.columns.items()
        if column.unique and not (column.coerce or column.parsers or column.regex) and name in frame.columns and are_distinct(frame, [name])
    ]
    if not proven:
        return model
    remaining = deepcopy(built)
    for name in proven:
        remaining.columns[name].unique = False
    return remaining


def are_distinct(frame: pl.DataFrame, columns: Sequence[str]) -> bool:
    """Return True if the rows differ in these columns, proven by hashes that all differ; False if that is not proven."""
    types = [frame.schema[name] for name in columns]
    if not all(dtype.is_integer() or dtype.is_temporal() or dtype in (pl.String, pl.Boolean) for dtype in types):
        return False
    return frame.select(columns).hash_rows().n_unique() == frame.height


def _build_schema_violation(frame: pl.DataFrame, error: Any) -> RuleViolation:  # noqa: ANN401  (pandera's two error classes share no base with these fields)
    column = getattr(error.schema, "name", None) or "the table"
    rule = str(getattr(error.check, "error", None) or getattr(error.check, "name", None) or error.check or error)
    return RuleViolation(
        "schema",
        column,
        rule.replace("\n", " "),
        f"column '{column}' breaks {rule}{_describe_first_bad_value(error, frame)}".replace("\n", " "),
        _schema_hint(error),
        _violating_rows(error, frame),
    )


def _schema_hint(error: Any) -> str:  # noqa: ANN401
    """Return a hint for a value that breaks a rule, or for a check that raised an exception."""
    if _is_check_error(error):
        text = re.sub(r'^[A-Za-z]+\("?', "", error.failure_cases)
        return f"correct the check: {find_hint(text)}"
    return "correct the source or the function; if the data is right, change the schema"


def _violating_rows(error: Any, frame: pl.DataFrame) -> pl.Series | None:  # noqa: ANN401
    """Return True for each row that breaks a rule; None when pandera does not report a result for each row."""
    check_output = getattr(error, "check_output", None)
    if not isinstance(check_output, pl.DataFrame) or check_output.height != frame.height:
        return None
    return ~check_output.to_series(check_output.width - 1).fill_null(value=True)


def _describe_first_bad_value(error: Any, frame: pl.DataFrame) -> str:  # noqa: ANN401
    """Return the end of a message: the first bad value and the number of bad rows, or the error of the check."""
    cases = getattr(error, "failure_cases", None)
    if isinstance(cases, pl.DataFrame) and cases.height:
        column = "failure_case" if "failure_case" in cases.columns else cases.columns[0]
        return f": first bad value {cases[column][0]!r} ({cases.height} of {frame.height} rows)"
    if _is_check_error(error):
        return f": the check raised {shorten(str(cases))}"
    return f": {cases}" if isinstance(cases, str) else ""


def _is_check_error(error: Any) -> bool:  # noqa: ANN401
    """Return True if a check raised an exception rather than finding a bad value."""
    reason = getattr(getattr(error, "reason_code", None), "name", "")
    return reason == "CHECK_ERROR" and isinstance(getattr(error, "failure_cases", None), str)


def find_key_violations(frame: pl.DataFrame, key: tuple[str, ...], time: str | None = None) -> Iterator[RuleViolation]:
    """Yield violations of the key: nulls and duplicates, or only the first column that is missing or a float.

    ``time``, the event-time column, decides the hint for duplicates.
    """
    if missing := [c for c in key if c not in frame.columns]:
        yield build_missing_column_violation("key", missing[0], frame)
        return
    for column in key:
        if frame[column].dtype.is_float():
            yield _build_float_key_violation(column)
            return
    for column in key:
        if nulls := frame[column].null_count():
            message = f"column '{column}' is part of the key and null in {nulls} row(s)"
            yield RuleViolation("key", column, "not null", message, "drop or repair rows without a key", frame[column].is_null())
    if are_distinct(frame, key):
        return
    has_key = frame.select(pl.all_horizontal(pl.col(c).is_not_null() for c in key)).to_series()
    duplicated = frame.select(pl.struct(key).is_duplicated()).to_series() & has_key
    if duplicated.any():
        repeated = frame.select(key).filter(duplicated)
        first = repeated.row(0, named=True)
        count = frame.select(pl.all_horizontal(pl.col(c) == pl.lit(v, dtype=frame.schema[c]) for c, v in first.items())).to_series().sum()
        yield RuleViolation(
            "key",
            ", ".join(key),
            "unique key",
            f"the key { {name: format_value(value) for name, value in first.items()} } is on {count} rows{_describe_duplicates(repeated)}",
            "a key identifies one row: deduplicate, or add the column that distinguishes them to key="
            + (", or in a feature view to created_timestamp=: the row that became known last then counts" if time in key else ""),
            duplicated,
        )


def _describe_duplicates(repeated: pl.DataFrame) -> str:
    """Return a clause with the number of other duplicate keys and of all their rows; empty for a single duplicate key."""
    others = repeated.n_unique() - 1
    return f", and {others} other key(s) are duplicate too: {repeated.height} rows in total" if others else ""


def format_value(value: object) -> object:
    """Return a value as messages show it: dates and times as ISO 8601 text."""
    return value.isoformat() if isinstance(value, date | time) else value


def _build_float_key_violation(column: str) -> RuleViolation:
    return RuleViolation(
        "key",
        column,
        "a key is not a float",
        f"column '{column}' is part of the key and a float: whole numbers above 2^53 and leading zeros are lost in floats",
        f"read '{column}' as text or as a whole number; in pandas, as 'Int64' or 'string', which keep nulls without floats",
    )


def find_time_violations(
    frame: pl.DataFrame, column: str, windows: Sequence[tuple[str, TimeWindow | None]], max_future: timedelta | None
) -> Iterator[RuleViolation]:
    """Yield violations of event times: type, nulls, and times outside of the partitions.

    Without partitions, times before 1900 and more than ``max_future`` after now are violations.
    """
    if column not in frame.columns:
        yield build_missing_column_violation("event_time", column, frame)
        return
    times = frame[column]
    if not is_utc(times.dtype):
        message = f"column '{column}' has type {times.dtype}, not a time in UTC"
        yield RuleViolation("event_time", column, "a time in UTC", message, _build_zone_hint(column))
        return
    if nulls := times.null_count():
        message = f"column '{column}' is null in {nulls} row(s)"
        yield RuleViolation("event_time", column, "not null", message, "drop or repair rows without a time", times.is_null())
    if merge_windows(windows):
        yield from _build_range_violation(frame, column, windows)
    else:
        yield from _build_implausible_violation(times, column, max_future)


def find_zone_violations(frame: pl.DataFrame, columns: Sequence[str]) -> Iterator[RuleViolation]:
    """Yield a violation for each given time column that is not in UTC; missing and all-null columns are skipped."""
    for column in columns:
        if column in frame.columns and not is_utc(frame[column].dtype) and frame[column].dtype != pl.Null:
            message = f"column '{column}' has type {frame[column].dtype}, not a time in UTC as the event time"
            yield RuleViolation("event_time", column, "a time in UTC", message, _build_zone_hint(column))


def _build_zone_hint(column: str) -> str:
    return f"`pl.col('{column}').dt.replace_time_zone('<zone of the data>').dt.convert_time_zone('UTC')` gives it a zone"


def _build_range_violation(frame: pl.DataFrame, column: str, windows: Sequence[tuple[str, TimeWindow | None]]) -> Iterator[RuleViolation]:
    outside = ~frame.select(_is_inside(column, windows)).to_series().fill_null(value=True)
    if outside.any():
        keys = [key for key, _ in windows]
        label = f"'{keys[0]}'" if len(keys) == 1 else f"'{keys[0]}' to '{keys[-1]}'"
        message = f"column '{column}': {outside.sum()} row(s) lie outside of partition(s) {label}; the first at {format_value(frame[column].filter(outside).min())}"
        hint = "return the rows of the given window only; check the time zone of the partitions"
        yield RuleViolation("event_time", column, "inside of the partition", message, hint, outside)


def _build_implausible_violation(times: pl.Series, column: str, max_future: timedelta | None) -> Iterator[RuleViolation]:
    early = (times < EARLIEST).fill_null(value=False)
    if early.any():
        message = f"column '{column}': {early.sum()} row(s) lie before 1900; the first at {format_value(times.filter(early)[0])}"
        hint = "a missing time is null, not a date before 1900: repair it where it is read"
        yield RuleViolation("event_time", column, "not before 1900", message, hint, early)
    if max_future is None:
        return
    late = (times > datetime.now(UTC) + max_future).fill_null(value=False)
    if late.any():
        message = f"column '{column}': {late.sum()} row(s) lie more than {max_future} after now; the first at {format_value(times.filter(late)[0])}"
        hint = (
            "check the clock, the century and the time zone of the source; if events may lie in the future, set max_future=timedelta(...)"
        )
        yield RuleViolation("event_time", column, f"at most {max_future} after now", message, hint, late)


def is_utc(dtype: pl.DataType) -> bool:
    """Return True for a type of times in UTC."""
    return isinstance(dtype, pl.Datetime) and dtype.time_zone == "UTC"


def merge_windows(windows: Sequence[tuple[str, TimeWindow | None]]) -> list[TimeWindow]:
    """Return the time windows in order, adjacent ones joined; empty for an unpartitioned table."""
    return join_windows(window for _, window in windows if window is not None)


def _is_inside(column: str, windows: Sequence[tuple[str, TimeWindow | None]]) -> pl.Expr:
    return pl.any_horizontal([(pl.col(column) >= w.start) & (pl.col(column) < w.end) for w in merge_windows(windows)])


def build_missing_column_violation(check: str, column: str, frame: pl.DataFrame) -> RuleViolation:
    """Return the violation of a missing column."""
    hint = suggest_name(column, frame.columns) + f"the frame has {', '.join(frame.columns)}"
    return RuleViolation(check, column, "the column exists", f"column '{column}' is missing", hint)


def assign_partitions(frame: pl.DataFrame, column: str | None, windows: Sequence[tuple[str, TimeWindow | None]]) -> pl.Series:
    """Return the index of the window of each row.

    A row outside of all windows gets the last window that starts before it, or the first window. A row without a time gets the first
    window. Every row gets the first window if there is only one window, or no column with times in UTC.

    Parameters
    ----------
    frame
        The rows to assign.
    column
        The column with the event time.
    windows
        Partition key and window, in order of time; an unpartitioned table has one key and None.
    """
    starts = [window.start for _, window in windows if window is not None]
    if len(windows) == 1 or len(starts) != len(windows) or column is None or column not in frame.columns or not is_utc(frame[column].dtype):
        return pl.Series("partition", [0], dtype=pl.Int64).new_from_index(0, frame.height)
    edges = pl.Series(starts, dtype=frame.schema[column])
    indices = edges.search_sorted(frame[column].fill_null(starts[0]), side="right").cast(pl.Int64) - 1
    return indices.clip(0, len(windows) - 1).alias("partition")


def locate_first(frame: pl.DataFrame, rows: pl.Series | None, table: Table, windows: Sequence[tuple[str, TimeWindow | None]]) -> str:
    """Return the end of a message that locates the first row that breaks a rule; empty when no row is known."""
    if rows is None or not rows.any():
        return ""
    first = int(rows.arg_max() or 0)
    numbers = assign_partitions(frame, table.event_timestamp, windows)
    key, in_partition = windows[int(numbers[first])][0], numbers == numbers[first]
    identity = ", ".join(f"{c}={format_value(frame[c][first])!r}" for c in table.key if c in frame.columns)
    place = f", partition '{key}'" if key else ""
    share = f", which has {(rows & in_partition).sum()} of {rows.sum()} such rows in {len(windows)} partitions" if len(windows) > 1 else ""
    return f"; the first bad row is number {in_partition.head(first + 1).sum()}" + (f" ({identity})" if identity else "") + place + share
