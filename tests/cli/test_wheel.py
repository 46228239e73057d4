"""The package as others install it: a built wheel in an environment of its own, outside of the repository.

The environment finds the libraries of the development environment by a path file, but neither its scripts nor its editable install: what is
imported of `mlops_assets`, and every file that a command writes or reads, comes from the wheel.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import urllib.request
from pathlib import Path

import pytest

from tests.browser import web_ui
from tests.client import predict
from tests.conftest import ROOT

UV = Path(sys.executable).parent / "uv"
NEEDS = ("dagster", "dagster-webserver")  # commands that `mlops ui` starts
OTHERS = {  # another environment → the options that install it
    "lowest versions": ["--resolution", "lowest-direct"],
    "python 3.12": ["-c", ROOT / "constraints.txt"],
    "python 3.13": ["-c", ROOT / "constraints.txt"],
}


def run(command: list, folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run([str(word) for word in command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def shell() -> dict[str, str]:
    """Return the environment variables of a shell, without those of this project and of this process's environment."""
    return {n: v for n, v in os.environ.items() if not n.startswith(("MLOPS_", "DAGSTER_", "PYTHON", "COV_", "VIRTUAL_ENV"))}


def build_wheel(folder: Path) -> Path:
    build = [UV, "build", "--quiet", "--wheel", "--out-dir", folder, ROOT]
    if subprocess.run([*build, "--offline"], cwd=folder, env=shell(), capture_output=True).returncode:  # the build backend is not cached
        run(build, folder, shell())
    (wheel,) = folder.glob("mlops_assets-*.whl")
    return wheel


def activate(folder: Path) -> dict[str, str]:
    return shell() | {"PATH": f"{folder / 'venv' / 'bin'}:{os.environ['PATH']}", "DAGSTER_DISABLE_TELEMETRY": "1"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A folder outside of the repository, and the environment variables of a shell in which the wheel's environment is active."""
    folder = tmp_path_factory.mktemp("elsewhere")
    wheel, python = build_wheel(folder), folder / "venv" / "bin" / "python"
    run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], folder, shell())
    run([UV, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", python, wheel], folder, shell())
    own = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder, shell()).strip())
    (own / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    for name in NEEDS:  # as an installer writes them for this interpreter
        script = (Path(sys.executable).parent / name).read_text().splitlines(keepends=True)
        (python.parent / name).write_text(f"#!{python}\n{''.join(script[1:])}")
        (python.parent / name).chmod(0o755)
    return folder, activate(folder)


def test_the_package_is_the_wheels(installed) -> None:
    folder, environment = installed
    code = "import mlops_assets, importlib.metadata as m; print(mlops_assets.__file__, m.distribution('mlops_assets').locate_file(''))"
    found = run(["python", "-c", code], folder, environment)
    assert str(ROOT) not in found
    assert found.count(str(folder / "venv")) == 2


def begin_run_serve_and_show(folder: Path, environment: dict[str, str]) -> None:
    run(["mlops", "init", "tumours"], folder, environment)
    file = folder / "tumours" / "definitions.py"
    text = file.read_text().replace("defs = ", 'api = ml.Service("api", model=benign)\ndefs = ').replace("screening])", "screening, api])")
    file.write_text(text)
    try:
        assert "service/api" in run(["mlops", "run"], file.parent, environment)
        (status,) = json.loads(run(["mlops", "serve", "status", "--json", "-"], file.parent, environment))
        row = {"mean_radius": 14.0, "mean_texture": 19.0, "mean_smoothness": 0.1}
        assert len(predict(status["url"], [row])["predictions"]) == 1
    finally:
        run(["mlops", "serve", "stop", "api"], file.parent, environment)
    with web_ui(file, environment | {"MLOPS_HOME": str(file.parent / ".mlops")}, ["mlops"]) as url:
        assert "dagster_webserver_version" in urllib.request.urlopen(f"{url}/server_info", timeout=60).read().decode()  # noqa: S310  (our own server)


def test_a_project_is_begun_run_served_and_shown(installed) -> None:
    begin_run_serve_and_show(*installed)


@pytest.mark.stress
@pytest.mark.parametrize("other", OTHERS)
def test_both_projects_run_in_another_environment(other, tmp_path) -> None:
    wheel, python = build_wheel(tmp_path), tmp_path / "venv" / "bin" / "python"
    version = other.removeprefix("python ") if "python" in other else sys.executable
    if subprocess.run([UV, "python", "find", "--no-project", "--system", version], env=shell(), capture_output=True).returncode:
        pytest.skip(f"there is no {other} on this machine")
    run([UV, "venv", "--quiet", "--no-project", "--python", version, tmp_path / "venv"], tmp_path, shell())
    run([UV, "pip", "install", "--quiet", "--python", python, *OTHERS[other], f"{wheel}[demo]"], tmp_path, shell())
    environment = activate(tmp_path)
    begin_run_serve_and_show(tmp_path, environment)
    for name in ("definitions.py", "features.py", "flights_data.py"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "dbt_features", tmp_path / "dbt_features")
    keys = 'not (key:"predictions/*" or key:"*_report/*" or key:"service/*")'
    run(
        ["mlops", "run", "--select", keys, "--partitions", "2013-01-01...2013-03-31", "--as-of", "2013-04-01T00:00-04:00"],
        tmp_path,
        environment,
    )
    (found,) = json.loads(run(["mlops", "models", "list", "--json", "-"], tmp_path, environment))
    assert found["version"] == 1
