"""``mlops runs``: list, show, compare and export runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape
from rich.table import Table

from mlops_assets.cli.options import console, json_option, load_without_dbt, platform_option, write_json, write_text
from mlops_assets.errors import DataError
from mlops_assets.values.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime, timedelta

    from mlops_assets.compute.pages.run_comparison import ComparedRun
    from mlops_assets.stores.platform.stores import Stores
    from mlops_assets.stores.tracker.tracker import Run

_MAX_METRICS = 5  # columns of `mlops runs list`
_FIGURES = {"best": "[bold green]✓ {}[/]", "": "{}"}
_where = click.option(
    "--where", default="", metavar="FILTER", help="E.g. \"metrics.roc_auc > 0.7 and params.depth >= 3 and tags.team = 'x'\"."
)
_order = click.option("--order", default="", metavar="ORDER", help="E.g. 'metrics.roc_auc desc'  [default: newest first]")


@click.group()
def runs() -> None:
    """List, show, compare and export runs: trainings, trials, notebooks and scripts."""


def _open_stores(file: str | None) -> Stores:
    from mlops_assets.stores.platform.stores import open_stores

    return open_stores(Platform.from_env() if file is None else load_without_dbt(file).platform)


@runs.command("list")
@_where
@_order
@click.option("--limit", default=20, show_default=True, help="The maximum number of runs.")
@click.option("--offset", default=0, help="The number of runs to skip.")
@platform_option
@json_option
def list_runs(  # noqa: PLR0913  (options)
    where: str, order: str, limit: int, offset: int, file: str | None, json_file: str | None
) -> None:
    """List runs, newest first or by any column, metric or parameter.

    The table shows five metrics at most; --json has all.

    Example: mlops runs list --where "experiment = 'lateness' and metrics.roc_auc > 0.7" --order "metrics.roc_auc desc"
    """
    matches = _open_stores(file).tracker.search(where, order, limit, offset)
    if json_file:
        write_json([_describe_run(run) for run in matches], json_file)
        return
    names = [name for name in dict.fromkeys(n for run in matches for n in run.metrics) if "." not in name][:_MAX_METRICS]
    table = _build_table("runs", ("id", "experiment", "name", "kind", "status", "started", "took", *names))
    for run in matches:
        figures = (_format_number(run.metrics.get(name)) for name in names)
        took = _format_duration(run.started_at, run.ended_at)
        table.add_row(
            run.id[:8], *map(escape, (run.model, run.name, run.kind, run.status, f"{run.started_at:%Y-%m-%d %H:%M:%S}", took, *figures))
        )
    console().print(table)


@runs.command("show")
@click.argument("run_id")
@platform_option
@json_option
def show_run(run_id: str, file: str | None, json_file: str | None) -> None:
    """Show a run: parameters, metrics, files and children; the beginning of its id is enough.

    Example: mlops runs show 3f2a91c0
    """
    stores = _open_stores(file)
    run = stores.tracker.get(run_id)
    files = stores.tracker.artifacts(run.id)
    children = [child.id for child in stores.tracker.search(f"parent = '{run.id}'", limit=1000)]
    if json_file:
        details = {"record": run.record, "artifacts": [vars(artifact) for artifact in files], "children": children}
        write_json(_describe_run(run) | details, json_file)
        return
    out = console()
    facts = {
        name: value for name, value in _describe_run(run).items() if name not in ("params", "metrics", "tags") and value not in ("", None)
    }
    out.print(_build_pairs_table(f"run {run.id}", facts))
    for title, mapping in (("parameters", run.params), ("metrics", run.metrics), ("tags", run.tags)):
        if mapping:
            out.print(_build_pairs_table(title, mapping))
    if files:
        out.print(
            _build_pairs_table(
                "files",
                {
                    artifact.name: f"{artifact.size:,} bytes, {artifact.media}, {stores.artifacts.url(artifact.sha256)}"
                    for artifact in files
                },
            )
        )
    if children:
        out.print(f"{len(children)} child runs: {', '.join(child[:8] for child in children[:20])}", highlight=False, markup=False)


@runs.command("compare")
@click.argument("run_ids", nargs=-1, required=True)
@click.option("--html", metavar="FILE", help="Write the comparison with its curves as a self-contained page.")
@platform_option
@json_option
def compare_runs(run_ids: tuple[str, ...], html: str | None, file: str | None, json_file: str | None) -> None:
    """Compare runs: metrics with the best marked, parameters that differ, and with --html their curves.

    Example: mlops runs compare 3f2a91c0 77b0c2d4 --html comparison.html
    """
    from mlops_assets.compute.pages.run_page import render_runs

    compared = [_load_compared(_open_stores(file), run_id) for run_id in run_ids]
    if html:
        write_text(render_runs(compared), html)
        click.echo(f"wrote {html}", err=json_file == "-")
    if json_file:
        write_json(_describe_comparison(compared), json_file)
    elif not html:
        _print_comparison(compared)


@runs.command("export")
@click.argument("target")
@_where
@_order
@click.option("--limit", type=int, help="The maximum number of runs  [default: all]")
@platform_option
def export_runs(target: str, where: str, order: str, limit: int | None, file: str | None) -> None:
    """Write runs to TARGET, one row each: .csv, .parquet or .ndjson.

    Example: mlops runs export runs.parquet --where "experiment = 'lateness'"
    """
    frame = _open_stores(file).tracker.frame(where, order, limit)
    writers: dict[str, Callable[[str], object]] = {".csv": frame.write_csv, ".parquet": frame.write_parquet, ".ndjson": frame.write_ndjson}
    if Path(target).suffix not in writers:
        raise DataError(f"the file name '{target}' has no known ending", hint=f"end it with one of {', '.join(writers)}")
    writers[Path(target).suffix](target)
    click.echo(f"wrote {frame.height} runs with {frame.width} columns to {target}")


def _describe_run(run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "experiment": run.model,
        "name": run.name,
        "kind": run.kind,
        "status": run.status,
        "environment": run.environment,
        "parent": run.parent_id,
        "started": run.started_at.isoformat(timespec="seconds"),
        "took": _format_duration(run.started_at, run.ended_at),
        "dagster run": run.dagster_run_id,
        "lake snapshot": run.snapshot,
        "error": run.error,
        "params": dict(run.params),
        "metrics": {name: value if value == value else "nan" for name, value in run.metrics.items()},  # noqa: PLR0124
        "tags": dict(run.tags),
    }


def _load_compared(stores: Stores, run_id: str) -> ComparedRun:
    from mlops_assets.compute.pages.run_comparison import ComparedRun

    run = stores.tracker.get(run_id)
    curves = {name: (curve.steps.tolist(), curve.values.tolist()) for name, curve in stores.tracker.curves(run.id).items()}
    took = _duration(run.started_at, run.ended_at)
    return ComparedRun(run.id, run.model, run.name, run.status, run.started_at, took, run.params, run.metrics, run.tags, curves)


def _describe_comparison(compared: Sequence[ComparedRun]) -> dict[str, Any]:
    from mlops_assets.compute.pages.run_comparison import compare_metrics, compare_params

    return {
        "runs": [run.id for run in compared],
        "metrics": [{"metric": r.name, "values": list(map(_to_json, r.values)), "best": sorted(r.best)} for r in compare_metrics(compared)],
        "params": [{"param": r.name, "values": list(r.values), "differs": r.differs} for r in compare_params(compared)],
    }


def _print_comparison(compared: Sequence[ComparedRun]) -> None:
    from mlops_assets.compute.pages.run_comparison import compare_metrics, compare_params

    out, titles = console(), [run.title for run in compared]
    metrics = _build_table("metrics (last values; ✓ the best)", ("metric", *titles))
    for row in compare_metrics(compared):
        shown = (_FIGURES["best" if i in row.best else ""].format(_format_number(value)) for i, value in enumerate(row.values))
        metrics.add_row(escape(f"{row.name} {'↓' if row.smaller else '↑'}"), *shown)
    params = _build_table("parameters that differ", ("parameter", *titles))
    different = [row for row in compare_params(compared) if row.differs]
    for param in different:
        params.add_row(escape(param.name), *(escape("–" if value is None else value) for value in param.values))
    out.print(metrics)
    out.print(params if different else "all parameters are equal")


def _build_table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=escape(title), title_justify="left")
    for column in columns:
        table.add_column(escape(column), overflow="fold")
    return table


def _build_pairs_table(title: str, mapping: Mapping[str, Any]) -> Table:
    table = _build_table(title, ("", ""))
    table.show_header = False
    for name, value in mapping.items():
        table.add_row(escape(name), escape(_format_number(value) if isinstance(value, float) else str(value)))
    return table


def _format_number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _to_json(value: float | None) -> float | str | None:
    return value if value is None or value - value == 0 else str(value)


def _duration(started: datetime, ended: datetime | None) -> timedelta | None:
    return None if ended is None else ended - started


def _format_duration(started: datetime, ended: datetime | None) -> str:
    duration = _duration(started, ended)
    return "" if duration is None else f"{duration.total_seconds():.1f} s"
