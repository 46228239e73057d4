"""Parts of Dagster that it still calls beta, used knowingly."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg


@contextmanager
def allow_beta() -> Iterator[None]:
    """Silence Dagster's warning about a beta feature: tests of ours hold it to what we need."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        yield
