"""Dagster features that are still in beta."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg


@contextmanager
def allow_beta() -> Iterator[None]:
    """Silence Dagster's warnings about beta features; the tests of this package cover the behaviour that it relies on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        yield
