"""What the lake remembers of partitions that lost rows: their content now, made from what their inputs are now."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import polars as pl

from mlops_assets.compute.tables.content_hash import hash_slices
from mlops_assets.compute.tables.quarantine import TIME
from mlops_assets.compute.tables.stored_types import normalize
from mlops_assets.orchestrate.core.graph import Node, compute_fingerprints
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.features.push import push_node
from mlops_assets.orchestrate.serving.service import served_node
from mlops_assets.stores.lake.erasure import Erasure
from mlops_assets.stores.lake.protocol import Lake, Partition, PartitionRecord
from mlops_assets.stores.lake.rows import slice_partitions
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.values.dataset import Dataset, ExternalDataset
from mlops_assets.values.feature_sources import DbtModel
from mlops_assets.values.features import FeatureView
from mlops_assets.values.platform import Platform
from mlops_assets.values.push import PushSource
from mlops_assets.values.serving import BatchPrediction, Service
from mlops_assets.values.training import TrainingSet
from mlops_assets.values.window import window_of

Records = dict[str, dict[str, PartitionRecord]]
Shape = tuple[dg.PartitionsDefinition | None, str | None]


class _LakeAfterErasure:
    """The records of a lake as they are about to be."""

    def __init__(self, lake: Lake, made: Records) -> None:
        self._lake, self._made = lake, made

    def records(self, table: str, *, snapshot: int | None = None) -> Mapping[str, PartitionRecord]:
        return {**self._lake.records(table, snapshot=snapshot), **self._made.get(table, {})}


def collect_nodes(projects: Sequence[Project], platform: Platform) -> dict[str, Node]:
    """Return what every table is made from, but for dbt's models."""
    return {node.key: node for project in projects for node in _project_nodes(project, platform)}


def _project_nodes(project: Project, platform: Platform) -> Iterator[Node]:
    for noun in project.declarations:
        match noun:
            case PushSource():
                yield push_node(noun, platform)
            case FeatureView(source=DbtModel()):
                continue
            case Dataset() | FeatureView() | TrainingSet() | BatchPrediction():
                yield project.node(noun)
            case Service():
                yield served_node(project, noun, platform)


def build_records(
    projects: Sequence[Project], stores: Stores, erasing: Erasure, holding: Sequence[str]
) -> tuple[list[PartitionRecord], tuple[str, ...]]:
    """Return the records to be written when rows go, and the tables that are to be made anew.

    A table with the entity's keys is taken to say nothing of one entity in the rows of another: a partition that was up to date before is
    up to date afterwards. Every other table that is made from one whose content changes is stale.

    Parameters
    ----------
    projects, stores
        Of the platform.
    erasing
        The rows that go.
    holding
        The tables that have such rows.
    """
    lake, snapshot = stores.lake, stores.lake.snapshot()
    shapes, now = collect_shapes(projects), datetime.now(UTC)
    made: Records = {}
    for table in holding:
        partitions, time = shapes.get(table, (None, None))
        changed = {
            p: _recount(record, rows, now) for p, record, rows in _remaining_partitions(lake, erasing, table, partitions, time, snapshot)
        }
        made[table] = {p: record for p, record in changed.items() if record is not None}
    keyed, anew = set(erasing.tables()), []
    after: Any = _LakeAfterErasure(lake, {table: dict(records) for table, records in made.items()})
    for key, node in collect_nodes(projects, stores.platform).items():
        old = lake.records(key, snapshot=snapshot)
        before = compute_fingerprints(node, list(old), lake, snapshot=snapshot)
        then = compute_fingerprints(node, list(old), after, snapshot=snapshot)
        follow = {p: then[p] for p, record in old.items() if p in then and record.inputs and record.inputs == before.get(p) != then[p]}
        if key not in keyed:
            anew += [key] if follow else []
            continue
        for partition, inputs in follow.items():
            record = made.setdefault(key, {}).get(partition, old[partition])
            made[key][partition] = replace(record, inputs=inputs, recorded_at=now)
    records = [replace(record, snapshot=snapshot + 1) for table in made.values() for record in table.values()]
    return records, tuple(sorted(anew))


def collect_shapes(projects: Sequence[Project]) -> dict[str, Shape]:
    """Return partitions and time column of every table."""
    found: dict[str, Shape] = {}
    for project in projects:
        found |= {key: (ref.partitions, ref.event_timestamp) for key, ref in project.by_key.items()}
        for dataset in project.datasets:
            if not isinstance(dataset, ExternalDataset):
                found[dataset.quarantine_key] = (dataset.table.partitions, TIME)
    return found


def _remaining_partitions(  # noqa: PLR0913  (one table, described in full)
    lake: Lake, erasing: Erasure, table: str, partitions: dg.PartitionsDefinition | None, time: str | None, snapshot: int
) -> Iterator[tuple[str, PartitionRecord, pl.DataFrame]]:
    """Yield each partition that loses rows, its record, and the rows that stay; nothing of a table that nobody declares."""
    recorded = dict(lake.records(table, snapshot=snapshot))
    rows = normalize(erasing.remaining_rows(table, snapshot))
    if set(recorded) == {""}:
        yield "", recorded[""], rows
        return
    if partitions is None or time is None or not recorded:
        return
    parts = [Partition(key, window_of(partitions, key)) for key in recorded]
    gone, counts = slice_partitions(normalize(erasing.rows(table)), parts, time, table, others=True)
    kept, bounds = slice_partitions(rows, parts, time, table, others=True)
    for part, (first, last), (start, end) in zip(parts, counts, bounds, strict=True):
        if last > first and gone.height:
            yield part.key, recorded[part.key], kept[start:end]


def _recount(record: PartitionRecord, rows: pl.DataFrame, now: datetime) -> PartitionRecord:
    how = json.loads(record.hashed) if record.hashed else {"key": [], "columns": rows.columns}
    counted = rows.select(name for name in how["columns"] if name in rows.columns)
    (digest,) = hash_slices(counted, [(0, counted.height)], how["key"], types=how.get("types"))
    return replace(record, content_hash=digest, rows=rows.height, recorded_at=now)
