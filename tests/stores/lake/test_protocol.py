"""Callers of the lake see tables, records and files; no one outside of its room sees a cursor or writes SQL for it."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlops_assets.stores.lake.ducklake import DuckLake
from mlops_assets.stores.lake.protocol import Lake

PACKAGE = Path(__file__).parents[3] / "mlops_assets"
ROOM = PACKAGE / "stores" / "lake"
INTERNALS = {"LakeConnections", "DuckLake", "rows.RECORDS", "rows.sql_name", "rows.to_polars"}
SQL = re.compile(r"ducklake_\w+\(|duckdb_tables\(|\b(FROM|INTO|UPDATE|TABLE) lake\.", re.IGNORECASE)


def _breaches(source: str) -> Iterator[str]:
    """Yield what a module outside of the room does with the lake's connection."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mlops_assets.stores.lake"):
            room = (node.module or "").rpartition(".")[2]
            yield from (name.name for name in node.names if {name.name, f"{room}.{name.name}"} & INTERNALS)
        elif isinstance(node, ast.Attribute) and node.attr == "connections" and "lake" in ast.unparse(node.value):
            yield ast.unparse(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and SQL.search(node.value):
            yield node.value


def test_no_module_outside_of_the_room_sees_a_cursor_or_writes_sql_for_the_lake() -> None:
    modules = [path for path in PACKAGE.rglob("*.py") if not path.is_relative_to(ROOM)]
    found = {str(path.relative_to(PACKAGE)): list(_breaches(path.read_text())) for path in modules}
    assert {name: breaches for name, breaches in found.items() if breaches} == {"stores/platform/stores.py": ["DuckLake"]}


@pytest.mark.parametrize(
    "source",
    [
        "stores.lake.connections.cursor().fetchall()",
        "from mlops_assets.stores.lake.connection import LakeConnections",
        "from mlops_assets.stores.lake.rows import sql_name",
        "run(\"CALL ducklake_snapshots('lake')\")",
        "run('SELECT * FROM lake.dataset.orders')",
    ],
)
def test_a_breach_is_found(source: str) -> None:
    assert list(_breaches(source))


def test_the_protocol_names_no_type_of_duckdb_and_the_lake_has_each_verb() -> None:
    verbs = {name: verb for name, verb in inspect.getmembers(Lake, inspect.isfunction) if not name.startswith("_")}
    assert len(verbs) > 15
    for name, verb in verbs.items():
        assert "duckdb" not in str(inspect.signature(verb)).lower(), name
        assert inspect.signature(verb).parameters.keys() == inspect.signature(getattr(DuckLake, name)).parameters.keys(), name
