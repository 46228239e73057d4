"""The command ``mlops``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from mlops_assets.cli.ci import ci
from mlops_assets.cli.datasets import datasets
from mlops_assets.cli.doctor import doctor
from mlops_assets.cli.erasure import erase
from mlops_assets.cli.features import features
from mlops_assets.cli.mlflow_bridge import mlflow
from mlops_assets.cli.models import models
from mlops_assets.cli.options import console as _console
from mlops_assets.cli.options import file_option, json_option
from mlops_assets.cli.options import load as _load
from mlops_assets.cli.options import write_json as _write_json
from mlops_assets.cli.quarantine import quarantine
from mlops_assets.cli.reproduce import reproduce
from mlops_assets.cli.runs import runs
from mlops_assets.errors import MlopsError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mlops_assets")
def mlops() -> None:
    """Machine learning in production on Dagster.

    Commands work on the project of the current folder: the module that [tool.dagster] or [tool.dg.project] of pyproject.toml names,
    else definitions.py. To name another, put -f FILE or -m MODULE after the command: `mlops run -m shop.definitions`.

    Example: mlops init churn && cd churn && mlops run
    """


features.add_command(erase)
mlops.add_command(ci)
mlops.add_command(datasets)
mlops.add_command(features)
mlops.add_command(doctor)
mlops.add_command(mlflow)
mlops.add_command(models)
mlops.add_command(quarantine)
mlops.add_command(reproduce)
mlops.add_command(runs)


@mlops.command()
@click.argument("name")
@click.option("--ci", "kind", type=click.Choice(["github", "gitlab"]), help="Write the workflows too; alone, where a project is already.")
def init(name: str, kind: str | None) -> None:
    """Begin a project in the folder NAME: a dataset from a CSV, a training set, a model and a gate.

    Example: mlops init churn --ci github && cd churn && mlops run
    """
    from mlops_assets.cli.ci import models_of
    from mlops_assets.cli.init import write_ci, write_project
    from mlops_assets.cli.project_target import has_project

    known = kind is not None and has_project(Path(name))
    models = models_of(_load("", Path(name))) if known else ["benign"]
    written = [] if known else write_project(name)
    for path in [*written, *(write_ci(Path(name), kind, models) if kind else [])]:
        click.echo(f"wrote {path}")
    click.echo(f"next: cd {name} && mlops run" if name != "." else "next: mlops run")


@mlops.command()
@click.option("--select", default="*", show_default=True, help="Assets, in Dagster's selection syntax.")
@click.option("--partitions", metavar="A...B", help="Partitions of every partitioned asset: one key, or the first and the last.")
@click.option("--as-of", metavar="TIME", help="Train on what was known by this time (ISO 8601).")
@file_option
def run(select: str, partitions: str | None, as_of: str | None, file: str) -> None:
    """Materialise assets in this process, partitioned and unpartitioned together.

    Example: mlops run --select 'key:"dataset/*"' --partitions 2013-01-01...2013-01-31
    """
    from mlops_assets.cli.running import run as execute
    from mlops_assets.cli.summary import show

    console = _console()
    with console.status("loading the project"):
        project = _load(file)
    finished = execute(project, select=select, partitions=partitions, as_of=as_of, console=console)
    show(project, finished, console)
    sys.exit(0 if finished.result.success else 1)


@mlops.command()
@file_option
@json_option
def status(file: str, json_file: str | None) -> None:
    """Show tables, models and runs as they are now.

    Example: mlops status
    """
    from mlops_assets.cli import status as report

    project = _load(file)
    facts = report.facts(project)
    _write_json(facts, json_file) if json_file else report.show(facts, _console())


@mlops.command()
@file_option
def validate(file: str) -> None:
    """Check the whole project without running it.

    Example: mlops validate -f definitions.py
    """
    from mlops_assets.cli.status import check

    project = _load(file)
    click.echo(check(project))


@mlops.command()
@click.option("--older-than", "hours", type=float, default=24.0, show_default=True, help="Hours; longer than the longest transaction.")
@click.option("--dry-run", is_flag=True, help="Only say which artifacts would be removed.")
@click.option(
    "--shared-artifacts", "shared", is_flag=True, help="Remove artifacts outside of MLOPS_HOME too: no other platform keeps its own there."
)
@file_option
@json_option
def gc(hours: float, file: str, json_file: str | None, *, dry_run: bool, shared: bool) -> None:
    """Merge the lake's files, expire old snapshots, remove artifacts that nothing names; never what a version or a run needs.

    Example: mlops gc --older-than 48 --json -
    """
    from mlops_assets.cli.status import garbage, upkeep

    done = garbage(_load(file), hours) if dry_run else upkeep(_load(file), hours, shared=shared)
    if json_file:
        _write_json(done, json_file)
        return
    for name, figure in done.items():
        if name != "pinned by":
            click.echo(f"{name}: {figure}")


@mlops.command()
@click.option("--port", default=3000, show_default=True, help="Where the web server listens.")
@file_option
def ui(port: int, file: str) -> None:
    """Open the Dagster web UI on the instance that `mlops run` writes to.

    Example: mlops ui --port 3001
    """
    from mlops_assets.cli.ui import serve

    serve(file, port)


@mlops.group()
def serve() -> None:
    """Services: the champion behind HTTP."""


@serve.command("start")
@click.argument("service")
@file_option
def start_service(service: str, file: str) -> None:
    """Start a service, or bring it to the champion.

    Example: mlops serve start lateness_api
    """
    from mlops_assets.cli import serving

    _console().print(serving.table([serving.start(_load(file), service)]))


@serve.command("stop")
@click.argument("service")
@file_option
def stop_service(service: str, file: str) -> None:
    """Stop a service; requests in flight are answered, and automation leaves it stopped.

    Example: mlops serve stop lateness_api
    """
    from mlops_assets.cli import serving

    found = serving.stop(_load(file), service)
    click.echo(f"{found.name} is {'still running' if found.running else 'stopped'}" + (f": {found.problem}" if found.problem else ""))
    sys.exit(1 if found.running else 0)


@serve.command("status")
@click.argument("service", required=False)
@file_option
@json_option
def service_status(service: str | None, file: str, json_file: str | None) -> None:
    """Show services and the versions that their workers answer with; fails when one is not as it is wanted.

    Example: mlops serve status --json -
    """
    from mlops_assets.cli import serving

    found = serving.status(_load(file), service)
    if json_file:
        _write_json([serving.facts(one) for one in found], json_file)
    else:
        _console().print(serving.table(found))
    sys.exit(1 if any(one.problem for one in found) else 0)


@mlops.command()
@click.argument("service")
@click.option("--rows", metavar="FILE", help="Rows to send: CSV, Parquet or JSON lines.")
@click.option("--partitions", metavar="A...B", help="Send these partitions of the data that the model learns from.")
@file_option
@json_option
def predict(service: str, rows: str | None, partitions: str | None, file: str, json_file: str | None) -> None:
    """Send rows to a running service, one request a row, as its clients would.

    Example: mlops predict lateness_api --partitions 2013-04-01
    """
    from rich.progress import Progress

    from mlops_assets.cli.predict import send

    project, console = _load(file), _console()
    with Progress(console=console, transient=True) as progress:
        facts = send(project, service, rows=rows, partitions=partitions, progress=progress).facts
    if json_file:
        _write_json(facts, json_file)
    else:
        for name, value in facts.items():
            console.print(f"{name}: {value}", highlight=False, soft_wrap=True)
    sys.exit(1 if facts["failed"] else 0)


@mlops.group()
def monitor() -> None:
    """Drift, performance, and what was decided."""


@monitor.command("show")
@click.argument("name")
@click.option("--partition", help="One window; the latest twenty when left out.")
@file_option
@json_option
def show_monitor(name: str, partition: str | None, file: str, json_file: str | None) -> None:
    """Show reports, decisions, trainings, and what comes next.

    Example: mlops monitor show lateness_watch --partition 2013-04-02
    """
    from mlops_assets.cli import monitoring
    from mlops_assets.cli import status as report

    found = monitoring.show(_load(file), name, partition)
    if json_file:
        _write_json(found, json_file)
        return
    console = _console()
    for title in ("windows", "decisions", "trainings"):
        if found[title]:
            console.print(report.table(title, found[title]))
    console.print(f"next: {found['next']}", highlight=False, soft_wrap=True)
    if found["page"]:
        console.print(f"page: {found['page']}", highlight=False, soft_wrap=True)


@monitor.command("step")
@click.argument("name")
@file_option
@json_option
def step_monitor(name: str, file: str, json_file: str | None) -> None:
    """Do once, in this process, what the sensors would do now: reports, decision, training, promotion.

    Example: mlops monitor step lateness_watch
    """
    from mlops_assets.cli.monitor_step import step

    console = _console()
    turn = step(_load(file), name, console)
    if json_file:
        _write_json(turn.facts, json_file)
    else:
        for line in turn.lines:
            console.print(line, highlight=False, soft_wrap=True)
    sys.exit(0 if turn.success else 1)


@monitor.command("evidently")
@click.argument("name")
@click.option("--partition", required=True, help="Which window.")
@file_option
def evidently_report(name: str, partition: str, file: str) -> None:
    """Write Evidently's own report of a window, some 5 MB of HTML.

    Example: mlops monitor evidently lateness_watch --partition 2013-04-01
    """
    from mlops_assets.cli import monitoring

    console = _console()
    with console.status("Evidently takes some ten seconds to begin"):
        path = monitoring.evidently(_load(file), name, partition)
    click.echo(f"wrote {path}")


def main() -> None:
    """Run the command; an error of ours is a message with a hint, not a traceback."""
    try:
        mlops()
    except MlopsError as error:
        click.echo(f"mlops: {error}", err=True)
        sys.exit(1)
    except Exception as error:
        from mlops_assets.cli.damage import explain

        told = explain(error)
        if told is None:
            raise
        click.echo(f"mlops: {told}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
