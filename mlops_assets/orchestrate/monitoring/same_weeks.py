"""Replace the reference of a version by its training rows of the same weeks of earlier years, for monitors that declare it."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import polars as pl

from mlops_assets.compute.drift.profile import FEATURE
from mlops_assets.compute.drift.same_weeks import find_same_weeks, profile_same_weeks
from mlops_assets.compute.monitoring.windows import PredictionWindow, VersionReference
from mlops_assets.compute.tables.own_columns import TRAINING_SET_COLUMNS, rename_from_table
from mlops_assets.errors import LakeError
from mlops_assets.orchestrate.core.partitions import partition_length
from mlops_assets.serving.formats.packaging import read_manifest
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.values.monitoring import Monitor

_Spans = tuple[tuple[datetime, datetime], ...]


class SameWeeksReferences:
    """References of the same weeks of earlier years, built once for each version and week.

    Parameters
    ----------
    stores
        The stores of the platform, with the training sets of versions.
    monitor
        The monitor, whose drift expectation declares the weeks.
    """

    def __init__(self, stores: Stores, monitor: Monitor) -> None:
        self._stores, self._monitor = stores, monitor
        self._timezone = getattr(monitor.partitions, "timezone", None) or "UTC"
        self._versions = {version.version: version for version in stores.registry.versions(monitor.model.name)}
        self._rows: dict[int, tuple[pl.DataFrame, pl.Series]] = {}
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
        declared = self._monitor.drift.reference if self._monitor.drift else None
        if declared is None or reference.profile is None or window.version is None or window.unseen.is_empty():
            return reference
        spans = find_same_weeks(window.span, declared, self._timezone)
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
                self._rows[version] = self._read_rows(version)
        except LakeError as error:
            return None, f"compared with all training rows as they were stored: those of the same weeks cannot be read, {error.message}"
        rows, times = self._rows[version]
        return profile_same_weeks(rows.select(features), times, spans, partition_length(self._monitor.partitions))

    def _read_rows(self, number: int) -> tuple[pl.DataFrame, pl.Series]:
        """Return the training rows of a version, and their local times in the column that was declared when it was trained."""
        version = self._versions[number]
        table = self._stores.lake.read(self._monitor.model.training_set.key, snapshot=version.snapshot)
        rows = rename_from_table(table, TRAINING_SET_COLUMNS)
        name = read_manifest(self._stores.artifacts, version.artifact)["event_timestamp"]
        if name is None:
            raise LakeError(f"version {number} was trained on rows without event times", hint="train again")
        return rows, rows[name].dt.convert_time_zone(self._timezone)
