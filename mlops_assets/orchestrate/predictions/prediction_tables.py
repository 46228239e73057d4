"""Bring predictions of several versions into the columns of one table, and report a promotion that changes the columns."""

from collections.abc import Sequence
from datetime import UTC, datetime

import polars as pl

from mlops_assets.compute.tables.own_columns import is_prediction_column
from mlops_assets.errors import ArtifactError, LakeError
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.serving.formats.packaging import read_manifest
from mlops_assets.serving.formats.prediction_columns import TYPED, PredictionKind, describe_changed_kind, rename_by_type
from mlops_assets.stores.artifacts.store import Artifacts
from mlops_assets.stores.lake.protocol import Lake
from mlops_assets.stores.registry.records import Version
from mlops_assets.values.window import TimeWindow

PREDICTION_CHANGE = "predictions change"  # in the metadata of a promotion
_EMPTY_WINDOW = TimeWindow(datetime(1900, 1, 1, tzinfo=UTC), datetime(1900, 1, 1, 0, 0, 1, tzinfo=UTC))  # to read types without rows


def stack_predictions(step: StepContext, frames: Sequence[pl.DataFrame], event_timestamp: str | None) -> pl.DataFrame:
    """Return predictions as rows of the step's table; predictions of another type than their column get a separate column.

    Parameters
    ----------
    step
        The step that writes the table.
    frames
        Predictions; within a frame, all have the same type.
    event_timestamp
        The event time column of the table.
    """
    renamed = rename_by_type(frames, _stored_types(step, frames, event_timestamp))
    return renamed[0] if len(renamed) == 1 else pl.concat(renamed, how="diagonal_relaxed")


def _stored_types(step: StepContext, frames: Sequence[pl.DataFrame], event_timestamp: str | None) -> dict[str, pl.DataType]:
    """Return prediction column → type in the stored table; empty if the step replaces the whole table or it cannot be read.

    A column without values is left out if a new type occurs: it can still take any type.
    """
    lake, key = step.stores.lake, step.node.key
    if step.node.partitions is None or event_timestamp is None:
        return {}
    names = [name for name in lake.schema(key) if is_prediction_column(name)]
    if not names:
        return {}
    try:
        types = dict(lake.read(key, window=_EMPTY_WINDOW, event_timestamp=event_timestamp, columns=names).schema)
        new = [frame.schema[base] for frame in frames for base in TYPED if base in frame.columns]
        # A column without values takes the type of the first value: it is checked only if a type is new.
        unknown = [name for name, dtype in types.items() if any(dtype != other for other in new) and _is_empty(lake, key, name)]
        return {name: dtype for name, dtype in types.items() if name not in unknown}
    except LakeError:
        return {}


def _is_empty(lake: Lake, table: str, column: str) -> bool:
    values = lake.read(table, columns=[column])[column]
    return values.null_count() == len(values)


def prediction_change_metadata(step: StepContext, before: Version | None, after: Version) -> dict[str, str]:
    """Return metadata, and log a warning, if a new champion predicts another type or other classes than the one before; else empty."""
    change = describe_prediction_change(step.stores.artifacts, before, after)
    if not change:
        return {}
    step.context.log.warning(f"version {after.version} of '{after.model}': {change}")
    return {PREDICTION_CHANGE: change}


def describe_prediction_change(artifacts: Artifacts, before: Version | None, after: Version) -> str:
    """Return how the predictions of a new champion differ in type or classes, and where they are stored; empty if they do not.

    Parameters
    ----------
    artifacts
        The store of the versions' artifacts.
    before, after
        The champion before the promotion, or None, and the new champion.
    """
    if before is None or before.version == after.version:
        return ""
    try:
        kinds = [PredictionKind.from_manifest(read_manifest(artifacts, version.artifact)) for version in (before, after)]
    except ArtifactError:  # a damaged previous version does not block the new one
        return ""
    change = describe_changed_kind(kinds[0], kinds[1])
    if not change:
        return ""
    return f"{change}; tables of predictions store its rows in new columns, such as prediction_2, and keep the columns of earlier rows"
