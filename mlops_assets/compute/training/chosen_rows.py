"""The rows and the split of one candidate, where its retraining declares others than its training set: recorded, and applied again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

from mlops_assets.compute.tables.own_columns import SPLIT
from mlops_assets.compute.training.split import judge_newest, split_by_time
from mlops_assets.values.training import TimeSplit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlops_assets.values.training import TrainingSet

# In a record: the time before which rows are left out (ISO text), the span of the newest training rows and the lengths of the parts in
# seconds. A candidate with the rows and the split of its training set has none of them.
TRAIN_FROM, TRAIN_WINDOW, JUDGED_SPLIT = "train_from", "train_window", "judged_split"


def choose_rows(
    rows: pl.DataFrame, training_set: TrainingSet[..., Any], *, window: timedelta | None, judge_on: timedelta | None, validation: bool
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Return the rows of a candidate with their parts, and the facts from which :func:`apply_choice` repeats the choice.

    Parameters
    ----------
    rows
        The stored rows of the training set, each with its part.
    training_set
        Its declaration; without a split by time, all rows are returned as they are.
    window
        The span of the training rows; None for every row.
    judge_on
        The span of the newest rows that judge; None for the declared holdout.
    validation
        Whether the model needs a validation part.
    """
    declared, facts = training_set, dict[str, Any]()
    if not isinstance(declared.split, TimeSplit):
        return rows, facts
    if judge_on is not None:
        declared = judge_newest(rows, training_set, judge_on, validation=validation)
        split: Any = declared.split
        lengths = {"holdout": split.holdout.total_seconds(), "validation": split.validation and split.validation.total_seconds()}
        facts[JUDGED_SPLIT] = lengths | {"label_known_at": training_set.label_known_at}
    if first := find_first_row(rows, declared, window):
        facts |= {TRAIN_FROM: first, TRAIN_WINDOW: window.total_seconds() if window else None}
    return apply_choice(rows, training_set.event_timestamp, facts), facts


def apply_choice(rows: pl.DataFrame, event_timestamp: str | None, facts: Mapping[str, Any]) -> pl.DataFrame:
    """Return the rows that :func:`choose_rows` returned, with their parts.

    Parameters
    ----------
    rows
        The stored rows of the training set, each with its part.
    event_timestamp
        The column of their event time; None without one.
    facts
        A record that may hold the facts of a choice; without them, all rows are returned as they are.
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


def find_first_row(rows: pl.DataFrame, training_set: TrainingSet[..., Any], window: timedelta | None) -> str:
    """Return the time from which a training of a window uses rows, as ISO text; empty when it uses every row.

    Parameters
    ----------
    rows
        The rows of the training set.
    training_set
        Its declaration, with a split by time.
    window
        The span of the training rows before the validation part or the holdout; None for every row.
    """
    split: Any = training_set.split
    times = rows[training_set.event_timestamp or ""]
    newest, oldest = times.max(), times.min()
    if window is None or not isinstance(newest, datetime) or not isinstance(oldest, datetime):
        return ""
    first = newest + timedelta(microseconds=1) - split.holdout - (split.validation or timedelta(0)) - window
    return _to_utc(first).isoformat() if oldest < first else ""


def _keep_rows_from(rows: pl.DataFrame, event_timestamp: str, first: str) -> pl.DataFrame:
    if not first:
        return rows
    bound = datetime.fromisoformat(first)
    naive = getattr(rows.schema[event_timestamp], "time_zone", None) is None
    return rows.filter(pl.col(event_timestamp) >= (bound.replace(tzinfo=None) if naive else bound))


def _to_utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
