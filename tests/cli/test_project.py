"""Projects that a process imports."""

import subprocess
import sys
from pathlib import Path

from mlops_assets.cli.project import load, load_without_dbt

TEXT = """
import mlops_assets as ml
import polars as pl


@ml.dataset(key="id")
def {name}() -> pl.DataFrame:
    return pl.DataFrame({{"id": [1]}})


defs = ml.build_definitions([{name}], platform=ml.Platform.at({home!r}))
"""


def test_a_project_is_not_mixed_with_those_that_the_process_imported_before(tmp_path) -> None:
    loaded = []
    for name in ("first", "second", "first"):
        folder = tmp_path / f"{name}_{len(loaded)}"
        folder.mkdir()
        (folder / "definitions.py").write_text(TEXT.format(name=name, home=str(folder / "home")))
        loaded.append(load(str(folder / "definitions.py")))
    assert [project.platform.home for project in loaded] == [str(tmp_path / f"{name}/home") for name in ("first_0", "second_1", "first_2")]
    assert [[value.name for part in project.parts for value in part.project.declarations] for project in loaded] == [
        ["first"],
        ["second"],
        ["first"],
    ]


WITH_DBT = """
from datetime import timedelta
import mlops_assets as ml
import polars as pl


@ml.dataset(key="id")
def numbers() -> pl.DataFrame:
    return pl.DataFrame({{"id": [1]}})


totals = ml.DbtProject({folder!r})
defs = ml.build_definitions([numbers, totals], platform=ml.Platform.at({home!r}))
{more}
"""
STATUS = """
import sys
from mlops_assets.cli.project import load_without_dbt
from mlops_assets.cli.status import collect_status
project = load_without_dbt(sys.argv[1])
print([row["table"] for row in collect_status(project)["tables"]], "dagster_dbt" in sys.modules, "dbt" in sys.modules)
"""


def write_project_with_dbt(folder: Path, more: str = "") -> Path:
    (folder / "dbt_totals" / "models").mkdir(parents=True)
    (folder / "dbt_totals" / "dbt_project.yml").write_text("name: totals\nprofile: mlops_lake\n")
    (folder / "dbt_totals" / "models" / "total.sql").write_text("select 1 as id")
    (folder / "definitions.py").write_text(WITH_DBT.format(folder=str(folder / "dbt_totals"), home=str(folder / "home"), more=more))
    return folder / "definitions.py"


def test_the_status_of_a_project_imports_no_dbt(tmp_path) -> None:
    command = [sys.executable, "-c", STATUS, str(write_project_with_dbt(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "['dataset/numbers'] False False\n"


def test_a_module_that_uses_the_assets_of_its_dbt_models_is_loaded_with_them(tmp_path) -> None:
    file = write_project_with_dbt(tmp_path, more="total = defs.resolve_assets_def(['features', 'total_features'])")
    project = load_without_dbt(str(file))
    assert [part.platform.home for part in project.parts] == [str(tmp_path / "home")]
    assert "features/total_features" in {spec.key.to_user_string() for spec in project.definitions.resolve_all_asset_specs()}
