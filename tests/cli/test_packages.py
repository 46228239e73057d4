"""Projects in a package: relative imports, modules by name, and what `pyproject.toml` says, in every process."""

import subprocess
import sys
from pathlib import Path

import pytest

import mlops_assets as ml
from mlops_assets.cli.project_target import find_target
from mlops_assets.compute.user_code.project_modules import child_environment
from mlops_assets.errors import DefinitionError
from mlops_assets.stores.platform.stores import open_stores
from tests.commands import run_mlops
from tests.conftest import clean_environment
from tests.projects.package_files import write_package

ROOTED = '[tool.dg.project]\nroot_module = "shop"\n'
TARGET = '[tool.dg.project]\nroot_module = "shop"\ncode_location_target_module = "shop.other"\n'


def mlops(folder: Path, *arguments: str, code: int = 0) -> str:
    done = run_mlops(arguments, cwd=folder, env=clean_environment(folder / ".mlops"))
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.fixture
def path(monkeypatch) -> None:
    """The path of modules, and the modules, as they were before."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))


def test_a_package_is_trained_served_and_trained_again_by_processes_that_find_it(tmp_path) -> None:
    write_package(tmp_path, toml=ROOTED)
    try:
        assert "dagster dev -m shop.definitions -d " in mlops(tmp_path, "run")
    finally:
        mlops(tmp_path, "serve", "stop", "api")
    trials = open_stores(ml.Platform.at(tmp_path / ".mlops")).tracker.search("kind = 'trial'")
    assert [trial.status for trial in trials] == ["finished"] * 2
    assert "IDENTICAL" in mlops(tmp_path, "reproduce", "buys@1")


def test_a_package_is_named_by_its_file_its_module_or_its_settings(tmp_path) -> None:
    write_package(tmp_path, src=False)
    for arguments in (
        ["-f", "shop/definitions.py"],
        ["-m", "shop.definitions"],
        ["-f", "shop.definitions"],
        ["--module", "shop.definitions"],
    ):
        assert mlops(tmp_path, "validate", *arguments).startswith("shop.definitions is valid")
    assert mlops(tmp_path / "shop" / "steps", "validate", "-f", "../definitions.py").startswith("shop.definitions is valid")
    (tmp_path / "pyproject.toml").write_text(ROOTED)
    assert mlops(tmp_path, "validate").startswith("shop.definitions is valid")
    assert "wrote" in mlops(tmp_path, "init", ".", "--ci", "github")
    assert not (tmp_path / "definitions.py").exists()
    (tmp_path / "shop/lazy.py").write_text(
        "import dagster as dg\n\n@dg.definitions\ndef defs():\n    from .definitions import defs\n    return defs\n"
    )
    assert mlops(tmp_path, "validate", "-m", "shop.lazy").startswith("shop.lazy is valid")


def test_what_cannot_be_imported_says_how_it_can(tmp_path) -> None:
    (tmp_path / "definitions.py").write_text("from .helpers import x\n")
    said = mlops(tmp_path, "validate", code=1)
    assert "'definitions.py' imports relatively" in said
    assert f"Hint: add an __init__.py to the folder, or name the module: -m {tmp_path.name}.definitions" in said
    write_package(tmp_path)
    missing = mlops(tmp_path, "validate", "-m", "shop.defintions", code=1)
    assert "there is no project module 'shop.defintions'" in missing
    assert "did you mean 'definitions'?" in missing
    (tmp_path / "src/shop/definitions.py").write_text("import no_such_library\n")
    assert "No module named 'no_such_library'" in mlops(tmp_path, "validate", "-m", "shop.definitions", code=1)


@pytest.mark.parametrize(
    ("name", "toml", "module"),
    [
        ("pyproject.toml", ROOTED, "shop.definitions"),
        ("pyproject.toml", TARGET, "shop.other"),
        ("dg.toml", '[project]\nroot_module = "shop"\n', "shop.definitions"),
        ("pyproject.toml", '[tool.dagster]\nmodule_name = "shop.other"\n' + ROOTED, "shop.other"),
        ("pyproject.toml", '[tool.dagster]\nmodules = [{type = "module", name = "shop"}]\n', "shop"),
        ("pyproject.toml", "[project]\nname = 'x'\n", "definitions"),
    ],
)
def test_settings_are_read_as_dagster_reads_them(name, toml, module, tmp_path, path) -> None:
    write_package(tmp_path)
    (tmp_path / "src/shop/other.py").write_text("")
    (tmp_path / "definitions.py").write_text("")
    (tmp_path / name).write_text(toml)
    assert find_target("", tmp_path).module == module


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('[tool.dagster]\nmodules = [{type = "module", name = "a"}, {type = "module", name = "b"}]\n', "names the modules a, b"),
        ('[tool.dg.project]\nroot_module = "shop"\nautoload_defs = true\n', "autoload_defs"),
        ("[tool.dg.project\n", "pyproject.toml cannot be read"),
        ('[tool.dg.project]\nroot_module = "nothing"\n', "there is no project module 'nothing.definitions'"),
    ],
)
def test_settings_that_name_no_project_are_refused(toml, message, tmp_path, path) -> None:
    (tmp_path / "pyproject.toml").write_text(toml)
    with pytest.raises(DefinitionError) as caught:
        find_target("", tmp_path)
    assert message in caught.value.message
    assert "-m" in caught.value.hint or "-f" in caught.value.hint


def test_dagster_loads_the_same_module(tmp_path, path) -> None:
    file = write_package(tmp_path)
    target = find_target(str(file), tmp_path)
    assert (target.module, target.root, target.dagster_arguments()) == (
        "shop.definitions",
        tmp_path / "src",
        ["-m", "shop.definitions", "-d", str(tmp_path / "src")],
    )
    alone = tmp_path / "definitions.py"
    alone.write_text("")
    assert find_target("definitions.py", tmp_path).dagster_arguments() == ["-f", str(alone)]


def test_a_child_finds_modules_that_are_no_longer_on_the_path(tmp_path, path) -> None:
    write_package(tmp_path)
    sys.path.insert(0, str(tmp_path / "src"))
    import shop.columns  # noqa: F401

    sys.path.pop(0)
    found = subprocess.run(
        [sys.executable, "-c", "import shop.columns; print(shop.columns.COLUMNS)"],
        env=child_environment(),
        cwd="/",
        capture_output=True,
        text=True,
    )
    assert found.stdout == "['x']\n", found.stderr
