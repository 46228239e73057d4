"""The summary of a run in the terminal: tables of assets, metrics and gates, then notes, outcomes and failures."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from rich.markup import escape
from rich.table import Table

from mlops_assets import errors
from mlops_assets.cli.project import LoadedProject
from mlops_assets.orchestrate.predictions.prediction_tables import PREDICTION_CHANGE
from mlops_assets.orchestrate.tables.tables import COLUMNS, CUT_TIMES, DUPLICATES
from mlops_assets.orchestrate.tables.unrecorded import UNRECORDED
from mlops_assets.values.asset_names import build_graph_key, find_declared_name
from mlops_assets.values.llm.prompt import Prompt
from mlops_assets.values.model import Model

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.console import Console

    from mlops_assets.cli.running import FinishedRun, StepProgress

NOTES = (COLUMNS, CUT_TIMES, DUPLICATES, UNRECORDED)
_REPORTS = ("drift_report", "performance_report", "estimate_report", "system_report", "evaluation", "calibration", "quality_report")


def print_summary(project: LoadedProject, finished: FinishedRun, console: Console) -> None:
    """Print a run's assets with rows and durations, metrics, gates, notes, outcomes and failures, and where to look next."""
    console.print()
    console.print(_asset_table(finished))
    for key, metadata in _last_metadata(finished).items():
        if key.path[0] == "model":
            console.print(_metric_table(find_declared_name(key.to_user_string()), metadata))
    gates = _build_check_table(finished)
    if gates.row_count:
        console.print(gates)
    outcomes, stores = map(escape, _list_outcomes(project, finished)), map(escape, _describe_stores(project, finished))
    for line in (*list_notes(finished), *outcomes, *_list_kept_champions(project, finished), *list_failures(finished), *stores):
        console.print(line, highlight=False, soft_wrap=True)


def _last_metadata(finished: FinishedRun) -> dict[dg.AssetKey, Mapping[str, Any]]:
    """Return asset → metadata of its last materialisation in the run."""
    by_asset: dict[dg.AssetKey, Mapping[str, Any]] = {}
    for event in finished.result.get_asset_materialization_events():
        materialization = event.step_materialization_data.materialization
        by_asset[materialization.asset_key] = materialization.metadata
    return by_asset


def _count_quarantined(finished: FinishedRun, key: dg.AssetKey) -> int:
    """Return the number of rows that the run wrote to a quarantine, summed over the partitions."""
    counts: dict[str | None, int] = {}
    for event in finished.result.get_asset_materialization_events():
        materialization = event.step_materialization_data.materialization
        if materialization.asset_key == key:
            counts[materialization.partition] = int(_read_value(materialization.metadata, "dagster/row_count") or 0)
    return sum(counts.values())


def list_notes(finished: FinishedRun) -> list[str]:
    """Return the notices of a run as console markup, each once: changed columns, cut times, duplicates, unrecorded inputs."""
    materializations = [event.step_materialization_data.materialization for event in finished.result.get_asset_materialization_events()]
    lines = (
        f"[yellow]{escape(materialization.asset_key.to_user_string())}[/]: {name}: {escape(str(_read_value(materialization.metadata, name)))}"
        for materialization in materializations
        for name in NOTES
        if name in materialization.metadata
    )
    return list(dict.fromkeys(lines))


def _read_value(metadata: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401
    return metadata[name].value if name in metadata else ""


def _asset_table(finished: FinishedRun) -> Table:
    table = Table(title=f"{'done' if finished.result.success else 'failed'} in {finished.seconds:.1f} s", title_justify="left")
    for column in ("asset", "rows", "changed", "seconds"):
        table.add_column(column, justify="left" if column == "asset" else "right")
    steps = _find_steps(finished)
    for key, metadata in _last_metadata(finished).items():
        rows = _count_quarantined(finished, key) if key.path[0] == "quarantine" else _read_value(metadata, "dagster/row_count")
        changed = _read_value(metadata, "changed partitions") or _read_value(metadata, "changed") or _read_value(metadata, "trained")
        seconds = f"{steps[key].seconds:.1f}" if key in steps else ""
        table.add_row(escape(key.to_user_string()), f"{rows:,}" if isinstance(rows, int) else "", escape(_shorten(changed)), seconds)
    return table


def _shorten(changed: Any) -> str:  # noqa: ANN401
    return {"1 of 1": "yes", "0 of 1": "no"}.get(changed, "no" if str(changed).startswith("no:") else str(changed))


def _find_steps(finished: FinishedRun) -> dict[dg.AssetKey, StepProgress]:
    """Return asset → its step; dbt models share a step, and tables that the step of another asset writes are omitted."""
    steps = {}
    for event in finished.result.get_asset_materialization_events():
        key, name = event.asset_key, event.step_key or ""
        if key and name in finished.steps and (name == "__".join(key.path) or name.startswith("dbt__")):
            steps[key] = finished.steps[name]
    return steps


def _metric_table(model: str, metadata: Mapping[str, Any]) -> Table:
    table = Table(title=escape(f"{model} on {_read_value(metadata, 'holdout rows'):,} holdout rows"), title_justify="left")
    records = [record.data for record in metadata["metrics"].records]
    for column in records[0]:
        table.add_column(escape(column))
    for record in records:
        table.add_row(*(f"{v:.4f}" if isinstance(v, float) else escape(str(v)) for v in record.values()))
    return table


def _build_check_table(finished: FinishedRun) -> Table:
    """Return a table of the checks of models and evaluations, which are mostly gates, and of other checks that did not pass."""
    table = Table(title="gates and failed checks", title_justify="left")
    for column in ("check", "result", "reason"):
        table.add_column(column)
    for evaluation in finished.result.get_asset_check_evaluations():
        key = evaluation.asset_key.to_user_string()
        if key.startswith(("model/", "evaluation/")) or not evaluation.passed:
            mark = (
                "[green]passed[/]"
                if evaluation.passed
                else "[yellow]warns[/]"
                if evaluation.severity is dg.AssetCheckSeverity.WARN
                else "[red]failed[/]"
            )
            table.add_row(escape(f"{key} {evaluation.check_name}"), mark, escape(evaluation.description or ""))
    return table


def _list_outcomes(project: LoadedProject, finished: FinishedRun) -> Iterator[str]:
    """Yield a line for each outcome of the run: champions, approvals, predictions, services, reports and decisions."""
    tables = {build_graph_key(table): table for part in project.parts for table in part.project.by_key}
    for key, metadata in _last_metadata(finished).items():
        if key.path[0] == "champion":
            role = "production" if "production before" in metadata else "champion"
            yield f"{role} of {find_declared_name(key.to_user_string())}: version {_read_value(metadata, 'version')} (before: {_read_value(metadata, f'{role} before')})"
            if change := _read_value(metadata, PREDICTION_CHANGE):
                yield f"note: {change}"
        if key.path[0] == "version":
            yield from _list_pending_approvals(project, find_declared_name(key.to_user_string()))
        if key.path[0] == "predictions":
            version = _read_value(metadata, "model version") or _read_value(metadata, "versions")
            yield f"predictions: lake table {tables.get(key.to_user_string(), '')}" + (f", model version {version}" if version else "")
        if key.path[0] == "service":
            yield _describe_service(key.path[-1], metadata)
        if key.path[0] in _REPORTS:
            yield f"{key.to_user_string()}: {_read_value(metadata, 'summary')}"
        if _read_value(metadata, "the loop"):
            yield f"the loop: {_read_value(metadata, 'the loop')}"


def _describe_service(name: str, metadata: Mapping[str, Any]) -> str:
    """Return a line about a service, with its address while it runs, and with its smoke latency if it serves a model."""
    url, latency = _read_value(metadata, "url"), _read_value(metadata, "smoke latency ms")
    place = f" at {url}, version {_read_value(metadata, 'version')}" if url else ""
    return f"service {name}: {_read_value(metadata, 'state')}{place}" + (f", smoke latency {latency} ms" if latency else "")


def _list_kept_champions(project: LoadedProject, finished: FinishedRun) -> Iterator[str]:
    """Yield a line on the champion that stays for each failed training, as console markup."""
    for step in {k for k in _failed_steps(finished) if k.startswith("model__")}:
        serving = project.stores.registry.champion(find_declared_name(step.replace("__", "/", 1)))
        yield f"[yellow]the champion stays {'version ' + str(serving.version) if serving else 'as it is: there is none yet'}[/]"


def _list_pending_approvals(project: LoadedProject, model: str) -> Iterator[str]:
    """Yield a line when the newest version of a model or prompt with ``approval=True`` is neither approved nor rejected."""
    newest = project.stores.registry.versions(model)[-1]
    for group, kind in (("models", Model), ("prompts", Prompt)):
        declared: list[Any] = [each for part in project.parts for each in part.project.select(kind)]
        if newest.approval or not any(each.approval and each.name == model for each in declared):
            continue
        yield f"version {newest.version} of {model} waits for approval: mlops {group} approve {model} {newest.version} --approver NAME --reason WHY, or materialise {build_graph_key(f'approval/{model}')} in the UI"


def _failed_steps(finished: FinishedRun) -> dict[str, str]:
    return {
        e.step_key: _find_reason(e) for e in finished.result.all_events if e.event_type is dg.DagsterEventType.STEP_FAILURE and e.step_key
    }


def _find_reason(event: dg.DagsterEvent) -> str:
    """Return the message of the outermost error of this package, else of the root cause; for an interrupt, return a fixed text."""
    chain = [event.step_failure_data.error]
    while chain[-1] is not None and chain[-1].cause is not None:
        chain.append(chain[-1].cause)
    known = [link for link in chain if link is not None]
    own = [link for link in known if link.cls_name and hasattr(errors, link.cls_name)]
    cause = next(iter(own or known[-1:]), None)
    if cause and cause.cls_name == "DagsterExecutionInterruptedError":
        return "it was interrupted; what earlier steps committed stays, and the same command continues"
    return re.sub(r"^[\w.]+: ", "", cause.message).strip() if cause else "unknown reason"


def list_failures(finished: FinishedRun) -> Iterator[str]:
    """Yield each step that failed with its reason, as console markup."""
    for step, reason in _failed_steps(finished).items():
        yield f"[red]✗ {escape(step.replace('__', '/', 1))}[/]: {escape(reason)}"


def _describe_stores(project: LoadedProject, finished: FinishedRun) -> Iterator[str]:
    home = Path(os.environ["DAGSTER_HOME"])
    yield f"lake {_relative_path(project.platform.lake)} · registry {_relative_path(project.platform.registry.removeprefix('sqlite:///'))} · artifacts {_relative_path(project.platform.artifacts)}"
    load = " ".join(project.target.dagster_arguments(_relative_path(str(project.target.file))))
    yield f"look: DAGSTER_HOME={home} dagster dev {load}  (or `mlops ui`), run {finished.result.run_id[:8]}"


def _relative_path(path: str) -> str:
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path
