"""Fitting small models with many threads costs more than it saves, and much more on a busy machine: one thread for the tests of this folder alone."""

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    with threadpool_limits(1):
        yield
