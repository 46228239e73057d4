"""References of windows in the training rows of the same weeks of earlier years, for monitors that declare them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

from mlops_assets.compute.drift.profile import FEATURE
from mlops_assets.compute.drift.same_weeks import find_same_weeks, profile_same_weeks
from mlops_assets.errors import LakeError

if TYPE_CHECKING:
    from mlops_assets.compute.monitoring.windows import PredictionWindow, VersionReference
    from mlops_assets.values.drift import SameWeeks

_Spans = tuple[tuple[datetime, datetime], ...]
DatedRows = tuple[pl.DataFrame, pl.Series]  # training rows, and the time of each


class SameWeeksReferences:
    """References of the same weeks of earlier years, built once for each version and week.

    Parameters
    ----------
    declared
        The weeks; None where a monitor declares none.
    length, timezone
        The length of the monitor's windows, and the time zone in which they begin; UTC when None.
    read_rows
        Returns the training rows of a version with their times, in the order of :func:`sort_canonically`, or raises LakeError.
    """

    def __init__(self, declared: SameWeeks | None, length: timedelta, timezone: str | None, read_rows: Callable[[int], DatedRows]) -> None:
        self._declared, self._length, self._timezone, self._read_rows = declared, length, timezone or "UTC", read_rows
        self._rows: dict[int, DatedRows] = {}
        self._profiles: dict[tuple[int, _Spans], tuple[Mapping[str, Any] | None, str]] = {}

    def choose(self, window: PredictionWindow, reference: VersionReference) -> VersionReference:
        """Return the reference of a window: the same weeks if declared and if the training data have them, else the given one.

        Parameters
        ----------
        window
            The predictions of one version in one window.
        reference
            The stored reference of this version.
        """
        if self._declared is None or reference.profile is None or window.version is None or window.unseen.is_empty():
            return reference
        spans = find_same_weeks(window.span, self._declared, self._timezone)
        key = (window.version, spans)
        if key not in self._profiles:
            features = [name for name, stored in reference.profile["columns"].items() if stored["role"] == FEATURE]
            self._profiles[key] = self._build(window.version, spans, features)
        profile, note = self._profiles[key]
        if profile is None:
            return replace(reference, note="; ".join(filter(None, (note, reference.note))))
        return replace(reference, profile=profile, note=note)

    def _build(self, version: int, spans: _Spans, features: list[str]) -> tuple[Mapping[str, Any] | None, str]:
        """Return the profile of a version's training rows in the spans, and a note; None when there are too few."""
        try:
            if version not in self._rows:
                rows, times = self._read_rows(version)
                self._rows[version] = rows, times.dt.convert_time_zone(self._timezone)
        except LakeError as error:
            return None, f"compared with all training rows as they were stored: those of the same weeks cannot be read, {error.message}"
        rows, times = self._rows[version]
        return profile_same_weeks(rows.select(features), times, spans, self._length)
