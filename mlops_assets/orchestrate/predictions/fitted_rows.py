"""Find the rows that a version was fitted on. Its predictions for them would look too good, so an earlier champion predicts them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from mlops_assets.compute.tables.own_columns import SPLIT, TRAINING_SET_COLUMNS, rename_from_table
from mlops_assets.compute.training.fitted_rows import FittedRows
from mlops_assets.errors import LakeError
from mlops_assets.orchestrate.core.project import row_key
from mlops_assets.serving.formats.packaging import read_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlops_assets.orchestrate.core.project import Project
    from mlops_assets.stores.platform.stores import Stores
    from mlops_assets.stores.registry.records import Version
    from mlops_assets.values.model import Model


def mark_fitted_rows(  # noqa: PLR0913  (a version, and rows)
    stores: Stores, project: Project, model: Model[..., Any], version: Version | None, rows: pl.DataFrame, event_timestamp: str | None
) -> pl.Series:
    """Return a boolean for each row, True if a version was fitted on it.

    Parameters
    ----------
    stores
        The stores of the platform, with the version and its training set.
    project, model
        The project and the model of the version.
    version
        The version; with None, no row is marked.
    rows
        Rows with the key of the training set or with event times.
    event_timestamp
        The event time column of ``rows``, used if they lack the event time column of the training set.

    Notes
    -----
    After a split by time, every row between the first and the last fitted row is marked. After a split by group, a row is marked if its key
    is among the fitted keys, which are read from the training set at the version's snapshot. If the keys are unavailable, the time is used.
    Without keys and times, and for a version that was stored before fitted rows were recorded, no row is marked.
    """
    unmarked = pl.Series([False] * rows.height, dtype=pl.Boolean)
    fitted = None if version is None or rows.is_empty() else FittedRows.from_manifest(read_manifest(stores.artifacts, version.artifact))
    if fitted is None or version is None:
        return unmarked
    key = row_key(project, model)
    if (
        not fitted.by_time
        and key
        and set(key) <= set(rows.columns)
        and (fitted_keys := _read_fitted_keys(stores, model, version, fitted, key)) is not None
    ):
        return _match_keys(rows.select(key), fitted_keys)
    time = next((name for name in (model.training_set.event_timestamp, event_timestamp) if name and name in rows.columns), None)
    return unmarked if time is None else fitted.mask_fitted_times(rows[time])


def _read_fitted_keys(
    stores: Stores, model: Model[..., Any], version: Version, fitted: FittedRows, key: Sequence[str]
) -> pl.DataFrame | None:
    """Return the distinct keys of the fitted rows; None if the training set cannot be read or lacks a key column."""
    try:
        rows = rename_from_table(stores.lake.read(model.training_set.key, snapshot=version.snapshot), TRAINING_SET_COLUMNS)
    except LakeError:
        return None
    if not {*key, SPLIT} <= set(rows.columns):
        return None
    return rows.filter(pl.col(SPLIT).is_in(fitted.parts)).select(key).unique()


def _match_keys(keys: pl.DataFrame, fitted_keys: pl.DataFrame) -> pl.Series:
    """Return a boolean for each key, True if it is among the fitted keys, which are first cast to the types of ``keys``."""
    typed = fitted_keys.select(
        *(pl.col(name).cast(dtype, strict=False) for name, dtype in keys.schema.items()), pl.lit(value=True).alias("__fitted")
    )
    return keys.join(typed.unique(), on=keys.columns, how="left", maintain_order="left")["__fitted"].fill_null(value=False)


def choose_versions(  # noqa: PLR0913  (rows, and their partitions)
    stores: Stores,
    project: Project,
    model: Model[..., Any],
    champion: Version,
    rows: pl.DataFrame,
    partitions: pl.Series,
    event_timestamp: str | None,
) -> list[tuple[Version, pl.DataFrame]]:
    """Return (version, rows) pairs, each version with the rows that it predicts.

    The current champion predicts a partition unless it was fitted on rows of this partition. Then the newest earlier champion that was not
    fitted on its rows predicts it; without one, the current champion. Without rows, the current champion is paired with them.

    Parameters
    ----------
    stores, project, model
        As in :func:`mark_fitted_rows`.
    champion
        The current champion, which predicts where every earlier champion was fitted on the rows as well.
    rows, event_timestamp
        The rows to predict, and their event time column.
    partitions
        The partition key of each row.

    Notes
    -----
    An earlier champion is not eligible if it was rolled back or is damaged, or if its inputs, prediction type or classes differ from the
    champion's.
    """
    chosen, remaining = [], partitions.unique(maintain_order=True)
    for version in _list_eligible_versions(stores, model, champion):
        fitted = mark_fitted_rows(stores, project, model, version, rows, event_timestamp)
        fitted_partitions = partitions.filter(fitted).unique()
        is_fitted = remaining.is_in(fitted_partitions.implode())
        chosen += [(version, remaining.filter(~is_fitted))]
        remaining = remaining.filter(is_fitted)
        if remaining.is_empty():
            break
    chosen[0] = (champion, pl.concat([chosen[0][1], remaining]))
    assigned = [(version, rows.filter(partitions.is_in(keys.implode()))) for version, keys in chosen]
    return [(version, frame) for version, frame in assigned if frame.height] or [(champion, rows)]


def _list_eligible_versions(stores: Stores, model: Model[..., Any], champion: Version) -> Iterator[Version]:
    """Yield the champion, then earlier champions that may predict instead, newest first; see :func:`choose_versions`."""
    yield champion
    withdrawn = {event.previous for event in stores.registry.history(model.name) if event.kind == "rollback"}
    signature = _read_signature(stores, champion)
    for version in reversed(stores.registry.versions(model.name)):
        usable = version.was_champion and not version.damage and version.version not in withdrawn
        if version.version < champion.version and usable and _read_signature(stores, version) == signature:
            yield version


def _read_signature(stores: Stores, version: Version) -> tuple[object, ...]:
    """Return the inputs, prediction type and classes of a version, to compare it with another version."""
    manifest = read_manifest(stores.artifacts, version.artifact)
    return tuple(manifest.get(name) for name in ("columns", "types", "prediction_type", "classes"))
