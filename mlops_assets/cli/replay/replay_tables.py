"""The tables of a replay: the project's tables if they cover the whole period, else cached copies in a platform of the replay."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from mlops_assets.cli.project import LoadedProject, open_clean_instance
from mlops_assets.cli.running import QUIET, RANGE_END, RANGE_START, execute_job, lock_home
from mlops_assets.cli.summary import list_failures
from mlops_assets.compute.user_code.source_code import source_hash
from mlops_assets.compute.user_code.view_source import build_view_source
from mlops_assets.errors import DataError
from mlops_assets.orchestrate.compiler.build import build_definitions
from mlops_assets.orchestrate.core.liveness import build_process_tags
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.stores.platform.stores import Stores, open_stores
from mlops_assets.values.dataset import Dataset
from mlops_assets.values.features import FeatureView
from mlops_assets.values.platform import Platform
from mlops_assets.values.window import window_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from rich.console import Console

    from mlops_assets.orchestrate.core.project import Project
    from mlops_assets.values.model import Model

_DONE = "complete"  # a file in the replay's platform: its tables are loaded
_DATA = frozenset({".csv", ".tsv", ".parquet", ".arrow", ".feather", ".xlsx", ".db", ".sqlite", ".duckdb", ".gz", ".zip", ".sql"})


def provide_stores(  # noqa: PLR0913  (what is loaded, and where)
    loaded: LoadedProject, project: Project, model: Model[..., Any], folder: Path, end: datetime, out: Console, *, refresh: bool
) -> Stores:
    """Return stores with every table that the training set of a model needs until a time.

    Parameters
    ----------
    loaded, project, model
        The project, the part that declares the model, and the model.
    folder
        The folder of replays, which contains the platform of the cached copies if the project's own tables are incomplete.
    end
        The end of the replayed period.
    out
        The console that shows progress.
    refresh
        Whether to reload the cached copies of the tables.

    Raises
    ------
    DataError
        A table cannot be loaded.
    """
    own = open_stores(loaded.platform)
    if not (missing := list_incomplete_tables(own, project, model, end)):
        return own
    home = folder / "tables" / _hash_sources(project, model, end)
    platform = Platform.at(home)
    if refresh or not _is_current(home / _DONE, loaded.target.root):
        out.print(f"{missing[0]} is not complete: the replay loads the tables into {home}", highlight=False, soft_wrap=True)
        _load_tables(loaded, project, model, platform, end, out)
        (home / _DONE).touch()
    else:
        out.print(
            f"uses the tables that an earlier replay has loaded into {home}; --refresh loads them again", highlight=False, soft_wrap=True
        )
    return open_stores(platform)


def _is_current(marker: Path, root: Path) -> bool:
    """Return whether the tables were loaded after the last change of the project's data files."""
    if not marker.exists():
        return False
    files = (
        path for path in root.rglob("*") if path.suffix.lower() in _DATA and not {p for p in path.parts if p.startswith(".")} - {".", ".."}
    )
    return all(path.stat().st_mtime <= marker.stat().st_mtime for path in files)


def list_incomplete_tables(stores: Stores, project: Project, model: Model[..., Any], end: datetime) -> list[str]:
    """Return the keys of the tables upstream of a model's training set that lack a partition before a time."""
    keys = list(dict.fromkeys(_list_upstream(project, model.training_set)))
    return [key for key in keys if _lacks_partition(stores, project, key, end)]


def _list_upstream(project: Project, declaration: Any) -> Iterator[str]:  # noqa: ANN401  (any declared table)
    """Yield the keys of the tables from which a table is built, directly or indirectly."""
    by_key = {d.key: d for d in project.declarations if isinstance(d, (Dataset, FeatureView))}
    for edge in project.node(declaration).edges:
        yield edge.parent
        if edge.parent in by_key:
            yield from _list_upstream(project, by_key[edge.parent])


def _lacks_partition(stores: Stores, project: Project, key: str, end: datetime) -> bool:
    ref = project.by_key.get(key)
    if ref is None or ref.plain is not None:
        return False
    records = stores.lake.records(key)
    if ref.partitions is None:
        return not records
    return any(partition not in records for partition in _list_keys(ref.partitions, end))


def _list_keys(partitions: dg.PartitionsDefinition, end: datetime) -> list[str]:
    """Return the partition keys that end by a time, oldest first."""
    return [key for key in partitions.get_partition_keys() if (span := window_of(partitions, key)) is None or span.end <= end]


def _hash_sources(project: Project, model: Model[..., Any], end: datetime) -> str:
    """Return a hash of the code that builds tables, the key of the training set, and the end of the period."""
    sources = [source_hash(dataset.function.function) for dataset in project.select(Dataset)]
    views = [view.hash_definition(build_view_source(view)) for view in project.select(FeatureView)]
    return hashlib.sha256("\n".join([*sources, *views, model.training_set.key, end.isoformat()]).encode()).hexdigest()[:12]


def _load_tables(  # noqa: PLR0913  (what is loaded, and where)
    loaded: LoadedProject, project: Project, model: Model[..., Any], platform: Platform, end: datetime, out: Console
) -> None:
    """Materialise the tables upstream of a training set in another platform, over all partitions until a time."""
    if plain := [ref.key for ref in project.tables.values() if ref.plain is not None]:
        raise DataError(
            f"'{model.training_set.key}' reads tables that are not complete, and a replay does not run the plain asset '{plain[0]}' of the project",
            hint="materialise the tables until the end of the period: mlops run",
        )
    resources = dict(loaded.definitions.resources or {})
    definitions = build_definitions([*project.declarations, *project.plain], platform=platform, resources=resources)  # type: ignore[list-item]
    job = definitions.resolve_implicit_global_asset_job_def()
    with lock_home(Path(platform.home)), open_clean_instance(platform) as instance:
        for partitions, assets in _group_by_partitions(definitions, model):
            keys = [] if partitions is None else _list_keys(partitions, end)
            tags = {RANGE_START: keys[0], RANGE_END: keys[-1]} if keys else {}
            finished = execute_job(job, instance, assets, {**tags, **build_process_tags(os.getpid())}, dict(QUIET), out)
            if not finished.result.success:
                raise DataError(
                    f"the tables of the replay cannot be loaded: {'; '.join(list_failures(finished))}",
                    hint="fix the dataset, and start the replay again",
                )


def _group_by_partitions(
    definitions: dg.Definitions, model: Model[..., Any]
) -> Iterator[tuple[dg.PartitionsDefinition | None, Sequence[dg.AssetKey]]]:
    """Yield partitions and assets upstream of a training set, in topological order; consecutive assets with equal partitions are grouped."""
    graph = definitions.resolve_asset_graph()
    key = asset_key(model.training_set.key)
    upstream = dg.AssetSelection.assets(key).upstream(include_self=False).resolve(graph)
    group: list[dg.AssetKey] = []
    partitions: dg.PartitionsDefinition | None = None
    for asset in graph.toposorted_asset_keys:
        if asset not in upstream or asset not in graph.materializable_asset_keys:
            continue
        own = graph.get(asset).partitions_def
        if group and own != partitions:
            yield partitions, group
            group = []
        partitions = own
        group.append(asset)
    if group:
        yield partitions, group
