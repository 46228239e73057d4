"""Upkeep of a platform as an asset: merge files, expire old snapshots and remove what no project declares."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from mlops_assets.orchestrate.core.graph import Node
from mlops_assets.orchestrate.core.metadata import to_markdown
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.core.steps import StepSpec, asset_key
from mlops_assets.orchestrate.online.materialise import online_views
from mlops_assets.serving.formats.packaging import read_manifest
from mlops_assets.stores.lake.protocol import MaintenanceReport
from mlops_assets.stores.platform.garbage import Garbage, collect_garbage, owns_artifacts
from mlops_assets.stores.platform.pins import collect_pins, list_aliased_artifacts
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.values.features import FeatureView
from mlops_assets.values.upkeep import Upkeep

LAKE = "upkeep/lake"
NODE = Node(LAKE, None)
_JOB = "upkeep"


@dataclass(frozen=True)
class UpkeepReport:
    """The results of one upkeep, made by :func:`run_upkeep`.

    Parameters
    ----------
    lake
        The maintenance of the lake.
    pinned
        Snapshot of the lake → the versions, views or processes that need the snapshot.
    layouts, online
        The number of removed layouts, and the removed online views.
    artifacts
        The unused files of the artifact store, which are removed unless other platforms may share the store.
    """

    lake: MaintenanceReport
    pinned: dict[int, tuple[str, ...]]
    layouts: int
    online: tuple[str, ...]
    artifacts: Garbage

    @property
    def figures(self) -> dict[str, Any]:
        """Names and numbers, as the UI and the command line show them."""
        lake = self.lake
        return {
            "tables merged": lake.merged_files,
            "snapshots expired": lake.expired_snapshots,
            "snapshots left": lake.snapshots,
            "snapshots pinned": len(self.pinned),
            "files deleted": lake.deleted_files,
            "files before": lake.files[0],
            "files after": lake.files[1],
            "bytes before": lake.size[0],
            "bytes after": lake.size[1],
            "rows of records": lake.records,
            "layouts removed": self.layouts,
            "online views removed": len(self.online),
            "artifacts removed": len(self.artifacts.removed),
            "bytes of artifacts removed": sum(file.size for file in self.artifacts.removed),
            "artifacts left": self.artifacts.remaining,
        }


def run_upkeep(projects: Sequence[Project], stores: Stores, *, older_than: timedelta, shared: bool = False) -> UpkeepReport:
    """Merge files and expire snapshots of the lake, and remove unneeded layouts, online views and artifacts of a platform.

    Parameters
    ----------
    projects
        The projects to run it for. An online view of another project on the platform stays while a version with an alias looks it up, or
        while its rows have changed within ``older_than``.
    stores
        The stores of the platform.
    older_than
        As in :class:`mlops_assets.values.upkeep.Upkeep`.
    shared
        Whether to remove unused artifacts even from a store outside of the platform's home, which other platforms may share.
    """
    declared = {view.name for project in projects for view in project.select(FeatureView)}
    needed_views = _list_needed_views(projects, stores)
    unneeded = _list_unneeded_views(stores, needed_views, older_than)
    for view in unneeded:
        stores.online.remove(view)
    readable = {(version.view, version.version) for version in stores.view_versions.list_earlier()}
    layouts = stores.layouts.remove(lambda name, pinned: (name, pinned) not in readable if pinned else name not in declared)
    pins = collect_pins(stores, [view for view in needed_views if view in declared])
    maintenance = stores.lake.maintain(pins, older_than=older_than)
    artifacts = collect_garbage(stores, older_than=older_than, dry_run=not shared and not owns_artifacts(stores.platform))
    leases = {number: tuple(f"process {pid}" for pid in pids) for number, pids in maintenance.leased.items()}
    pinned = {n: (*pins.get(n, ()), *leases.get(n, ())) for n in sorted({*pins, *leases})}
    return UpkeepReport(maintenance, pinned, layouts, unneeded, artifacts)


def _list_unneeded_views(stores: Stores, needed_views: set[str], older_than: timedelta) -> tuple[str, ...]:
    """Return the stored online views to remove; one that changed within ``older_than`` may belong to another project."""
    cutoff = datetime.now(UTC) - older_than
    candidates = [view for view in stores.online.views() if view not in needed_views]
    return tuple(v for v in candidates if all(r.recorded_at <= cutoff for r in stores.lake.records(f"online/{v}").values()))


def _list_needed_views(projects: Sequence[Project], stores: Stores) -> set[str]:
    """Return the names of the views that services look up: online views of the projects, and views of every version with an alias."""
    declared = {view.name for project in projects for view in online_views(project)}
    steps = (step for artifact in list_aliased_artifacts(stores) for step in read_manifest(stores.artifacts, artifact).get("steps", ()))
    return declared | {step["view"] for step in steps if "view" in step}


def upkeep_step(declared: Upkeep, run: Callable[..., Iterator[object]]) -> StepSpec:
    """Return the step spec of the asset ``upkeep/lake_upkeep``."""
    return StepSpec(
        LAKE,
        run,
        group="upkeep",
        description=f"Merges the lake's files and expires snapshots older than {declared.older_than}, except pinned ones.",
        kinds=frozenset({"duckdb"}),
    )


def upkeep_body(project: Project, declared: Upkeep) -> Callable[[StepContext], Iterator[object]]:
    """Return the body of the step that runs the upkeep."""

    def body(step: StepContext) -> Iterator[object]:
        report = run_upkeep([project], step.stores, older_than=declared.older_than)
        pins = to_markdown([{"snapshot": number, "pinned by": _join_names(names)} for number, names in report.pinned.items()])
        removed = {"removed": ", ".join(report.online)} if report.online else {}
        yield dg.MaterializeResult(asset_key(LAKE), metadata={**report.figures, **removed, "pins": pins})

    return body


def _join_names(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def build_upkeep_schedule(declared: Upkeep, *, running: bool) -> dg.ScheduleDefinition:
    """Return the schedule that runs the upkeep."""
    return dg.ScheduleDefinition(
        name=f"{_JOB}_schedule",
        job=dg.define_asset_job(
            _JOB,
            selection=dg.AssetSelection.assets(asset_key(LAKE)),
            description="Maintains the lake, layouts, online store and artifacts.",
        ),
        cron_schedule=declared.cron_schedule,
        execution_timezone=declared.cron_timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING if running else dg.DefaultScheduleStatus.STOPPED,
        description="Maintains the lake, layouts, online store and artifacts.",
    )
