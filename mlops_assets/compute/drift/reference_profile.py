"""The reference profile that is stored with a version: of its training rows, or of its predictions, for each length of windows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import polars as pl

from mlops_assets.compute.drift.profile import BY_WINDOW, FEATURE, PREDICTION, WINDOW_LENGTH, build_profile

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import timedelta

    from mlops_assets.values.evaluation import Split

_MAX_REASON = 300  # characters of an unexpected error


@dataclass(frozen=True)
class ProfileOptions:
    """How the reference profiles of a training set's versions are calibrated.

    Parameters
    ----------
    windows
        Lengths of windows. The profile is calibrated on the first one, and again on each other one.
    timezone
        The time zone in which windows begin.
    classifiers
        Columns → the maximum number of rows of each domain classifier, as pairs; no columns for all of ``X``.
    """

    windows: tuple[timedelta, ...]
    timezone: str
    classifiers: tuple[tuple[tuple[str, ...], int], ...]


def build_reference_profile(
    options: ProfileOptions,
    event_timestamp: str | None,
    splits: Sequence[Split],
    warn: Callable[[str], object],
    predictions: pl.DataFrame | None = None,
) -> bytes:
    """Return the profile of the rows of some splits, or of their predictions, as JSON.

    Parameters
    ----------
    options
        From the declarations of monitors.
    event_timestamp
        The column of the rows with their times. Without it, the profile is calibrated on random groups of rows, so thresholds allow for
        chance alone. Fewer than 100 rows are not calibrated.
    splits
        Parts of the training set.
    warn
        Called with the reason why no domain classifier is stored.
    predictions
        From :func:`~mlops_assets.compute.drift.prediction_drift.select_predictions`, for the rows of the splits; None for the profile of
        the rows.
    """
    rows, role = (pl.concat([split.X for split in splits]), FEATURE) if predictions is None else (predictions, PREDICTION)
    build = partial(_build_profile, warn, dict(options.classifiers) if predictions is None else {}, rows, role=role)
    if event_timestamp is None:
        return json.dumps(build(), sort_keys=True).encode()
    times = pl.concat([split.rows[event_timestamp] for split in splits])
    local = times.dt.convert_time_zone(options.timezone)
    first, *others = options.windows
    profile = build(local, window=first)
    if others:
        profile[BY_WINDOW] = {
            str(int(length.total_seconds())): build(local, window=length) | {WINDOW_LENGTH: length.total_seconds()} for length in others
        }
    return json.dumps(profile, sort_keys=True).encode()


def _build_profile(
    warn: Callable[[str], object],
    classifiers: Mapping[tuple[str, ...], int],
    rows: pl.DataFrame,
    times: pl.Series | None = None,
    **options: Any,  # noqa: ANN401  (those of build_profile)
) -> dict[str, Any]:
    """Return a profile; one without classifiers if they cannot be built: they serve monitors only, so they must not fail the training."""
    if classifiers:
        try:
            return build_profile(rows, times, classifiers=classifiers, **options)
        except Exception as error:  # noqa: BLE001  (columns may hold anything)
            reason = f"{type(error).__name__}: {error}"
            warn(f"no domain classifier is stored with the reference of drift: {reason[:_MAX_REASON]}")
    return build_profile(rows, times, **options)
