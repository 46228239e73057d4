"""The habits of the house, measured."""

import ast
import re
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path

import mlops_assets
from mlops_assets import errors
from tests.conftest import LONG

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "mlops_assets").rglob("*.py"))
HEAVY = {
    "dagster",
    "pandas",
    "polars",
    "sklearn",
    "evidently",
    "bentoml",
    "mlflow",
    "ray",
    "dbt",
    "dagster_dbt",
    "duckdb",
    "sqlalchemy",
    "pandera",
    "matplotlib",
    "skops",
}


def _functions() -> list[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    nodes = [(path, node) for path in MODULES for node in ast.walk(ast.parse(path.read_text()))]
    return [(path, node) for path, node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def _body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 1


def test_files_and_functions_stay_small() -> None:
    assert {path.name: n for path in MODULES if (n := len(path.read_text().splitlines())) > 400} == {}
    lengths = {f"{path.name}:{node.name}": _body_lines(node) for path, node in _functions()}
    assert {name: n for name, n in lengths.items() if n > 60} == {}
    assert statistics.median(lengths.values()) <= 8


def test_every_function_is_annotated() -> None:
    bare = []
    for path, node in _functions():
        arguments = [a for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs) if a.arg not in ("self", "cls")]
        if node.returns is None and "no-untyped-def" not in path.read_text().splitlines()[node.lineno - 1]:
            bare.append(f"{path.name}:{node.name}")
        if any(a.annotation is None for a in arguments) and "no-untyped-def" not in path.read_text().splitlines()[node.lineno - 1]:
            bare.append(f"{path.name}:{node.name}")
    assert bare == []


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, mlops_assets; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {name.split(".")[0] for name in loaded} & HEAVY == set()
    assert [name for name in loaded if name.startswith("mlops_assets.") and ".llm" in name] == [], "a project without prompts pays nothing"


def test_building_definitions_does_not_import_what_only_steps_need() -> None:
    code = "import sys, mlops_assets as ml; ml.build_definitions([]); print(' '.join({name.split('.')[0] for name in sys.modules}))"
    loaded = set(subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert loaded & {"pandas", "sklearn", "evidently", "bentoml", "mlflow", "ray", "dbt", "dagster_dbt", "matplotlib", "skops"} == set()


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__ or "")) | {"MlopsError"}
    real = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert drawn == real


def test_no_committed_file_names_a_registry_or_a_place_of_a_machine() -> None:
    hosts = ("pypi" + ".org", "pythonhosted" + ".org", "registry." + "npmjs", "/home" + "/", "/work" + "/")
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    texts = {
        name: (ROOT / name).read_text(errors="ignore")
        for name in files
        if not name.endswith((".png", "LICENSE")) and (ROOT / name).exists()
    }
    assert [(name, host) for name, text in texts.items() for host in hosts if host in text] == []


def test_the_files_that_run_first_exist() -> None:
    assert [name for name in LONG if not (ROOT / "tests" / name).is_file()] == []


def test_the_changelog_and_the_version_agree() -> None:
    assert f'version = "{mlops_assets.__version__}"' in (ROOT / "pyproject.toml").read_text()
    assert f"## [{mlops_assets.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_changelog_repeats_no_line() -> None:
    lines = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("- ")]
    assert [line for line, times in Counter(lines).items() if times > 1] == []


def test_no_class_name_exists_twice() -> None:
    places: dict[str, list[str]] = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name.strip("_"), []).append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
