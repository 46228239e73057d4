"""``mlops models``: the registry."""

from __future__ import annotations

import click

from mlops_assets.cli.options import console, file_option, json_option, load, write_json


@click.group()
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

    rows = report.versions(load(file), model)
    write_json(rows, json_file) if json_file else console().print(report.table("versions", rows))


@models.command("history")
@click.argument("model")
@file_option
@json_option
def history(model: str, file: str, json_file: str | None) -> None:
    """Show what has happened to a model, newest first: candidates that gates refused, versions, approvals, promotions, rollbacks.

    Example: mlops models history lateness
    """
    from mlops_assets.cli import status as report

    rows = report.history(load(file), model)
    write_json(rows, json_file) if json_file else console().print(report.table(f"history of {model}", [report.told(row) for row in rows]))


@models.command("show")
@click.argument("version", metavar="MODEL@VERSION")
@file_option
@json_option
def show(version: str, file: str, json_file: str | None) -> None:
    """Show all that is recorded of one version: state, evidence, approvals, marks, files, its training.

    Example: mlops models show lateness@3
    """
    from mlops_assets.cli import status as report
    from mlops_assets.cli import version_page

    found = version_page.facts(load(file), version)
    if json_file:
        write_json(found, json_file)
        return
    for title, rows in found.items():
        console().print(report.table(title, rows if isinstance(rows, list) else [{"": k, "value": v} for k, v in rows.items()]))


@models.command("card")
@click.argument("version", metavar="MODEL@VERSION")
@click.option("--html", "page", type=click.Path(dir_okay=False, writable=True), metavar="FILE", help="Write the page there instead.")
@file_option
def card(version: str, page: str | None, file: str) -> None:
    """Print the model card of one version as Markdown, or write it as a page; a version that has none yet gets it.

    Example: mlops models card lateness@3 --html card.html
    """
    from pathlib import Path

    from mlops_assets.cli import version_page
    from mlops_assets.orchestrate.versions.card import MARKDOWN, PAGE

    found = version_page.card(load(file), version)
    if page is None:
        click.echo(found[MARKDOWN], nl=False)
        return
    Path(page).write_text(found[PAGE], encoding="utf-8")
    click.echo(f"written: {page}")


_reason = click.option("--reason", required=True, help="Why, for the log.")
_expected = click.option("--expected", metavar="VERSION", help="The one that you saw there, or 'none': refused when it is another by now.")


@models.command("promote")
@click.argument("model")
@click.option("--version", type=int, required=True, help="Which version.")
@click.option("--from", "source", default="", metavar="ENV", help="The environment whose evidence counts where this one has none.")
@_expected
@_reason
@file_option
def promote(model: str, version: int, source: str, expected: str | None, reason: str, file: str) -> None:  # noqa: PLR0913  (options)
    """Make a version the champion; every gate is verified again.

    Example: MLOPS_ENV=prod mlops models promote lateness --version 3 --from staging --reason "two quiet weeks"
    """
    from mlops_assets.cli import registry

    project = load(file)
    before = registry.champion(project, model)
    done = registry.promote(project, model, version, reason, source=source, expected=_number(expected))
    click.echo(f"champion of {model}: version {done.version}")
    _print_change(registry.describe_change(project, before, done))


@models.command("challenge")
@click.argument("model")
@click.option("--version", type=int, required=True, help="Which version.")
@_expected
@_reason
@file_option
def challenge(model: str, version: int, expected: str | None, reason: str, file: str) -> None:
    """Make a version the challenger: it may be compared with the champion on real requests.

    Example: mlops models challenge lateness --version 4 --reason "shadow it for a week"
    """
    from mlops_assets.cli import registry

    done = registry.challenge(load(file), model, version, reason, expected=_number(expected))
    click.echo(f"challenger of {model}: version {done.version}")


@models.command("withdraw")
@click.argument("model")
@_reason
@file_option
def withdraw(model: str, reason: str, file: str) -> None:
    """Take the challenger's alias away.

    Example: mlops models withdraw lateness --reason "slower than the champion"
    """
    from mlops_assets.cli import registry

    done = registry.withdraw(load(file), model, reason)
    click.echo(f"{model} has no challenger; version {done.version} is {done.state}")


@models.command("rollback")
@click.argument("model")
@click.option("--version", "--to", type=int, help="An earlier champion; the one before the present one when left out.")
@_expected
@_reason
@file_option
def rollback(model: str, version: int | None, expected: str | None, reason: str, file: str) -> None:
    """Make an earlier champion the champion again; services follow within two seconds.

    Example: mlops models rollback lateness --reason "complaints from LGA"
    """
    from mlops_assets.cli import registry

    project = load(file)
    before = registry.champion(project, model)
    done = registry.rollback(project, model, version, reason, expected=_number(expected))
    click.echo(f"champion of {model}: version {done.version}")
    _print_change(registry.describe_change(project, before, done))


def _print_change(change: str) -> None:
    if change:
        click.echo(f"note: {change}")


def _number(expected: str | None) -> int | None:
    """Return the version that somebody expects; None is nobody, ANYONE is whoever."""
    from mlops_assets.stores.registry.alias_checks import ANY_VERSION

    if expected is None:
        return ANY_VERSION
    if expected != "none" and not expected.isdecimal():
        raise click.BadParameter(f"'{expected}' is neither a version nor 'none'", param_hint="--expected")
    return None if expected == "none" else int(expected)


def _signed(name: str, *, approved: bool) -> click.Command:
    @models.command(name)
    @click.argument("model")
    @click.argument("version", type=int)
    @click.option("--approver", required=True, help="Who decides; the name is taken as it is given.")
    @click.option("--reason", required=True, help="Why.")
    @file_option
    def command(model: str, version: int, approver: str, reason: str, file: str) -> None:
        from mlops_assets.cli import registry

        registry.approve(load(file), model, version, approved=approved, approver=approver, reason=reason)
        click.echo(f"{model} version {version}: {'approved' if approved else 'rejected'} by {approver}")

    verb = "Approve" if approved else "Reject"
    command.help = f"{verb} exactly one version.\n\nExample: mlops models {name} lateness 3 --approver grace --reason 'checked the slices'"
    return command


approve, reject = _signed("approve", approved=True), _signed("reject", approved=False)
