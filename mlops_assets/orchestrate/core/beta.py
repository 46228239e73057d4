"""Use Dagster features that are still in beta without warnings to the user."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg


@contextmanager
def allow_beta() -> Iterator[None]:
    """Silence Dagster's beta warnings in a ``with`` block; the tests of this package cover the beta features that it uses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        yield
