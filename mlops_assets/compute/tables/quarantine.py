"""Quarantine rows that break a rule on rows, with the reason for each."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import polars as pl

from mlops_assets.compute.tables.row_rules import assign_partitions
from mlops_assets.compute.tables.verify import Outcome, find_violations

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from mlops_assets.compute.tables.row_rules import RuleViolation
    from mlops_assets.values.dataset import Table
    from mlops_assets.values.quality import Limit
    from mlops_assets.values.window import TimeWindow

NO_QUARANTINED_ROWS = "no_quarantined_rows"
TIME = "partition_start"
KEY = ("partition", "row")
ORIGIN_COLUMNS = ("run_id", "quarantined_at")
PREVIEW = 5
SCHEMA = pl.Schema(
    {
        "partition": pl.String(),
        "partition_start": pl.Datetime("us", "UTC"),
        "row": pl.String(),
        "rule": pl.String(),
        "column": pl.String(),
        "reason": pl.String(),
        "run_id": pl.String(),
        "quarantined_at": pl.Datetime("us", "UTC"),
    }
)


def split_quarantine(  # noqa: PLR0913  (what is said of each row)
    frame: pl.DataFrame,
    table: Table,
    windows: Sequence[tuple[str, TimeWindow | None]],
    *,
    limits: Sequence[Limit] | None,
    run_id: str,
    now: datetime,
    violations: Sequence[RuleViolation] | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Split rows into valid rows and quarantined rows.

    All rows with a duplicate key are quarantined, because the right one is unknown. Quality limits that only warn quarantine no row. The
    partition of a row is that of :func:`mlops_assets.compute.tables.row_rules.assign_partitions`.

    Parameters
    ----------
    frame
        Rows as the function returned them.
    table, windows, limits
        As in :func:`mlops_assets.compute.tables.verify.verify`.
    run_id, now
        The run that quarantines the rows, and its time.
    violations
        The violations of these rows from an earlier call of :func:`find_violations`; None finds them here.

    Returns
    -------
    polars.DataFrame, polars.DataFrame
        The valid rows, and the rows of the quarantine table: one per invalid row, with all its reasons.
    """
    warns = table.quality is not None and not table.quality.blocks
    violations = list(find_violations(frame, table, windows, limits=limits)) if violations is None else violations
    violations = [f for f in violations if f.rows is not None and not (warns and f.check == "quality")]
    if not violations:
        return frame, SCHEMA.to_frame()
    bad = frame.select(pl.any_horizontal(*(f.rows for f in violations if f.rows is not None))).to_series()
    numbers = assign_partitions(frame, table.event_timestamp, windows)
    rows = [_build_quarantine_row(frame, int(i), violations, windows[int(numbers[int(i)])]) for i in bad.arg_true()]
    refused = pl.DataFrame([{**row, "run_id": run_id, "quarantined_at": now} for row in rows], schema=SCHEMA)
    return frame.filter(~bad), refused


def _build_quarantine_row(
    frame: pl.DataFrame, number: int, violations: Sequence[RuleViolation], partition: tuple[str, TimeWindow | None]
) -> dict[str, Any]:
    """Return the partition of an invalid row, the row as JSON, its first broken rule, and all reasons."""
    row = frame.row(number, named=True)
    broken = [f for f in violations if f.rows is not None and f.rows[number]]
    return {
        "partition": partition[0],
        "partition_start": partition[1].start if partition[1] else None,
        "row": json.dumps(row, default=str, ensure_ascii=False),
        "rule": broken[0].rule,
        "column": broken[0].column,
        "reason": "; ".join(f"{f.check}: {_display_value(row, f.column)} breaks {f.rule}" for f in broken),
    }


def _display_value(row: dict[str, Any], column: str) -> str:
    if column not in row:
        return column
    return f"{column} = {row[column]!r}" if isinstance(row[column], str) else f"{column} = {row[column]}"


def build_quarantine_outcome(
    refused: pl.DataFrame, counts: Sequence[int], windows: Sequence[tuple[str, TimeWindow | None]], *, share: float, name: str
) -> Outcome:
    """Return the outcome of the quarantine check, which refuses the write if more than ``share`` of a partition is bad, and else warns.

    Parameters
    ----------
    refused
        The quarantined rows.
    counts
        The number of valid and invalid rows of each partition.
    windows
        The partitions.
    share
        Maximum share of a partition that may be quarantined.
    name
        The name of the dataset.
    """
    if refused.is_empty():
        return Outcome(NO_QUARANTINED_ROWS, passed=True, blocking=False, facts={"rows": 0})
    bad = Counter(refused["partition"].to_list())
    facts = {
        "rows": refused.height,
        "by reason": json.dumps(dict(count_reasons(refused)), indent=2, ensure_ascii=False),
        "preview": json.dumps(refused.select("partition", "row", "reason").head(PREVIEW).to_dicts(), indent=2, ensure_ascii=False),
    }
    top_reasons = ", ".join(f"{reason} ({count})" for reason, count in count_reasons(refused)[:3])
    for (key, _), count in zip(windows, counts, strict=True):
        if bad[key] > share * count:
            where = f"partition '{key}': " if key else ""
            first = refused.filter(pl.col("partition") == key).row(0, named=True)
            message = (
                f"{where}{bad[key]} of {count} rows ({bad[key] / count:.2%}) break a rule on rows, more than the {share:.2%} that "
                f"quarantine= allows; most often {top_reasons}; the first: {first['reason']}, in {first['row']}"
            )
            hint = "correct the source, the function or the schema; raise quarantine= only if so many bad rows are expected"
            return Outcome(NO_QUARANTINED_ROWS, passed=False, message=message, hint=hint, facts=facts)
    message = f"{refused.height} row(s) were quarantined in 'quarantine/{name}': {top_reasons}"
    hint = f"correct the function or the schema, then `mlops quarantine replay {name}`"
    return Outcome(NO_QUARANTINED_ROWS, passed=False, message=message, hint=hint, blocking=False, facts=facts)


def reword_for_refused_write(outcome: Outcome, refused: pl.DataFrame) -> Outcome:
    """Reword a failed quarantine check for a write that another check refuses: no row is quarantined then.

    Parameters
    ----------
    outcome
        The outcome as it would be if the write succeeded.
    refused
        The rows that break a rule.
    """
    if outcome.passed:
        return outcome
    top_reasons = ", ".join(f"{reason} ({count})" for reason, count in count_reasons(refused)[:3])
    message = f"{refused.height} row(s) break a rule on rows: {top_reasons}. The write is refused by another check: nothing was written or quarantined"
    return replace(
        outcome, message=message, hint="correct the problem of the other check; these rows are quarantined when the write succeeds"
    )


def count_reasons(refused: pl.DataFrame) -> list[tuple[str, int]]:
    """Return pairs of a first broken rule, as ``column: rule``, and its number of quarantined rows, most frequent first."""
    counted = Counter(f"{column}: {rule}" for column, rule in refused.select("column", "rule").iter_rows())
    return sorted(counted.items(), key=lambda item: (-item[1], item[0]))


def count_partitions(frame: pl.DataFrame, table: Table, windows: Sequence[tuple[str, TimeWindow | None]]) -> list[int]:
    """Return the number of rows that :func:`mlops_assets.compute.tables.row_rules.assign_partitions` assigns to each partition, in order."""
    counted = Counter(assign_partitions(frame, table.event_timestamp, windows).to_list())
    return [counted[number] for number in range(len(windows))]
