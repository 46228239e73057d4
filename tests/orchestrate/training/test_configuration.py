"""A change of configuration outside of the code is noticed: by a training, by a feature view's version, and by a reproduction's hints."""

import sys
from pathlib import Path
from textwrap import dedent

import dagster as dg
import pytest

from mlops_assets.cli.project import load
from mlops_assets.compute.user_code.view_source import build_view_source
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.reproduction.process import failure_hint
from mlops_assets.values.platform import Platform
from tests.conftest import ROOT, Runner, metadata

TEXT = (ROOT / "tests/projects/repeatable.py").read_text()
SIDE = TEXT.replace("DEPTH = 4", "import json\nfrom pathlib import Path\n\nDEPTH = json.loads(Path('depth.json').read_text())").replace(
    'seed = int(os.environ.get("SEED", "0"))', 'seed = int(os.environ.get("SEED", "0")) + int(Path("seed.txt").read_text())'
)
MODEL = "model/buys"


class Project:
    """A project in the working folder, each time as a new process would load it."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance) -> None:
        self.folder, self.instance, self.platform = folder, instance, Platform.at(folder / "home")

    def run(self, *keys: str) -> dg.ExecuteInProcessResult:
        sys.modules.pop("definitions", None)
        return Runner(load(str(self.folder / "definitions.py")).definitions, self.instance)(*keys)

    def train(self) -> dict:
        return metadata(self.run(MODEL), MODEL)


@pytest.fixture
def project(tmp_path, monkeypatch, instance) -> Project:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SEED", raising=False)
    (tmp_path / "definitions.py").write_text(SIDE)
    (tmp_path / "depth.json").write_text("3")
    (tmp_path / "seed.txt").write_text("0")
    return Project(tmp_path, instance)


def test_a_model_is_trained_again_exactly_when_its_configuration_has_changed(project, monkeypatch, tmp_path) -> None:
    project.run("dataset/people", "training_set/examples")
    first = project.train()
    assert first["trained"] == "yes"
    assert all(name in first["read besides the data"] for name in ("file:seed.txt", "variable:SEED"))
    assert project.train()["trained"].startswith("no")
    for change in (
        lambda: (tmp_path / "depth.json").write_text("2"),
        lambda: (tmp_path / "seed.txt").write_text("1"),
        lambda: monkeypatch.setenv("SEED", "5"),
    ):
        change()
        assert project.train()["trained"] == "yes"
        assert project.train()["trained"].startswith("no")
    (tmp_path / "depth.json").write_text("3")
    (tmp_path / "seed.txt").write_text("0")
    monkeypatch.delenv("SEED")
    again = project.train()
    assert (again["trained"].startswith("no"), again["run"]) == (True, first["run"])


VIEWS = dedent(
    """
    import json
    from datetime import UTC, datetime
    from pathlib import Path

    import polars as pl

    import mlops_assets as ml

    RATE = json.loads(Path("rate.json").read_text())


    @ml.feature_view(entity=ml.Entity("shop"), event_timestamp="at", features={"rate": float})
    def rates() -> pl.DataFrame:
        return pl.DataFrame({"shop": ["a"], "at": [datetime(2024, 1, 1, tzinfo=UTC)], "rate": [RATE["rate"]]})


    defs = ml.build_definitions([rates])
    """
)


def test_the_version_of_a_feature_view_changes_with_what_its_module_reads(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path / "home"))
    (tmp_path / "definitions.py").write_text(VIEWS)

    def version() -> str:
        sys.modules.pop("definitions", None)
        loaded = load(str(tmp_path / "definitions.py"))
        view = sys.modules["definitions"].rates
        shown = next(s.code_version for a in loaded.definitions.assets for s in a.specs if s.key == asset_key("features/rates"))
        assert shown == view.version(build_view_source(view))
        return shown

    (tmp_path / "rate.json").write_text('{"rate": 1.0}')
    first = version()
    assert version() == first
    (tmp_path / "rate.json").write_text('{"rate": 2.0}')
    assert version() != first


def raised(function) -> Exception:
    with pytest.raises(Exception) as info:
        function()
    return info.value


def test_the_hint_of_a_reproduction_depends_on_what_failed(tmp_path, monkeypatch) -> None:
    import os

    monkeypatch.chdir(tmp_path)
    request = {"outside": {"file:seed.txt": "abc", "variable:SEED": "def"}, "facts": {"packages": {}}}
    missing = failure_hint(raised(lambda: Path("seed.txt").read_text()), request)
    assert "the file 'seed.txt'" in missing
    assert "its sha256 was abc" in missing
    assert "environment variable 'SEED_X'" in failure_hint(raised(lambda: os.environ["SEED_X"]), request)
    assert "module 'no_such_module'" in failure_hint(raised(lambda: __import__("no_such_module")), request)
    assert "'SEED'" in failure_hint(raised(lambda: int("x")), request)
    plain = {"outside": {}, "facts": {"packages": {}}}
    assert "--env locked" not in failure_hint(raised(lambda: int("x")), plain)
    assert "--env locked" in failure_hint(raised(lambda: int("x")), plain | {"facts": {"packages": {"polars": "0.1"}}})
