"""Guides, templates and the reference project import public names only."""

import ast
import re
from pathlib import Path

import pytest

import mlops_assets as ml

ROOT = Path(__file__).parents[2]
SUBMODULES = {"reading", "testing"}  # public too; imported by name, so that `ml` stays small
BLOCK = re.compile(r"^```python[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [*sorted((ROOT / "docs" / "guides").glob("*.md")), *sorted((ROOT / "docs" / "concepts").glob("*.md")), ROOT / "README.md"]
TEMPLATES = sorted(path for path in (ROOT / "mlops_assets" / "cli").glob("*template/**/*") if path.name.endswith(".py.txt"))
PROJECT = [ROOT / name for name in ("definitions.py", "features.py", "flights_data.py", "delay_answers.py")]
SOURCES = {
    str(path.relative_to(ROOT)): "\n".join(BLOCK.findall(path.read_text())) if path.suffix == ".md" else path.read_text()
    for path in (*PAGES, *TEMPLATES, *PROJECT)
}


def private_uses(source: str) -> list[str]:
    """Return what a source takes from the package that is not public."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name.startswith("mlops_assets.") and not _is_public_module(name.name)]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mlops_assets":
            found += [f"{node.module}.{name.name}" for name in node.names if not _is_public(node.module, name.name)]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ml":
            found += [f"ml.{node.attr}"] if node.attr not in ml.__all__ else []
        elif isinstance(node, ast.Attribute) and re.fullmatch(r"ml\.(errors|runs|types)", ast.unparse(node.value)):
            found += [ast.unparse(node)] if node.attr not in getattr(ml, node.value.attr).__all__ else []
    return found


def _is_public_module(module: str) -> bool:
    return module == "mlops_assets" or module.removeprefix("mlops_assets.") in {*SUBMODULES, "errors", "runs", "types"}


def _is_public(module: str, name: str) -> bool:
    if module == "mlops_assets":
        return name in {*ml.__all__, *SUBMODULES}
    submodule = module.removeprefix("mlops_assets.")
    if submodule in SUBMODULES:
        return not name.startswith("_")
    return _is_public_module(module) and name in getattr(ml, submodule).__all__


@pytest.mark.parametrize("name", SOURCES)
def test_what_users_read_takes_public_names_only(name: str) -> None:
    assert private_uses(SOURCES[name]) == []


def test_a_private_use_is_found() -> None:
    source = "import mlops_assets.values.gates.gate\nfrom mlops_assets.stores.lake.ducklake import DuckLake\nml.suggest_name\nml.errors.suggest_name\nml.errors.LakeError"
    assert private_uses(source) == [
        "mlops_assets.values.gates.gate",
        "mlops_assets.stores.lake.ducklake.DuckLake",
        "ml.suggest_name",
        "ml.errors.suggest_name",
    ]
    assert {"README.md", "definitions.py", "mlops_assets/cli/template/definitions.py.txt"} <= set(SOURCES)
