"""Feature retrieval without Dagster, for notebooks, scripts and jobs."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from mlops_assets.compute.features.assemble import assemble
from mlops_assets.compute.tables.frames import collect
from mlops_assets.errors import DataError, DefinitionError
from mlops_assets.stores.platform.readers import record_reader
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.values.arguments import check_arguments
from mlops_assets.values.features import FeatureView, OnDemandFeatures
from mlops_assets.values.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from mlops_assets.compute.features.layout import AsOfLayout
    from mlops_assets.values.features import Features

BATCH_ROWS = 1_000_000


@check_arguments
def training_frame(  # noqa: PLR0913  (a flat call reads best in a notebook)
    spine: Any,  # noqa: ANN401  (any of the four frame types)
    features: Sequence[Features],
    *,
    event_timestamp: str = "event_timestamp",
    as_of: datetime | None = None,
    as_known: bool = True,
    snapshot: int | None = None,
    platform: Platform | None = None,
) -> pl.DataFrame:
    """Join features to rows as they were known at each row's time, exactly as a training set does.

    Parameters
    ----------
    spine
        One row per example, with the join keys and a time: a polars, pandas or DuckDB frame, in any order.
    features
        Feature views and on-demand features. An on-demand feature may read the features before it.
    event_timestamp
        The spine's column with the time of each row, in UTC.
    as_of
        A time with a time zone. Only feature rows that were known by this time count; all rows in the lake when None.
    as_known
        If True, only feature rows that were known at the time of a row count. If False, rows that became known later count too.
    snapshot
        The snapshot of the lake to read. When None, the newest; for a view that is pinned to an earlier version, the last one of that version.
        The same snapshot gives the same frame.
    platform
        The platform whose lake to read; ``Platform.from_env()`` when None.

    Returns
    -------
    polars.DataFrame
        The spine's columns and the features; every row of the spine once, in its order. Features that are not found are null, or
        have their declared default.

    Raises
    ------
    DataError
        A column is missing, a time is not in UTC, key types differ, a feature has the name of another column, or ``as_of`` has no time zone.
    DefinitionError
        ``features`` contains an object of another type, or ``as_of`` is combined with ``as_known=False``.
    LakeError
        A feature view has never been materialised, or the snapshot does not exist or has expired.
    RegistryError
        A feature view is pinned to a version that does not exist or was removed.
    ArtifactError
        The rows of a feature view in the lake are damaged.

    See Also
    --------
    lookup : Online features of entities.
    training_set : The same join in a project.
    read_table : Rows of a table.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> import polars as pl
    >>> ml.training_frame(pl.DataFrame({"carrier": ["UA"]}), [])
    shape: (1, 1)
    ┌─────────┐
    │ carrier │
    │ ---     │
    │ str     │
    ╞═════════╡
    │ UA      │
    └─────────┘
    """
    frame = collect(spine, "the spine")
    steps = _resolve_features(features, _check_as_of(as_of), as_known, snapshot, platform or Platform.from_env())
    joined, _ = assemble(frame, steps, event_timestamp=event_timestamp, as_known=as_known, known_by=as_of)
    return joined


@check_arguments
def training_batches(  # noqa: PLR0913  (as training_frame)
    spine: pl.LazyFrame,
    features: Sequence[Features],
    *,
    event_timestamp: str = "event_timestamp",
    as_of: datetime | None = None,
    as_known: bool = True,
    snapshot: int | None = None,
    platform: Platform | None = None,
    rows: int = BATCH_ROWS,
) -> Iterator[pl.DataFrame]:
    """Yield the rows of :func:`training_frame` in batches, so that neither the spine nor the result has to fit into memory.

    Parameters
    ----------
    spine
        The rows, e.g. ``pl.scan_parquet(...)``.
    features, event_timestamp, as_of, as_known, snapshot, platform
        As in :func:`training_frame`; all batches read one snapshot.
    rows
        The maximum number of rows of a batch.

    Raises
    ------
    MlopsError
        As in :func:`training_frame`, when the first batch is requested or in a later batch.
    """
    steps = _resolve_features(features, _check_as_of(as_of), as_known, snapshot, platform or Platform.from_env())
    for batch in spine.collect_batches(chunk_size=rows, maintain_order=True):
        for part in batch.iter_slices(rows):
            yield assemble(part, steps, event_timestamp=event_timestamp, as_known=as_known, known_by=as_of)[0]


def write_training_frame(path: str | Path, spine: pl.LazyFrame, features: Sequence[Features], **options: Any) -> Path:  # noqa: ANN401  (those of training_batches)
    """Write the rows of :func:`training_frame` to a Parquet file, batch by batch; the file appears only when it is complete.

    Parameters
    ----------
    path
        The path of the file.
    spine, features, **options
        As in :func:`training_batches`.

    Returns
    -------
    pathlib.Path
        The path of the file.

    Raises
    ------
    DataError
        The spine is empty, or as in :func:`training_frame`.
    """
    import pyarrow.parquet

    target = Path(path)
    partial, writer = target.with_name(f".{target.name}.{uuid.uuid4().hex}"), None
    try:
        for batch in training_batches(spine, features, **options):
            table = batch.to_arrow(compat_level=pl.CompatLevel.oldest())
            writer = writer or pyarrow.parquet.ParquetWriter(partial, table.schema)
            writer.write_table(table)
        if writer is None:
            raise DataError(f"'{target.name}' would hold no row: the spine is empty", hint="check the filter of the spine")
        writer.close()
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _check_as_of(as_of: datetime | None) -> datetime | None:
    if as_of is not None and as_of.tzinfo is None:
        raise DataError(f"as_of {as_of} names no time zone", hint="add a time zone: datetime(..., tzinfo=UTC)")
    return as_of


def _resolve_features(
    features: Sequence[Features],
    as_of: datetime | None,
    as_known: bool,  # noqa: FBT001
    snapshot: int | None,
    platform: Platform,
) -> list[Any]:
    """Return layouts of the feature views and functions of the on-demand features, in their order; unpinned views share one snapshot."""
    if as_of is not None and not as_known:
        raise DefinitionError(
            "as_of= and as_known=False contradict each other: one limits what was known, the other ignores it", hint="give one of them"
        )
    record_reader(platform.home, [feature.key for feature in features if isinstance(feature, FeatureView)], "training_frame")
    unpinned = any(isinstance(feature, FeatureView) and not feature.pinned for feature in features)
    newest = open_stores(platform).lake.snapshot() if snapshot is None and unpinned else snapshot  # one snapshot for all views
    return [_resolve_feature(feature, as_known, snapshot, newest, platform) for feature in features]


def _resolve_feature(feature: Features, as_known: bool, snapshot: int | None, newest: int | None, platform: Platform) -> AsOfLayout | Any:  # noqa: ANN401, FBT001
    """Return the layout of a feature view, for a pinned view at the end of its version, or the function of on-demand features."""
    if isinstance(feature, FeatureView) and feature.pinned:
        stores = open_stores(platform)
        view, last_snapshot = stores.view_versions.resolve(feature)
        return stores.layouts.load(view, snapshot=last_snapshot if snapshot is None else snapshot, as_known=as_known)
    if isinstance(feature, FeatureView):
        return open_stores(platform).layouts.load(feature, snapshot=newest, as_known=as_known)
    if isinstance(feature, OnDemandFeatures):
        return feature.function
    raise DefinitionError(
        f"features= contains a {type(feature).__name__}", hint="pass feature views and on-demand features themselves, not their names"
    )
