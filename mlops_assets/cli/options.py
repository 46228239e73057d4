"""Options, tables, JSON output and the console, shared by all commands."""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlops_assets.stores.base.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console
    from rich.table import Table

    from mlops_assets.cli.project import LoadedProject

_NAMES = ("-f", "--file", "-m", "--module", "file")
file_option = click.option(
    *_NAMES,
    metavar="PROJECT",
    default="",
    help="The project: a file, or a module such as shop.definitions.  [default: the module of pyproject.toml, else definitions.py]",
)
platform_option = click.option(
    *_NAMES,
    metavar="PROJECT",
    default=None,
    help="The project whose platform to use, a file or a module  [default: the platform of the environment]",
)
json_option = click.option("--json", "json_file", metavar="FILE", help="Write the result as JSON to FILE, or to standard output with '-'.")


def console() -> Console:
    """Return a console that stays on the current standard output when code redirects it; 160 columns wide outside of a terminal.

    Codes such as ``:x:`` are printed as they are, because they may be data.
    """
    from rich.console import Console

    return Console(file=sys.stdout, emoji=False, width=None if sys.stdout.isatty() else 160)


def load(file: str, folder: Path | None = None) -> LoadedProject:
    """Import the project of a file or module, or of a folder (default: the current one), and enable the garbage collector again."""
    from mlops_assets.cli import project

    loaded = project.load(file, folder)
    _enable_collector()
    return loaded


def load_without_dbt(file: str) -> LoadedProject:
    """Import a project as :func:`load` does, but without the assets of dbt models, whose packages take a second to import."""
    from mlops_assets.cli import project

    loaded = project.load_without_dbt(file)
    _enable_collector()
    return loaded


def _enable_collector() -> None:
    gc.freeze()  # what was imported stays: no later collection visits it
    gc.enable()  # cli.main has disabled it


def write_json(value: Any, target: str) -> None:  # noqa: ANN401
    """Write a value as indented JSON to a file, or to standard output when ``target`` is ``-``."""
    text = json.dumps(value, indent=2, default=str)
    if target == "-":
        click.echo(text)
    else:
        write_text(text + "\n", target)


def write_text(text: str, target: str | Path) -> None:
    """Write a text to a file that the command line names; if that fails, raise FileError and leave an existing file unchanged."""
    path = Path(target).resolve()
    try:
        if path.exists() and not path.is_file():  # such as a pipe, which a rename would replace
            path.write_text(text, encoding="utf-8")
        elif path.parent.is_dir():
            write_atomically(path, text.encode(), mode=0o666)
        else:
            raise click.FileError(str(target), f"there is no folder '{path.parent}'")
    except OSError as error:
        raise click.FileError(str(target), error.strerror) from None


def build_table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return rows as a table with a column for each key of any row; missing values are empty."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for column in columns or ("none",):
        table.add_column(escape(column))
    for row in rows:
        table.add_row(*(escape(str(row.get(column, ""))) for column in columns))
    return table


def print_rows(title: str, rows: Sequence[Mapping[str, Any]], json_file: str | None) -> None:
    """Print rows as a table, or write them as JSON."""
    if json_file:
        write_json(rows, json_file)
    else:
        console().print(build_table(title, rows))


def print_facts(facts: Mapping[str, Any], json_file: str | None) -> None:
    """Print each group of facts that is not empty as a table, or write all groups as JSON.

    A group is a list of rows, or a mapping that becomes a table of names and values.
    """
    if json_file:
        write_json(facts, json_file)
        return
    out = console()
    for title, group in facts.items():
        if group:
            out.print(
                build_table(title, group if isinstance(group, list) else [{"": name, "value": value} for name, value in group.items()])
            )
