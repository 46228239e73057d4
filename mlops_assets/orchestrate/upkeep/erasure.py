"""An entity erased from a platform: tables, older states, online store, layouts and logs; and what can no longer be reproduced then."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from mlops_assets.compute.features.assemble import bind_rows
from mlops_assets.compute.features.point_in_time import sort_as_of
from mlops_assets.errors import DefinitionError, LakeError, nearest
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.tables.lake_events import materialization_event
from mlops_assets.orchestrate.upkeep.erased_records import build_records, collect_nodes, collect_shapes
from mlops_assets.serving.logs.erasure import erase_predictions, erase_pushes
from mlops_assets.stores.lake.erasure import Erasure
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.stores.registry.erasures import BEGUN, DONE, entity_label, open_erasure_log
from mlops_assets.values.features import FeatureView, feature_views
from mlops_assets.values.training import TrainingSet


@dataclass(frozen=True)
class ErasureReport:
    """What an erasure does, or has done.

    Parameters
    ----------
    rows
        Table of the lake to rows that go.
    states
        States of the lake that are given up because they show those rows.
    versions, view_versions
        Registered versions of models that can no longer be reproduced, and earlier versions of views that can no longer be read.
    online, layouts
        Views that are looked at in the online store, and whose layouts are made again when they are next used.
    predictions, pushed
        Lines of the logs of predictions and rows of those of pushes.
    anew
        Tables without the entity's keys that were made from its rows: they are stale then, and automation makes them again.
    other_names
        Columns in which renamed views look the entity up, and which may hold it too: they need an erasure of their own.
    """

    rows: Mapping[str, int]
    states: tuple[int, ...] = ()
    versions: tuple[str, ...] = ()
    view_versions: tuple[str, ...] = ()
    online: tuple[str, ...] = ()
    layouts: int = 0
    predictions: int = 0
    pushed: int = 0
    anew: tuple[str, ...] = ()
    other_names: tuple[str, ...] = ()

    @property
    def facts(self) -> dict[str, Any]:
        """JSON-like."""
        return asdict(self)


@dataclass(frozen=True)
class ErasureRequest:
    """What is to be erased, where.

    Parameters
    ----------
    projects, stores
        All projects of a platform, and its places.
    entity
        Column to value, as text.
    views
        Only these feature views and what they are made from; everything when empty.
    """

    projects: Sequence[Project]
    stores: Stores
    entity: Mapping[str, str]
    views: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the names."""
        if not self.entity:
            raise DefinitionError("no entity is named", hint="say which, e.g. --entity customer_id=42")
        known = {view.name for project in self.projects for view in project.select(FeatureView)}
        if missing := [name for name in self.views if name not in known]:
            raise DefinitionError(
                f"there is no feature view '{missing[0]}'",
                hint=nearest(missing[0], known) + f"there are {', '.join(sorted(known)) or 'none'}",
            )

    @property
    def feature_views(self) -> list[FeatureView]:
        """The views that have rows of the entity."""
        every = [view for project in self.projects for view in project.select(FeatureView)]
        chosen = [view for view in every if not self.views or view.name in self.views]
        return [view for view in chosen if self.entity.keys() <= set(view.entity.join_keys)]

    @property
    def other_names(self) -> tuple[str, ...]:
        """The columns that hold the entity where a view is looked up under other names, e.g. ``from_card`` of ``card``."""
        looked_up = [
            view for project in self.projects for declared in project.select(TrainingSet) for view in feature_views(declared.features)
        ]
        pairs = {pair for view in looked_up for pair in zip(view.entity.join_keys, view.renamed_keys, strict=True)}
        return tuple(sorted(column for key, column in pairs if key in self.entity and column != key))

    def erasure(self) -> Erasure:
        """Return the rows of the lake that are meant."""
        if not self.views:
            return self.stores.lake.erasure(self.entity)
        edges = {key: [e.parent for e in node.edges] for key, node in collect_nodes(self.projects, self.stores.platform).items()}
        wanted, todo = set[str](), [f"features/{name}" for name in self.views]
        while todo:
            wanted.add(key := todo.pop())
            todo += [parent for parent in edges.get(key, ()) if parent not in wanted]
        wanted |= {f"quarantine/{key.partition('/')[2]}" for key in wanted if key.startswith("dataset/")}
        return self.stores.lake.erasure(self.entity, wanted.__contains__)


def plan_erasure(request: ErasureRequest) -> ErasureReport:
    """Return what :func:`erase` would do.

    Parameters
    ----------
    request
        What is to be erased.
    """
    erasing, stores = request.erasure(), request.stores
    with stores.lake.lock():
        rows = _count_rows(erasing)
        states = erasing.snapshots(erasing.files()) if not rows else _list_states(erasing, stores)
        _, anew = build_records(request.projects, stores, erasing, [*rows])
    beside = _erase_outside_lake(request, dry=True)
    found = ErasureReport(
        rows,
        tuple(states),
        anew=anew,
        online=beside.online,
        predictions=beside.predictions,
        pushed=beside.pushed,
        other_names=request.other_names,
    )
    return _add_lost_versions(stores, found)


def erase(
    request: ErasureRequest, *, actor: str, reason: str, keep_key: bool = False, instance: dg.DagsterInstance | None = None
) -> ErasureReport:
    """Erase an entity. Killed anywhere and called again, it goes on.

    Parameters
    ----------
    request
        What is to be erased.
    actor, reason
        For the log, which is in the registry.
    keep_key
        Whether the log names the entity; else it has a hash.
    instance
        Of Dagster, to be told what the partitions hold now.

    Raises
    ------
    LakeError
        A running step reads a state that must be given up, or somebody keeps the catalog open; called again, it goes on.
    """
    stores, label = request.stores, entity_label(request.entity, keep=keep_key)
    log = open_erasure_log(stores.platform.registry)
    killed = log.find_unfinished(label)
    since = killed.at if killed else datetime.now(UTC)
    with stores.lake.lock():
        found = _merge_unfinished(plan_erasure(request), killed.facts if killed else {})
        log.add(BEGUN, actor=actor, reason=reason, entity=label, facts=found.facts)
        entities = {view.name: _read_entities(request, view) for view in request.feature_views}
        _erase_outside_lake(request, dry=False)  # first what rows could come back from
        _erase_online(request, entities)  # before the lake forgets which entities have the keys
        _erase_in_lake(request, [*found.rows])
    _erase_online(request, entities)  # what was materialised meanwhile
    removed = _erase_outside_lake(request, dry=False)
    if instance is not None:
        _report_records(request, instance, since)
    readable = {f"{v.view}@{v.version}" for v in stores.view_versions.list_earlier()}
    for name in found.view_versions:
        if name in readable:
            stores.view_versions.remove(*name.split("@"))
    done = replace(found, layouts=removed.layouts)
    log.add(DONE, actor=actor, reason=reason, entity=label, facts=done.facts)
    return done


def _erase_in_lake(request: ErasureRequest, found: Sequence[str]) -> None:
    """Take the rows out of the lake, for good; ``found`` are tables that had some, now or before a kill."""
    erasing = request.erasure()
    holding = [table for table in erasing.tables() if table in found]
    holding = [table for table in holding if erasing.rows(table).height]
    if holding:
        erasing.delete(holding, build_records(request.projects, request.stores, erasing, holding)[0])
    erasing.rewrite()
    erasing.expire()
    erasing.vacuum()


def _merge_unfinished(found: ErasureReport, killed: Mapping[str, Any]) -> ErasureReport:
    """Return what is found now together with what was found before a kill."""
    if not killed:
        return found
    both: dict[str, Any] = {
        name: tuple(dict.fromkeys([*killed.get(name, ()), *getattr(found, name)]))
        for name in ("states", "versions", "view_versions", "online", "anew")
    }
    rows = {**killed.get("rows", {}), **found.rows}
    logs = {name: max(killed.get(name, 0), getattr(found, name)) for name in ("predictions", "pushed")}
    return replace(found, rows=rows, **both, **logs)


def _report_records(request: ErasureRequest, instance: dg.DagsterInstance, since: datetime) -> None:
    """Report the records that were written: Dagster's data versions are those of the lake."""
    declared = collect_shapes(request.projects)
    for table in request.erasure().tables():
        for record in request.stores.lake.records(table).values() if table in declared else ():
            if record.recorded_at >= since:
                instance.report_runless_asset_event(materialization_event(record))


def _count_rows(erasing: Erasure) -> dict[str, int]:
    counts = {table: erasing.rows(table).height for table in erasing.tables()}
    return {table: count for table, count in counts.items() if count}


def _list_states(erasing: Erasure, stores: Stores) -> list[int]:
    """Return the states that will go once the newest one, which still shows the rows, is an older one."""
    return [*erasing.snapshots(erasing.files()), stores.lake.snapshot()]


def _add_lost_versions(stores: Stores, found: ErasureReport) -> ErasureReport:
    """Add what rests on states that go."""
    states = set(found.states)
    return replace(
        found,
        versions=tuple(f"{v.model}@{v.version}" for v in stores.registry.versions() if v.snapshot in states),
        view_versions=tuple(f"{v.view}@{v.version}" for v in stores.view_versions.list_earlier() if v.last_snapshot in states),
    )


@dataclass(frozen=True)
class _OutsideLake:
    """What stands beside the lake."""

    online: tuple[str, ...]
    layouts: int
    predictions: int
    pushed: int


def _erase_outside_lake(request: ErasureRequest, *, dry: bool) -> _OutsideLake:
    """Erase an entity from layouts and logs, and say what there was; with ``dry`` only that."""
    stores, names = request.stores, {view.name for view in request.feature_views}
    home = Path(stores.platform.home)
    layouts = 0 if dry else stores.layouts.remove(lambda name, _: name in names)
    # Where views are named, the logs of predictions, which hold more than those, stay.
    folders = [] if request.views else sorted((home / "services").glob("*/log"))
    predictions = sum(erase_predictions(folder, request.entity, dry=dry) for folder in folders)
    pushed = sum(erase_pushes(folder, request.entity, dry=dry) for folder in _list_push_logs(request, home))
    return _OutsideLake(tuple(sorted(set(stores.online.views()) & names)), layouts, predictions, pushed)


def _list_push_logs(request: ErasureRequest, home: Path) -> Iterator[Path]:
    sources = {view.source.name for view in request.feature_views if hasattr(view.source, "name")} if request.views else None
    return (path for path in sorted((home / "push").glob("*")) if path.is_dir() and (sources is None or path.name in sources))


def _read_entities(request: ErasureRequest, view: FeatureView) -> pl.DataFrame | None:
    """Return the join keys, in their types, of a view's entities that are meant; None when the view has no table yet."""
    keys = list(view.entity.join_keys)
    try:
        rows = request.stores.lake.read(view.key, columns=keys)
    except LakeError:
        return None
    if set(keys) == set(request.entity):  # also what is online and was never in the lake
        try:
            return pl.DataFrame({name: [request.entity[name]] for name in keys}).cast({name: rows.schema[name] for name in keys})
        except pl.exceptions.InvalidOperationError:
            return rows.clear()  # no such value can be in it
    matches = [pl.col(name).cast(pl.String) == value for name, value in request.entity.items()]
    return rows.filter(*matches).unique()


def _erase_online(request: ErasureRequest, entities: Mapping[str, pl.DataFrame | None]) -> None:
    """Take entities out of the online store."""
    stores, known = request.stores, set(request.stores.online.views())
    for view in request.feature_views:
        mine = entities[view.name]
        if mine is None or mine.is_empty() or view.name not in known:
            continue
        empty = sort_as_of(bind_rows(view, stores.lake.read(view.key).clear()))
        stores.online.update(view.name, empty, join_keys=view.entity.join_keys, features=view.feature_names, rebuilt=mine)
