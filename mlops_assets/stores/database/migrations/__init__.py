"""Create the database of tracker and registry, or migrate it from any earlier revision."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mlops_assets.errors import InstallationError
from mlops_assets.stores.database import schema

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

HEAD = "0003"
_MARK = 2  # the version in mlops_schema, by which programs from before revisions refuse a newer database
REVISION_TABLE = sa.Table("mlops_revision", sa.MetaData(), sa.Column("version_num", sa.String(32), primary_key=True))


def read_revision(connection: sa.Connection) -> str | None:
    """Return the revision of a database; None when it has no tables of this package."""
    names = set(sa.inspect(connection).get_table_names())
    if REVISION_TABLE.name in names:
        return connection.execute(sa.select(REVISION_TABLE.c.version_num)).scalar()
    return "0001" if schema.schema_version.name in names else None


def is_current(connection: sa.Connection) -> bool:
    """Return whether the database has this program's revision, by one small query; False when the query fails."""
    try:
        return bool(connection.execute(sa.select(REVISION_TABLE.c.version_num)).scalar() == HEAD)
    except sa.exc.DatabaseError:
        connection.rollback()
        return False


def migrate(connection: sa.Connection) -> None:
    """Create the tables, or migrate them to this program's revision, within the caller's transaction.

    Raises
    ------
    InstallationError
        A newer version of the program made the database.
    """
    revision = read_revision(connection)
    if revision is None:
        _create_tables(connection)
    elif revision != HEAD:
        refuse_newer(revision)
        _upgrade(connection, revision)


def refuse_newer(revision: str) -> None:
    """Raise InstallationError for a revision that this program does not know."""
    known = [path.stem.split("_")[0] for path in sorted((_HERE / "versions").glob("[0-9]*.py"))]
    if revision not in known:
        raise InstallationError(
            f"the registry's database has revision {revision}, but this program knows {known[0]} to {known[-1]}",
            hint="upgrade mlops_assets: an older program cannot read what a newer one has written",
        )


_HERE = Path(__file__).parent


def _create_tables(connection: sa.Connection) -> None:
    """Create the current tables directly, which is faster than all migrations in sequence; a test proves that the result is the same."""
    schema.META.create_all(connection)
    REVISION_TABLE.metadata.create_all(connection)
    connection.execute(schema.schema_version.insert().values(version=_MARK))
    connection.execute(REVISION_TABLE.insert().values(version_num=HEAD))
    schema.forbid_changes(connection)


def _upgrade(connection: sa.Connection, revision: str) -> None:
    """Run Alembic's migrations after ``revision``, then forbid changes of the append-only tables."""
    from alembic.runtime.environment import EnvironmentContext

    scripts = _alembic_scripts()
    if REVISION_TABLE.name not in sa.inspect(connection).get_table_names():
        REVISION_TABLE.metadata.create_all(connection)
        connection.execute(REVISION_TABLE.insert().values(version_num=revision))

    def list_steps(current: Any, _context: MigrationContext) -> Any:  # noqa: ANN401  (alembic's own lists)
        return scripts._upgrade_revs(HEAD, current)  # noqa: SLF001  (what alembic's own `upgrade` command calls)

    with EnvironmentContext(_alembic_config(), scripts, fn=list_steps) as environment:
        environment.configure(connection=connection, version_table=REVISION_TABLE.name)
        environment.run_migrations()
    connection.execute(schema.schema_version.update().values(version=_MARK))
    schema.forbid_changes(connection)


def _alembic_config() -> Any:  # noqa: ANN401  (alembic's)
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


@cache
def _alembic_scripts() -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_alembic_config())
