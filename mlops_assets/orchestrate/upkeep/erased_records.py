"""Build the records that an erasure writes to the lake: for partitions that lose rows, and for partitions made from them."""

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
from mlops_assets.orchestrate.features.push import build_push_node
from mlops_assets.orchestrate.serving.service import served_node
from mlops_assets.stores.lake.erasure import Erasure
from mlops_assets.stores.lake.protocol import STORED_ORDER, Lake, Partition, PartitionRecord
from mlops_assets.stores.lake.rows import slice_partitions
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.values.dataset import Dataset, ExternalDataset
from mlops_assets.values.feature_sources import DbtModel
from mlops_assets.values.features import FeatureView
from mlops_assets.values.llm.calibration import Calibration
from mlops_assets.values.llm.prompt_evaluation import PromptEvaluation
from mlops_assets.values.platform import Platform
from mlops_assets.values.push import PushSource
from mlops_assets.values.serving import BatchPrediction, Service
from mlops_assets.values.training import TrainingSet
from mlops_assets.values.window import window_of

Records = dict[str, dict[str, PartitionRecord]]
Shape = tuple[dg.PartitionsDefinition | None, str | None]


class _LakeAfterErasure:
    """The records of a lake as they would be after a planned erasure."""

    def __init__(self, lake: Lake, new_records: Records) -> None:
        self._lake, self._new_records = lake, new_records

    def records(self, table: str, *, snapshot: int | None = None) -> Mapping[str, PartitionRecord]:
        return {**self._lake.records(table, snapshot=snapshot), **self._new_records.get(table, {})}


def collect_nodes(projects: Sequence[Project], platform: Platform) -> dict[str, Node]:
    """Return key → node of push sources, datasets, training sets, batch predictions, services, evaluations, calibrations, and feature views except dbt."""
    return {node.key: node for project in projects for node in _collect_project_nodes(project, platform)}


def _collect_project_nodes(project: Project, platform: Platform) -> Iterator[Node]:
    for declaration in project.declarations:
        match declaration:
            case PushSource():
                yield build_push_node(declaration, platform)
            case FeatureView(source=DbtModel()):
                continue
            case Dataset() | FeatureView() | TrainingSet() | BatchPrediction() | PromptEvaluation() | Calibration():
                yield project.node(declaration)
            case Service():
                yield served_node(project, declaration, platform)


def build_records(
    projects: Sequence[Project], stores: Stores, erasing: Erasure, tables_with_rows: Sequence[str]
) -> tuple[list[PartitionRecord], tuple[str, ...]]:
    """Return the records to write when rows are erased, and the sorted names of the tables that become stale.

    A row with the entity's keys is assumed to depend on that entity only. So a table with the keys stays up to date if it was up to date
    before. Every other table that is made from a changed table becomes stale.

    Parameters
    ----------
    projects, stores
        All projects of the platform, and its stores.
    erasing
        The rows to erase.
    tables_with_rows
        The tables that have rows to erase.
    """
    lake, snapshot = stores.lake, stores.lake.snapshot()
    shapes, now = collect_shapes(projects), datetime.now(UTC)
    new_records: Records = {}
    for table in tables_with_rows:
        partitions, time = shapes.get(table, (None, None))
        changed = {
            p: _rebuild_record(record, rows, now)
            for p, record, rows in _list_reduced_partitions(lake, erasing, table, partitions, time, snapshot)
        }
        new_records[table] = {p: record for p, record in changed.items() if record is not None}
    keyed, stale = set(erasing.tables()), []
    lake_after: Any = _LakeAfterErasure(lake, {table: dict(records) for table, records in new_records.items()})
    for key, node in collect_nodes(projects, stores.platform).items():
        recorded = lake.records(key, snapshot=snapshot)
        inputs_before = compute_fingerprints(node, list(recorded), lake, snapshot=snapshot)
        inputs_after = compute_fingerprints(node, list(recorded), lake_after, snapshot=snapshot)
        changed_inputs = {
            p: new
            for p, new in inputs_after.items()
            if p in recorded and recorded[p].inputs and recorded[p].inputs == inputs_before.get(p) != new
        }
        if key not in keyed:
            stale += [key] if changed_inputs else []
            continue
        for partition, inputs in changed_inputs.items():
            record = new_records.setdefault(key, {}).get(partition, recorded[partition])
            new_records[key][partition] = replace(record, inputs=inputs, recorded_at=now)
    records = [replace(record, snapshot=snapshot + 1) for table in new_records.values() for record in table.values()]
    return records, tuple(sorted(stale))


def collect_shapes(projects: Sequence[Project]) -> dict[str, Shape]:
    """Return table → its partitions and time column, quarantines included."""
    shapes: dict[str, Shape] = {}
    for project in projects:
        shapes |= {key: (ref.partitions, ref.event_timestamp) for key, ref in project.by_key.items()}
        for dataset in project.datasets:
            if not isinstance(dataset, ExternalDataset):
                shapes[dataset.quarantine_key] = (dataset.table.partitions, TIME)
    return shapes


def _list_reduced_partitions(  # noqa: PLR0913  (one table, described in full)
    lake: Lake, erasing: Erasure, table: str, partitions: dg.PartitionsDefinition | None, time: str | None, snapshot: int
) -> Iterator[tuple[str, PartitionRecord, pl.DataFrame]]:
    """Yield each partition that loses rows, with its record and its remaining rows; an undeclared table yields nothing."""
    recorded = dict(lake.records(table, snapshot=snapshot))
    rows = normalize(erasing.remaining_rows(table, snapshot))
    if set(recorded) == {""}:
        yield "", recorded[""], rows
        return
    if partitions is None or time is None or not recorded:
        return
    parts = [Partition(key, window_of(partitions, key)) for key in recorded]
    erased, erased_bounds = slice_partitions(normalize(erasing.rows(table)), parts, time, table, skip_outside=True)
    remaining, bounds = slice_partitions(rows, parts, time, table, skip_outside=True)
    for part, (first, last), (start, end) in zip(parts, erased_bounds, bounds, strict=True):
        if last > first and erased.height:
            yield part.key, recorded[part.key], remaining[start:end]


def _rebuild_record(record: PartitionRecord, rows: pl.DataFrame, now: datetime) -> PartitionRecord:
    """Return a partition's record with the number and the content hash of its remaining rows."""
    recipe = json.loads(record.hashed) if record.hashed else {"key": [], "columns": rows.columns}
    hashed_rows = rows.select(name for name in recipe["columns"] if name in rows.columns)
    (digest,) = hash_slices(hashed_rows, [(0, hashed_rows.height)], recipe["key"], types=recipe.get("types"))
    hashed = json.dumps({name: value for name, value in recipe.items() if name != STORED_ORDER}) if record.hashed else ""
    return replace(record, content_hash=digest, rows=rows.height, recorded_at=now, hashed=hashed)
