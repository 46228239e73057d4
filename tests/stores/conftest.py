"""Stores in a database are tested on SQLite and on a real PostgreSQL server alike; the lake with all threads."""

from collections.abc import Iterator
from contextlib import suppress

import pytest

from mlops_assets.errors import InstallationError
from mlops_assets.stores.database.sql import open_database
from mlops_assets.stores.lake import connection
from tests.postgres_server import Postgres, postgres


@pytest.fixture(scope="module", autouse=True)
def _threads_of_users() -> Iterator[None]:
    """The lake has as many threads as DuckDB gives to users."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(connection._CONFIG, "threads")
        yield


@pytest.fixture(scope="session")
def server() -> Iterator[Postgres]:
    with postgres() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path) -> Iterator[str]:
    """A database of the test's own, of each kind."""
    made = f"sqlite:///{tmp_path / 'registry.sqlite'}" if request.param == "sqlite" else request.getfixturevalue("server").database()
    yield made
    with suppress(InstallationError):  # a test may have left one that is refused
        open_database(made).engine.dispose()
