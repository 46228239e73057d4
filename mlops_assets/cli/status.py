"""What ``mlops status``, ``mlops validate`` and ``mlops models`` show."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from mlops_assets.cli.monitoring import overview
from mlops_assets.cli.project import LoadedProject, told_instance
from mlops_assets.compute.training.evaluate import check_metrics
from mlops_assets.errors import RegistryError, nearest
from mlops_assets.orchestrate.compiler.extras import missing_packages, refuse_missing_packages
from mlops_assets.orchestrate.tables.automation import stale
from mlops_assets.orchestrate.upkeep.upkeep import kept_up
from mlops_assets.serving.formats.integrity import mark_damage
from mlops_assets.stores.platform.garbage import collect_garbage
from mlops_assets.stores.registry.history import model_history
from mlops_assets.values.dataset import Dataset, ExternalDataset
from mlops_assets.values.features import DbtModel, FeatureView
from mlops_assets.values.model import Model
from mlops_assets.values.serving import BatchPrediction
from mlops_assets.values.training import TrainingSet

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import Console

    from mlops_assets.orchestrate.core.project import Project
    from mlops_assets.stores.tracker.tracker import Run


def facts(project: LoadedProject) -> dict[str, Any]:
    """Return tables, versions and latest runs as JSON-like values."""
    opened = told_instance(project.platform)
    return {
        "tables": [row for part in project.parts for row in _tables(project, part.project)],
        "versions": versions(project, None),
        "monitors": overview(project, opened),
        "runs": [{"run": r.run_id[:8], "status": r.status.value, "job": r.job_name} for r in opened.get_runs(limit=5)],
    }


def _tables(loaded: LoadedProject, project: Project) -> Iterator[dict[str, Any]]:
    for noun in project.nouns:
        if isinstance(noun, (Dataset, ExternalDataset, FeatureView, TrainingSet, BatchPrediction)):
            records = loaded.stores.lake.records(noun.key)
            newest = max((r.recorded_at for r in records.values()), default=None)
            derived = not isinstance(noun, ExternalDataset) and not (isinstance(noun, FeatureView) and isinstance(noun.source, DbtModel))
            node = project.node(noun) if derived else None
            waiting = len(stale(node, loaded.platform)) if node and node.edges else 0
            yield {
                "table": noun.key,
                "partitions": len(records),
                "rows": sum(r.rows for r in records.values()),
                "behind its inputs": waiting,
                "last change": newest.isoformat(timespec="seconds") if newest else "never",
            }


def versions(project: LoadedProject, model: str | None) -> list[dict[str, Any]]:
    """Return versions, newest first.

    Raises
    ------
    RegistryError
        There is no such model.
    """
    known = {m.name for part in project.parts for m in part.project.every(Model)}
    if model is not None and model not in known:
        raise RegistryError(f"there is no model '{model}'", hint=nearest(model, known) + f"there are {', '.join(sorted(known)) or 'none'}")
    at = project.stores
    for held in (v for v in at.registry.versions(model) if v.aliases or v.damage):
        mark_damage(at.registry, at.artifacts, held)  # who serves from memory does not notice that its file is damaged
    found = at.registry.versions(model)
    runs = {run_id: project.stores.tracker.get(run_id) for run_id in {v.run_id for v in found}}
    return [
        {
            "model": v.model,
            "version": v.version,
            "state": f"{v.state}: {v.damage}" if v.damage else v.state,
            "aliases": ", ".join(v.aliases),
            **{name: round(value, 5) for name, value in _judged(runs[v.run_id])},
            "created": v.created_at.isoformat(timespec="seconds"),
            "candidate": v.digest[:12],
        }
        for v in reversed(found)
    ]


def _judged(run: Run) -> list[tuple[str, float]]:
    """Return the metrics that gates look at: of the holdout, and nothing else that was logged."""
    names = run.record.get("judged_by", run.metrics)
    return [(name, value) for name, value in run.metrics.items() if name in names]


def history(project: LoadedProject, model: str) -> list[dict[str, Any]]:
    """Return what has happened to a model, newest first: candidates that gates refused, versions, decisions, damage, moves of aliases."""
    versions(project, model)
    return [
        {"at": e.at.isoformat(timespec="seconds"), "environment": e.environment, "kind": e.kind, "version": e.version or "none", "alias": e.alias, "before": (e.previous or "none") if e.alias else "",
         "actor": e.actor, "reason": e.reason, "gates": ", ".join(f"{g['gate']}: {g['reason']}" for g in e.evidence), "candidate": e.candidate[:12]}
        for e in reversed(model_history(project.stores.platform.registry, model))
    ]  # fmt: skip


def told(row: Mapping[str, Any]) -> dict[str, str]:
    """Return a row of the history as it is shown: who, what and why in one line each."""
    happened = {"damaged": "damage", "restored": "restoration"}.get(row["kind"], row["kind"])
    whom = f"candidate {row['candidate']}" if row["version"] == "none" else f"version {row['version']}"
    what = f"{happened} {'to' if happened == 'rollback' else 'of'} {whom}"
    before = f", before {row['before']}" if row["before"] else ""
    why = [row["reason"], *([row["gates"]] if row["version"] != "none" else [])]
    shown = row["at"].removesuffix("+00:00").replace("T", " ")
    return {
        "at (UTC)": shown,
        "environment": row["environment"],
        "what": what + before,
        "who": row["actor"],
        "why": "\n".join(filter(None, why)),
    }


def check(project: LoadedProject) -> str:
    """Check what building the definitions does not, and say what there is.

    Raises
    ------
    DefinitionError
        A metric does not exist, or Dagster refuses the definitions.
    MissingExtraError
        Optional packages that the project needs are not installed.
    """
    refuse_missing_packages([need for part in project.parts for need in missing_packages(part.project, part.platform)])
    for part in project.parts:
        for model in part.project.every(Model):
            check_metrics(model.metrics, f"'{model.key}'")
    graph = project.definitions.resolve_asset_graph()
    project.definitions.resolve_all_job_defs()
    return f"{project.target} is valid: {len(graph.materializable_asset_keys)} assets, {len(graph.asset_check_keys)} checks"


def garbage(project: LoadedProject, hours: float) -> dict[str, Any]:
    """Return which artifacts upkeep would remove."""
    found = collect_garbage(project.stores, older_than=timedelta(hours=hours), dry=True)
    return {
        "artifacts that would be removed": len(found.removed),
        "bytes of artifacts": sum(file.size for file in found.removed),
        "artifacts left": found.left,
        **{f"artifact {file.name}": f"{file.size} bytes, stored {file.at:%Y-%m-%d %H:%M}" for file in found.removed},
    }


def upkeep(project: LoadedProject, hours: float, *, shared: bool = False) -> dict[str, Any]:
    """Look after the lake and what stands beside it, and say what was done."""
    done = kept_up([part.project for part in project.parts], project.stores, older_than=timedelta(hours=hours), shared=shared)
    return {**done.figures, "pinned by": {str(number): list(who) for number, who in done.pinned.items()}}


def show(found: dict[str, Any], console: Console) -> None:
    """Print the status."""
    for title, rows in found.items():
        console.print(table(title, rows))


def table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    """Return rows as a table."""
    result = Table(title=title, title_justify="left")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for column in columns or ("none",):
        result.add_column(column)
    for row in rows:
        result.add_row(*(escape(str(row.get(column, ""))) for column in columns))
    return result
