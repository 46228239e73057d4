"""Call a user's function for the partitions of a step; its inputs are read once for all calls."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from mlops_assets.compute.tables.row_rules import assign_partitions, find_time_violations, is_utc
from mlops_assets.compute.tables.verify import Outcome
from mlops_assets.errors import DataError
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.values.dataset import Table
from mlops_assets.values.function import CallPer, UserFunction
from mlops_assets.values.window import TimeWindow

_WINDOW_HINT = (
    "return the rows of the given window only: the function is called once for each partition, even in a run over several partitions"
)


@dataclass(frozen=True)
class ProducedRows:
    """The rows that a function returned for the partitions of a step.

    Parameters
    ----------
    frame
        The rows of all calls except the strays.
    strays
        Partition → rows that its call returned for another partition of the step. Empty when there was one call.
    whole_range
        Whether one call returned the rows of several partitions.
    """

    frame: pl.DataFrame
    strays: Mapping[str, pl.DataFrame]
    whole_range: bool = False


def call_function(
    step: StepContext,
    function: UserFunction[..., object],
    call_per: CallPer,
    event_timestamp: str,
    shape: Callable[[pl.DataFrame], pl.DataFrame] = lambda frame: frame,
) -> ProducedRows:
    """Call a function for the partitions of a step and return its rows.

    Parameters
    ----------
    step
        The step.
    function
        The user's function.
    call_per
        Whether the function is called once for each partition or once for the whole range.
    event_timestamp
        The column with the event time, which determines the partition of a row.
    shape
        A function that is applied to the result of each call.
    """
    if len(step.keys) == 1 or call_per == "range":
        return ProducedRows(shape(step.call_for_frame(function)), {}, whole_range=len(step.keys) > 1)
    frames: list[tuple[str, pl.DataFrame]] = []
    strays: dict[str, pl.DataFrame] = {}
    for call in step.split_by_partition(function):
        frame = shape(call.call_for_frame(function))
        own = _mark_own_rows(frame, event_timestamp, call.window, step.window)
        frames.append((call.keys[0], frame.filter(own)))
        if not own.all():
            strays[call.keys[0]] = frame.filter(~own)
    return ProducedRows(stack_frames(frames, f"'{step.node.key}'"), strays)


def _mark_own_rows(frame: pl.DataFrame, column: str, own: TimeWindow, run: TimeWindow) -> pl.Series:
    """Return a mask that is False for rows inside the window of the run and outside of the call's own window; all True without UTC times."""
    if column not in frame.columns or not is_utc(frame[column].dtype):
        return pl.repeat(value=True, n=frame.height, dtype=pl.Boolean, eager=True)
    times = pl.col(column)
    is_stray = times.is_between(run.start, run.end, closed="left") & ~times.is_between(own.start, own.end, closed="left")
    return frame.select(~is_stray.fill_null(value=False)).to_series()


def stack_frames(frames: Sequence[tuple[str, pl.DataFrame]], owner: str) -> pl.DataFrame:
    """Return the rows of (partition, rows) pairs in their order; frames without rows are ignored, unless all are empty.

    The columns are in the order of the first frame with rows. ``owner`` names the table in messages.

    Raises
    ------
    DataError
        The calls for two partitions returned different columns, or one column with types that do not fit together.
    """
    first, template = next(((key, frame) for key, frame in frames if frame.height), frames[0])
    stacked = []
    for key, frame in frames:
        if not frame.height:
            continue
        if differing := sorted(set(frame.columns) ^ set(template.columns)):
            present, absent = (key, first) if differing[0] in frame.columns else (first, key)
            raise DataError(
                f"{owner}: column '{differing[0]}' is in partition '{present}' and not in partition '{absent}'",
                hint="return the same columns for every partition",
            )
        for name, dtype in template.schema.items():
            if not _are_compatible(dtype, frame.schema[name]):
                raise DataError(
                    f"{owner}: column '{name}' is {dtype} in partition '{first}' and {frame.schema[name]} in partition '{key}'",
                    hint=f"cast '{name}' in the function, so that every partition has the same type",
                )
        stacked.append(frame.select(template.columns))
    return pl.concat(stacked, how="vertical_relaxed") if stacked else template


def _are_compatible(left: pl.DataType, right: pl.DataType) -> bool:
    return left == right or pl.Null in (left, right) or (left.is_integer() and right.is_integer()) or (left.is_float() and right.is_float())


def build_misplaced_outcome(produced: ProducedRows, table: Table, windows: Mapping[str, TimeWindow | None]) -> Outcome | None:
    """Return a failed ``event_time`` outcome for the first call that returned rows of another partition; None without strays."""
    for key, rows in produced.strays.items():
        violation = next(find_time_violations(rows, table.event_timestamp or "", [(key, windows[key])], None))
        return Outcome("event_time", passed=False, message=violation.message, hint=_WINDOW_HINT)
    return None


def build_emptied_outcome(step: StepContext, frame: pl.DataFrame, table: Table) -> Outcome | None:
    """Return a failed ``not_empty`` outcome if the rows of a range call would leave a recorded partition empty; None otherwise."""
    recorded = step.stores.lake.records(step.node.key, snapshot=step.snapshot)
    present = set(assign_partitions(frame, table.event_timestamp, step.windows).unique())
    emptied = [key for number, (key, _) in enumerate(step.windows) if number not in present and key in recorded and recorded[key].rows]
    if not emptied:
        return None
    rows, more = recorded[emptied[0]].rows, len(emptied) - 1
    others = f", as would {more} other partition(s), the last '{emptied[-1]}'" if more else ""
    message = f"partition '{emptied[0]}' has {rows} row(s) and would have none{others}; one call made {len(step.keys)} partitions (call_per='range')"
    hint = (
        "return the rows of every partition of the window, or drop call_per='range'; if a partition is rightly empty, materialise it alone"
    )
    return Outcome("not_empty", passed=False, message=message, hint=hint)
