"""Databases of earlier programs become what this one knows, wholly or not at all; newer ones are refused."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from mlops_assets.errors import InstallationError
from mlops_assets.stores.database import migrations, schema
from mlops_assets.stores.database.sql import Database
from mlops_assets.stores.registry.registry import open_registry
from mlops_assets.stores.tracker.tracker import open_tracker
from tests.commands import run_code

OLD = Path(__file__).parent / "old"


def old(path: Path) -> str:
    """Make a database as the first program left it."""
    connection = sqlite3.connect(path)
    connection.executescript((OLD / "revision_0001.sql").read_text())
    connection.close()
    return f"sqlite:///{path}"


def old_on_postgres(url: str) -> str:
    """Make the tables of the first program on a server: those of now, with everything later taken away."""
    made = Database(url)
    later = ("mlops_curves", "mlops_run_artifacts", "mlops_version_files", "mlops_version_marks", "mlops_reproductions", "mlops_revision")
    later += ("mlops_alerts", "mlops_alert_deliveries", "mlops_alert_cursors", "mlops_silences")
    columns = {
        "mlops_runs": ("environment", "kind", "name", "parent_id", "status", "error", "tags"),
        "mlops_metrics": ("step", "low", "high", "count"),
        "mlops_evidence": ("low", "high"),
    }
    with made.engine.begin() as connection:
        for table in later:
            connection.exec_driver_sql(f"DROP TABLE {table}")
        connection.exec_driver_sql("DROP INDEX ix_mlops_metrics_name_value")
        for table, names in columns.items():
            for name in names:
                connection.exec_driver_sql(f"ALTER TABLE {table} DROP COLUMN {name}")
        for name in ("ended_at", "snapshot"):
            connection.exec_driver_sql(f"ALTER TABLE mlops_runs ALTER COLUMN {name} SET NOT NULL")
        connection.exec_driver_sql("UPDATE mlops_schema SET version = 1")
    made.engine.dispose()
    return url


def differences(url: str) -> list[object]:
    """Return how a database differs from the declared tables, as alembic finds it."""
    engine = Database(url).engine
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "include_name": _ours})
        found = compare_metadata(context, schema.META)
    engine.dispose()
    return found


def _ours(name: str | None, kind: str, _parents: object) -> bool:
    return kind != "table" or name != "mlops_revision"


def triggers(url: str) -> list[str]:
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        return sorted(connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE type = 'trigger'").scalars())


def test_a_new_database_is_what_the_migrations_make(url, tmp_path) -> None:
    assert differences(url) == []
    upgraded = old(tmp_path / "old.sqlite")
    assert differences(upgraded) == []
    if url.startswith("sqlite"):
        assert triggers(upgraded) == triggers(url)


def test_an_old_database_on_postgresql_is_brought_up(server) -> None:
    url = old_on_postgres(server.database())
    assert differences(url) == []


def test_what_was_recorded_is_kept(tmp_path) -> None:
    url = old(tmp_path / "old.sqlite")
    run = open_tracker(url).get("r1")
    assert (run.params, run.snapshot, run.metrics["auc"]) == ({"a": 1}, 7, 0.7)
    assert str(run.metrics["loss"]) == "nan"
    champion = open_registry(url).champion("m")
    assert champion is not None
    assert (champion.version, champion.digest) == (1, "d1")
    with pytest.raises(sa.exc.IntegrityError, match="append-only"), Database(url).write_transaction() as connection:
        connection.execute(schema.alias_log.delete())
    with Database(url).read_transaction() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert connection.execute(sa.select(schema.runs.c.status, schema.runs.c.kind, schema.runs.c.tags)).one() == (
            "finished",
            "training",
            {},
        )


def test_keys_are_checked_from_the_first_transaction_on(url) -> None:
    made = Database(url)
    with pytest.raises(sa.exc.IntegrityError), made.write_transaction() as connection:
        connection.execute(schema.metrics.insert().values(run_id="nobody", name="auc", value=1.0, text=""))
    made.engine.dispose()


def test_a_newer_database_is_refused_and_left_alone(url) -> None:
    made = Database(url)
    with made.write_transaction() as connection:
        connection.execute(migrations.REVISION_TABLE.update().values(version_num="9999"))
    with pytest.raises(InstallationError, match=r"revision 9999, but this program knows 0001 to 0003[^$]*Hint: upgrade"):
        Database(url)
    with made.write_transaction() as connection:
        assert connection.execute(sa.select(migrations.REVISION_TABLE.c.version_num)).scalar() == "9999"
    made.engine.dispose()


KILLED = """
import os, signal, sys
import sqlalchemy as sa
from mlops_assets.stores.database import schema
from mlops_assets.stores.database.sql import Database
number, seen = int(sys.argv[2]), 0

@sa.event.listens_for(sa.Engine, "before_cursor_execute")
def count(connection, cursor, statement, parameters, context, executemany):
    global seen
    if statement.split()[0] in ("CREATE", "ALTER", "DROP", "INSERT", "UPDATE"):
        seen += 1
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

Database(sys.argv[1])
print(seen)
"""


def test_a_killed_migration_changes_nothing_and_can_run_again(tmp_path) -> None:
    path = tmp_path / "old.sqlite"
    url = old(path)
    before = _content(path)
    for number in (1, 3, 9, 14, 20):
        ended = run_code(KILLED, url, str(number))
        assert ended.returncode == -9, ended.stderr
        assert _content(path) == before, f"killed at statement {number}"
    ended = run_code(KILLED, url, "100000")
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) > 20
    assert differences(url) == []


def _content(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        return list(connection.iterdump())
    finally:
        connection.close()


def test_processes_that_bring_one_database_up_at_once_do_it_once(server, tmp_path) -> None:
    for url in (old(tmp_path / "old.sqlite"), old_on_postgres(server.database())):
        code = "import sys; from mlops_assets.stores.database.sql import Database; Database(sys.argv[1])"
        started = [subprocess.Popen([sys.executable, "-c", code, url], stderr=subprocess.PIPE) for _ in range(4)]
        told = [process.communicate(timeout=120)[1] for process in started]
        assert [process.returncode for process in started] == [0, 0, 0, 0], told
        assert differences(url) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InstallationError, match="cannot be written"):
        Database(f"sqlite:///{tmp_path / 'file' / 'registry.sqlite'}")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
