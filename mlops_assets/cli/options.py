"""What the commands share: options, the console, and how figures leave as JSON."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from mlops_assets.cli.project import LoadedProject

file_option = click.option("-f", "--file", default="definitions.py", show_default=True, help="The project file.")
json_option = click.option("--json", "json_file", metavar="FILE", help="Write the figures as JSON to FILE, or to standard output with '-'.")


def console() -> Console:
    """Return the console; the file is named, so that nothing that redirects standard output for a while swallows progress."""
    from rich.console import Console

    return Console(file=sys.stdout) if sys.stdout.isatty() else Console(file=sys.stdout, width=160)


def load(file: str) -> LoadedProject:
    """Import a project file."""
    from mlops_assets.cli import project

    return project.load(file)


def write_json(value: Any, target: str) -> None:  # noqa: ANN401
    """Write a value to a file, or to standard output."""
    text = json.dumps(value, indent=2, default=str)
    if target == "-":
        click.echo(text)
    else:
        with open(target, "w", encoding="utf-8") as file:  # noqa: PTH123  (a name given on the command line)
            file.write(text + "\n")
