"""The command ``mlops``."""

from __future__ import annotations

import sys

import click

from mlops_assets.cli.erasure import erase
from mlops_assets.cli.features import features
from mlops_assets.cli.options import console as _console
from mlops_assets.cli.options import file_option, json_option
from mlops_assets.cli.options import load as _load
from mlops_assets.cli.options import write_json as _write_json
from mlops_assets.cli.quarantine import quarantine
from mlops_assets.cli.runs import runs
from mlops_assets.errors import MlopsError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mlops_assets")
def mlops() -> None:
    """Machine learning in production on Dagster.

    Example: mlops init churn && cd churn && mlops run
    """


features.add_command(erase)
mlops.add_command(features)
mlops.add_command(quarantine)
mlops.add_command(runs)


@mlops.command()
@click.argument("name")
def init(name: str) -> None:
    """Begin a project in the folder NAME: a dataset from a CSV, a training set, a model and a gate.

    Example: mlops init churn && cd churn && mlops run
    """
    from mlops_assets.cli.init import write_project

    for path in write_project(name):
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
@file_option
@json_option
def gc(hours: float, file: str, json_file: str | None) -> None:
    """Merge the lake's small files and expire old snapshots, never one that a version or a run needs.

    Example: mlops gc --older-than 48 --json -
    """
    from mlops_assets.cli.status import upkeep

    done = upkeep(_load(file), hours)
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
def models() -> None:
    """The model registry: versions and who made them champion."""


@models.command("list")
@click.argument("model", required=False)
@file_option
@json_option
def list_models(model: str | None, file: str, json_file: str | None) -> None:
    """List versions, newest first.

    Example: mlops models list lateness --json -
    """
    from mlops_assets.cli import status as report

    rows = report.versions(_load(file), model)
    _write_json(rows, json_file) if json_file else _console().print(report.table("versions", rows))


@models.command("history")
@click.argument("model")
@file_option
@json_option
def history(model: str, file: str, json_file: str | None) -> None:
    """Show who promoted what, when, and on what evidence.

    Example: mlops models history lateness
    """
    from mlops_assets.cli import status as report

    rows = report.history(_load(file), model)
    _write_json(rows, json_file) if json_file else _console().print(report.table(f"history of {model}", rows))


@models.command("promote")
@click.argument("model")
@click.option("--version", type=int, required=True, help="Which version.")
@click.option("--reason", required=True, help="Why, for the log.")
@file_option
def promote(model: str, version: int, reason: str, file: str) -> None:
    """Make a version the champion; every gate is verified again.

    Example: mlops models promote lateness --version 3 --reason "the alarm was false"
    """
    from mlops_assets.cli import registry

    done = registry.promote(_load(file), model, version, reason)
    click.echo(f"champion of {model}: version {done.version}")


@models.command("rollback")
@click.argument("model")
@click.option("--version", type=int, help="An earlier champion; the one before the present one when left out.")
@click.option("--reason", required=True, help="Why, for the log.")
@file_option
def rollback(model: str, version: int | None, reason: str, file: str) -> None:
    """Make an earlier champion the champion again; services follow within two seconds.

    Example: mlops models rollback lateness --reason "complaints from LGA"
    """
    from mlops_assets.cli import registry

    done = registry.rollback(_load(file), model, version, reason)
    click.echo(f"champion of {model}: version {done.version}")


def _signed(name: str, *, approved: bool) -> click.Command:
    @models.command(name)
    @click.argument("model")
    @click.argument("version", type=int)
    @click.option("--approver", required=True, help="Who decides; the name is taken as it is given.")
    @click.option("--reason", required=True, help="Why.")
    @file_option
    def command(model: str, version: int, approver: str, reason: str, file: str) -> None:
        from mlops_assets.cli import registry

        registry.approve(_load(file), model, version, approved=approved, approver=approver, reason=reason)
        click.echo(f"{model} version {version}: {'approved' if approved else 'rejected'} by {approver}")

    verb = "Approve" if approved else "Reject"
    command.help = f"{verb} exactly one version.\n\nExample: mlops models {name} lateness 3 --approver grace --reason 'checked the slices'"
    return command


approve, reject = _signed("approve", approved=True), _signed("reject", approved=False)


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
    click.echo(f"{found.name} is {'still running' if found.running else 'stopped'}")
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


if __name__ == "__main__":
    main()
