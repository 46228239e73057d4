"""The rows that a version was fitted on; predictions for these rows are not evidence of the version's quality."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlops_assets.values.evaluation import Split

FITTED = "fitted"  # their key in a version's manifest


@dataclass(frozen=True)
class FittedRows:
    """Number, parts and time range of the rows that a version was fitted on, as the manifest of the version records them.

    Parameters
    ----------
    parts
        Parts of the training set: ``train``, and ``validation`` or ``holdout`` where the model's function receives them or a refit adds
        them.
    rows
        The number of fitted rows.
    first, last
        The earliest and the latest event time of the rows, in UTC; None without event times.
    by_time
        Whether every row between ``first`` and ``last`` counts as fitted, as after a split by time. If not, fitted rows are found by
        their keys.
    """

    parts: tuple[str, ...]
    rows: int
    first: datetime | None = None
    last: datetime | None = None
    by_time: bool = False

    @classmethod
    def from_splits(cls, splits: Mapping[str, Split], parts: Sequence[str], event_timestamp: str | None, *, by_time: bool) -> FittedRows:
        """Return the description of the parts of a training set that an estimator was fitted on.

        Parameters
        ----------
        splits
            Every part by name.
        parts
            The names of the parts that the estimator was fitted on.
        event_timestamp
            The column with the event time; None without one.
        by_time
            Whether the training set was split by time; ignored when there are no event times.
        """
        rows = sum(len(splits[part].y) for part in parts)
        if event_timestamp is None:
            return cls(tuple(parts), rows)
        times = pl.concat([splits[part].rows[event_timestamp] for part in parts])
        first, last = (_to_utc(time) for time in (times.min(), times.max()))
        return cls(tuple(parts), rows, first, last, by_time and first is not None)

    def as_json(self) -> dict[str, Any]:
        """Return the fields as the manifest stores them; times are ISO texts."""
        ends = {name: None if time is None else time.isoformat() for name, time in (("first", self.first), ("last", self.last))}
        return {"parts": list(self.parts), "rows": self.rows, **ends, "by_time": self.by_time}

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> FittedRows | None:
        """Read the fitted rows from a manifest; None for versions stored before manifests recorded them."""
        stored = manifest.get(FITTED)
        if stored is None:
            return None
        first, last = (None if stored[name] is None else datetime.fromisoformat(stored[name]) for name in ("first", "last"))
        return cls(tuple(stored["parts"]), stored["rows"], first, last, stored["by_time"])

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
