"""Quality limits on partitions and values: learned from a reference period, stored as a table, checked on new partitions."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import polars as pl

from mlops_assets.compute.tables.row_rules import RuleViolation, assign_partitions
from mlops_assets.values.quality import CATEGORIES, NULLS, RANGE, ROWS, Limit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mlops_assets.values.quality import Quality
    from mlops_assets.values.window import TimeWindow

MAX_CATEGORIES = 50  # no categories are learned for a text column with more distinct values
MIN_NULL_MARGIN = 0.01  # added at minimum to the share of nulls in the reference period
SCHEMA = pl.Schema(
    {
        "rule": pl.String(),
        "column": pl.String(),
        "low": pl.Float64(),
        "high": pl.Float64(),
        "categories": pl.List(pl.String),
        "origin": pl.String(),
        "declaration": pl.String(),
    }
)


def hash_declaration(quality: Quality) -> str:
    """Return a hash of the declared quality limits; when the hash changes, limits are learned again."""
    return hashlib.sha256(repr(quality).encode()).hexdigest()


def limits_to_table(limits: Sequence[Limit], quality: Quality) -> pl.DataFrame:
    """Return limits as rows of a lake table, each with the hash of the declaration."""
    declared_hash = hash_declaration(quality)
    return pl.DataFrame(
        [(x.rule, x.column, x.low, x.high, list(x.values), x.origin, declared_hash) for x in limits], schema=SCHEMA, orient="row"
    )


def limits_from_table(rows: pl.DataFrame) -> tuple[Limit, ...]:
    """Return limits from rows of a lake table."""
    return tuple(
        Limit(r["rule"], r["column"], r["low"], r["high"], tuple(r["categories"]), r["origin"]) for r in rows.iter_rows(named=True)
    )


def learn_limits(
    quality: Quality,
    frame: pl.DataFrame,
    time: str | None,
    windows: Sequence[tuple[str, TimeWindow | None]],
    *,
    excluded_columns: Sequence[str],
) -> tuple[Limit, ...]:
    """Return the declared limits, followed by limits learned from a reference period for all other rules and columns.

    Parameters
    ----------
    quality
        The declared limits, and the margin of learned limits.
    frame
        The rows of the reference period.
    time
        The column of ``frame`` with the event time, if there is one.
    windows
        Partition key and window of the reference period, oldest first; the window is None when unpartitioned.
    excluded_columns
        Columns without learned limits, such as keys; columns of dates and times never have learned limits.
    """
    first, last = windows[0][0], windows[-1][0]
    origin = f"learned from {len(windows)} partition(s) '{first}' to '{last}', margin {quality.margin:.0%}"
    learned = list(_iterate_learned_limits(quality.margin, frame, time, windows, set(excluded_columns), origin))
    declared = {(x.rule, x.column) for x in quality.declared}
    return (*quality.declared, *(x for x in learned if (x.rule, x.column) not in declared))


def _iterate_learned_limits(  # noqa: PLR0913  (what it learns from)
    margin: float,
    frame: pl.DataFrame,
    time: str | None,
    windows: Sequence[tuple[str, TimeWindow | None]],
    excluded_columns: set[str],
    origin: str,
) -> Iterator[Limit]:
    """Yield the limits of partition rows, then of each column: its share of nulls, and its range or categories."""
    counts_by_column = _count_values(frame, time, windows)
    counts = counts_by_column["__rows"]
    minimum, maximum = min(counts.to_list()), max(counts.to_list())
    yield Limit(ROWS, "", minimum * max(0.0, 1 - margin), maximum * (1 + margin), origin=origin)
    for name, dtype in frame.schema.items():
        if name in excluded_columns or dtype.is_temporal():
            continue
        share = max((counts_by_column[name] / counts.clip(1)).to_list())
        yield Limit(NULLS, name, high=min(1.0, share + max(share * margin, MIN_NULL_MARGIN)), origin=origin)
        values = frame[name].drop_nulls()
        if dtype.is_numeric() and values.len():
            values = values.drop_nans() if dtype.is_float() else values
            if values.len():
                low, high = float(values.min()), float(values.max())  # type: ignore[arg-type]
                padding = margin * ((high - low) or abs(high))  # the margin of a constant is relative to its value
                yield Limit(RANGE, name, low - padding, high + padding, origin=origin)
        elif dtype == pl.String and 0 < values.n_unique() <= min(MAX_CATEGORIES, max(1, values.len() // 5)):
            yield Limit(CATEGORIES, name, values=tuple(values.unique().sort().to_list()), origin=origin)


def _count_values(frame: pl.DataFrame, time: str | None, windows: Sequence[tuple[str, TimeWindow | None]]) -> pl.DataFrame:
    """Return the number of rows, and of nulls of each column, for every partition in order, including empty partitions."""
    numbers = assign_partitions(frame, time, windows).alias("__partition")
    counted = (
        frame.with_columns(numbers)
        .group_by("__partition")
        .agg(pl.len().cast(pl.Int64).alias("__rows"), *(pl.col(c).null_count().cast(pl.Int64) for c in frame.columns))
    )
    partitions = pl.DataFrame({"__partition": pl.Series(range(len(windows)), dtype=pl.Int64)})
    return partitions.join(counted, on="__partition", how="left").fill_null(0).sort("__partition")


def find_limit_violations(
    frame: pl.DataFrame, time: str | None, windows: Sequence[tuple[str, TimeWindow | None]], limits: Sequence[Limit]
) -> Iterator[RuleViolation]:
    """Yield the violations of limits: missing columns, then limits on rows, then limits on partitions."""
    applicable = [limit for limit in limits if not limit.column or limit.column in frame.columns]
    for limit in limits:
        if limit not in applicable:
            yield RuleViolation(
                "quality", limit.column, limit.rule, f"column '{limit.column}' is missing", f"its {limit.rule} is {limit.text}"
            )
    for limit in applicable:
        if limit.rule in {RANGE, CATEGORIES}:
            yield from _check_row_limit(frame, limit)
    if not any(limit.rule in {NULLS, ROWS} for limit in applicable):
        return
    figures = _count_values(frame, time, windows)
    for limit in applicable:
        if limit.rule in {NULLS, ROWS}:
            yield from _check_partition_limit(figures, windows, limit)


def _check_row_limit(frame: pl.DataFrame, limit: Limit) -> Iterator[RuleViolation]:
    values = frame[limit.column]
    if limit.rule == RANGE and not values.dtype.is_numeric():
        hint = f"its range is {limit.text}"
        yield RuleViolation("quality", limit.column, limit.rule, f"column '{limit.column}' is {values.dtype}, which has no range", hint)
        return
    bad = mask_violations(values, limit)
    if bad.any():
        first = values.filter(bad)[0]
        relation = "outside of the range" if limit.rule == RANGE else "none of the categories"
        message = f"column '{limit.column}' is {first!r} in the first of {bad.sum()} row(s), {relation} {limit.text}"
        yield RuleViolation("quality", limit.column, f"{limit.rule}: {limit.text}", message, _hint(limit), bad)


def mask_violations(values: pl.Series, limit: Limit) -> pl.Series:
    """Return a Boolean series: True for values that break a limit. Null breaks no limit; NaN breaks every limit except categories."""
    if limit.rule == CATEGORIES:
        return (~values.cast(pl.String).is_in(list(limit.values))).fill_null(value=False)
    bad = values.is_nan() if values.dtype.is_float() else values.is_null() & values.is_not_null()
    if limit.low is not None:
        bad = bad | (values < limit.low)
    if limit.high is not None:
        bad = bad | (values > limit.high)
    return bad.fill_null(value=False)


def _check_partition_limit(
    figures: pl.DataFrame, windows: Sequence[tuple[str, TimeWindow | None]], limit: Limit
) -> Iterator[RuleViolation]:
    rows = figures["__rows"]
    values = rows.cast(pl.Float64) if limit.rule == ROWS else figures[limit.column] / rows.clip(1)
    bad = mask_violations(values, limit)
    if bad.any():
        number = int(bad.arg_max() or 0)
        where = f"partition '{windows[number][0]}'" if windows[number][0] else "the table"
        figure = f"has {rows[number]} rows" if limit.rule == ROWS else f"has nulls in {values[number]:.2%} of column '{limit.column}'"
        more = f", as have {int(bad.sum()) - 1} other partition(s)" if bad.sum() > 1 else ""
        yield RuleViolation("quality", limit.column, limit.rule, f"{where} {figure}, not {limit.text}{more}", _hint(limit))


def _hint(limit: Limit) -> str:
    if limit.origin == "declared":
        return "correct the source; if the data is right, change the limit in quality="
    return "correct the source; if the data is right, declare the limit in quality=, widen margin=, or learn from another period"


def describe_limits(limits: Sequence[Limit]) -> Mapping[str, Any]:
    """Return the metadata of the quality check: ``limits`` → a JSON object with the text of each limit."""
    return {"limits": json.dumps({f"{x.rule} of {x.column}" if x.column else x.rule: x.text for x in limits}, indent=2)}
