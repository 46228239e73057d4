"""``mlops llm``: the server of the embedded language model, and requests to the service of a prompt."""

from __future__ import annotations

import click

from mlops_assets.cli.options import file_option, load


@click.group()
def llm() -> None:
    """Start, show and stop the language model that runs on this machine, and send requests to services.

    The server starts automatically at the first call of a model without a base_url, and stops after ten minutes without a call.
    """


@llm.command()
def start() -> None:
    """Start the server, or show the one that runs.

    Example: mlops llm start
    """
    from mlops_assets.errors import InstallationError
    from mlops_assets.serving.llm.embedded import start_server
    from mlops_assets.serving.llm.failures import AttemptError

    try:
        server = start_server()
    except AttemptError as error:
        raise InstallationError(f"the language model 'smollm2' {error.problem}", hint=error.hint) from None
    click.echo(f"smollm2 runs at {server.base_url}, process {server.pid}")


@llm.command()
def status() -> None:
    """Show the address and process of the server; exit code 1 when it does not run.

    Example: mlops llm status
    """
    from mlops_assets.serving.llm.embedded import find_server

    server = find_server()
    if server is None:
        click.echo("smollm2 does not run; it starts at the first call")
        raise SystemExit(1)
    click.echo(f"smollm2 runs at {server.base_url}, process {server.pid}")


@llm.command()
def stop() -> None:
    """Stop the server; calls in progress fail, and the next call starts it again.

    Example: mlops llm stop
    """
    from mlops_assets.serving.llm.embedded import stop_server

    click.echo("stopped" if stop_server() else "smollm2 does not run")


@llm.command()
@click.argument("service")
@click.option("--cases", required=True, metavar="DATASET", help="The dataset whose rows hold the variables of the prompt.")
@click.option("--key-env", metavar="VARIABLE", help="The environment variable with the API key to send.")
@file_option
def ask(service: str, cases: str, key_env: str | None, file: str) -> None:
    """Send each row of a dataset to the running service of a prompt; exit code 1 when a request is refused.

    Example: mlops llm ask delay_answer_api --cases delay_questions --key-env ADAS_KEY
    """
    from mlops_assets.cli.llm.asking import ask_service
    from mlops_assets.compute.text import replace_controls

    report = ask_service(load(file), service, cases, key_env)
    for line in report.lines:
        click.echo(replace_controls(line))
    if report.failed:
        raise SystemExit(1)
