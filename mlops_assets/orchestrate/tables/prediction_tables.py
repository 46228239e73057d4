"""How predictions of several versions share one table of the lake."""

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
_EMPTY_WINDOW = TimeWindow(datetime(1900, 1, 1, tzinfo=UTC), datetime(1900, 1, 1, 0, 0, 1, tzinfo=UTC))  # types are asked for, not rows


def stack_predictions(step: StepContext, frames: Sequence[pl.DataFrame], event_timestamp: str | None) -> pl.DataFrame:
    """Return predictions as rows of the step's table: what has another type than its column goes to a column of its own.

    Parameters
    ----------
    step
        The step.
    frames
        One for each kind of prediction.
    event_timestamp
        The table's.
    """
    placed = rename_by_type(frames, _stored_types(step, frames, event_timestamp))
    return placed[0] if len(placed) == 1 else pl.concat(placed, how="diagonal_relaxed")


def _stored_types(step: StepContext, frames: Sequence[pl.DataFrame], event_timestamp: str | None) -> dict[str, pl.DataType]:
    """Return the types of the table's columns that hold predictions; nothing where the whole table is replaced."""
    lake, key = step.stores.lake, step.node.key
    if step.node.partitions is None or event_timestamp is None:
        return {}
    names = [name for name in lake.schema(key) if is_prediction_column(name)]
    if not names:
        return {}
    try:
        types = dict(lake.read(key, window=_EMPTY_WINDOW, event_timestamp=event_timestamp, columns=names).schema)
        new = [frame.schema[base] for frame in frames for base in TYPED if base in frame.columns]
        # A column without any value takes the type of the first one: it is looked for only where a type is new.
        unknown = [name for name, dtype in types.items() if any(dtype != other for other in new) and _is_empty(lake, key, name)]
        return {name: dtype for name, dtype in types.items() if name not in unknown}
    except LakeError:
        return {}


def _is_empty(lake: Lake, table: str, column: str) -> bool:
    values = lake.read(table, columns=[column])[column]
    return values.null_count() == len(values)


def prediction_change_metadata(step: StepContext, before: Version | None, after: Version) -> dict[str, str]:
    """Return what a promotion says where the new version predicts another type, or other classes, than the one before it."""
    change = describe_prediction_change(step.stores.artifacts, before, after)
    if not change:
        return {}
    step.context.log.warning(f"version {after.version} of '{after.model}': {change}")
    return {PREDICTION_CHANGE: change}


def describe_prediction_change(artifacts: Artifacts, before: Version | None, after: Version) -> str:
    """Return in words how the predictions of a new champion differ in type or classes, and where they go; empty when they do not.

    Parameters
    ----------
    artifacts
        Where versions are stored.
    before, after
        The champion before, None without one, and the new one.
    """
    if before is None or before.version == after.version:
        return ""
    try:
        kinds = [PredictionKind.from_manifest(read_manifest(artifacts, version.artifact)) for version in (before, after)]
    except ArtifactError:  # the version before is damaged, which is no reason to refuse the one after it
        return ""
    change = describe_changed_kind(kinds[0], kinds[1])
    if not change:
        return ""
    return f"{change}; in tables of predictions its rows have columns of their own, such as prediction_2, and earlier rows keep theirs"
