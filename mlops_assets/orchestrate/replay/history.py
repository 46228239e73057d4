"""The rows of a training set over a period of the past, cut by time to what was known at each moment."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl

from mlops_assets.compute.tables.content_hash import ordered_hash
from mlops_assets.compute.tables.own_columns import SPLIT, TRAINING_SET_COLUMNS, rename_to_table
from mlops_assets.compute.training.split import (
    assign_parts,
    choose_refit_rows,
    choose_rows,
    is_known,
    merge_parts,
    sort_canonically,
    split_by_group,
    split_by_time,
    split_rows,
)
from mlops_assets.errors import DataError
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.training.training_set import assemble_rows
from mlops_assets.values.training import TimeSplit

FittedPart = Literal["judged", "refitted", "all"]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

if TYPE_CHECKING:
    from mlops_assets.orchestrate.core.project import Project
    from mlops_assets.stores.platform.stores import Stores
    from mlops_assets.values.evaluation import Split
    from mlops_assets.values.model import Model
    from mlops_assets.values.training import TrainingSet


@dataclass(frozen=True, eq=False)
class History:
    """The rows of a training set in training order: sorted by event time.

    Parameters
    ----------
    training_set
        The training set; it declares an event time.
    rows
        All rows, sorted by event time.
    columns
        The columns of ``X``.
    """

    training_set: TrainingSet[..., Any]
    rows: pl.DataFrame
    columns: tuple[str, ...]

    @cached_property
    def digest(self) -> str:
        """The sha256 of all rows and of the columns of ``X``."""
        return ordered_hash(self.rows) + ":".join(self.columns)

    @cached_property
    def times(self) -> np.ndarray:
        """Event times in microseconds since 1970 in UTC, ascending, shape (rows,)."""
        return _to_microseconds(self.rows[self.training_set.event_timestamp or ""])

    @cached_property
    def label_times(self) -> np.ndarray:
        """The times at which labels became known, in microseconds since 1970 in UTC; the event times when none are declared."""
        known = self.training_set.label_known_at
        return self.times if known is None else _to_microseconds(self.rows[known])

    @property
    def data_start(self) -> datetime:
        """The event time of the first row, in UTC."""
        return _EPOCH + timedelta(microseconds=int(self.times[0]))

    def count_before(self, time: datetime) -> int:
        """Return the number of rows whose event time is before a time: these are the first rows."""
        return int(np.searchsorted(self.times, _count_microseconds(time), side="left"))

    def select_labelled(self, start: int, stop: int, now: datetime) -> np.ndarray:
        """Return the numbers of the rows from ``start`` to ``stop`` whose label was known by ``now``."""
        return start + np.flatnonzero(self.label_times[start:stop] <= _count_microseconds(now))

    def list_known(self, as_of: datetime) -> pl.DataFrame:
        """Return the rows that were known by a time."""
        return self.rows.head(self.count_before(as_of)).filter(is_known(self.training_set, as_of))

    def split(
        self, as_of: datetime, window: timedelta | None, fitted: FittedPart, *, judge_on: timedelta | None, with_validation: bool
    ) -> dict[str, Split]:
        """Return the parts of the training set as of a time.

        Parameters
        ----------
        as_of
            Only rows that were known by this time.
        window, fitted, judge_on
            As in :class:`~mlops_assets.orchestrate.replay.fits.FitRequest`.
        with_validation
            Whether the model needs a validation part.

        Raises
        ------
        DataError
            A part is empty.
        """
        rows = self.list_known(as_of)
        if rows.is_empty():
            raise DataError(f"'{self.training_set.key}' has no row known by {as_of}", hint="begin the replay later")
        declared = self.training_set
        if fitted == "all":
            part = self._assign_without_holdout(rows, declared) if with_validation else pl.repeat("train", rows.height, eager=True)
            newest = self._select_newest(rows.with_columns(part.alias(SPLIT)), window).drop_nulls(SPLIT)
            return (
                split_rows(newest, self.columns, self._label)
                if with_validation
                else {"train": merge_parts(newest, self.columns, self._label)}
            )
        stored = self._assign_parts(rows)
        refitted = fitted == "refitted"
        parted, facts = choose_rows(
            stored, declared, window=window, judge_on=judge_on, with_validation=with_validation, with_refit=refitted
        )
        if refitted:
            return {"train": merge_parts(choose_refit_rows(stored, declared.event_timestamp, facts), self.columns, self._label)}
        return split_rows(parted, self.columns, self._label)

    def list_stored(self, as_of: datetime) -> pl.DataFrame:
        """Return the rows that a training set stores as of a time, in the canonical order."""
        stored = self._assign_parts(self.list_known(as_of))
        return sort_canonically(rename_to_table(stored, TRAINING_SET_COLUMNS), self.training_set.event_timestamp)

    def _assign_parts(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return rows with their declared parts, from which candidates choose, as production stores them."""
        return rows.with_columns(assign_parts(rows, self.training_set).alias(SPLIT)).drop_nulls(SPLIT)

    @property
    def _label(self) -> str:
        return self.training_set.label

    def _select_newest(self, rows: pl.DataFrame, window: timedelta | None) -> pl.DataFrame:
        declared = self.training_set.split.train if isinstance(self.training_set.split, TimeSplit) else None
        span = window or declared
        if span is None:
            return rows
        time = pl.col(self.training_set.event_timestamp or "")
        return rows.filter(time >= time.max() + timedelta(microseconds=1) - span)

    def _assign_without_holdout(self, rows: pl.DataFrame, declared: TrainingSet[..., Any]) -> pl.Series:
        """Return the part of each row when only the validation rows are kept from training."""
        if isinstance(declared.split, TimeSplit):
            known = rows[declared.label_known_at] if declared.label_known_at else None
            return split_by_time(
                rows[declared.event_timestamp or ""],
                known,
                validation=None,
                holdout=declared.split.validation or declared.split.holdout,
                train=declared.split.train,
            ).replace("holdout", "validation")
        return split_by_group(
            rows[declared.split.column], validation=declared.split.validation, holdout=declared.split.holdout, seed=declared.split.seed
        ).replace("holdout", "train")


def read_history(stores: Stores, project: Project, model: Model[..., Any]) -> History:
    """Read the tables of a model's training set and return its rows with their features, as one table over all time.

    Parameters
    ----------
    stores
        The stores of a platform with the tables.
    project, model
        The project, and the model whose training set is read; it declares an event time.

    Raises
    ------
    DataError
        A table cannot be read, or the training set has no row.
    """
    import dagster as dg

    training_set = model.training_set
    with dg.build_asset_context() as context:
        step = StepContext(context, project, stores, project.node(training_set), {})
        with step.leases:
            _, frame, names = assemble_rows(step, training_set)
    zoned = [name for name, dtype in frame.schema.items() if isinstance(dtype, pl.Datetime) and dtype.time_zone]
    frame = frame.with_columns(pl.col(zoned).dt.convert_time_zone("UTC"))  # as the lake stores and returns them
    rows = sort_canonically(rename_to_table(frame, TRAINING_SET_COLUMNS), training_set.event_timestamp)
    return History(training_set, rows, (*names, *training_set.columns))


def store_history(history: History, path: Path) -> None:
    """Write the rows of a history for the processes that train; an existing file of the same name is kept."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{secrets.token_hex(8)}")
        history.rows.write_ipc(partial, compression="uncompressed")
        partial.replace(path)


def _count_microseconds(time: datetime) -> int:
    return round((time - _EPOCH) / timedelta(microseconds=1))


def _to_microseconds(times: pl.Series) -> np.ndarray:
    """Return times as microseconds since 1970; a null, such as of a label that is not known yet, is after every time."""
    if not isinstance(times.dtype, pl.Datetime):
        times = times.cast(pl.Datetime("us"))
    return times.dt.epoch("us").fill_null(np.iinfo(np.int64).max).to_numpy()
