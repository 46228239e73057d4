"""Three-way splits (train, validation, holdout), and the rows of a candidate whose retraining policy declares another split."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

from mlops_assets.compute.tables.own_columns import SPLIT, TRAINING_SET_COLUMNS, lake_column, rename_from_table
from mlops_assets.errors import DataError
from mlops_assets.values.evaluation import Split
from mlops_assets.values.names import OWN
from mlops_assets.values.training import TimeSplit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlops_assets.values.training import TrainingSet

SPLIT_NAMES = ("train", "validation", "holdout")
GAP = "gap"  # rows whose label became known too late for their part: only a refit trains on them
MIN_JUDGING_ROWS = 30
# In a record: the time before which rows are left out (ISO text), the span of the newest training rows and the lengths of the parts in
# seconds. A candidate with the rows and the split of its training set has none of them.
TRAIN_FROM, TRAIN_WINDOW, JUDGED_SPLIT = "train_from", "train_window", "judged_split"
REFIT_FROM = "refit_from"  # the same for a refit: empty when it trains on all rows


def sort_canonically(rows: pl.DataFrame, event_timestamp: str | None) -> pl.DataFrame:
    """Sort training rows by time, then by every column that is not nested, so that equal content trains equal models.

    Parameters
    ----------
    rows
        Rows with column names as in the lake; the result has the names that user code sees.
    event_timestamp
        The column with the time of a row, if there is one.
    """
    time = lake_column(event_timestamp, TRAINING_SET_COLUMNS) if event_timestamp else None
    ordered = None if time is None else _sort_by_unique_time(rows, time)
    if ordered is None:
        leading = [] if time is None else [time]
        ordered = rows.sort(*leading, *(c for c in sorted(rows.columns) if c not in leading and not rows[c].dtype.is_nested()))
    return rename_from_table(ordered, TRAINING_SET_COLUMNS)


def _sort_by_unique_time(rows: pl.DataFrame, time: str) -> pl.DataFrame | None:
    """Return rows sorted by time, which is much faster than a sort by every column; None when a time is null or repeated."""
    order = rows[time].arg_sort()
    steps = rows[time].gather(order).to_physical().diff().drop_nulls()
    unique = not rows[time].null_count() and len(steps) == rows.height - 1 and bool((steps > 0).all())
    return rows[order] if unique else None


def split_rows(rows: pl.DataFrame, columns: Sequence[str], label: str) -> dict[str, Split]:
    """Return part name → rows of a training set, as models and gates receive them.

    Parameters
    ----------
    rows
        The sorted rows, each with its part in the column ``SPLIT``.
    columns
        The columns of ``X``.
    label
        The column that is ``y``.
    """
    parts = {part: rows.filter(pl.col(SPLIT) == part) for part in SPLIT_NAMES}
    plain = SPLIT.removeprefix(OWN)  # shown to models and gates, unless the user has a column of that name
    shown = {name: part.drop(SPLIT) if plain in part.columns else part.rename({SPLIT: plain}) for name, part in parts.items()}
    return {name: Split(part.select(columns), part[label].to_numpy(), shown[name]) for name, part in parts.items()}


def merge_parts(rows: pl.DataFrame, columns: Sequence[str], label: str) -> Split:
    """Return all rows of a training set as one part, for a refit.

    Parameters
    ----------
    rows, columns, label
        As in :func:`split_rows`.
    """
    plain = SPLIT.removeprefix(OWN)
    shown = rows.drop(SPLIT) if plain in rows.columns else rows.rename({SPLIT: plain})
    return Split(rows.select(columns), rows[label].to_numpy(), shown)


def is_known(training_set: TrainingSet[..., Any], as_of: datetime) -> pl.Expr:
    """Return an expression that is True for the rows of a training set that were known at a time; always True without event times.

    Parameters
    ----------
    training_set
        The training set, which names the columns of the event time and of the time when a label became known.
    as_of
        A row was known if its event time is before this time, and its label became known by this time.
    """
    event, known = training_set.event_timestamp, training_set.label_known_at
    conditions = [*([pl.col(event) < as_of] if event else []), *([pl.col(known) <= as_of] if known else [])]
    return pl.all_horizontal(conditions) if conditions else pl.lit(value=True)


def assign_parts(frame: pl.DataFrame, training_set: TrainingSet[..., Any]) -> pl.Series:
    """Return the name of the part of each row, by the split of a training set; null for a row before a rolling window or without a known label.

    Parameters
    ----------
    frame
        Rows of the training set.
    training_set
        The training set, which declares the split.

    Raises
    ------
    DataError
        The column of the split is missing, or a part is empty.
    """
    declared = training_set.split
    if isinstance(declared, TimeSplit):
        label_known_at = frame[training_set.label_known_at] if training_set.label_known_at else None
        times = frame[training_set.event_timestamp or ""]
        return split_by_time(times, label_known_at, validation=declared.validation, holdout=declared.holdout, train=declared.train)
    if declared.column not in frame.columns:
        raise DataError(
            f"'{training_set.key}' splits by '{declared.column}', which its function does not return",
            hint=f"it returns {', '.join(frame.columns)}",
        )
    return split_by_group(frame[declared.column], validation=declared.validation, holdout=declared.holdout, seed=declared.seed)


def hold_out_newest(
    rows: pl.DataFrame, training_set: TrainingSet[..., Any], span: timedelta, *, with_validation: bool
) -> TrainingSet[..., Any]:
    """Return the training set with a holdout of the newest rows: those within a span, but at least the newest 30.

    Parameters
    ----------
    rows
        The rows of the training set, which is split by time.
    training_set
        The declaration of the training set.
    span
        The span of event time up to the newest row.
    with_validation
        Whether the declared validation part is kept; otherwise, its rows are training rows.
    """
    times = rows[training_set.event_timestamp or ""]
    newest: Any = times.max()
    few: Any = times.top_k(MIN_JUDGING_ROWS).min()
    holdout = max(span, newest + timedelta(microseconds=1) - few)
    declared: Any = training_set.split
    return replace(training_set, split=TimeSplit(declared.validation if with_validation else None, holdout, declared.train))


def split_by_time(
    event_times: pl.Series,
    label_known_at: pl.Series | None,
    *,
    validation: timedelta | None,
    holdout: timedelta,
    train: timedelta | None = None,
) -> pl.Series:
    """Split by event time: the oldest rows train, the newest are the holdout.

    Parameters
    ----------
    event_times, label_known_at
        The event time of each row and the time when its label became known, in UTC, shape (rows,).
    validation, holdout, train
        Lengths of the parts, counted back from the last event time. Without ``validation``, there is no validation part; without
        ``train``, the training part begins at the oldest row.

    Returns
    -------
    polars.Series
        ``train``, ``validation`` or ``holdout``; ``gap`` for a row of the training or validation part whose label became known only after
        that part had ended. Null for a row before the first part, and for a row whose label is not known.

    Raises
    ------
    DataError
        There is no row, or a part is empty.
    """
    if event_times.is_empty():
        raise DataError("the training set has no row", hint="materialise its datasets first")
    known = event_times if label_known_at is None else label_known_at
    labelled = event_times.filter(known.is_not_null())
    end = (event_times if labelled.is_empty() else labelled).max() + timedelta(microseconds=1)  # type: ignore[operator]  # a datetime
    to_holdout = end - holdout
    to_validation = to_holdout - (validation or timedelta(0))
    to_train = event_times.min() if train is None else to_validation - train
    frame = pl.DataFrame({"t": event_times, "known": known})
    part = (
        pl.when(pl.col("known").is_null())
        .then(None)
        .when(pl.col("t") >= to_holdout)
        .then(pl.lit("holdout"))
        .when((pl.col("t") >= to_validation) & (pl.col("known") < to_holdout))
        .then(pl.lit("validation"))
        .when((pl.col("t") >= to_train) & (pl.col("t") < to_validation) & (pl.col("known") < to_validation))
        .then(pl.lit("train"))
        .when(pl.col("t") >= to_train)
        .then(pl.lit(GAP))
    )
    spans = {"train": train, "validation": validation, "holdout": holdout}
    lengths = ", ".join(f"{name}={span}" for name, span in spans.items() if span is not None)
    return _refuse_empty_part(
        frame.select(part.alias("split"))["split"], lengths, [p for p in SPLIT_NAMES if p != "validation" or validation is not None]
    )


def split_by_group(groups: pl.Series, *, validation: float, holdout: float, seed: int) -> pl.Series:
    """Split so that all rows of a group are in one part; a hash of the group chooses the part, the same on every machine.

    Parameters
    ----------
    groups
        The group of each row, shape (rows,).
    validation, holdout
        Approximate shares of the groups.
    seed
        Another seed gives another split.

    Returns
    -------
    polars.Series
        ``train``, ``validation`` or ``holdout`` for each row.

    Raises
    ------
    DataError
        A part is empty.
    """
    unique = groups.unique().to_list()
    parts = pl.DataFrame(
        {
            "group": pl.Series(unique, dtype=groups.dtype),
            "split": [_choose_part(_hash_to_unit(value, seed), validation, holdout) for value in unique],
        }
    )
    joined = groups.to_frame("group").join(parts, on="group", how="left", nulls_equal=True, maintain_order="left")
    return _refuse_empty_part(joined["split"], f"validation={validation}, holdout={holdout} of {len(unique)} groups")


def _hash_to_unit(value: object, seed: int) -> float:
    """Hash the text of a group to [0, 1), independently of library versions."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{value}".encode()).digest()[:8], "big") / 2**64


def _choose_part(share: float, validation: float, holdout: float) -> str:
    return "holdout" if share < holdout else "validation" if share < holdout + validation else "train"


def _refuse_empty_part(split: pl.Series, lengths: str, parts: Sequence[str] = SPLIT_NAMES) -> pl.Series:
    """Return the split, or raise DataError if one of ``parts`` has no row."""
    counts = {part: int((split == part).sum()) for part in parts}
    if empty := [part for part, count in counts.items() if not count]:
        raise DataError(f"the {empty[0]} part is empty with {lengths}: {counts}", hint="materialise more data or choose shorter parts")
    return split


def choose_rows(  # noqa: PLR0913  (rows, and how they are chosen)
    rows: pl.DataFrame,
    training_set: TrainingSet[..., Any],
    *,
    window: timedelta | None,
    judge_on: timedelta | None,
    with_validation: bool,
    with_refit: bool,
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Return the rows of a candidate with their parts, and the facts from which :func:`apply_choice` repeats the choice.

    Parameters
    ----------
    rows
        The stored rows of the training set, each with its part.
    training_set
        The declaration of the training set; without a split by time, all rows are returned unchanged.
    window
        The span of the training rows; None for every row.
    judge_on
        The span of the newest rows, which become the holdout; None for the declared holdout.
    with_validation
        Whether the model needs a validation part.
    with_refit
        Whether a candidate that passes its gates is refit; the facts then contain its rows for :func:`choose_refit_rows`.
    """
    facts = dict[str, Any]()
    if not isinstance(training_set.split, TimeSplit):
        return rows, facts
    if judge_on is not None:
        split: Any = hold_out_newest(rows, training_set, judge_on, with_validation=with_validation).split
        lengths = {"holdout": split.holdout.total_seconds(), "validation": split.validation and split.validation.total_seconds()}
        facts[JUDGED_SPLIT] = lengths | {"label_known_at": training_set.label_known_at}
    parted, time = apply_choice(rows, training_set.event_timestamp, facts), training_set.event_timestamp or ""
    if with_refit and (window, judge_on) != (None, None):
        facts[REFIT_FROM] = _find_start(rows[time], window)
    if first := find_train_start(parted, time, window):
        facts[TRAIN_FROM] = first
        parted = _keep_rows_from(parted, time, first)
    if window is not None and (first or facts.get(REFIT_FROM)):
        facts[TRAIN_WINDOW] = window.total_seconds()
    return parted, facts


def apply_choice(rows: pl.DataFrame, event_timestamp: str | None, facts: Mapping[str, Any]) -> pl.DataFrame:
    """Return the rows that :func:`choose_rows` returned, with their parts.

    Parameters
    ----------
    rows
        The stored rows of the training set, each with its part.
    event_timestamp
        The column of the event time; None without event times.
    facts
        A record that may contain the facts of a choice; without such facts, all rows are returned unchanged.
    """
    if event_timestamp is None:
        return rows
    if (split := facts.get(JUDGED_SPLIT)) is not None:
        known = split["label_known_at"]
        validation = None if split["validation"] is None else timedelta(seconds=split["validation"])
        holdout = timedelta(seconds=split["holdout"])
        part = split_by_time(rows[event_timestamp], rows[known] if known else None, validation=validation, holdout=holdout)
        rows = rows.with_columns(part.alias(SPLIT)).drop_nulls(SPLIT)
    return _keep_rows_from(rows, event_timestamp, facts.get(TRAIN_FROM, ""))


def choose_refit_rows(rows: pl.DataFrame, event_timestamp: str | None, facts: Mapping[str, Any]) -> pl.DataFrame:
    """Return the rows of a refit: the holdout and the gap too, and only the newest rows if the candidate had a training window.

    Parameters
    ----------
    rows, event_timestamp, facts
        As in :func:`apply_choice`.
    """
    if event_timestamp is None:
        return rows
    if REFIT_FROM in facts:
        return _keep_rows_from(rows, event_timestamp, facts[REFIT_FROM])
    if JUDGED_SPLIT in facts or TRAIN_FROM in facts:  # recorded before refits had rows of their own
        return apply_choice(rows, event_timestamp, facts).filter(pl.col(SPLIT) != GAP)
    return rows


def find_train_start(rows: pl.DataFrame, event_timestamp: str, window: timedelta | None) -> str:
    """Return the event time of the first row to train on, as ISO text; empty when all rows are training rows.

    Parameters
    ----------
    rows
        The rows of the training set, each with its part.
    event_timestamp
        The column of the event time.
    window
        The span of the newest training rows. It is counted back from the newest training row, which precedes the holdout by days where
        labels arrive late. None for every row.
    """
    return _find_start(rows.filter(pl.col(SPLIT) == "train")[event_timestamp], window)


def _find_start(times: pl.Series, window: timedelta | None) -> str:
    """Return the time from which a window up to the newest time begins, as ISO text; empty when it contains every time."""
    newest, oldest = times.max(), times.min()
    if window is None or not isinstance(newest, datetime) or not isinstance(oldest, datetime):
        return ""
    first = newest + timedelta(microseconds=1) - window
    return _to_utc(first).isoformat() if oldest < first else ""


def _keep_rows_from(rows: pl.DataFrame, event_timestamp: str, first: str) -> pl.DataFrame:
    if not first:
        return rows
    bound = datetime.fromisoformat(first)
    naive = getattr(rows.schema[event_timestamp], "time_zone", None) is None
    return rows.filter(pl.col(event_timestamp) >= (bound.replace(tzinfo=None) if naive else bound))


def _to_utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
