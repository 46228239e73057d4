"""The commands of ``mlops models``: list, show, promote, challenge, roll back, approve and reject versions."""

from __future__ import annotations

import click

from mlops_assets.cli.options import file_option, json_option, load_without_dbt, print_facts, print_rows, write_text


@click.group()
def models() -> None:
    """The model registry: versions, their cards, history, approvals and aliases."""


@models.command("list")
@click.argument("model", required=False)
@file_option
@json_option
def list_models(model: str | None, file: str, json_file: str | None) -> None:
    """List versions, newest first; the files of versions with an alias are verified.

    Example: mlops models list lateness --json -
    """
    from mlops_assets.cli.registry.versions import list_versions

    print_rows("versions", list_versions(load_without_dbt(file), model), json_file)


@models.command("history")
@click.argument("model")
@file_option
@json_option
def history(model: str, file: str, json_file: str | None) -> None:
    """Show the events of a model, newest first: refused candidates, versions, approvals, damage, promotions, rollbacks.

    Example: mlops models history lateness
    """
    from mlops_assets.cli.registry.versions import format_event, list_history

    events = list_history(load_without_dbt(file), model)
    print_rows(f"history of {model}", events if json_file else [format_event(event) for event in events], json_file)


@models.command("show")
@click.argument("version", metavar="MODEL[@VERSION]")
@file_option
@json_option
def show(version: str, file: str, json_file: str | None) -> None:
    """Show one version: state, gate results, approvals, damage marks, files, fits, training, metrics, signature and libraries.

    MODEL alone shows the newest version.

    Example: mlops models show lateness@3
    """
    from mlops_assets.cli.registry.versions import describe_version

    print_facts(describe_version(load_without_dbt(file), version), json_file)


@models.command("card")
@click.argument("version", metavar="MODEL[@VERSION]")
@click.option(
    "--html", "page", type=click.Path(dir_okay=False, writable=True), metavar="FILE", help="Write the card as a page to FILE instead."
)
@file_option
def card(version: str, page: str | None, file: str) -> None:
    """Print the model card of one version as Markdown, or write it as a page.

    MODEL alone prints the card of the newest version.

    Example: mlops models card lateness@3 --html card.html
    """
    from mlops_assets.cli.registry import versions
    from mlops_assets.orchestrate.versions.card import MARKDOWN, PAGE

    forms = versions.read_card(load_without_dbt(file), version)
    if page is None:
        click.echo(forms[MARKDOWN], nl=False)
        return
    write_text(forms[PAGE], page)
    click.echo(f"wrote {page}")


_reason = click.option("--reason", required=True, help="The reason, which the history shows.")
_expected = click.option(
    "--expected",
    metavar="VERSION",
    help="The version that you expect to replace, or 'none'; the command fails if the alias has another version.",
)


@models.command("promote")
@click.argument("model")
@click.option("--version", type=int, required=True, help="The version to promote.")
@click.option("--from", "source", default="", metavar="ENV", help="The environment whose evidence counts when this one has none.")
@_expected
@_reason
@file_option
def promote(model: str, version: int, source: str, expected: str | None, reason: str, file: str) -> None:  # noqa: PLR0913  (options)
    """Make a version the champion; the evidence of every gate is verified again.

    Example: MLOPS_ENV=prod mlops models promote lateness --version 3 --from staging --reason "two quiet weeks"
    """
    from mlops_assets.cli.registry import aliases

    project = load_without_dbt(file)
    before = aliases.champion(project, model)
    done = aliases.promote(project, model, version, reason, source=source, expected=_parse_expected(expected))
    click.echo(f"champion of {model}: version {done.version}")
    _print_change(aliases.describe_change(project, before, done))


@models.command("challenge")
@click.argument("model")
@click.option("--version", type=int, required=True, help="The version.")
@_expected
@_reason
@file_option
def challenge(model: str, version: int, expected: str | None, reason: str, file: str) -> None:
    """Make a version the challenger, to compare it with the champion on real requests.

    Example: mlops models challenge lateness --version 4 --reason "shadow it for a week"
    """
    from mlops_assets.cli.registry import aliases

    done = aliases.challenge(load_without_dbt(file), model, version, reason, expected=_parse_expected(expected))
    click.echo(f"challenger of {model}: version {done.version}")


@models.command("withdraw")
@click.argument("model")
@_reason
@file_option
def withdraw(model: str, reason: str, file: str) -> None:
    """Remove the alias of the challenger; the version stays registered.

    Example: mlops models withdraw lateness --reason "slower than the champion"
    """
    from mlops_assets.cli.registry import aliases

    done = aliases.withdraw(load_without_dbt(file), model, reason)
    click.echo(f"{model} has no challenger; version {done.version} is {done.state}")


@models.command("rollback")
@click.argument("model")
@click.option("--version", "--to", type=int, help="An earlier champion  [default: the previous champion]")
@_expected
@_reason
@file_option
def rollback(model: str, version: int | None, expected: str | None, reason: str, file: str) -> None:
    """Make an earlier champion the champion again; services follow within two seconds.

    Example: mlops models rollback lateness --reason "complaints from LGA"
    """
    from mlops_assets.cli.registry import aliases

    project = load_without_dbt(file)
    before = aliases.champion(project, model)
    done = aliases.rollback(project, model, version, reason, expected=_parse_expected(expected))
    click.echo(f"champion of {model}: version {done.version}")
    _print_change(aliases.describe_change(project, before, done))


def _print_change(change: str) -> None:
    if change:
        click.echo(f"note: {change}")


def _parse_expected(expected: str | None) -> int | None:
    """Parse ``--expected``: None for ``none``, which means no version; ANY_VERSION without the option."""
    from mlops_assets.stores.registry.alias_checks import ANY_VERSION

    if expected is None:
        return ANY_VERSION
    if expected != "none" and not expected.isdecimal():
        raise click.BadParameter(f"'{expected}' is neither a version nor 'none'", param_hint="--expected")
    return None if expected == "none" else int(expected)


def _decision_command(name: str, *, approved: bool) -> click.Command:
    @models.command(name)
    @click.argument("model")
    @click.argument("version", type=int)
    @click.option("--approver", required=True, help="The name of the person who decides.")
    @click.option("--reason", required=True, help="The reason for the decision.")
    @file_option
    def command(model: str, version: int, approver: str, reason: str, file: str) -> None:
        from mlops_assets.cli.registry import aliases

        aliases.approve(load_without_dbt(file), model, version, approved=approved, approver=approver, reason=reason)
        click.echo(f"{model} version {version}: {'approved' if approved else 'rejected'} by {approver}")

    verb = "Approve" if approved else "Reject"
    command.help = f"{verb} exactly one version.\n\nExample: mlops models {name} lateness 3 --approver grace --reason 'checked the slices'"
    return command


approve, reject = _decision_command("approve", approved=True), _decision_command("reject", approved=False)
