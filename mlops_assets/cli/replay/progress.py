"""The progress of a replay as separate lines, for an output that is not a terminal."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import click


@dataclass
class ProgressLines:
    """Print a line on standard error now and then.

    Parameters
    ----------
    seconds
        The minimum time between two lines, and before the first one.
    """

    seconds: float = 30.0
    printed: float = field(default_factory=time.monotonic)

    def show(self, line: str) -> None:
        """Print a line, unless the last one is too recent."""
        if (now := time.monotonic()) - self.printed >= self.seconds:
            self.printed = now
            click.echo(line, err=True)
