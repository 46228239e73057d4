"""What the commands share: options, the console, and how figures leave as JSON."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from mlops_assets.cli.project import LoadedProject

_NAMES = ("-f", "--file", "-m", "--module", "file")
file_option = click.option(
    *_NAMES,
    metavar="PROJECT",
    default="",
    help="The project: a file, or a module such as shop.definitions.  [default: the module of pyproject.toml, else definitions.py]",
)
platform_option = click.option(
    *_NAMES, metavar="PROJECT", default=None, help="The project whose platform is meant, a file or a module; the environment's by default."
)
json_option = click.option("--json", "json_file", metavar="FILE", help="Write the figures as JSON to FILE, or to standard output with '-'.")


def console() -> Console:
    """Return the console; the file is named, so that nothing that redirects standard output for a while swallows progress."""
    from rich.console import Console

    return Console(file=sys.stdout) if sys.stdout.isatty() else Console(file=sys.stdout, width=160)


def load(file: str, folder: Path | None = None) -> LoadedProject:
    """Import a project, by its file or its module, of the current folder when None."""
    from mlops_assets.cli import project

    return project.load(file, folder)


def write_json(value: Any, target: str) -> None:  # noqa: ANN401
    """Write a value to a file, or to standard output."""
    text = json.dumps(value, indent=2, default=str)
    if target == "-":
        click.echo(text)
    else:
        with open(target, "w", encoding="utf-8") as file:  # noqa: PTH123  (a name given on the command line)
            file.write(text + "\n")
