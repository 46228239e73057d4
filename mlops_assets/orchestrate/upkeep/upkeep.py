"""Upkeep of a platform: files merged, old states given up, what no project declares any more removed; as an asset with figures."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
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
from mlops_assets.stores.platform.garbage import Garbage, collect_garbage, is_own
from mlops_assets.stores.platform.pins import aliased_artifacts, collect_pins
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.values.features import FeatureView
from mlops_assets.values.upkeep import Upkeep

LAKE = "upkeep/lake"
NODE = Node(LAKE, None)
_JOB = "upkeep"


@dataclass(frozen=True)
class UpkeepReport:
    """What upkeep did.

    Parameters
    ----------
    lake
        To the lake.
    pinned
        State of the lake and who needs it.
    layouts, online
        How many layouts and which online views were removed.
    artifacts
        Files of the artifact store that nothing names.
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
            "artifacts left": self.artifacts.left,
        }


def run_upkeep(projects: Sequence[Project], stores: Stores, *, older_than: timedelta, shared: bool = False) -> UpkeepReport:
    """Look after the lake and what stands beside it.

    Parameters
    ----------
    projects
        All that use this platform; an online view that another one declares is kept while a version with an alias looks it up.
    stores
        The platform's.
    older_than
        As of :class:`mlops_assets.values.upkeep.Upkeep`.
    shared
        Collect artifacts outside of the platform's home too: other platforms may keep theirs in the same place.
    """
    declared = {view.name for project in projects for view in project.select(FeatureView)}
    wanted = _list_needed_views(projects, stores)
    store = stores.online
    unwanted = tuple(view for view in store.views() if view not in wanted)
    for view in unwanted:
        store.remove(view)
    readable = {(version.view, version.version) for version in stores.view_versions.list_earlier()}
    layouts = stores.layouts.remove(lambda name, pinned: (name, pinned) not in readable if pinned else name not in declared)
    needed = collect_pins(stores, [view for view in wanted if view in declared])
    done = stores.lake.maintain(needed, older_than=older_than)
    artifacts = collect_garbage(stores, older_than=older_than, dry=not shared and not is_own(stores.platform))
    held = {number: tuple(f"process {pid}" for pid in pids) for number, pids in done.leased.items()}
    return UpkeepReport(done, {n: (*needed.get(n, ()), *held.get(n, ())) for n in sorted({*needed, *held})}, layouts, unwanted, artifacts)


def _list_needed_views(projects: Sequence[Project], stores: Stores) -> set[str]:
    """Return the views that are looked up: those that a project puts online, and those of every version with an alias, whoever declares it."""
    declared = {view.name for project in projects for view in online_views(project)}
    steps = (step for artifact in aliased_artifacts(stores) for step in read_manifest(stores.artifacts, artifact).get("steps", ()))
    return declared | {step["view"] for step in steps if "view" in step}


def upkeep_step(declared: Upkeep, run: Callable[..., Iterator[object]]) -> StepSpec:
    """Return the declaration of the asset."""
    return StepSpec(
        LAKE,
        run,
        group="upkeep",
        description=f"The lake's files merged; states older than {declared.older_than} given up, but for those that something pins.",
        kinds=frozenset({"duckdb"}),
    )


def upkeep_body(project: Project, declared: Upkeep) -> Callable[[StepContext], Iterator[object]]:
    """Return the body of the asset's step."""

    def body(step: StepContext) -> Iterator[object]:
        done = run_upkeep([project], step.stores, older_than=declared.older_than)
        who = to_markdown([{"snapshot": number, "pinned by": _join_names(names)} for number, names in done.pinned.items()])
        removed = {"removed": ", ".join(done.online)} if done.online else {}
        yield dg.MaterializeResult(asset_key(LAKE), metadata={**done.figures, **removed, "pins": who})

    return body


def _join_names(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def upkeep_schedule(declared: Upkeep, *, running: bool) -> dg.ScheduleDefinition:
    """Return the schedule of the asset."""
    return dg.ScheduleDefinition(
        name=f"{_JOB}_schedule",
        job=dg.define_asset_job(_JOB, selection=dg.AssetSelection.assets(asset_key(LAKE)), description="Looks after the lake."),
        cron_schedule=declared.cron_schedule,
        execution_timezone=declared.cron_timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING if running else dg.DefaultScheduleStatus.STOPPED,
        description="Looks after the lake.",
    )
