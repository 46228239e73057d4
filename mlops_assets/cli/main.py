"""The command ``mlops``."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from mlops_assets.errors import MlopsError

if TYPE_CHECKING:
    from rich.console import Console

    from mlops_assets.cli.project import LoadedProject

file_option = click.option("-f", "--file", default="definitions.py", show_default=True, help="The project file.")
json_option = click.option("--json", "json_file", metavar="FILE", help="Write the figures as JSON to FILE, or to standard output with '-'.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mlops_assets")
def mlops() -> None:
    """Machine learning in production on Dagster.

    Example: mlops init churn && cd churn && mlops run
    """


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


def _console() -> Console:
    from rich.console import Console

    # The file is named, so that nothing that redirects standard output for a while swallows progress.
    return Console(file=sys.stdout) if sys.stdout.isatty() else Console(file=sys.stdout, width=160)


def _load(file: str) -> LoadedProject:
    from mlops_assets.cli.project import load

    return load(file)


def _write_json(value: Any, target: str) -> None:  # noqa: ANN401
    text = json.dumps(value, indent=2, default=str)
    if target == "-":
        click.echo(text)
    else:
        with open(target, "w", encoding="utf-8") as file:  # noqa: PTH123  (a name given on the command line)
            file.write(text + "\n")


def main() -> None:
    """Run the command; an error of ours is a message with a hint, not a traceback."""
    try:
        mlops()
    except MlopsError as error:
        click.echo(f"mlops: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
