"""The rows that a version was fitted on; predictions for these rows are not evidence of the version's quality."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl

from mlops_assets.values.training import TimeSplit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlops_assets.values.training import TrainingSet

FITTED = "fitted"  # their key in a version's manifest


@dataclass(frozen=True)
class FittedRows:
    """Number, parts and time range of the rows that a version was fitted on, as the manifest of the version records them.

    Parameters
    ----------
    parts
        Parts of the training set: ``train``, and ``validation``, ``holdout`` or ``gap`` where the model's function receives them or a
        refit adds them.
    rows
        The number of fitted rows.
    first, last
        The earliest and the latest event time of the rows, in UTC; None without event times.
    by_time
        Whether every row between ``first`` and ``last`` counts as fitted, as after a split by time. If not, fitted rows are found by
        their keys.
    labels_known
        The time, in UTC, by which the labels of all these rows were known; None where labels have no such time.
    """

    parts: tuple[str, ...]
    rows: int
    first: datetime | None = None
    last: datetime | None = None
    by_time: bool = False
    labels_known: datetime | None = None

    @classmethod
    def from_rows(cls, rows: pl.DataFrame, parts: Sequence[str], training_set: TrainingSet[..., Any]) -> FittedRows:
        """Return the description of the rows that an estimator was fitted on.

        Parameters
        ----------
        rows
            Every fitted row.
        parts
            The parts of the training set from which the rows are.
        training_set
            The declaration of the training set.
        """
        time, known = training_set.event_timestamp, training_set.label_known_at
        if time is None:
            return cls(tuple(parts), rows.height)
        first, last = _to_utc(rows[time].min()), _to_utc(rows[time].max())
        by_time = isinstance(training_set.split, TimeSplit) and first is not None
        return cls(
            tuple(parts),
            rows.height,
            first,
            last,
            by_time,
            _to_utc(rows[known].cast(pl.Datetime("us", getattr(rows.schema[known], "time_zone", None))).max()) if known else None,
        )

    def as_json(self) -> dict[str, Any]:
        """Return the fields as the manifest stores them; times are ISO texts."""
        ends = {name: None if time is None else time.isoformat() for name, time in (("first", self.first), ("last", self.last))}
        known = {} if self.labels_known is None else {"labels_known": self.labels_known.isoformat()}
        return {"parts": list(self.parts), "rows": self.rows, **ends, "by_time": self.by_time, **known}

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> FittedRows | None:
        """Read the fitted rows from a manifest; None for versions stored before manifests recorded them."""
        stored = manifest.get(FITTED)
        if stored is None:
            return None
        first, last = (None if stored[name] is None else datetime.fromisoformat(stored[name]) for name in ("first", "last"))
        known = datetime.fromisoformat(stored["labels_known"]) if "labels_known" in stored else None
        return cls(tuple(stored["parts"]), stored["rows"], first, last, stored["by_time"], known)

    def precede(self, times: pl.Series) -> bool:
        """Return whether the fit was possible before the first of some times: its rows had happened, and their labels were known.

        Parameters
        ----------
        times
            Event times, shape (rows,).
        """
        first, ends = _to_utc(times.min()), [end for end in (self.last, self.labels_known) if end is not None]
        return self.by_time and first is not None and max(ends) < first

    def mask_fitted_times(self, times: pl.Series) -> pl.Series:
        """Return True for each time from the first to the last fitted row, both included; False for other times and nulls.

        Parameters
        ----------
        times
            Event times in UTC, shape (rows,).
        """
        if self.first is None or self.last is None:
            return pl.Series([False] * len(times), dtype=pl.Boolean)
        return times.is_between(self.first, self.last).fill_null(value=False)


def _to_utc(time: object) -> datetime | None:
    """Return a datetime in UTC, a naive one read as UTC; None for any other value, such as a date."""
    if not isinstance(time, datetime):
        return None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
