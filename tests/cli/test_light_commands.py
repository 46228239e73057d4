"""Commands that only read a project import none of what trains, compares, serves and shows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import clean_environment

ROOT = Path(__file__).parents[2]
RUN = """
import json, sys
from mlops_assets.cli.main import main
target, sys.argv[1:] = sys.argv[1], sys.argv[2:]
try:
    main()
finally:
    with open(target, "w") as file:
        json.dump(sorted(sys.modules), file)
"""
HEAVY = {"bentoml", "dagster_dbt", "dbt", "evidently", "matplotlib", "mlflow", "onnx", "optuna", "ray", "scipy", "shap", "skops", "sklearn"}
FRAMES = {"dagster", "duckdb", "numpy", "pandas", "pandera", "polars"}
PROMPTS = ("mlops_assets.compute.groundedness.", "mlops_assets.compute.llm_evaluation.", "mlops_assets.serving.llm.")


def list_modules(arguments: list[str], folder: Path) -> list[str]:
    """Return the modules that a command has imported when it ends, for the reference project and an empty home."""
    command = [sys.executable, "-W", "ignore", "-c", RUN, str(folder / "modules.json"), *arguments]
    done = subprocess.run(command, cwd=ROOT, env=clean_environment(folder / "home"), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "modules.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "unneeded"),
    [
        (["--help"], HEAVY | FRAMES | {"sqlalchemy"}),
        (["runs", "list"], HEAVY | FRAMES),
        (["models", "list"], HEAVY | {"alembic"}),  # alembic comes with Dagster's storages, which only commands on its runs open
        (["serve", "status"], HEAVY | {"alembic"}),
        (["monitor", "show", "lateness_watch"], HEAVY),
        (["status"], HEAVY),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_that_reads_imports_only_what_it_reads_with(arguments, unneeded, tmp_path) -> None:
    modules = list_modules(arguments, tmp_path)
    assert {name.split(".")[0] for name in modules} & unneeded == set()
    assert [name for name in modules if name.startswith(PROMPTS)] == [], "the project has no prompts"
