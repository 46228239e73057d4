"""``mlops llm``: the server of the embedded language model."""

from __future__ import annotations

import click


@click.group()
def llm() -> None:
    """Start, show and stop the language model that runs on this machine.

    It starts by itself at the first call of a model without a base_url, and stops when it has had no call for ten minutes.
    """


@llm.command()
def start() -> None:
    """Start the server, or show the one that runs.

    Example: mlops llm start
    """
    from mlops_assets.errors import PlatformError
    from mlops_assets.serving.llm.embedded import start_server
    from mlops_assets.serving.llm.failures import AttemptError

    try:
        server = start_server()
    except AttemptError as error:
        raise PlatformError(f"the language model 'smollm2' {error.problem}", hint=error.hint) from None
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
