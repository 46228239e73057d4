"""The commands of ``mlops traces``."""

from __future__ import annotations

import click


@click.group()
def traces() -> None:
    """Traces of language models: requests, their steps, tokens and cost."""
