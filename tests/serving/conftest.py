"""Fitting small models with many threads costs more than it saves, and much more on a busy machine."""

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    with threadpool_limits(1):
        yield
