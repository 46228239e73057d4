"""The command ``mlops``."""

from __future__ import annotations

import gc as collector
import sys
from pathlib import Path

import click

from mlops_assets.cli.ci import ci
from mlops_assets.cli.datasets import datasets
from mlops_assets.cli.doctor import doctor
from mlops_assets.cli.features import features
from mlops_assets.cli.llm.embedded import llm
from mlops_assets.cli.llm.prompts import prompts
from mlops_assets.cli.llm.traces import traces
from mlops_assets.cli.mlflow_bridge import mlflow
from mlops_assets.cli.monitoring.alerts import alerts
from mlops_assets.cli.options import build_table, file_option, json_option, print_facts
from mlops_assets.cli.options import console as _console
from mlops_assets.cli.options import load as _load
from mlops_assets.cli.options import load_without_dbt as _load_without_dbt
from mlops_assets.cli.options import write_json as _write_json
from mlops_assets.cli.quarantine import quarantine
from mlops_assets.cli.registry.models import models
from mlops_assets.cli.registry.reproduce import reproduce
from mlops_assets.cli.replay.replay import replay
from mlops_assets.cli.runs import runs
from mlops_assets.cli.upkeep import erase
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
mlops.add_command(alerts)
mlops.add_command(ci)
mlops.add_command(datasets)
mlops.add_command(features)
mlops.add_command(doctor)
mlops.add_command(llm)
mlops.add_command(mlflow)
mlops.add_command(models)
mlops.add_command(prompts)
mlops.add_command(quarantine)
mlops.add_command(replay)
mlops.add_command(reproduce)
mlops.add_command(runs)
mlops.add_command(traces)


@mlops.command()
@click.argument("name")
@click.option(
    "--ci", "kind", type=click.Choice(["github", "gitlab"]), help="Write CI workflows as well; into an existing project, only these."
)
def init(name: str, kind: str | None) -> None:
    """Create a project in the folder NAME: a dataset from a CSV file, a training set, a model and a gate.

    Example: mlops init churn --ci github && cd churn && mlops run
    """
    from mlops_assets.cli.ci import model_names
    from mlops_assets.cli.init import write_ci, write_project
    from mlops_assets.cli.project_target import has_project

    exists = kind is not None and has_project(Path(name))
    models = model_names(_load("", Path(name))) if exists else ["benign"]
    written = [] if exists else write_project(name)
    for path in [*written, *(write_ci(Path(name), kind, models) if kind else [])]:
        click.echo(f"wrote {path}")
    click.echo(f"next: cd {name} && mlops run" if name != "." else "next: mlops run")


@mlops.command()
@click.option("--select", default="*", show_default=True, help="Assets, in Dagster's selection syntax.")
@click.option("--partitions", metavar="A...B", help="Partitions to materialise: one key, or the first and the last.")
@click.option("--as-of", metavar="TIME", help="Train on what was known by this time (ISO 8601).")
@file_option
def run(select: str, partitions: str | None, as_of: str | None, file: str) -> None:
    """Materialise assets in this process, without approvals; exit code 1 when the run failed.

    Example: mlops run --select 'key:"dataset/*"' --partitions 2013-01-01...2013-01-31
    """
    from mlops_assets.cli.running import run_assets
    from mlops_assets.cli.summary import print_summary

    console = _console()
    with console.status("loading the project"):
        project = _load(file)
    finished = run_assets(project, select=select, partitions=partitions, as_of=as_of, console=console)
    print_summary(project, finished, console)
    sys.exit(0 if finished.result.success else 1)


@mlops.command()
@file_option
@json_option
def status(file: str, json_file: str | None) -> None:
    """Show the current state of tables, versions, monitors and runs.

    Example: mlops status
    """
    from mlops_assets.cli.status import collect_status

    print_facts(collect_status(_load_without_dbt(file)), json_file)


@mlops.command()
@file_option
def validate(file: str) -> None:
    """Validate the project without running it.

    Example: mlops validate -f definitions.py
    """
    from mlops_assets.cli.status import validate_project

    click.echo(validate_project(_load(file)))


@mlops.command()
@click.option(
    "--older-than", "hours", type=float, default=24.0, show_default=True, help="Minimum age in hours; must exceed the longest transaction."
)
@click.option("--dry-run", is_flag=True, help="Only list the artifacts that would be removed.")
@click.option(
    "--shared-artifacts",
    "shared",
    is_flag=True,
    help="Also remove artifacts outside of MLOPS_HOME, when no other platform uses that store.",
)
@file_option
@json_option
def gc(hours: float, file: str, json_file: str | None, *, dry_run: bool, shared: bool) -> None:
    """Merge files of the lake, expire old snapshots, and remove artifacts, layouts and online views that are not needed.

    Everything that a version, a run or a service needs stays.

    Example: mlops gc --older-than 48 --json -
    """
    from mlops_assets.cli.upkeep import find_garbage, run_gc

    done = find_garbage(_load(file), hours) if dry_run else run_gc(_load(file), hours, shared=shared)
    if json_file:
        _write_json(done, json_file)
        return
    for name, figure in done.items():
        if name != "pinned by":
            click.echo(f"{name}: {figure}")


@mlops.command()
@click.option("--port", default=3000, show_default=True, help="Port of the Dagster UI.")
@click.option("--console-port", type=click.IntRange(1, 65535), help="Port of the console  [default: the port after that of the Dagster UI]")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; other machines can reach any address except loopback."
)
@click.option("--console-only", is_flag=True, help="Serve only the console.")
@click.option("--dagster-url", default="", metavar="URL", help="With --console-only: the Dagster UI that its pages link to.")
@click.option("--parent", type=int, hidden=True)
@file_option
def ui(  # noqa: PLR0913  (options)
    port: int, console_port: int | None, host: str, dagster_url: str, parent: int | None, file: str, *, console_only: bool
) -> None:
    """Start the Dagster web UI on the instance that `mlops run` writes to, and the read-only console next to it.

    Example: mlops ui --port 3001
    """
    from mlops_assets.cli.ui import open_ui, serve_console

    if console_only:
        serve_console(file, host, console_port or port + 1, dagster_url, parent)
    else:
        open_ui(file, host, port, console_port)


@mlops.group()
def serve() -> None:
    """Serve champions over HTTP."""


@serve.command("start")
@click.argument("service")
@file_option
def start_service(service: str, file: str) -> None:
    """Start a service, or update it to the champion.

    Example: mlops serve start lateness_api
    """
    from mlops_assets.cli import serving

    _console().print(serving.build_service_table([serving.start(_load(file), service)]))


@serve.command("stop")
@click.argument("service")
@file_option
def stop_service(service: str, file: str) -> None:
    """Stop a service after it has answered the requests in flight; automation does not restart it.

    Example: mlops serve stop lateness_api
    """
    from mlops_assets.cli import serving

    state = serving.stop(_load(file), service)
    click.echo(f"{state.name} is {'still running' if state.running else 'stopped'}" + (f": {state.problem}" if state.problem else ""))
    sys.exit(1 if state.running else 0)


@serve.command("status")
@click.argument("service", required=False)
@file_option
@json_option
def service_status(service: str | None, file: str, json_file: str | None) -> None:
    """Show services and the version of each worker; exit code 1 when a service has a problem.

    Example: mlops serve status --json -
    """
    from mlops_assets.cli import serving

    states = serving.status(_load_without_dbt(file), service)
    if json_file:
        _write_json([serving.list_status_facts(state) for state in states], json_file)
    else:
        _console().print(serving.build_service_table(states))
    sys.exit(1 if any(state.problem for state in states) else 0)


@mlops.command()
@click.argument("service")
@click.option("--rows", metavar="FILE", help="Rows to send: CSV, Parquet or JSON lines.")
@click.option("--partitions", metavar="A...B", help="Send these partitions of the model's training data.")
@file_option
@json_option
def predict(service: str, rows: str | None, partitions: str | None, file: str, json_file: str | None) -> None:
    """Send rows to a running service, one request per row; exit code 1 when a request was refused.

    Example: mlops predict lateness_api --partitions 2013-04-01
    """
    from rich.progress import Progress

    from mlops_assets.cli.predict import send_rows

    project, console = _load(file), _console()
    with Progress(console=console, transient=True) as progress:
        facts = send_rows(project, service, rows=rows, partitions=partitions, progress=progress).facts
    if json_file:
        _write_json(facts, json_file)
    else:
        for name, value in facts.items():
            console.print(f"{name}: {value}", highlight=False, markup=False, soft_wrap=True)
    sys.exit(1 if facts["failed"] else 0)


@mlops.group()
def monitor() -> None:
    """Drift and performance reports, decisions, and the next step."""


@monitor.command("show")
@click.argument("name")
@click.option("--partition", help="Only this window  [default: the latest 20 reports]")
@file_option
@json_option
def show_monitor(name: str, partition: str | None, file: str, json_file: str | None) -> None:
    """Show reports, decisions, trainings and the next step of a monitor.

    Example: mlops monitor show lateness_watch --partition 2013-04-02
    """
    from mlops_assets.cli.monitoring import reports

    report = reports.describe_monitor(_load_without_dbt(file), name, partition)
    if json_file:
        _write_json(report, json_file)
        return
    console = _console()
    for title in ("windows", "decisions", "trainings"):
        if report[title]:
            console.print(build_table(title, report[title]))
    console.print(f"next: {report['next']}", highlight=False, markup=False, soft_wrap=True)
    if report["page"]:
        console.print(f"page: {report['page']}", highlight=False, markup=False, soft_wrap=True)


@monitor.command("step")
@click.argument("name")
@file_option
@json_option
def step_monitor(name: str, file: str, json_file: str | None) -> None:
    """Run one turn of the sensors in this process: reports, promotion, decision, training.

    Exit code 1 when a run failed.

    Example: mlops monitor step lateness_watch
    """
    from mlops_assets.cli.monitoring.step import run_turn

    console = _console()
    turn = run_turn(_load(file), name, console)
    if json_file:
        _write_json(turn.facts, json_file)
    else:
        for line in turn.lines:
            console.print(line, highlight=False, soft_wrap=True)
    sys.exit(0 if turn.success else 1)


@monitor.command("evidently")
@click.argument("name")
@click.option("--partition", required=True, help="The window.")
@file_option
def evidently_report(name: str, partition: str, file: str) -> None:
    """Write Evidently's report of a window, about 5 MB of HTML.

    Example: mlops monitor evidently lateness_watch --partition 2013-04-01
    """
    from mlops_assets.cli.monitoring import reports

    console = _console()
    with console.status("Evidently starts in about ten seconds"):
        path = reports.write_evidently_report(_load(file), name, partition)
    click.echo(f"wrote {path}")


def main() -> None:
    """Run the command; print an expected error as a message with a hint instead of a traceback, with exit code 1."""
    collector.disable()  # until options.load() has imported the project: collections would visit millions of objects that stay
    try:
        _run_command()
    finally:
        collector.freeze()  # else the interpreter's exit visits these objects once more, for a second


def _run_command() -> None:
    try:
        mlops()
    except MlopsError as error:
        click.echo(f"mlops: {error}", err=True)
        sys.exit(1)
    except Exception as error:
        from mlops_assets.cli.damage import explain_damage

        explained = explain_damage(error)
        if explained is None:
            raise
        click.echo(f"mlops: {explained}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
