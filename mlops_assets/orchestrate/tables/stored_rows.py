"""Combine the rows of a log with those in the lake, and report the lines of the log that are set aside."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from mlops_assets.compute.tables.verify import Outcome
from mlops_assets.errors import DataError, LakeError
from mlops_assets.orchestrate.core.metadata import to_markdown
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.values.dataset import Table
from mlops_assets.values.window import TimeWindow, join_windows

LOG_READABLE = "log_readable"
_MAX_LINES = 20  # lines that are listed


def add_stored_rows(step: StepContext, rows: pl.DataFrame, rules: Table) -> tuple[pl.DataFrame, int]:
    """Return a log's rows with the rows that only the lake has, and how many these are.

    Parameters
    ----------
    step
        The step, whose table is filled from a log.
    rows
        The log's rows of the step's partitions.
    rules
        Key and event time of the table.

    Returns
    -------
    frame : polars.DataFrame
        The rows of log and lake, each key once; a row of the log replaces the lake's row with the same key.
    lake_only : int
        The number of rows that only the lake has.

    Raises
    ------
    DataError
        The log has fewer rows than a damaged partition had, the lake's rows cannot be read, or a cast to the log's types changes a value.
    """
    records = step.stores.lake.records(step.node.key, snapshot=step.snapshot)
    damaged = [(key, window) for key, window in step.windows if key in records and records[key].damaged]
    for key, window in damaged:
        _refuse_loss(step, rows, rules, key, window, records[key].rows)
    sound = [window for key, window in step.windows if key in records and not records[key].damaged]
    stored = [_read_window(step, rules, window) for window in _merge_windows(sound)]
    missing = [frame.join(rows, on=list(rules.key), how="anti", nulls_equal=True) for frame in stored]
    missing = [_cast_to_log_types(step, frame, rows) for frame in missing if frame.height]
    return pl.concat([rows, *missing], how="diagonal"), sum(frame.height for frame in missing)


def _merge_windows(windows: Sequence[TimeWindow | None]) -> list[TimeWindow | None]:
    return [None] if None in windows else [*join_windows(window for window in windows if window is not None)]


def _read_window(step: StepContext, rules: Table, window: TimeWindow | None) -> pl.DataFrame:
    try:
        return step.stores.lake.read(step.node.key, window=window, event_timestamp=rules.event_timestamp, snapshot=step.snapshot)
    except LakeError as error:
        raise DataError(
            f"'{step.node.key}': the rows that are in the lake already cannot be read, and must not be lost: {error.message}",
            hint="`mlops doctor` names the damaged file; restore it from a backup",
        ) from error


def _refuse_loss(step: StepContext, rows: pl.DataFrame, rules: Table, key: str, window: TimeWindow | None, recorded: int) -> None:  # noqa: PLR0913  (one partition of a step)
    """Refuse to rebuild a damaged partition from a log with fewer rows than the partition had."""
    time = pl.col(rules.event_timestamp or "")
    log_rows = rows if window is None else rows.filter(time.is_between(window.start, window.end, closed="left"))
    if log_rows.height < recorded:
        where = f"partition '{key}' of " if key else ""
        raise DataError(
            f"{where}'{step.node.key}' is damaged in the lake: {recorded} rows were written, and the log has {log_rows.height} of them",
            hint="restore the file that `mlops doctor` names, or the log's folder of that day, from a backup",
        )


def _cast_to_log_types(step: StepContext, stored: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """Cast the lake's rows to the types of the log; raise DataError when a cast would change a value."""
    columns = []
    for column in stored:
        log_type = rows.schema.get(column.name, column.dtype)
        cast = column.cast(log_type, strict=False)
        changed = column.ne_missing(cast.cast(column.dtype, strict=False))  # a cast to whole numbers drops a fraction without an error
        if changed.any():
            raise DataError(
                f"column '{column.name}' of '{step.node.key}' is {column.dtype} in the lake and {log_type} in the log, "
                f"and the lake has {stored.height} row(s) that the log lacks, with {column.filter(changed)[0]!r} among them",
                hint="serve a version whose column has the earlier type, or name the column differently",
            )
        columns.append(cast)
    return pl.DataFrame(columns)


def build_log_outcome(corrupt: Sequence[str], unfit: Sequence[str] = ()) -> Outcome:
    """Return the outcome of the non-blocking check that fails when lines of a log were set aside; it names the first.

    Parameters
    ----------
    corrupt
        Damaged lines, as ``file:line``.
    unfit
        Sentences about rows that the lake cannot hold.
    """
    first = next(iter([*(f"the first is {place}" for place in corrupt), *unfit]), "")
    return Outcome(
        LOG_READABLE,
        passed=not first,
        blocking=False,
        message=f"{len(corrupt) + len(unfit)} line(s) of the log are set aside: {first}" if first else "",
        hint="look at the file: the lines stay in the log, and their content cannot be restored",
        facts={"lines set aside": len(corrupt) + len(unfit)},
    )


def build_log_metadata(lake_only: int, corrupt: Sequence[str], unfit: Sequence[str] = ()) -> dict[str, Any]:
    """Return metadata of a table that is filled from a log: the number of rows that only the lake has, and the first lines set aside."""
    lines = [*corrupt, *unfit]
    facts: dict[str, Any] = {"rows that the log lacks": lake_only} if lake_only else {}
    return facts | ({"lines set aside": to_markdown([{"line": line} for line in lines[:_MAX_LINES]])} if lines else {})
