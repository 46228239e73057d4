"""How predictions of several versions share one table of the lake."""

from collections.abc import Sequence
from datetime import UTC, datetime

import polars as pl

from mlops_assets.errors import LakeError
from mlops_assets.orchestrate.scope import Scope
from mlops_assets.serving.packaging import manifest_of
from mlops_assets.serving.prediction_columns import TYPED, PredictionKind, changed_kind, in_columns_of_their_types
from mlops_assets.stores.records import Version
from mlops_assets.values.window import TimeWindow

_FEW = TimeWindow(datetime(1900, 1, 1, tzinfo=UTC), datetime(1900, 1, 1, 0, 0, 1, tzinfo=UTC))  # types are asked for, not rows


def as_one_table(scope: Scope, frames: Sequence[pl.DataFrame], event_timestamp: str | None) -> pl.DataFrame:
    """Return predictions as rows of the step's table: what has another type than its column goes to a column of its own.

    Parameters
    ----------
    scope
        The step.
    frames
        One for each kind of prediction.
    event_timestamp
        The table's.
    """
    placed = in_columns_of_their_types(frames, _types(scope, event_timestamp))
    return placed[0] if len(placed) == 1 else pl.concat(placed, how="diagonal_relaxed")


def _types(scope: Scope, event_timestamp: str | None) -> dict[str, pl.DataType]:
    """Return the types of the table's columns of predictions; nothing where the whole table is replaced."""
    lake, key = scope.places.lake, scope.node.key
    if scope.node.partitions is None or event_timestamp is None:
        return {}
    names = [name for name in lake.columns(key) if any(name == base or name.startswith(f"{base}_") for base in TYPED)]
    if not names:
        return {}
    try:
        return dict(lake.read(key, window=_FEW, event_timestamp=event_timestamp, columns=names).schema)
    except LakeError:
        return {}


def change_of_kind(scope: Scope, before: Version | None, after: Version) -> dict[str, str]:
    """Return what a promotion says where the new version predicts another type, or other classes, than the one before it."""
    if before is None or before.version == after.version:
        return {}
    kinds = [PredictionKind.of(manifest_of(scope.places.artifacts, version.artifact)) for version in (before, after)]
    told = changed_kind(kinds[0], kinds[1])
    if not told:
        return {}
    told += "; in tables of predictions its rows have columns of their own, such as prediction_2, and earlier rows keep theirs"
    scope.context.log.warning(f"version {after.version} of '{after.model}': {told}")
    return {"predictions change": told}
