"""The short form of the lake's stress test: it holds, and its oracle catches what is planted."""

import re

import duckdb
import pytest

from mlops_assets.stores.lake.connection import LakeConnections, link_extensions
from mlops_assets.stores.lake.ducklake import DuckLake
from tests.stress import lake_stress
from tests.stress.lake_facts import SOURCE, Ledger, attempt
from tests.stress.lake_oracle import Oracle

CAUGHT = {
    # Records without their rows; what else the table holds by then depends on how far other writers have come.
    "unlocked": r"recorded are 50 rows of \S+-unlocked\.good, there are none",
    "doubled": r"recorded are 40 rows of \S+\.bad, there are {'\S+\.bad': 40, '\S+\.good': 50}",
    "lost": r"\S+\.bad was acknowledged in snapshot \d+ and is recorded in None",
    "expire": r"at the pinned snapshot \d+ cannot be read",
}


def test_nothing_is_lost_doubled_or_torn_by_kills(capsys) -> None:
    assert lake_stress.main(["--rounds", "2", "--dbt", "2"]) == lake_stress.HELD
    printed = capsys.readouterr().out
    assert re.search(r"[1-9]\d* writes acknowledged, [1-9]\d* processes killed", printed), printed


@pytest.mark.parametrize("fault", CAUGHT)
def test_a_planted_fault_is_caught(fault, capsys) -> None:
    code = lake_stress.main(["--rounds", "1", "--writers", "1", "--readers", "1", "--dbt", "0", "--fault", fault])
    printed = capsys.readouterr().out
    assert code == lake_stress.BROKEN, printed
    assert re.search(f"caught: {SOURCE}.*{CAUGHT[fault]}", printed), printed


def test_a_lake_whose_maker_was_killed_keeps_no_rows_in_its_catalog(tmp_path) -> None:
    made = LakeConnections(tmp_path / "lake")
    DuckLake(made).snapshot()
    made.catalog_path.unlink()
    link_extensions(tmp_path / "extensions")
    with duckdb.connect(config={"extension_directory": str(tmp_path / "extensions")}) as killed:
        for name in ("ducklake", "sqlite_scanner"):
            killed.load_extension(name)
        killed.execute(made.attach_sql())  # and no further
    attempt(DuckLake.open(tmp_path / "lake"), Ledger(tmp_path, "one"), "one", SOURCE, {1: 3})
    assert Oracle(tmp_path).violations() == []
