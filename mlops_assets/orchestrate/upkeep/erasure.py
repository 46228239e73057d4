"""Erase an entity from a platform: tables, older snapshots, online store, layouts and logs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from mlops_assets.compute.features.assemble import bind_rows
from mlops_assets.compute.features.point_in_time import sort_as_of
from mlops_assets.errors import DefinitionError, LakeError, suggest_name
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.tables.lake_events import materialization_event
from mlops_assets.orchestrate.upkeep.erased_records import build_records, collect_nodes, collect_shapes
from mlops_assets.serving.logs.erasure import erase_predictions, erase_pushes
from mlops_assets.stores.lake.erasure import Erasure
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.stores.registry.erasures import BEGUN, DONE, entity_label, open_erasure_log
from mlops_assets.values.features import FeatureView, select_feature_views
from mlops_assets.values.training import TrainingSet

_STORED_NAMES = {"stale_tables": "anew"}  # as the log of erasures names them


@dataclass(frozen=True)
class ErasureReport:
    """The effects of an erasure, planned or done.

    Parameters
    ----------
    rows
        Table of the lake → the number of its erased rows.
    states
        Snapshots of the lake that expire because they contain these rows.
    versions, view_versions
        Registered model versions that can no longer be reproduced, and earlier view versions that can no longer be read.
    online, layouts
        Names of the views that are searched in the online store, and the number of removed layouts, which the next use rebuilds.
        A planned erasure counts no layouts.
    predictions, pushed
        The number of erased lines of the prediction logs, and of erased rows of the push logs.
    stale_tables
        Tables without the entity's keys that were made from its rows; automation rebuilds them.
    other_names
        Columns with other names by which views look the entity up. They may contain the entity as well and need a separate erasure.
    """

    rows: Mapping[str, int]
    states: tuple[int, ...] = ()
    versions: tuple[str, ...] = ()
    view_versions: tuple[str, ...] = ()
    online: tuple[str, ...] = ()
    layouts: int = 0
    predictions: int = 0
    pushed: int = 0
    stale_tables: tuple[str, ...] = ()
    other_names: tuple[str, ...] = ()

    @property
    def facts(self) -> dict[str, Any]:
        """Name → effect, as the log of erasures stores them."""
        facts = asdict(self)
        return {_STORED_NAMES.get(name, name): value for name, value in facts.items()}


@dataclass(frozen=True)
class ErasureRequest:
    """An entity to erase, and where.

    Parameters
    ----------
    projects, stores
        All projects of a platform, and its stores.
    entity
        Join key column → value, as text.
    views
        The erasure is limited to these feature views, to the tables upstream of them and to these tables' quarantines, so prediction logs
        stay. When empty, every table and log is included.
    """

    projects: Sequence[Project]
    stores: Stores
    entity: Mapping[str, str]
    views: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a request without an entity, and unknown views."""
        if not self.entity:
            raise DefinitionError("no entity is named", hint="name one, e.g. --entity customer_id=42")
        known = {view.name for project in self.projects for view in project.select(FeatureView)}
        if missing := [name for name in self.views if name not in known]:
            raise DefinitionError(
                f"there is no feature view '{missing[0]}'",
                hint=suggest_name(missing[0], known) + f"there are {', '.join(sorted(known)) or 'none'}",
            )

    @property
    def feature_views(self) -> list[FeatureView]:
        """The views of the request whose join keys include those of the entity."""
        declared = [view for project in self.projects for view in project.select(FeatureView)]
        chosen = [view for view in declared if not self.views or view.name in self.views]
        return [view for view in chosen if self.entity.keys() <= set(view.entity.join_keys)]

    @property
    def other_names(self) -> tuple[str, ...]:
        """The sorted columns by which training sets look the entity up under another name than the join key, e.g. ``from_card``."""
        looked_up = [
            view
            for project in self.projects
            for declared in project.select(TrainingSet)
            for view in select_feature_views(declared.features)
        ]
        renamings = {pair for view in looked_up for pair in zip(view.entity.join_keys, view.renamed_keys, strict=True)}
        return tuple(sorted(column for key, column in renamings if key in self.entity and column != key))

    def erasure(self) -> Erasure:
        """Return the erasure of the entity's rows in the lake, limited to ``views`` and the tables upstream of them if there are any."""
        if not self.views:
            return self.stores.lake.erasure(self.entity)
        edges = {key: [e.parent for e in node.edges] for key, node in collect_nodes(self.projects, self.stores.platform).items()}
        tables, pending = set[str](), [f"features/{name}" for name in self.views]
        while pending:
            tables.add(key := pending.pop())
            pending += [parent for parent in edges.get(key, ()) if parent not in tables]
        tables |= {f"quarantine/{key.partition('/')[2]}" for key in tables if key.startswith("dataset/")}
        return self.stores.lake.erasure(self.entity, tables.__contains__)


def plan_erasure(request: ErasureRequest) -> ErasureReport:
    """Return the effects that :func:`erase` would have, except the number of removed layouts. Nothing changes; the lake's lock is held.

    Parameters
    ----------
    request
        The entity to erase, and where.
    """
    erasing, stores = request.erasure(), request.stores
    with stores.lake.lock():
        rows = _count_rows(erasing)
        states = erasing.snapshots(erasing.files()) if not rows else _list_states(erasing, stores)
        _, stale_tables = build_records(request.projects, stores, erasing, [*rows])
    outside = _erase_outside_lake(request, dry_run=True)
    report = ErasureReport(
        rows,
        tuple(states),
        stale_tables=stale_tables,
        online=outside.online,
        predictions=outside.predictions,
        pushed=outside.pushed,
        other_names=request.other_names,
    )
    return _add_lost_versions(stores, report)


def erase(
    request: ErasureRequest, *, actor: str, reason: str, keep_key: bool = False, instance: dg.DagsterInstance | None = None
) -> ErasureReport:
    """Erase an entity and log it; call this again after a killed attempt to complete the erasure.

    Parameters
    ----------
    request
        The entity to erase, and where.
    actor, reason
        Who erases and why, for the log in the registry.
    keep_key
        Whether the log stores the entity; when False, the log stores a hash of it.
    instance
        The Dagster instance to which the new data versions of the partitions are reported; with None, they are not reported.

    Raises
    ------
    LakeError
        A running step reads a snapshot that must expire, or another process keeps the catalog open.
        Call this again later to complete the erasure.
    """
    stores, label = request.stores, entity_label(request.entity, keep=keep_key)
    log = open_erasure_log(stores.platform.registry)
    unfinished = log.find_unfinished(label)
    since = unfinished.at if unfinished else datetime.now(UTC)
    with stores.lake.lock():
        report = _merge_unfinished(plan_erasure(request), unfinished.facts if unfinished else {})
        log.add(BEGUN, actor=actor, reason=reason, entity=label, facts=report.facts)
        entities = {view.name: _read_entities(request, view) for view in request.feature_views}
        _erase_outside_lake(request, dry_run=False)  # first the logs and layouts, from which rows could return
        _erase_online(request, entities)  # before the lake forgets which entities have the keys
        _erase_in_lake(request, [*report.rows])
    _erase_online(request, entities)  # rows that were materialised meanwhile
    removed = _erase_outside_lake(request, dry_run=False)
    if instance is not None:
        _report_records(request, instance, since)
    readable = {f"{v.view}@{v.version}" for v in stores.view_versions.list_earlier()}
    for name in report.view_versions:
        if name in readable:
            stores.view_versions.remove(*name.split("@"))
    done = replace(report, layouts=removed.layouts)
    log.add(DONE, actor=actor, reason=reason, entity=label, facts=done.facts)
    return done


def _erase_in_lake(request: ErasureRequest, reported_tables: Sequence[str]) -> None:
    """Delete the rows of ``reported_tables`` from the lake, and expire the older snapshots that contain them.

    After a killed attempt, the current snapshot may have none of these rows any more, and only the rest is done.
    """
    erasing = request.erasure()
    tables = [table for table in erasing.tables() if table in reported_tables]
    tables = [table for table in tables if erasing.rows(table).height]
    if tables:
        erasing.delete(tables, build_records(request.projects, request.stores, erasing, tables)[0])
    erasing.rewrite()
    erasing.expire()
    erasing.vacuum()


def _merge_unfinished(report: ErasureReport, earlier: Mapping[str, Any]) -> ErasureReport:
    """Return the report merged with the recorded effects of a killed attempt."""
    if not earlier:
        return report
    merged: dict[str, Any] = {
        name: tuple(dict.fromkeys([*earlier.get(_STORED_NAMES.get(name, name), ()), *getattr(report, name)]))
        for name in ("states", "versions", "view_versions", "online", "stale_tables")
    }
    rows = {**earlier.get("rows", {}), **report.rows}
    logs = {name: max(earlier.get(name, 0), getattr(report, name)) for name in ("predictions", "pushed")}
    return replace(report, rows=rows, **merged, **logs)


def _report_records(request: ErasureRequest, instance: dg.DagsterInstance, since: datetime) -> None:
    """Report the records since the erasure began to Dagster, so that its data versions are those of the lake."""
    declared = collect_shapes(request.projects)
    for table in request.erasure().tables():
        for record in request.stores.lake.records(table).values() if table in declared else ():
            if record.recorded_at >= since:
                instance.report_runless_asset_event(materialization_event(record))


def _count_rows(erasing: Erasure) -> dict[str, int]:
    counts = {table: erasing.rows(table).height for table in erasing.tables()}
    return {table: count for table, count in counts.items() if count}


def _list_states(erasing: Erasure, stores: Stores) -> list[int]:
    """Return the snapshots that contain rows of the entity, and the current snapshot, which the erasure supersedes."""
    return [*erasing.snapshots(erasing.files()), stores.lake.snapshot()]


def _add_lost_versions(stores: Stores, report: ErasureReport) -> ErasureReport:
    """Add to the report the versions whose snapshot of the lake will expire."""
    states = set(report.states)
    return replace(
        report,
        versions=tuple(f"{v.model}@{v.version}" for v in stores.registry.versions() if v.snapshot in states),
        view_versions=tuple(f"{v.view}@{v.version}" for v in stores.view_versions.list_earlier() if v.last_snapshot in states),
    )


@dataclass(frozen=True)
class _EffectsOutsideLake:
    """The views that an erasure finds online, and the numbers of layouts, logged predictions and pushed rows that it removes."""

    online: tuple[str, ...]
    layouts: int
    predictions: int
    pushed: int


def _erase_outside_lake(request: ErasureRequest, *, dry_run: bool) -> _EffectsOutsideLake:
    """Remove the layouts of the entity's views and its rows in logs; with ``dry_run``, count without changing anything.

    Layouts are not counted with ``dry_run``. The online store is only searched for the views, not changed.
    """
    stores, names = request.stores, {view.name for view in request.feature_views}
    home = Path(stores.platform.home)
    layouts = 0 if dry_run else stores.layouts.remove(lambda name, _: name in names)
    # A prediction log holds more than the named views, so it stays.
    folders = [] if request.views else sorted((home / "services").glob("*/log"))
    predictions = sum(erase_predictions(folder, request.entity, dry_run=dry_run) for folder in folders)
    pushed = sum(erase_pushes(folder, request.entity, dry_run=dry_run) for folder in _list_push_logs(request, home))
    return _EffectsOutsideLake(tuple(sorted(set(stores.online.views()) & names)), layouts, predictions, pushed)


def _list_push_logs(request: ErasureRequest, home: Path) -> Iterator[Path]:
    sources = {view.source.name for view in request.feature_views if hasattr(view.source, "name")} if request.views else None
    return (path for path in sorted((home / "push").glob("*")) if path.is_dir() and (sources is None or path.name in sources))


def _read_entities(request: ErasureRequest, view: FeatureView) -> pl.DataFrame | None:
    """Return the join keys of the view's entities to erase, in the types of the view's table; None when it has no table yet."""
    keys = list(view.entity.join_keys)
    try:
        rows = request.stores.lake.read(view.key, columns=keys)
    except LakeError:
        return None
    if set(keys) == set(request.entity):  # the store may hold an entity that never was in the lake
        try:
            return pl.DataFrame({name: [request.entity[name]] for name in keys}).cast({name: rows.schema[name] for name in keys})
        except pl.exceptions.InvalidOperationError:
            return rows.clear()  # the column cannot hold such a value
    matches = [pl.col(name).cast(pl.String) == value for name, value in request.entity.items()]
    return rows.filter(*matches).unique()


def _erase_online(request: ErasureRequest, entities: Mapping[str, pl.DataFrame | None]) -> None:
    """Remove entities from the online store; ``entities`` maps a view to the join keys to remove."""
    stores, known = request.stores, set(request.stores.online.views())
    for view in request.feature_views:
        view_entities = entities[view.name]
        if view_entities is None or view_entities.is_empty() or view.name not in known:
            continue
        empty = sort_as_of(bind_rows(view, stores.lake.read(view.key).clear()))
        stores.online.update(view.name, empty, join_keys=view.entity.join_keys, features=view.feature_names, rebuilt=view_entities)
