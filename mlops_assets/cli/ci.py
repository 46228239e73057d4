"""``mlops ci``: train a candidate for a pull request, and report on it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlops_assets.cli.options import console, file_option, load, write_text
from mlops_assets.errors import DefinitionError
from mlops_assets.values.asset_names import select_nodes

if TYPE_CHECKING:
    from mlops_assets.cli.project import LoadedProject

environment_option = click.option(
    "--environment",
    default=lambda: os.environ.get("MLOPS_ENV") or "ci",
    help="The environment of the candidate  [default: MLOPS_ENV or ci]",
)
against_option = click.option(
    "--against",
    default=lambda: os.environ.get("MLOPS_AGAINST") or "prod",
    help="The environment of the champion to compare with  [default: MLOPS_AGAINST or prod]",
)


@click.group()
def ci() -> None:
    """Train a candidate in continuous integration, and report how it compares with the champion."""


@ci.command()
@click.argument("model", required=False)
@click.option("--partitions", metavar="A...B", help="Partitions to train on: one key, or the first and the last.")
@click.option("--sample", type=click.IntRange(1), metavar="N", help="Train on the newest N of these partitions only, to be faster.")
@environment_option
@against_option
@file_option
def train(model: str | None, partitions: str | None, sample: int | None, environment: str, against: str, file: str) -> None:  # noqa: PLR0913  (options)
    """Train a candidate of MODEL, or of every model, with everything upstream; never register, promote or serve.

    The exit code is 1 when the training failed or a gate refused the candidate; `mlops ci report` then says why.

    Example: mlops ci train lateness --sample 90
    """
    from mlops_assets.cli.running import run_assets
    from mlops_assets.cli.summary import print_summary

    out = console()
    project = _load_environment(file, environment, against)
    for name in _choose_models(project, model):
        select = f"+{select_nodes(f'model/{name}')}"
        finished = run_assets(
            project, select=select, partitions=_choose_partitions(project, select, partitions, sample), as_of=None, console=out
        )
        print_summary(project, finished, out)
        if not finished.result.success:
            sys.exit(1)


@ci.command()
@click.argument("model", required=False)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="The Markdown file; pictures go to a folder next to it  [default: standard output]",
)
@click.option("--html", type=click.Path(path_type=Path), help="Also write one self-contained page.")
@click.option("--pictures-url", metavar="URL", default="", help="Prefix for links to the pictures, for a comment that cannot contain them.")
@environment_option
@against_option
@file_option
def report(  # noqa: PLR0913  (options)
    model: str | None, output: Path | None, html: Path | None, pictures_url: str, environment: str, against: str, file: str
) -> None:
    """Report the candidate of MODEL, or of every model: verdict, metrics next to the champion's, slices, data, record and cost.

    Without --output the report goes to standard output. The exit code is 1 when a gate refused a candidate.

    Example: mlops ci report lateness --output report.md --html report.html
    """
    from dataclasses import replace

    from mlops_assets.cli.registry.aliases import find_model
    from mlops_assets.compute.pages.ci_report import render_report
    from mlops_assets.orchestrate.ci.pull_request import build_ci_report

    project = _load_environment(file, environment, against)
    target = output or html
    folder = None if target is None else target.with_name(f"{target.stem}_files")
    reports = [build_ci_report(project.stores, find_model(project, name)[1], folder) for name in _choose_models(project, model)]
    linked = [replace(r, pictures={t: f"{pictures_url}{p}" for t, p in r.pictures.items()}) for r in reports]
    if output is None:
        click.echo(render_report(linked))
    else:
        write_text(render_report(linked), output)
    if html is not None:
        from mlops_assets.compute.pages.ci_page import render_candidate

        write_text(render_candidate(render_report(reports), html.parent), html)
    sys.exit(0 if all(r.passed for r in reports) else 1)


def _load_environment(file: str, environment: str, against: str) -> LoadedProject:
    """Set MLOPS_ENV and MLOPS_AGAINST for this process, and load the project; refuse a project that fixes another environment."""
    os.environ["MLOPS_ENV"], os.environ["MLOPS_AGAINST"] = environment, "" if against == environment else against
    project = load(file)
    if project.platform.environment != environment:
        raise DefinitionError(
            f"'{project.target}' fixes its environment to '{project.platform.environment}', but this command trains a candidate of '{environment}'",
            hint="pass `platform=ml.Platform.from_env()` to build_definitions, or omit platform=",
        )
    return project


def _choose_models(project: LoadedProject, name: str | None) -> list[str]:
    from mlops_assets.cli.registry.aliases import find_model

    return model_names(project) if name is None else [find_model(project, name)[1].name]


def model_names(project: LoadedProject) -> list[str]:
    """Return the sorted names of a project's models.

    Raises
    ------
    DefinitionError
        The project has no model.
    """
    from mlops_assets.values.model import Model

    names = sorted(model.name for part in project.parts for model in part.project.select(Model))
    if not names:
        raise DefinitionError("the project has no model", hint="declare one with @ml.model")
    return names


def _choose_partitions(project: LoadedProject, select: str, partitions: str | None, sample: int | None) -> str | None:
    """Return the range of the newest ``sample`` partitions, or of all; None when nothing in the selection is partitioned.

    Raises
    ------
    DefinitionError
        A key is missing or unknown, or the range is reversed.
    """
    from mlops_assets.cli.partition_range import find_partitions
    from mlops_assets.cli.running import select_assets

    graph = project.definitions.resolve_asset_graph()
    partitioned = [(key, d) for key in select_assets(project.definitions, select) if (d := graph.get(key).partitions_def) is not None]
    if not partitioned or (sample is None and partitions is not None):
        return partitions if partitioned else None
    key, definition = partitioned[0]
    keys = definition.get_partition_keys() if partitions is None else find_partitions(definition, partitions, f"'{key.to_user_string()}'")
    newest = keys[-sample:] if sample else keys
    return f"{newest[0]}...{newest[-1]}" if newest else None
