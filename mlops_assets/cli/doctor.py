"""``mlops doctor``: examine an installation, and fix what can be fixed safely."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from mlops_assets.cli.options import console, file_option, json_option, load, write_json
from mlops_assets.cli.score import print_scores
from mlops_assets.errors import MlopsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlops_assets.orchestrate.upkeep.doctor import Installation
    from mlops_assets.orchestrate.upkeep.findings import Finding


@click.command()
@click.option("--fix", is_flag=True, help="Fix what can be fixed safely, and print what was done.")
@click.option("--score", is_flag=True, help="Show the ML Test Score of each model instead, and what to do next.")
@click.option("--model", metavar="NAME", default="", help="The model whose score to show  [default: every model]")
@file_option
@json_option
def doctor(file: str, json_file: str | None, model: str, *, fix: bool, score: bool) -> None:
    """Examine database, artifacts, runs, lake, online store, services, logs, disk, clock, permissions and packages.

    Exit code 1 when a failure is not fixed; warnings do not count. With --score, nothing is examined or fixed.

    Example: mlops doctor --fix
    """
    from rich.markup import escape
    from rich.table import Table

    if score:
        if fix:
            raise click.UsageError("--score cannot be combined with --fix")
        print_scores(file, model, json_file)
        return
    if model:
        raise click.UsageError("--model is only used with --score: add --score")
    out = console()
    with out.status("examining"):
        rows = list(_examine(file, fix=fix))
    if json_file:
        write_json(rows, json_file)
    else:
        table = Table(title="doctor", title_justify="left")
        for column in ("check", "state", "finding", "advice"):
            table.add_column(column)
        for row in rows:
            advice = f"done: {row['fixed']}" if row["fixed"] else row["advice"] + (" (--fix)" if row["fixable"] else "")
            table.add_row(*map(escape, (row["check"], row["state"], row["text"], advice)))
        out.print(table)
    sys.exit(1 if any(row["state"] == "failure" and not row["fixed"] for row in rows) else 0)


def _examine(file: str, *, fix: bool) -> list[dict[str, str]]:
    """Return the findings as rows; with ``fix``, first apply each fix once, even if several findings share it."""
    from mlops_assets.orchestrate.upkeep.doctor import run_checks

    installation, load_findings = _load_installation(file)
    examined = list(run_checks(installation))
    known_texts = {finding.text for finding in examined}  # a check may report an unopenable instance again, with a fix
    findings = [*(finding for finding in load_findings if finding.text not in known_texts), *examined]
    done: dict[tuple[str, str], str] = {}
    for finding in findings:
        if fix and finding.fix and (finding.check, finding.advice) not in done:
            done[finding.check, finding.advice] = _apply_fix(finding.fix)
    return [
        {
            "check": finding.check,
            "state": finding.state,
            "text": finding.text,
            "advice": finding.advice,
            "fixable": "yes" if finding.fix else "",
            "fixed": done.get((finding.check, finding.advice), "") if finding.fix else "",
        }
        for finding in findings
    ]


def _apply_fix(fix: Callable[[], str]) -> str:
    """Apply a fix and return what it did; ``""`` when it failed, so that its finding stays a failure."""
    try:
        return fix()
    except Exception as error:  # noqa: BLE001  (the other findings are still shown)
        click.echo(f"mlops: a fix failed: {error}", err=True)
        return ""


def _load_installation(file: str) -> tuple[Installation, list[Finding]]:
    """Return the installation to examine, and findings on the import of the project and the opening of the Dagster instance.

    Without a project, the platform is that of the environment.
    """
    from mlops_assets.orchestrate.core.dagster_files import open_instance
    from mlops_assets.orchestrate.upkeep.doctor import Installation
    from mlops_assets.orchestrate.upkeep.findings import OK, Finding
    from mlops_assets.values.platform import Platform

    try:
        project = load(file)
    except Exception as error:  # noqa: BLE001  (importing a project may raise anything)
        platform, projects, definitions = Platform.from_env(), [], None
        message = getattr(error, "message", f"{type(error).__name__}: {error}")
        findings = [
            Finding.failure(
                "project", f"'{file or 'the project'}' cannot be imported: {message}", getattr(error, "hint", "correct it, then look again")
            )
        ]
    else:
        platform, projects, definitions = project.platform, [part.project for part in project.parts], project.definitions
        findings = [Finding("project", OK, f"{project.target} can be imported")]
    try:
        instance = open_instance(platform)
    except MlopsError as error:
        instance, findings = None, [*findings, Finding.failure("dagster", error.message, error.hint)]
    return Installation(platform, projects, instance, definitions), findings
