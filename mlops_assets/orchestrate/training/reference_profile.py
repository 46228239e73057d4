"""The reference of drift: the profile of a version's training rows and of its predictions, with which monitors compare windows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mlops_assets.compute.drift.prediction_drift import select_predictions
from mlops_assets.compute.drift.profile import BY_WINDOW, FEATURE, PREDICTION, WINDOW_LENGTH, build_profile
from mlops_assets.compute.training.classes import class_names, positive_class
from mlops_assets.orchestrate.core.partitions import partition_length
from mlops_assets.orchestrate.training.training_record import list_source_tables
from mlops_assets.serving.formats.prediction_columns import PredictionKind, make_probability_structs
from mlops_assets.values.monitoring import Monitor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import timedelta

    from mlops_assets.compute.training.responses import CachedPredictor
    from mlops_assets.orchestrate.core.project import Project
    from mlops_assets.values.evaluation import Split
    from mlops_assets.values.model import Model
    from mlops_assets.values.training import TrainingSet

MAX_REASON = 300  # characters of an unexpected error


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


def list_profile_options(project: Project, training_set: TrainingSet[..., Any]) -> ProfileOptions:
    """Return how profiles are calibrated: on windows as long as the data's partitions, then on those of each drift monitor."""
    monitors = [m for m in project.select(Monitor) if m.drift and m.model.training_set.key == training_set.key]
    partitions = next((ref.partitions for ref in list_source_tables(project, training_set) if ref.partitions is not None), None)
    length = partition_length(partitions)
    others = {partition_length(m.partitions) for m in monitors} - {length}
    timezone = getattr(partitions, "timezone", None) or "UTC"
    return ProfileOptions((length, *sorted(others)), timezone, tuple(_list_classifiers(monitors).items()))


def _list_classifiers(monitors: Sequence[Monitor]) -> dict[tuple[str, ...], int]:
    """Return columns → maximum rows of each domain classifier that monitors declare; no columns for all of ``X``."""
    declared = [(m.drift.columns or (), m.drift.classifier.max_rows) for m in monitors if m.drift and m.drift.classifier]
    return {columns: max(rows for other, rows in declared if other == columns) for columns, _ in declared}


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
        From :func:`list_profile_options`.
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
            warn(f"no domain classifier is stored with the reference of drift: {reason[:MAX_REASON]}")
    return build_profile(rows, times, **options)


def profile_predictions(
    options: ProfileOptions, model: Model[..., Any], predictor: CachedPredictor, holdout: Split, warn: Callable[[str], object]
) -> bytes | None:
    """Return the profile of a version's predictions for the holdout as JSON; None when a monitor cannot compare them.

    Parameters
    ----------
    options
        From :func:`list_profile_options`.
    model
        The model's declaration.
    predictor, holdout
        The cached predictions for the holdout, and the holdout.
    warn
        Called with an unexpected error: the profile serves monitors only, so it must not fail the training.
    """
    try:
        shares = predictor.predict_all("predict_proba") if hasattr(predictor, "predict_proba") else None
        classes = list_classes(predictor.estimator)
        logged = frame_predictions(predictor.predict_all("predict"), shares, classes, model.positive)
        if logged is None:
            return None
        compared = select_predictions(logged, classes, model.positive)
        return build_reference_profile(options, model.training_set.event_timestamp, [holdout], warn, compared)
    except Exception as error:  # noqa: BLE001  (predictions may be anything)
        warn(f"no profile of predictions is stored with '{model.key}': {type(error).__name__}: {error}")
        return None


def list_classes(estimator: Any) -> list[Any]:  # noqa: ANN401  (any estimator)
    """Return the classes of an estimator in its order, as Python values; empty for a regressor."""
    return list(np.asarray(getattr(estimator, "classes_", [])).tolist())


def frame_predictions(
    predicted: np.ndarray,
    shares: np.ndarray | None,
    classes: Sequence[Any],
    positive: Any,  # noqa: ANN401  (any label)
) -> pl.DataFrame | None:
    """Return predictions in the columns that a log has; None when each row has several numbers, which monitors cannot compare.

    Parameters
    ----------
    predicted
        Predicted numbers or classes, shape (rows,).
    shares
        Probabilities, shape (rows, classes); None without any.
    classes, positive
        From :func:`list_classes`, and the declared positive class.
    """
    predictions = pl.Series(predicted)
    if isinstance(predictions.dtype, pl.Array):
        return None
    names = [] if shares is None else class_names(classes)
    structs = make_probability_structs(names, shares) if names and shares is not None else None
    chosen = positive_class(classes, positive)
    kind = PredictionKind(str(predictions.dtype), tuple(names), "" if chosen is None else str(chosen))
    return kind.to_frame(predictions, structs)
