"""What artifacts and processes of today name: the words are written out, because those of yesterday's artifacts cannot change."""

import ast
import json
from pathlib import Path

import numpy as np
import psutil
import pytest

from mlops_assets import entry_points
from mlops_assets.serving.bridges import bento, mlflow_flavour
from mlops_assets.serving.http.control import start, stop
from tests.serving.support import Client, Stage, estimator, row, training_rows, wait_for

NAME = "mlops_assets.entry_points"


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Stage:
    made = Stage(tmp_path_factory.mktemp("home"))
    made.add(1)
    made.promote(1)
    return made


@pytest.mark.filterwarnings("ignore")  # of BentoML's imports
def test_the_module_of_a_bento_imports_only_the_entry_point(stage, tmp_path) -> None:
    bento._write_context(tmp_path, stage.spec(), stage.registry.champion("lateness"))
    tree = ast.parse((tmp_path / "service.py").read_text())
    ours = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module.startswith("mlops_assets")]
    assert [(node.module, [name.name for name in node.names]) for node in ours] == [(NAME, ["hosted"])]
    assert "hosted(Path(__file__).parent)" in (tmp_path / "service.py").read_text()
    assert set(json.loads((tmp_path / "serving.json").read_text())) == {"spec", "wanted"}
    assert entry_points.hosted(tmp_path).name == "lateness_api"


def test_an_exported_model_names_the_entry_point_and_loads_by_it(stage, tmp_path) -> None:
    folder = mlflow_flavour.export_version(stage.artifacts, stage.registry.champion("lateness"), tmp_path / "model")
    (line,) = [line for line in (folder / "MLmodel").read_text().splitlines() if "loader_module" in line]
    assert line.split() == ["loader_module:", NAME]
    (data,) = folder.rglob("version.json")
    X, (fitted, _) = training_rows(20), estimator(1)
    assert np.array_equal(entry_points._load_pyfunc(str(data.parent)).predict(X.to_pandas()), fitted.predict(X))


def test_supervisor_and_workers_run_by_the_entry_point_and_a_killed_worker_comes_back_by_it(stage) -> None:
    spec = stage.spec(workers=1)
    running = start(spec)
    try:
        worker = psutil.Process(running.workers[0].pid)
        assert words_of(worker)[:5] == ["-m", NAME, "worker", str(spec.folder.path), "0"]
        assert words_of(worker.parent()) == ["-m", NAME, "supervisor", str(spec.folder.path)]
        worker.kill()
        wait_for(lambda: other_worker(spec.folder.worker(0), worker.pid))
        client = Client(running.url)
        assert client.predict(row(1))["version"] == 1
        client.close()
    finally:
        stop(spec.home, spec.name)


def words_of(process: psutil.Process) -> list[str]:
    """Return the command line without the interpreter."""
    return process.cmdline()[1:]


def other_worker(file: Path, pid: int) -> bool:
    told = json.loads(file.read_text())
    return told["pid"] != pid and told["version"] == 1


@pytest.mark.parametrize("words", [[], ["manager", "x"]])
def test_another_role_is_refused(words) -> None:
    with pytest.raises(SystemExit, match="neither supervisor nor worker"):
        entry_points.main(words)
