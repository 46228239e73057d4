"""The commands of ``mlops prompts``: list, show, compare, promote, roll back, approve and reject versions of prompts."""

from __future__ import annotations

import click

from mlops_assets.cli.options import file_option, json_option, load_without_dbt, print_facts, print_rows

_reason = click.option("--reason", required=True, help="The reason, which the history shows.")


@click.group()
def prompts() -> None:
    """The versions of prompts: what they send, how they differ, their evidence, and which one is in production."""


@prompts.command("list")
@click.argument("prompt", required=False)
@file_option
@json_option
def list_prompts(prompt: str | None, file: str, json_file: str | None) -> None:
    """List versions, newest first, with the measurements of their evaluations.

    The table shows p95_seconds only; --json has all durations.

    Example: mlops prompts list delay_answer --json -
    """
    from mlops_assets.cli.llm.prompt_versions import list_prompt_versions
    from mlops_assets.values.llm.prompt_evaluation import LATENCY_METRICS

    rows = list_prompt_versions(load_without_dbt(file), prompt)
    hidden = set() if json_file else LATENCY_METRICS.keys() - {"p95_seconds"}
    print_rows("versions", [{name: value for name, value in row.items() if name not in hidden} for row in rows], json_file)


@prompts.command("show")
@click.argument("version", metavar="PROMPT[@VERSION]")
@file_option
@json_option
def show(version: str, file: str, json_file: str | None) -> None:
    """Show one version: state, instructions, model, variables, gate results and approvals.

    PROMPT alone shows the newest version; PROMPT@production shows the one in production.

    Example: mlops prompts show delay_answer@production
    """
    from mlops_assets.cli.llm.prompt_versions import describe_prompt_version

    print_facts(describe_prompt_version(load_without_dbt(file), version), json_file)


@prompts.command("diff")
@click.argument("prompt")
@click.argument("before", default="production")
@click.argument("after", default="declared")
@file_option
def diff(prompt: str, before: str, after: str, file: str) -> None:
    """Compare two versions: numbers, 'production', or 'declared' for the prompt in the project's code.

    Example: mlops prompts diff delay_answer 2 3
    """
    from mlops_assets.cli.llm.prompt_versions import compare_versions

    click.echo(compare_versions(load_without_dbt(file), prompt, before, after) or "no difference")


@prompts.command("history")
@click.argument("prompt")
@file_option
@json_option
def history(prompt: str, file: str, json_file: str | None) -> None:
    """Show the events of a prompt, newest first: refused candidates, versions, approvals, promotions, rollbacks.

    Example: mlops prompts history delay_answer
    """
    from mlops_assets.cli.registry.versions import format_event, list_history
    from mlops_assets.values.llm.prompt import Prompt

    events = list_history(load_without_dbt(file), prompt, kind=Prompt)
    print_rows(f"history of {prompt}", events if json_file else [format_event(event) for event in events], json_file)


@prompts.command("promote")
@click.argument("prompt")
@click.option("--version", type=int, help="The version to promote  [default with --force: the current candidate]")
@click.option("--from", "source", default="", metavar="ENV", help="The environment whose evidence counts when this one has none.")
@click.option("--force", is_flag=True, help="Promote past the gates; the history records this, and the gates that had not passed.")
@_reason
@file_option
def promote(prompt: str, version: int | None, source: str, force: bool, reason: str, file: str) -> None:  # noqa: FBT001, PLR0913  (options)
    """Put a version into production; the evidence of every gate is verified again, unless the promotion is forced.

    Example: mlops prompts promote delay_answer --version 3 --reason "two quiet weeks"
    """
    from mlops_assets.cli.registry import aliases
    from mlops_assets.values.llm.prompt import Prompt

    if version is None and not force:
        raise click.UsageError("give --version, or --force to promote the current candidate")
    if source and force:
        raise click.UsageError("--from names evidence, which --force does not read: give one of them")
    project = load_without_dbt(file)
    if force:
        done = aliases.force_promotion(project, prompt, version, reason)
    else:
        done = aliases.promote(project, prompt, version or 0, reason, source=source, kind=Prompt)
    click.echo(f"production of {prompt}: version {done.version}")


@prompts.command("rollback")
@click.argument("prompt")
@click.option("--version", "--to", type=int, help="An earlier version of production  [default: the previous one]")
@_reason
@file_option
def rollback(prompt: str, version: int | None, reason: str, file: str) -> None:
    """Put the earlier version back into production; services follow within two seconds.

    Example: mlops prompts rollback delay_answer --reason "invents delays"
    """
    from mlops_assets.cli.registry import aliases
    from mlops_assets.values.llm.prompt import Prompt

    done = aliases.rollback(load_without_dbt(file), prompt, version, reason, kind=Prompt)
    click.echo(f"production of {prompt}: version {done.version}")


def _decision_command(name: str, *, approved: bool) -> click.Command:
    @prompts.command(name)
    @click.argument("prompt")
    @click.argument("version", type=int)
    @click.option("--approver", required=True, help="The name of the person who decides.")
    @click.option("--reason", required=True, help="The reason for the decision.")
    @file_option
    def command(prompt: str, version: int, approver: str, reason: str, file: str) -> None:
        from mlops_assets.cli.registry import aliases
        from mlops_assets.values.llm.prompt import Prompt

        aliases.approve(load_without_dbt(file), prompt, version, approved=approved, approver=approver, reason=reason, kind=Prompt)
        click.echo(f"{prompt} version {version}: {'approved' if approved else 'rejected'} by {approver}")

    verb = "Approve" if approved else "Reject"
    command.help = (
        f"{verb} exactly one version.\n\nExample: mlops prompts {name} delay_answer 3 --approver grace --reason 'read the answers'"
    )
    return command


approve, reject = _decision_command("approve", approved=True), _decision_command("reject", approved=False)
