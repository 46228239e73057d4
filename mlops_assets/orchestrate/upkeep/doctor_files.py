"""Checks of the files below the home: Dagster's databases, the lake's catalog, online store, layouts and logs."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mlops_assets.orchestrate.core.dagster_files import (
    advise_restore,
    find_damaged_databases,
    find_lost_history,
    find_lost_schedules,
    recreate_schedules,
)
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.online.materialise import online_key, online_views
from mlops_assets.orchestrate.upkeep.findings import FAILURE, OK, WARNING, Finding
from mlops_assets.serving.logs.damage import LogDamage, find_changed_predictions, find_changed_pushes, find_changed_traces
from mlops_assets.serving.logs.day_log import list_foreign_entries
from mlops_assets.serving.logs.trace_log import TRACE_FOLDER, TRACE_LOG
from mlops_assets.stores.database.sqlite_check import find_sqlite_damage
from mlops_assets.stores.lake.layout_files import find_damaged_layouts
from mlops_assets.stores.online.lmdb_check import find_lmdb_damage
from mlops_assets.stores.platform.pins import collect_pins
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.values.platform import Platform

Rebuild = Callable[[Sequence[str]], None]  # materialises the assets with these keys
_BACKUP = "restore it from a backup"


def check_dagster_files(platform: Platform) -> Iterator[Finding]:
    """Yield damaged or lost databases of the Dagster instance, and an empty ``dagster.yaml``."""
    home = Path(os.environ.get("DAGSTER_HOME") or Path(platform.home) / "dagster")
    lost_states = find_lost_schedules(home)
    findings = [
        Finding.failure("dagster", f"the Dagster database '{path}' is damaged: {problem}", advise_restore(home, path))
        for path, problem in find_damaged_databases(home)
        if not (lost_states and path.parent.name == "schedules")
    ]
    if problem := find_lost_history(home):
        findings.append(Finding.failure("dagster", problem, advise_restore(home, home / "history" / "runs.db")))
    if lost_states:
        advice = f"{_BACKUP}, or begin again with the default states of sensors and schedules"
        findings.append(Finding("dagster", FAILURE, lost_states, advice, lambda: recreate_schedules(home)))
    config = home / "dagster.yaml"
    if config.exists() and not config.stat().st_size:
        findings.append(Finding.failure("dagster", f"'{config}' is empty", "remove it: the next command writes the defaults"))
    yield from findings or [Finding("dagster", OK, f"the databases in '{home}' are sound")]


def check_catalog(stores: Stores) -> Iterator[Finding]:
    """Yield damage of the lake's catalog, or the version that needs a snapshot newer than the newest in the lake."""
    path = Path(stores.platform.lake) / "catalog.sqlite"
    if path.exists() and path.stat().st_size and (problem := find_sqlite_damage(path)):
        yield Finding.failure("catalog", f"the lake's catalog '{path}' is damaged: {problem}", _BACKUP)
        return
    newest = stores.lake.snapshot()
    ahead = {snapshot: users for snapshot, users in collect_pins(stores).items() if snapshot > newest}
    if ahead:
        last = max(ahead)
        text = f"{ahead[last][0]} needs snapshot {last} of the lake, but the newest snapshot in '{path}' is {newest}: the lake was deleted or replaced"
        yield Finding.failure("catalog", text, f"{_BACKUP}; without it, these versions cannot be reproduced")
    else:
        yield Finding("catalog", OK, f"sound; the newest snapshot is {newest}")


def check_online_store(stores: Stores, projects: Sequence[Project], rebuild: Rebuild | None) -> Iterator[Finding]:
    """Yield damage of the online store, or the first view that was materialised and is missing; the fix rebuilds them."""
    url = stores.platform.online
    views = {online_key(view): view.name for project in projects for view in online_views(project)}
    damage = "" if "://" in url else find_lmdb_damage(Path(url))
    written = [key for key in views if stores.lake.records(key)]
    if damage:
        text, lost = f"the online store '{Path(url) / 'data.mdb'}' is damaged: {damage}", written
    else:
        lost = [key for key in written if _is_missing(stores, views[key])]
        text = f"view '{views[lost[0]]}' was written to the online store '{url}' and is missing" if lost else ""
    if text:
        fix = None if rebuild is None else lambda: _rebuild_views(url, lost, rebuild, is_damaged=bool(damage))
        advice = "rebuild it from the lake" if fix else "correct the project, then `mlops doctor --fix` rebuilds it"
        yield Finding("online", FAILURE, text, advice, fix)
    else:
        yield Finding("online", OK, f"all {len(written)} written view(s) exist")


def _is_missing(stores: Stores, view: str) -> bool:
    url = stores.platform.online
    return ("://" not in url and not (Path(url) / "data.mdb").exists()) or stores.online.state(view) is None


def _rebuild_views(url: str, keys: Sequence[str], rebuild: Rebuild, *, is_damaged: bool) -> str:
    if is_damaged:
        shutil.rmtree(url)
    if keys:
        rebuild(keys)
    return f"rebuilt {', '.join(keys) or 'an empty store'} from the lake"


def check_layouts(platform: Platform) -> Iterator[Finding]:
    """Yield damaged layout files, and unexpected files in the folder of the layouts."""
    folder, sound = Path(platform.home) / "layouts", True
    for path, problem in find_damaged_layouts(folder):
        sound = False
        if problem:
            text = f"the layout file '{path}' is damaged: {problem}"
            yield Finding(
                "layouts", FAILURE, text, "remove damaged layouts; the next use rebuilds them from the lake", _build_layout_fix(folder)
            )
        else:
            yield Finding("layouts", WARNING, f"'{path}' does not belong to a layout and is ignored", "remove it")
    if sound:
        yield Finding("layouts", OK, f"no layout in '{folder}' is damaged")


def _build_layout_fix(folder: Path) -> Callable[[], str]:
    def fix() -> str:
        broken = {path.parent for path, problem in find_damaged_layouts(folder) if problem}
        for layout in broken:
            (layout / "state.json").unlink(missing_ok=True)
        return f"removed {len(broken)} layout(s); the next use rebuilds them"

    return fix


def check_logs(platform: Platform) -> Iterator[Finding]:
    """Yield changed lines, empty files and unexpected entries of prediction logs, push logs and trace logs."""
    home = Path(platform.home)
    predictions = sorted((home / "services").glob("*/log"))
    traces = sorted((home / "services").glob(f"*/{TRACE_FOLDER}"))
    pushes = sorted(path for path in (home / "push").glob("*") if path.is_dir())
    findings = [
        Finding("logs", WARNING, f"'{path}' is not a day of the {kind} and is ignored", "move it away")
        for kind, folders in (("prediction log", predictions), (TRACE_LOG, traces))
        for folder in folders
        for path in list_foreign_entries(folder)
    ]
    findings += [_report_log("prediction log", damage) for folder in predictions for damage in find_changed_predictions(folder)]
    findings += [_report_log(TRACE_LOG, damage) for folder in traces for damage in find_changed_traces(folder)]
    findings += [_report_log("push log", damage) for folder in pushes for damage in find_changed_pushes(folder)]
    yield from findings or [Finding("logs", OK, "no line of the logs is changed")]


def _report_log(kind: str, damage: LogDamage) -> Finding:
    if not damage.lines:
        return Finding("logs", WARNING, f"the {kind} file '{damage.path}' is empty", f"{_BACKUP}; without one, remove it")
    rest = f"; {len(damage.lines) - 1} later line(s) have changed as well" if len(damage.lines) > 1 else ""
    text = f"{damage.path}:{damage.lines[0]} is not what was written to the {kind}{rest}"
    return Finding.failure("logs", text, "restore the file from a backup; until then, an import of that day skips such lines")
