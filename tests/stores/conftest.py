"""Stores in a database are tested on SQLite and on a real PostgreSQL server alike."""

from collections.abc import Iterator
from contextlib import suppress

import pytest

from mlops_assets.errors import PlatformError
from mlops_assets.stores.database.sql import open_database
from tests.postgres_server import Postgres, postgres


@pytest.fixture(scope="session")
def server() -> Iterator[Postgres]:
    with postgres() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path) -> Iterator[str]:
    """A database of the test's own, of each kind."""
    made = f"sqlite:///{tmp_path / 'registry.sqlite'}" if request.param == "sqlite" else request.getfixturevalue("server").database()
    yield made
    with suppress(PlatformError):  # a test may have left one that is refused
        open_database(made).engine.dispose()
