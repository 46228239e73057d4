"""Dagster features that are still in beta."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg


@contextmanager
def allow_beta() -> Iterator[None]:
    """Silence Dagster's warnings about beta features; our tests pin the behaviour that we use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        yield
